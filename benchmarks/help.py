"""Seconds of `mist-jax --help` in a process of its own, beside an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measurement import Measurement, median_seconds


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def measure() -> list[Measurement]:
    """Median of five runs; the ratio is against starting Python."""
    value, best = median_seconds(lambda: _run("-m", "mist_jax", "--help"))
    bare, _ = median_seconds(lambda: _run("-c", "pass"))
    return [Measurement("help", value, "s", bare, "python -c pass", bare / value, {"best": best})]
