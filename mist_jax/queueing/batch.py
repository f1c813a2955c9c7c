"""Many playbacks side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mist_jax.queueing import state as st
from mist_jax.queueing.clients import Engine, Router, Station
from mist_jax.queueing.playback import Played, play
from mist_jax.queueing.trace import Trace

Array = np.ndarray
Job = (
    tuple[Trace, Engine | Sequence[Engine | Station]]
    | tuple[Trace, Engine | Sequence[Engine | Station], Router]
)

_PERCENTILES = (50, 90, 99)


def brief(p: Played) -> dict[str, float]:
    """The figures of one configuration that a search compares."""
    r = p.requests
    ok = (p.status == st.OK) & (r["output"] > 0)
    out: dict[str, float] = {
        "served": float(ok.sum()),
        "end_s": p.end_s,
        "preemptions": float(r["preemptions"].sum()),
    }
    for name, v in (("ttft", p.ttft_s), ("tpot", p.tpot_s), ("e2e", p.e2e_s)):
        v = v[ok & np.isfinite(v)]
        out[f"{name}_mean_s"] = float(v.mean()) if v.size else float("nan")
        marks = np.percentile(v, _PERCENTILES) if v.size else np.full(len(_PERCENTILES), np.nan)
        out |= {f"{name}_p{q}_s": float(x) for q, x in zip(_PERCENTILES, marks, strict=True)}
    out["utilization"] = float(np.mean(p.clients["busy_s"])) / p.end_s if p.end_s > 0 else 0.0
    return out


def play_many(
    jobs: Iterable[Job], reduce: Callable[[Played], Any] = brief, *, workers: int | None = None, **parts: Any
) -> list[Any]:
    """Play each (trace, clients[, router]) and keep `reduce` of it, in order.

    The kernels release the interpreter lock, so threads run in parallel; at most `workers` playbacks are in memory
    at a time (about 0.4 kB a request each), whatever the number of jobs.
    """
    n = workers or min(os.cpu_count() or 1, 32)
    todo = iter(jobs)
    first = next(todo, None)
    if first is None:
        return []

    def one(job: Job) -> Any:
        return reduce(play(job[0], job[1], *job[2:], **parts))

    out = [one(first)]  # compiles, if need be, before the threads start
    with ThreadPoolExecutor(n) as pool:
        out += pool.map(one, todo)
    return out
