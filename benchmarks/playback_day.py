"""Seconds to play a day of 1,000,000 requests over 32 clients behind a least-tokens router."""

from __future__ import annotations

import resource
import time

import numpy as np

from benchmarks.measurement import Measurement
from benchmarks.playback_azure import client

REQUESTS = 1_000_000
CLIENTS = 32
ORACLE_REQUESTS = 300


def measure() -> list[Measurement]:
    """One play of the day after one of a thousand requests; the naive simulator's time is scaled up from its first
    requests."""
    from dataclasses import replace

    from mist_jax.queueing.clients import Router
    from mist_jax.queueing.playback import play
    from mist_jax.queueing.trace import Trace
    from tests.oracle.simulator import simulate

    rng = np.random.default_rng(0)
    arrival = np.sort(rng.uniform(0.0, 86400.0, REQUESTS))

    def lengths(mean: float, spread: float) -> np.ndarray:
        return np.maximum(np.rint(rng.lognormal(np.log(mean) - spread**2 / 2, spread, REQUESTS)), 1).astype(
            np.int64
        )

    trace = Trace(arrival, np.minimum(lengths(1155, 0.9), 16384), np.minimum(lengths(211, 0.9), 4096))
    engine = replace(client(20480), count=CLIENTS)
    router = Router("least_tokens")
    play(trace.head(1000), engine, router)
    start = time.perf_counter()
    played = play(trace, engine, router)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    simulate(trace.head(ORACLE_REQUESTS), engine, router)
    naive = (time.perf_counter() - start) * REQUESTS / ORACLE_REQUESTS
    details = {
        "peak_memory_gb": peak,
        "served": int((played.status == 0).sum()),
        "utilization": float(np.mean(played.clients["busy_s"]) / played.end_s),
    }
    baseline = f"tests/oracle, scaled up from {ORACLE_REQUESTS} requests"
    return [Measurement("playback_day", seconds, "s", naive, baseline, naive / seconds, details)]
