"""MLPerf Inference v4.1 closed-division LLM results: tokens/s offline, TTFT and TPOT under Poisson load."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from calibration.datasets.names import has_architecture, model_key, snake
from calibration.datasets.serving import data_dir

#: substring of the accelerator's name → conf/hardware
_ACCELERATORS = (
    ("MI300X", "mi300x"),
    ("MI325X", "mi325x"),
    ("GH200 Grace Hopper Superchip 144GB", "gh200_144gb"),
    ("GH200", "gh200_96gb"),
    ("GB200", "gb200"),
    ("B200", "b200_sxm"),
    ("H200", "h200_sxm"),
    ("H100-NVL", "h100_nvl"),
    ("H100-PCIe", "h100_pcie"),
    ("H100", "h100_sxm"),
    ("L40S", "l40s"),
    ("A100", "a100_sxm"),
    ("Orin", "jetson_orin"),
)
#: Format of the weights where it is not fp8: NVIDIA's Blackwell submissions run FP4 (NVIDIA blog on MLPerf v4.1, 2024).
_PRECISIONS = {"jetson_orin": "int4", "b200_sxm": "nvfp4", "gb200": "nvfp4"}
#: Longest prompt and answer in tokens, mlcommons/inference, benchmark table of v4.1. Mean answers are in each
#: row (`tokens_per_sample`: 291 llama2-70b, 69 gptj, 146 mixtral); mean prompts are not published: an
#: assumption.
MAX_PROMPT = {"llama2_70b": 1024, "mixtral_8x7b": 2048, "gptj_6b": 1919}
MAX_OUTPUT = {"llama2_70b": 1024, "mixtral_8x7b": 1024, "gptj_6b": 128}


def read_mlperf(path: str | Path | None = None) -> pd.DataFrame:
    """`inference_v4_1_llm.csv` → one row a run.

    Columns: submitter, platform, accelerator (as submitted), system, n_gpus (all nodes), nodes, host,
    software, engine (trtllm | vllm | other), model, scenario (offline | server | singlestream), precision
    (assumed: fp8 on Hopper, Ada and MI300X, nvfp4 on Blackwell, int4 on Orin; the source has no such column),
    samples_per_s, tokens_per_s, offered_per_s, tokens_per_sample,
    {ttft,tpot,latency}_{mean,p50,p90,p99}_ms, status, reason.

    Refused: runs on CPUs only, runs without an architecture for the model, and rows without a token rate.
    `software` of SingleStream rows is kept; their batch is 1.
    """
    path = data_dir() / "mlperf" / "inference_v4_1_llm.csv" if path is None else Path(path)
    raw = pd.read_csv(path)
    return pd.DataFrame([_row(r) for r in raw.to_dict("records")])


def _row(row: dict) -> dict:
    reasons = []
    accelerator = "" if pd.isna(row["accelerator"]) else str(row["accelerator"])
    system = next((key for text, key in _ACCELERATORS if text in accelerator), None)
    per_node, nodes = row["accelerators_per_node"], row["nodes"]
    if not accelerator:
        reasons.append(f"no accelerator: CPU run on {row['host']}")
    elif system is None:
        reasons.append(f"unknown accelerator {accelerator}")
    model = model_key(row["model"])
    if model is None or not has_architecture(model):
        reasons.append(f"no architecture of {row['model']}")
    if not row["tokens_per_s"] > 0:
        reasons.append("no token rate")
    software = str(row["software"])
    engine = "trtllm" if "TensorRT" in software else "vllm" if "vLLM" in software else "other"
    out = {
        "submitter": row["submitter"],
        "platform": row["platform"],
        "accelerator": accelerator,
        "system": system or (snake(accelerator) if accelerator else "cpu"),
        "n_gpus": int((per_node if per_node > 0 else 0) * (nodes if nodes > 0 else 1)),
        "nodes": nodes,
        "host": row["host"],
        "software": software,
        "engine": engine,
        "model": model or snake(row["model"]),
        "scenario": re.sub(r"[^a-z]", "", str(row["scenario"]).lower()),
        "precision": _PRECISIONS.get(system or "", "fp8"),
        "samples_per_s": row["samples_per_s"],
        "tokens_per_s": row["tokens_per_s"],
        "offered_per_s": row["offered_samples_per_s"],
        "tokens_per_sample": row["tokens_per_s"] / row["samples_per_s"]
        if row["samples_per_s"]
        else float("nan"),
    }
    for quantity in ("ttft", "tpot", "latency"):
        for statistic in ("mean", "p50", "p90", "p99"):
            out[f"{quantity}_{statistic}_ms"] = row[f"{quantity}_{statistic}_ms"]
    return out | {"status": "refused" if reasons else "ok", "reason": "; ".join(reasons)}
