"""Requests per second of 256 playbacks side by side, and the memory that they take together.

Sixteen rates times sixteen token budgets of one deployment over the Azure 2023 conversation trace; the baseline is the
same playbacks one after another.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace

import numpy as np

from benchmarks.measurement import Measurement
from benchmarks.playback_azure import client

CONFIGURATIONS = 256
ALONE = 32  #: of these are played one after another for the baseline


def measure() -> list[Measurement]:
    """Threads as many as cores; `growth_gb` is what the peak of the memory rises by."""
    from mist_jax.io.trace_sources import open_trace
    from mist_jax.queueing.batch import play_many

    trace, text = open_trace("azure_2023_conversation")
    engine = client(int((trace.prompt_tokens + trace.output_tokens).max()))
    jobs = [
        (trace.at_rate(float(rate)), replace(engine, max_num_batched_tokens=int(budget)))
        for rate in np.linspace(0.5, 1.5, 16)
        for budget in np.linspace(1024, 16384, 16)
    ]
    assert len(jobs) == CONFIGURATIONS
    play_many(jobs[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    figures = play_many(jobs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    start = time.perf_counter()
    play_many(jobs[:: CONFIGURATIONS // ALONE], workers=1)
    alone = ALONE * trace.size / (time.perf_counter() - start)
    requests = CONFIGURATIONS * trace.size
    details = {
        "trace": text,
        "configurations": CONFIGURATIONS,
        "seconds": seconds,
        "requests_per_cpu_s": requests / cpu,
        "growth_gb": growth,
        "threads": min(os.cpu_count() or 1, 32),
        "served": sum(f["served"] for f in figures),
    }
    baseline = f"one after another ({ALONE} of them)"
    return [
        Measurement(
            "playback_many",
            requests / seconds,
            "requests/s",
            alone,
            baseline,
            requests / seconds / alone,
            details,
        )
    ]
