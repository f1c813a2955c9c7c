"""Timelines for Perfetto (ui.perfetto.dev), in the Chrome trace format: microseconds, one process a client."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

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


def write_timeline(p: Played, path: str | os.PathLike[str], *, requests: bool = True) -> None:
    """Write `timeline` as JSON."""
    with open(path, "w", encoding="utf-8") as f:
        json.dump(timeline(p, requests=requests), f)


def _span(name: str, start: float, end: float, pid: int, tid: int, args: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "ph": "X", "ts": float(start) * 1e6, "dur": float(end - start) * 1e6,
            "pid": pid, "tid": tid, "args": args}  # fmt: skip
