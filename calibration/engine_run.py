"""Play the requests of a logged engine run: predictions of every request, and errors where the log tells.

The settings are those of the log (`meta.json`), the coefficients the packaged ones; what logged runs told about a chip
is in them (`calibration.logged_runs`, with errors held out).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.datasets.engine_runs import EngineRun, read_engine_run
from calibration.datasets.names import model_key, snake, system_key

#: Models whose measured name is that of a variant with the same architecture.
_SAME = {"qwen3_coder_30b_a3b": "qwen3_30b_a3b"}


def scenario_of(run: EngineRun, system: str, model: str, calibration: str = "default") -> Any:
    """The run as a scenario: its engine settings, the chip and model as named (`model`: key in conf/model)."""
    import mist_jax as mist
    from mist_jax.calibrations import has_experts

    settings = run.settings
    model = _SAME.get(model, model)
    overrides = [
        f"hardware={system}",
        f"model={model}",
        "engine=vllm",
        "workload=chat",
        f"engine.version={'.'.join(run.version.split('.')[:2]) or 'null'}",
        f"parallelism.tp={run.tp}",
        f"parallelism.pp={int(settings.get('pipeline_parallel_size') or 1)}",
        f"parallelism.dp={run.dp}",
        f"calibration={calibration}",
    ]
    if run.ep > 1 and has_experts(mist.load([f"model={model}"]).model):
        overrides.append(f"parallelism.ep={run.ep}")
    for name in ("max_num_seqs", "max_num_batched_tokens", "block_size"):
        if settings.get(name):
            overrides.append(f"engine.{name}={int(settings[name])}")
    if settings.get("num_gpu_blocks_override"):
        overrides.append(f"engine.num_gpu_blocks={int(settings['num_gpu_blocks_override'])}")
    if settings.get("gpu_memory_utilization"):
        overrides.append(f"engine.memory_utilization={float(settings['gpu_memory_utilization'])}")
    if settings.get("enforce_eager"):
        overrides.append("engine.cuda_graphs=false")
    if str(settings.get("kv_cache_dtype", "")).startswith("fp8"):
        overrides.append("model.precision.kv=fp8")
    stored = f"{settings.get('model', '')} {settings.get('quantization') or ''}".lower()
    if "fp8" in stored and "fp8" not in model:
        overrides.append("model.precision.weights=fp8")
    return mist.load(overrides)


def predict_run(run: EngineRun, system: str, model: str, calibration: str = "default") -> pd.DataFrame:
    """One row a request of the log, in its order: request_id, pred_ttft_ms, pred_tpot_ms, pred_e2e_ms."""
    import mist_jax as mist
    from mist_jax.queueing.trace import Trace

    rows = run.requests
    trace = Trace(
        rows.arrival_s.to_numpy() - rows.arrival_s.min(),
        rows.input_tokens.to_numpy(),
        rows.output_tokens.to_numpy(),
        name=run.name,
    )
    played = mist.play(scenario_of(run, system, model, calibration), trace)
    tpot = np.asarray(played.tpot_s)
    return pd.DataFrame(
        {
            "request_id": rows.request_id,
            "pred_ttft_ms": 1e3 * np.asarray(played.ttft_s),
            "pred_tpot_ms": 1e3 * np.where(np.isfinite(tpot), tpot, 0.0),
            "pred_e2e_ms": 1e3 * np.asarray(played.e2e_s),
        }
    )


def errors(run: EngineRun, predicted: pd.DataFrame) -> pd.DataFrame:
    """Measured and predicted mean and P99 of TTFT, TPOT, E2E, and the error of each, %."""
    out = []
    for name in ("ttft", "tpot", "e2e"):
        a = run.requests[f"{name}_ms"].to_numpy()
        ok = np.isfinite(a)
        b = predicted[f"pred_{name}_ms"].to_numpy()
        for label, f in (("mean", np.mean), ("p99", lambda x: np.percentile(x, 99))):
            m, p = float(f(a[ok])), float(f(b[ok]))
            out.append(
                {"run": run.name, "quantity": f"{label} {name}", "measured_ms": m, "predicted_ms": p}
                | {"error_percent": 100.0 * (p / m - 1.0)}
            )
    return pd.DataFrame(out)


def write_engine_run(folder: Path, system: str, model: str, out: Path) -> None:
    """Predict the run in `folder` and write the fixed columns to `out`; prints the errors."""
    run = read_engine_run(folder, system)
    predicted = predict_run(run, system_key(system) or snake(system), model_key(model) or snake(model))
    predicted.to_csv(out, index=False)
    print(f"{len(predicted)} requests played; written to {out}")
    if run.requests.ttft_ms.notna().any():
        print(errors(run, predicted).round(2).to_string(index=False))
