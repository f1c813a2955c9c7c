"""Timelines for Perfetto (ui.perfetto.dev), in the Chrome trace format: microseconds, one process a client."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr

    from mist_jax.queueing.playback import Played


def timeline(p: Played, *, requests: bool = True) -> dict[str, Any]:
    """The events of a playback with a log: iterations and KV use of each client, phases of each request.

    Raises:
        ValueError: if the playback kept no log.
    """
    if p.steps.size == 0:
        raise ValueError("play with log=True to have a timeline")
    events: list[dict[str, Any]] = []
    for c, name in enumerate(p.names):
        events.append({"name": "process_name", "ph": "M", "pid": c, "args": {"name": f"{name} {c}"}})
        events.append({"name": "thread_name", "ph": "M", "pid": c, "tid": 0, "args": {"name": "iterations"}})
    for e in p.steps:
        kind = "mixed" if e["prefill"] and e["decodes"] else "prefill" if e["prefill"] else "decode"
        args = {
            "prefill_tokens": int(e["prefill"]),
            "decodes": int(e["decodes"]),
            "kv_blocks": int(e["blocks"]),
        }
        events.append(_span(kind, e["start"], e["end"], int(e["client"]), 0, args))
        events.append({"name": "kv_blocks", "ph": "C", "ts": e["start"] * 1e6, "pid": int(e["client"]),
                       "args": {"blocks": int(e["blocks"])}})  # fmt: skip
    if requests:
        for i, r in enumerate(p.requests):
            if r["status"] != 0 or not np.isfinite(r["scheduled"]):
                continue
            pid, tid = int(r["client"]), i + 1
            args = {
                "prompt": int(r["prompt"]),
                "output": int(r["output"]),
                "preemptions": int(r["preemptions"]),
            }
            events.append(_span("waiting", r["arrival"], r["scheduled"], pid, tid, args))
            events.append(_span("prefill", r["scheduled"], r["first"], pid, tid, args))
            events.append(_span("decode", r["first"], r["finish"], pid, tid, args))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def request_timeline(ds: xr.Dataset, *, requests: int = 2000) -> dict[str, Any]:
    """The events of a played result: the stages of each request, a row each, and how many are in flight.

    Args:
        ds: the result of `mist_jax.play`, with `arrival_s(request)`, `stage_s(request, stage)`, `e2e_s(request)`;
            `stage_start_s` says where stages begin if they are not one after another.
        requests: so many from the first arrival on.

    Raises:
        ConfigError: the dataset is no played result.
    """
    missing = [n for n in ("arrival_s", "stage_s", "e2e_s") if n not in ds]
    if missing:
        raise ConfigError(f"timeline: the dataset has no {', '.join(missing)}; give the result of play")
    ds = ds.sortby("arrival_s").isel(request=slice(0, requests))
    arrival, whole = ds["arrival_s"].values.astype(float), ds["e2e_s"].values.astype(float)
    length = ds["stage_s"].transpose("request", "stage").values.astype(float)
    begin = arrival[:, None] + np.nancumsum(length, axis=1) - np.nan_to_num(length)
    if "stage_start_s" in ds:
        begin = ds["stage_start_s"].transpose("request", "stage").values.astype(float)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "requests"}},
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "deployment"}},
    ]
    stages = [str(s) for s in ds["stage"].values]
    sizes = [n for n in ("prompt_tokens", "output_tokens", "preemptions") if n in ds]
    for i, name in enumerate(ds["request"].values):
        args = {n: int(ds[n].values[i]) for n in sizes}
        for stage, start, seconds in zip(stages, begin[i], length[i], strict=True):
            if seconds > 0 and np.isfinite(start):
                events.append(_span(stage, start, start + seconds, 0, int(name) + 1, args))
    served = np.isfinite(whole)
    times = np.concatenate([arrival[served], (arrival + whole)[served]])
    change = np.repeat([1, -1], int(served.sum()))
    order = np.argsort(times, kind="stable")
    for t, n in zip(times[order], np.cumsum(change[order]), strict=True):
        events.append(
            {"name": "requests in flight", "ph": "C", "ts": float(t) * 1e6, "pid": 1, "args": {"n": int(n)}}
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_request_timeline(ds: xr.Dataset, path: str | os.PathLike[str], *, requests: int = 2000) -> None:
    """Write `request_timeline` as JSON, to be opened at ui.perfetto.dev or chrome://tracing."""
    with open(path, "w", encoding="utf-8") as f:
        json.dump(request_timeline(ds, requests=requests), f)


def write_timeline(p: Played, path: str | os.PathLike[str], *, requests: bool = True) -> None:
    """Write `timeline` as JSON."""
    with open(path, "w", encoding="utf-8") as f:
        json.dump(timeline(p, requests=requests), f)


def _span(name: str, start: float, end: float, pid: int, tid: int, args: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "ph": "X", "ts": float(start) * 1e6, "dur": float(end - start) * 1e6,
            "pid": pid, "tid": tid, "args": args}  # fmt: skip
