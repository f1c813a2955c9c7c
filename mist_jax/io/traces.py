"""Readers of request traces.

Each reader returns a `Trace`; bad rows stay in it and are marked by the playback. Columns that were measured
come along in `Trace.measured` (seconds).
"""

from __future__ import annotations

import csv
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax.queueing.trace import Trace

Array = np.ndarray
PathLike = str | os.PathLike[str]


def _number(x: Any) -> float:
    try:
        return float(x)
    except (TypeError, ValueError):
        return float("nan")


def _lines(path: PathLike) -> list[dict[str, Any]]:
    out = []
    with open(path, encoding="utf-8") as f:
        for at, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError as exc:
                raise ValueError(f"{path}, line {at}: not JSON ({exc.msg})") from exc
    return out


def _column(rows: list[dict[str, Any]], *names: str) -> Array:
    return np.array([next((_number(r[n]) for n in names if n in r), float("nan")) for r in rows])


def _some_column(path: PathLike, rows: list[dict[str, Any]], *names: str) -> Array:
    """`_column`; raises ValueError if no row has any of the names."""
    if rows and not any(n in r for r in rows for n in names):
        raise ValueError(
            f"{path}: no {' or '.join(names)}; the first line has {', '.join(rows[0]) or 'nothing'}"
        )
    return _column(rows, *names)


def _from_first(t: Array) -> Array:
    """Times from the first known one on."""
    return t - t[np.isfinite(t)].min() if np.isfinite(t).any() else t


def _columns(path: PathLike, *names: str) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as f:
        rows = csv.reader(f)
        head = next(rows, [])
        missing = [n for n in names if n not in head]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; there are {', '.join(head)}")
        at = {n: head.index(n) for n in names}
        out: dict[str, list[str]] = {n: [] for n in names}
        for row in rows:
            for n in names:
                out[n].append(row[at[n]] if at[n] < len(row) else "")
    return out


def _seconds(stamp: str) -> float:
    """Seconds since 1970 of an ISO time with up to seven digits behind the point; NaN if it is none."""
    whole, _, part = stamp.strip().partition(".")
    try:
        t = (datetime.fromisoformat(whole) - datetime(1970, 1, 1)).total_seconds()
    except (ValueError, TypeError):
        return float("nan")
    return t + (float("0." + part) if part.isdigit() else 0.0)


def read_azure(path: PathLike) -> Trace:
    """Azure LLM inference traces: columns TIMESTAMP, ContextTokens, GeneratedTokens (AzurePublicDataset,
    CC-BY)."""
    c = _columns(path, "TIMESTAMP", "ContextTokens", "GeneratedTokens")
    t = np.array([_seconds(x) for x in c["TIMESTAMP"]])
    p, o = (np.array([_number(x) for x in c[n]]) for n in ("ContextTokens", "GeneratedTokens"))
    return Trace(_from_first(t), p, o, name=Path(path).stem)


def read_burstgpt(path: PathLike, *, model: str | None = None, failures: bool = False) -> Trace:
    """BurstGPT: columns Timestamp (s), Model, Request tokens, Response tokens.

    Requests without an answer are failures of the service; they are left out unless asked for. `model` keeps
    those of one model.
    """
    c = _columns(path, "Timestamp", "Model", "Request tokens", "Response tokens")
    t, p, o = (
        np.array([_number(x) for x in c[n]]) for n in ("Timestamp", "Request tokens", "Response tokens")
    )
    keep = np.ones(t.size, bool) if failures else ~(o == 0)
    if model is not None:
        keep &= np.array(c["Model"]) == model
    t, p, o = t[keep], p[keep], o[keep]
    return Trace(_from_first(t), p, o, name=Path(path).stem)


def read_mooncake(path: PathLike, unit_tokens: int = 512) -> Trace:
    """Mooncake JSONL: timestamp (ms), input_length, output_length, hash_ids of 512-token prefix blocks."""
    rows = _lines(path)
    ids = [r.get("hash_ids", []) for r in rows]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64)
    units = np.array([h for x in ids for h in x], dtype=np.int64)
    return Trace(
        _from_first(_column(rows, "timestamp") / 1e3), _column(rows, "input_length"), _column(rows, "output_length"),
        units=units, unit_offsets=offsets, unit_tokens=unit_tokens, name=Path(path).stem,
    )  # fmt: skip


def read_engine_run(folder: PathLike) -> Trace:
    """A folder of `requests.jsonl` (input_toks, output_toks, *_ts on the server's clock), as LLMServingSim's
    bench has.

    Arrivals are `queued_ts`, from the first one on. `measured` has ttft_s, tpot_s, e2e_s and queue_s.
    """
    path = Path(folder)
    rows = _lines(path / "requests.jsonl" if path.is_dir() else path)
    p, o = _column(rows, "input_toks"), _column(rows, "output_toks")
    queued, begun = _column(rows, "queued_ts"), _column(rows, "scheduled_ts")
    first, last = _column(rows, "first_token_ts"), _column(rows, "last_token_ts")
    missing = ~np.isfinite(queued)
    if missing.any():  # an outside check may hold back what was measured: the wall clock has the same spacing
        queued = _column(rows, "arrival_time")
    gaps = np.where(o > 1, o - 1, np.nan)
    measured = {"ttft_s": first - queued, "tpot_s": (last - first) / gaps}
    measured |= {"e2e_s": last - queued, "queue_s": begun - queued}
    ids = np.array([str(r.get("request_id", i)) for i, r in enumerate(rows)])
    return Trace(_from_first(queued), p, o, request_id=ids, measured=measured, name=path.name)


