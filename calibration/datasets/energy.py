"""ML.ENERGY runs: power, energy per token and inter-token latency of vLLM over `max_num_seqs`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from calibration.datasets.names import MODELS, has_architecture, model_key, snake, system_key
from calibration.datasets.serving import data_dir

_PRECISIONS = {"bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4", "float16": "bf16"}


def read_energy(folder: str | Path | None = None) -> pd.DataFrame:
    """All `ml_energy_*.json` of a folder → one row a run.

    Columns: task, system, model, model_file, nickname, precision, tp, dp, ep, moe_tp, n_gpus, max_num_seqs,
    batch (mean number of running requests), output_tokens (mean per request), power_w (all GPUs together),
    energy_j_per_token, energy_j_per_request, tokens_per_s (output), itl_{median,p90,p95,p99}_ms,
    prefill_share (1 - batch-steps explained by the median ITL), total_params, active_params, status
    (ok | refused), reason.

    The expert-parallel runs state tp = 1 on 4 or 8 GPUs with dp = 1: vLLM then shards attention over all of
    them, so tp = n_gpus / dp. The files do not state prompt lengths. Refused are runs whose model has no
    architecture at hand, and runs whose energy contradicts power / throughput by over 15 %.
    """
    folder = data_dir() / "energy" if folder is None else Path(folder)
    rows = []
    for path in sorted(folder.glob("ml_energy_*.json")):
        content = json.loads(path.read_text())
        rows += [_row(content["task"], entry) for entry in content["configurations"]]
    return pd.DataFrame(rows)


def _row(task: str, entry: dict) -> dict:
    model = model_key(entry["model_id"])
    file = (MODELS[model].file or "") if model in MODELS else ""
    system = system_key(entry["gpu_model"])
    power, rate = entry["avg_power_watts"], entry["output_throughput_tokens_per_sec"]
    energy = entry["energy_per_token_joules"]
    gpus, dp = entry["num_gpus"], entry["data_parallel"]
    reasons = []
    if model is None:
        reasons.append(f"unknown model {entry['model_id']}")
    elif not has_architecture(model):
        reasons.append(f"no architecture of {entry['model_id']}")
    if system is None:
        reasons.append(f"unknown GPU {entry['gpu_model']}")
    if not 0.85 < energy * rate / power < 1.15:
        reasons.append(f"energy x throughput / power = {energy * rate / power:.2f}")
    return {
        "task": task,
        "system": system or snake(entry["gpu_model"]),
        "model": model or snake(entry["model_id"]),
        "model_file": file,
        "nickname": entry["nickname"],
        "precision": _PRECISIONS.get(entry["weight_precision"], entry["weight_precision"]),
        "tp": gpus // dp,
        "dp": dp,
        "ep": entry["expert_parallel"],
        "moe_tp": gpus // entry["expert_parallel"],
        "n_gpus": gpus,
        "max_num_seqs": entry["max_num_seqs"],
        "batch": entry["avg_batch_size"],
        "output_tokens": entry["avg_output_len"],
        "power_w": power,
        "energy_j_per_token": energy,
        "energy_j_per_request": entry["energy_per_request_joules"],
        "tokens_per_s": rate,
        "itl_median_ms": entry["median_itl_ms"],
        "itl_p90_ms": entry["p90_itl_ms"],
        "itl_p95_ms": entry["p95_itl_ms"],
        "itl_p99_ms": entry["p99_itl_ms"],
        "prefill_share": 1.0 - rate * entry["median_itl_ms"] * 1e-3 / entry["avg_batch_size"],
        "total_params": entry["total_params_billions"] * 1e9,
        "active_params": entry["activated_params_billions"] * 1e9,
        "status": "refused" if reasons else "ok",
        "reason": "; ".join(reasons),
    }
