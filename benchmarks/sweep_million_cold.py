"""The million of `sweep_million_warm` in a new process that compiles everything: imports, compilation, sweep."""

from __future__ import annotations

import resource
import tempfile

from benchmarks.measurement import Measurement, run_process

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
        wall, busy, said = run_process(["-c", _PROGRAM], MIST_CACHE_DIR=folder)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak memory {memory / 1e9:.2f} GB, {busy:.0f} s of processor time", flush=True)
    seconds = wall * 1e6 / int(said)
    baseline = 1e6 / numpy_rates()[0]
    what = "the same operations in NumPy, one core, from a sample"
    details = {"processor_s": busy, "peak_memory_bytes": memory}
    return [Measurement("sweep_million_cold", seconds, "s", baseline, what, baseline / seconds, details)]
