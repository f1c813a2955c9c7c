"""Seconds of `mist-jax --help` in a process of its own, beside an interpreter that does nothing."""

from __future__ import annotations

import statistics

from benchmarks.measurement import Measurement, run_process


def measure() -> list[Measurement]:
    """Best of nine runs; the ratio is against starting Python."""
    run_process(["-m", "mist_jax", "--help"])
    runs = [run_process(["-m", "mist_jax", "--help"]) for _ in range(9)]
    bare = min(run_process(["-c", "pass"])[0] for _ in range(9))
    value = min(r[0] for r in runs)
    details = {"median": statistics.median(r[0] for r in runs), "processor_s": min(r[1] for r in runs)}
    return [Measurement("help", value, "s", bare, "python -c pass", bare / value, details)]
