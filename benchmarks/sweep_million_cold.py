"""The million of `sweep_million_warm` in a new process that compiles everything: imports, compilation, sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.measurement import Measurement

_PROGRAM = """
from benchmarks.sweep_million_warm import scenario_and_axes
from mist_jax.application import start_jax
start_jax()
import mist_jax as mist
scenario, axes = scenario_and_axes(1_024_000)
print(mist.sweep(scenario, axes, progress=False)["status"].size)
"""


def measure() -> list[Measurement]:
    """Seconds from the start of the process; nothing cached."""
    from benchmarks.sweep_million_warm import numpy_rates

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], env={**os.environ, "MIST_CACHE_DIR": folder},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds = (time.perf_counter() - start) * 1e6 / int(done.stdout)
    baseline = 1e6 / numpy_rates()[0]
    what = "the same operations in NumPy, one core, from a sample"
    return [Measurement("sweep_million_cold", seconds, "s", baseline, what, baseline / seconds)]