def engine_run_settings(folder: PathLike) -> dict[str, Any]:
    """`meta.json` of such a folder: model and engine settings."""
    with open(Path(folder) / "meta.json", encoding="utf-8") as f:
        return json.load(f)


def read_benchmark(path: PathLike) -> Trace:
    """Per-request results of `vllm bench serve` (JSON with input_lens, output_lens, ttfts, itls,
    start_times) or of SGLang's bench_serving (JSON lines; input_lens, output_lens, ttfts, itls of the last
    line).

    SGLang keeps no start times: arrivals are 0 then (all at once), unless the file has them.
    """
    text = Path(path).read_text(encoding="utf-8").strip()
    try:
        d = json.loads(text)
    except json.JSONDecodeError as whole:
        try:
            d = json.loads(text.splitlines()[-1])
        except (json.JSONDecodeError, IndexError):
            raise ValueError(
                f"{path}: not JSON (line {whole.lineno}: {whole.msg}); is it cut short?"
            ) from None
    for name in ("input_lens", "output_lens"):
        if name not in d:
            how = "run the benchmark with --save-detailed (vLLM) or --output-details (SGLang)"
            raise ValueError(f"{path}: no per-request {name}; {how}")
    p, o = np.asarray(d["input_lens"], float), np.asarray(d["output_lens"], float)
    start = np.asarray(d.get("start_times") or np.zeros(p.size), float)
    measured = {}
    if d.get("ttfts"):
        measured["ttft_s"] = np.asarray(d["ttfts"], float)
    if d.get("itls"):
        total = np.array([float(np.sum(x)) for x in d["itls"]])
        measured["tpot_s"] = total / np.where(o > 1, o - 1, np.nan)
        if "ttft_s" in measured:
            measured["e2e_s"] = measured["ttft_s"] + total
    return Trace(start - start.min() if start.size else start, p, o, measured=measured, name=Path(path).stem)


def read_jsonl(path: PathLike) -> Trace:
    """One request a line under common names: arrival (s), prompt and output length, session, priority,
    hash_ids.

    Names taken: arrival_s | arrival_time | timestamp | start_time; prompt_tokens | input_tokens |
        input_length |
    input_toks | prompt_len; output_tokens | output_length | output_toks | output_len.
    """
    rows = _lines(path)
    t = _some_column(path, rows, "arrival_s", "arrival_time", "timestamp", "start_time")
    prompt = ("prompt_tokens", "input_tokens", "input_length", "input_toks", "prompt_len")
    p = _some_column(path, rows, *prompt)
    o = _some_column(path, rows, "output_tokens", "output_length", "output_toks", "output_len")
    more: dict[str, Any] = {}
    names: dict[Any, int] = {}
    keys = [r.get("session_id", r.get("session")) for r in rows]
    if any(k is not None for k in keys):
        more["session"] = np.array([-1 if k is None else names.setdefault(k, len(names)) for k in keys])
    if any("priority" in r for r in rows):
        more["priority"] = np.nan_to_num(_column(rows, "priority"))
    if any("hash_ids" in r for r in rows):
        ids = [r.get("hash_ids", []) for r in rows]
        more["unit_offsets"] = np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64)
        more["units"] = np.array([h for x in ids for h in x], dtype=np.int64)
        more["unit_tokens"] = int(rows[0].get("block_tokens", 512))
    return Trace(_from_first(t), p, o, name=Path(path).stem, **more)


def read_trace(path: PathLike) -> Trace:
    """Read a trace of whichever of these formats it is.

    Raises:
        ValueError: if it is none of them.
    """
    p = Path(path)
    if p.is_dir():
        return read_engine_run(p)
    if not p.stat().st_size:
        raise ValueError(f"{p}: is empty")
    try:
        with open(p, encoding="utf-8-sig") as f:
            head = f.readline()
    except UnicodeDecodeError:
        raise ValueError(f"{p}: is no text in UTF-8; is it compressed or binary?") from None
    if "ContextTokens" in head:
        return read_azure(p)
    if "Request tokens" in head:
        return read_burstgpt(p)
    if '"queued_ts"' in head:
        return read_engine_run(p)
    if '"hash_ids"' in head and '"input_length"' in head:
        return read_mooncake(p)
    if '"input_lens"' in head or '"output_lens"' in p.read_text(encoding="utf-8")[:100000]:
        return read_benchmark(p)
    if head.lstrip().startswith("{"):
        return read_jsonl(p)
    raise ValueError(
        f"{p}: not a trace of a known format (Azure, BurstGPT, Mooncake, engine run, vLLM/SGLang, JSONL)"
    )
