"""Per-request logs of a real engine playing a trace: settings, requests, and its load over time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from calibration.datasets.names import has_architecture, model_key, snake, system_key
from calibration.datasets.serving import data_dir


@dataclass(frozen=True)
class EngineRun:
    """One folder of `engine_runs`: what was run, and what each request saw."""

    name: str
    system: str
    model: str
    engine: str
    version: str
    settings: dict  #: the engine's keyword arguments, as logged
    tp: int
    dp: int
    ep: int
    requests: pd.DataFrame
    load: pd.DataFrame
    status: str
    reason: str


def read_engine_run(folder: str | Path, system: str | None = None) -> EngineRun:
    """`requests.jsonl`, `timeseries.csv` and `meta.json` of one folder.

    `requests` is sorted by arrival: request_id, input_tokens, output_tokens, arrival_s (from the first
    arrival), queued_s, scheduled_s, first_token_s, last_token_s, ttft_ms, tpot_ms (nan for one token),
    e2e_ms, wait_ms (queued to scheduled), status, reason. TTFT and E2E count from the arrival, as a client
    sees them.

    The `*_ts` share the server's monotonic clock while `arrival_time` is wall clock: the offset between them
    is the smallest `queued_ts - arrival_time` of the run, so the fastest hand-over is taken as 0 s. Where they are
    absent the measured columns are NaN.

    Args: `system` overrides the prefix of the folder's name. Raises FileNotFoundError for a missing file.
    """
    folder = Path(folder)
    for name in ("requests.jsonl", "meta.json"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder / name}: an engine run holds requests.jsonl, meta.json, timeseries.csv"
            )
    meta = json.loads((folder / "meta.json").read_text())
    lines = [
        json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines() if line.strip()
    ]
    raw = pd.DataFrame(lines).sort_values("arrival_time", kind="stable").reset_index(drop=True)
    for column in ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"):
        if column not in raw:  # a trace to play, without what was measured
            raw[column] = np.nan
        raw[column] = raw[column].astype(float)
    offset = float((raw.queued_ts - raw.arrival_time).min())
    start = float(raw.arrival_time.min())
    clock = start + offset
    requests = pd.DataFrame(
        {
            "request_id": raw.request_id,
            "input_tokens": raw.input_toks,
            "output_tokens": raw.output_toks,
            "arrival_s": raw.arrival_time - start,
            "queued_s": raw.queued_ts - clock,
            "scheduled_s": raw.scheduled_ts - clock,
            "first_token_s": raw.first_token_ts - clock,
            "last_token_s": raw.last_token_ts - clock,
        }
    )
    requests["ttft_ms"] = 1e3 * (requests.first_token_s - requests.arrival_s)
    requests["e2e_ms"] = 1e3 * (requests.last_token_s - requests.arrival_s)
    steps = (requests.output_tokens - 1).where(requests.output_tokens > 1)
    requests["tpot_ms"] = 1e3 * (requests.last_token_s - requests.first_token_s) / steps
    requests["wait_ms"] = 1e3 * (requests.scheduled_s - requests.queued_s)
    ordered = (requests.scheduled_s >= requests.queued_s - 1e-6) & (
        requests.first_token_s >= requests.scheduled_s
    )
    ordered &= (requests.last_token_s >= requests.first_token_s) & np.isfinite(requests.last_token_s)
    requests["status"] = np.where(ordered, "ok", "refused")
    requests["reason"] = np.where(ordered, "", "time stamps out of order or missing")
    settings = dict(meta.get("engine_kwargs", {}))
    prefix = folder.name.split(str(meta["model"]).split("/")[-1])[0].strip("_")
    system = system or prefix
    keys = system_key(system), model_key(meta["model"])
    reason = [] if keys[0] else [f"unknown system {system}"]
    if keys[1] is None or not has_architecture(keys[1]):
        reason.append(f"no architecture of {meta['model']}")
    tp, dp = int(settings.get("tensor_parallel_size", 1)), int(settings.get("data_parallel_size", 1))
    load = folder / "timeseries.csv"
    return EngineRun(
        name=folder.name,
        system=keys[0] or snake(system),
        model=keys[1] or snake(meta["model"]),
        engine="vllm",
        version=str(meta.get("vllm_version", "")),
        settings=settings,
        tp=tp,
        dp=dp,
        ep=tp * dp if settings.get("enable_expert_parallel") else 1,
        requests=requests,
        load=pd.read_csv(load) if load.exists() else pd.DataFrame(),
        status="refused" if reason else "ok",
        reason="; ".join(reason),
    )


def read_engine_runs(folder: str | Path | None = None) -> list[EngineRun]:
    """All runs of a folder, by name."""
    folder = data_dir() / "engine_runs" if folder is None else Path(folder)
    return [read_engine_run(f) for f in sorted(folder.iterdir()) if (f / "requests.jsonl").exists()]
