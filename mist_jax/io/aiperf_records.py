"""Per-request records of AIPerf (`profile_export.jsonl`) as a benchmark's result.

Form (AIPerf documentation, "Working with Profile Export Files"): JSON lines, one request each, with `metadata`
(`request_start_ns`, `was_cancelled`, ...), `metrics` (name → `{value, unit}`) and `error` (null if it was answered).
`unit` is authoritative. TPOT is AIPerf's `inter_token_latency`: (latency - TTFT) / (answer - 1).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.io.request_log import _statistics
from mist_jax.queueing.trace import Trace
from mist_jax.units import to_si

if TYPE_CHECKING:
    from mist_jax.io.benchmarks import BenchmarkResult

#: Metric of a record → column; those that may be missing come last.
_NEEDED = {"input_sequence_length": "isl", "output_sequence_length": "osl", "request_latency": "e2e_s"}
_OPTIONAL = {"time_to_first_token": "ttft_s", "inter_token_latency": "tpot_s"}


def is_record(line: dict[str, Any]) -> bool:
    """Whether a parsed line is a record of such a file."""
    metadata = line.get("metadata")
    return isinstance(metadata, dict) and "request_start_ns" in metadata


def read_aiperf_records(path: Path) -> BenchmarkResult:
    """The answered requests of the file, in order of arrival; failed and cancelled ones are counted in `settings`.

    Raises:
        ConfigError: a line that is not JSON or no record, a metric that is missing or no number, an unknown unit, no
            answered request.
    """
    from mist_jax.io.benchmarks import BenchmarkResult

    rows, lost = _rows(path)
    if not rows:
        raise ConfigError(f"{path}: none of its {lost} requests was answered")
    table = {k: np.array([row[k] for row in rows], float) for k in rows[0]}
    order = np.argsort(table["start_s"], kind="stable")
    table = {k: v[order] for k, v in table.items()}
    arrival = table["start_s"] - table["start_s"][0]
    measured = {k: table[k] for k in ("ttft_s", "tpot_s", "e2e_s")}
    duration = float((arrival + table["e2e_s"]).max())
    tokens = float(table["osl"].sum())
    return BenchmarkResult(
        form="aiperf",
        source=str(path),
        rate=(arrival.size - 1) / float(arrival[-1]) if arrival[-1] > 0 else None,
        requests=arrival.size,
        duration_s=duration,
        isl=float(table["isl"].mean()),
        osl=float(table["osl"].mean()),
        request_rate=arrival.size / duration,
        output_tokens_per_s=tokens / duration,
        total_tokens_per_s=(tokens + float(table["isl"].sum())) / duration,
        ttft=_statistics(measured["ttft_s"]),
        tpot=_statistics(measured["tpot_s"]),
        e2e=_statistics(measured["e2e_s"]),
        trace=Trace(arrival, table["isl"], table["osl"], measured=measured, name=path.stem),
        settings={"failed": lost} if lost else {},
    )


def _rows(path: Path) -> tuple[list[dict[str, float]], int]:
    """(one row an answered request, requests that were not answered)."""
    rows, lost, base = [], 0, None
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as exc:
            raise ConfigError(f"{path}: line {number}: not JSON ({exc.msg})") from None
        if not isinstance(line, dict) or not is_record(line):
            raise ConfigError(f"{path}: line {number}: no record: metadata.request_start_ns: missing")
        if line.get("error") is not None or line["metadata"].get("was_cancelled"):
            lost += 1
            continue
        start = line["metadata"]["request_start_ns"]
        if not isinstance(start, int) or isinstance(start, bool):
            raise ConfigError(f"{path}: line {number}: request_start_ns: got {start!r}; expected nanoseconds")
        base = start if base is None else base  # integers: epoch nanoseconds do not fit a float64
        metrics = line.get("metrics") or {}
        row = {"start_s": (start - base) * 1e-9}
        row |= {to: _value(path, number, metrics, name) for name, to in _NEEDED.items()}
        for name, to in _OPTIONAL.items():
            row[to] = _value(path, number, metrics, name) if name in metrics else float("nan")
        rows.append(row)
    return rows, lost


def _value(path: Path, number: int, metrics: dict[str, Any], name: str) -> float:
    """A metric in SI (tokens as they are)."""
    block = metrics.get(name)
    value = block.get("value") if isinstance(block, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{path}: line {number}: {name}: missing or not a number")
    unit = str(block.get("unit", ""))  # type: ignore[union-attr]
    if unit == "tokens":
        return float(value)
    try:
        return to_si(f"{value!r} {unit}", "time")
    except ConfigError:
        raise ConfigError(f"{path}: line {number}: {name}: unknown unit {unit!r}") from None
