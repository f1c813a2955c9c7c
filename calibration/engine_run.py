"""Play the requests of a logged engine run and compare: per request, without having fitted on it.

The engine's settings come from the run's `meta.json`; the KV cache is what the engine computes for that chip. A
data-parallel engine is one client a rank behind a least-requests router, as vLLM's internal load balancer sends a
request to the rank with the fewest (docs.vllm.ai, "Data Parallel Deployment").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calibration.datasets.engine_runs import EngineRun, read_engine_run


def run_scenario(run: EngineRun):
    """The run as a scenario: chip, model, parallelism and the engine's own settings."""
    import mist_jax as mist

    s = run.settings
    experts = bool(s.get("enable_expert_parallel"))
    chips = run.tp * run.dp
    return mist.load(
        [
            f"hardware={run.system}",
            f"model={run.model}",
            "engine=vllm",
            f"engine.version='{run.version}'",
            f"engine.max_num_seqs={s.get('max_num_seqs') or 1024}",
            f"engine.max_num_batched_tokens={s.get('max_num_batched_tokens') or 8192}",
            f"engine.block_size={s.get('block_size') or 16}",
            f"engine.memory_utilization={s.get('gpu_memory_utilization') or 0.9}",
            "model.precision.kv=" + ("fp8" if str(s.get("kv_cache_dtype")).startswith("fp8") else "bf16"),
            f"parallelism.tp={run.tp}",
            f"parallelism.dp={run.dp}",
            f"parallelism.ep={chips if experts else 1}",
            "parallelism.moe_tp=null",
        ]
    )


def predict_engine_run(folder: str | Path, system: str | None = None, model: str | None = None) -> pd.DataFrame:
    """Predicted and measured times of each request of the run in `folder`.

    Args:
        folder: requests.jsonl and meta.json (timeseries.csv is not needed).
        system, model: names of `conf/hardware` and `conf/model`; default: what the folder says.

    Returns:
        request_id, pred_ttft_ms, pred_tpot_ms, pred_e2e_ms, and the measured columns where the log has them.
    """
    import dataclasses

    from mist_jax.play import play
    from mist_jax.queueing.trace import Trace

    run = read_engine_run(folder, system)
    if model is not None:
        from calibration.datasets.names import model_key, snake

        run = dataclasses.replace(run, model=snake(model_key(model) or model))
    rq = run.requests
    trace = Trace(
        rq.arrival_s.to_numpy(float), rq.input_tokens.to_numpy(np.int64), rq.output_tokens.to_numpy(np.int64)
    )
    ds = play(run_scenario(run), trace)
    out = pd.DataFrame(
        {
            "request_id": rq.request_id,
            "pred_ttft_ms": 1e3 * ds.ttft_s.values,
            "pred_tpot_ms": 1e3 * ds.tpot_s.values,
            "pred_e2e_ms": 1e3 * ds.e2e_s.values,
        }
    )
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        if name in rq:
            out[name] = rq[name].to_numpy()
    return out


def error_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, median and P99 of measured and predicted times, with the error in %."""
    rows = []
    for name in ("ttft", "tpot", "e2e"):
        measured, predicted = frame[f"{name}_ms"].dropna(), frame[f"pred_{name}_ms"].dropna()
        for label, f in (("mean", np.mean), ("median", np.median), ("p99", lambda x: np.percentile(x, 99))):
            m, p = float(f(measured)), float(f(predicted))
            rows.append((name, label, m, p, 100.0 * (p / m - 1.0)))
    return pd.DataFrame(rows, columns=["quantity", "statistic", "measured_ms", "predicted_ms", "error_%"])
