"""Per-request logs of an engine (arrival, queued, first and last token of each request) as a benchmark's result.

Form: JSON lines, one request each: `input_toks`, `output_toks`, `arrival_time`, `first_token_ts`, `last_token_ts` and,
if logged, `queued_ts`; a folder may hold it as `requests.jsonl` beside `meta.json` (LLMServingSim's `bench` of vLLM).
The `*_ts` share a clock of their own: the offset to the arrivals' clock is the smallest `queued_ts - arrival_time` of
the run, so the fastest hand-over counts as 0 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.queueing.trace import Trace

if TYPE_CHECKING:
    from mist_jax.io.benchmarks import BenchmarkResult, Statistics

NEEDED = ("input_toks", "output_toks", "arrival_time", "first_token_ts", "last_token_ts")
PERCENTILES = (50, 90, 95, 99)


def log_file(path: Path) -> Path:
    """`requests.jsonl` of a folder, else the path itself."""
    inside = path / "requests.jsonl"
    return inside if inside.is_file() else path


def is_request(line: dict[str, Any]) -> bool:
    """Whether a parsed line is a request of such a log."""
    return set(NEEDED) <= set(line)


def read_request_log(path: Path) -> BenchmarkResult:
    """The log as a result of form "log": its requests one by one, and their statistics in seconds.

    Raises:
        ConfigError: a line that is not JSON, lacks a key or holds no number; tokens before the arrival.
    """
    from mist_jax.io.benchmarks import BenchmarkResult

    columns = _columns(path)
    order = np.argsort(columns["arrival_time"], kind="stable")
    columns = {k: v[order] for k, v in columns.items()}
    start = columns["arrival_time"][0]
    handed = columns["queued_ts"] if "queued_ts" in columns else columns["first_token_ts"]
    clock = start + float((handed - columns["arrival_time"]).min()) if "queued_ts" in columns else start
    arrival = columns["arrival_time"] - start
    first, last = columns["first_token_ts"] - clock, columns["last_token_ts"] - clock
    tokens = columns["output_toks"]
    measured = {
        "ttft_s": first - arrival,
        "tpot_s": (last - first) / np.where(tokens > 1, tokens - 1, np.nan),
        "e2e_s": last - arrival,
    }
    if (measured["ttft_s"] < 0).any() or (last < first).any():
        raise ConfigError(f"{path}: tokens before their request: arrival_time and *_ts do not share a clock")
    duration = float(last.max())
    meta = _settings(path)
    engine = meta.get("engine_kwargs") or {}
    return BenchmarkResult(
        form="log",
        source=str(path),
        model=meta.get("model"),
        engine="vllm" if "vllm_version" in meta else None,
        tp=engine.get("tensor_parallel_size"),
        rate=(arrival.size - 1) / float(arrival[-1]) if arrival[-1] > 0 else None,
        requests=arrival.size,
        duration_s=duration,
        isl=float(columns["input_toks"].mean()),
        osl=float(tokens.mean()),
        request_rate=arrival.size / duration,
        output_tokens_per_s=float(tokens.sum()) / duration,
        total_tokens_per_s=float(tokens.sum() + columns["input_toks"].sum()) / duration,
        ttft=_statistics(measured["ttft_s"]),
        tpot=_statistics(measured["tpot_s"]),
        e2e=_statistics(measured["e2e_s"]),
        trace=Trace(arrival, columns["input_toks"], tokens, measured=measured, name=path.stem),
        settings={k: v for k, v in engine.items() if isinstance(v, str | int | float | bool)},
    )


def _columns(path: Path) -> dict[str, np.ndarray]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as exc:
            raise ConfigError(f"{path}: line {number}: not JSON ({exc.msg})") from None
        missing = [k for k in NEEDED if not isinstance(row, dict) or not isinstance(row.get(k), int | float)]
        if missing:
            raise ConfigError(f"{path}: line {number}: {missing[0]}: missing or not a number")
        rows.append(row)
    names = [*NEEDED, "queued_ts"] if all("queued_ts" in row for row in rows) else list(NEEDED)
    return {name: np.array([row[name] for row in rows], float) for name in names}


def _settings(path: Path) -> dict[str, Any]:
    meta = path.parent / "meta.json"
    try:
        content = json.loads(meta.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _statistics(values: np.ndarray) -> Statistics:
    from mist_jax.io.benchmarks import Statistics

    known = values[np.isfinite(values)]
    if not known.size:
        return Statistics()
    at = np.percentile(known, PERCENTILES)
    return Statistics(
        float(known.mean()),
        float(known.std()),
        {float(p): float(v) for p, v in zip(PERCENTILES, at, strict=True)},
    )
