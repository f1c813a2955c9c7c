"""A steady-state sweep of 1,000,000 distinct deployments, warm, beside the same operations in NumPy.

Model x chip x parallelism x concurrency x token budget x prompt length x answer length, all figures, in float32 (good
to about 1e-6 of a figure away from saturation: tests/test_sweep.py) and in float64. The baselines run a sample of the
same points in float64 and are scaled: NumPy on 1,024 points, a batch that fits its cache, and one point at a time. The
ten million run once, in float32, the compilation of their shape of block included.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np

from benchmarks.measurement import Measurement, median_seconds

MODELS = (
    "llama3_1_8b",
    "llama3_1_70b",
    "qwen3_32b",
    "qwen3_30b_a3b",
    "mixtral_8x7b",
    "gpt_oss_120b",
    "qwen3_14b",
    "mistral_7b",
)
CHIPS = ("h100_sxm", "a100_sxm", "h200_sxm", "b200_sxm", "l40s", "mi300x", "mi355x", "gb200")
NUMPY_POINTS = 1024


def scenario_and_axes(points: int = 1_000_000) -> tuple[Any, dict[str, Any]]:
    """The scenario, and axes whose product is `points` (a multiple of 128,000, or of 2,000 below that)."""
    import mist_jax as mist

    few = 2 if points < 128_000 else None
    loads = points // (len(MODELS[:few]) * len(CHIPS[:few]) * 4 * 5 * 5 * 5)
    axes = {
        "model": MODELS[:few],
        "hardware": CHIPS[:few],
        "parallelism": ("tp1", "tp2", "tp4", "tp8"),
        "workload.concurrency": np.geomspace(1, 1024, loads),
        "engine.max_num_batched_tokens": (512, 1024, 2048, 8192, 16384),
        "workload.isl": (256, 512, 1024, 2048, 8192),
        "workload.osl": (64, 128, 256, 512, 2048),
    }
    return mist.load(["workload=closed_1k_1k"]), axes


def numpy_rates() -> tuple[float, float]:
    """Points a second of the same program in NumPy: (in batches, one at a time)."""
    import jax

    import mist_jax as mist
    from benchmarks.numpy_interpreter import numpy_version
    from mist_jax.explore import block
    from mist_jax.explore.deployments import Layout, build_deployment, kind_of

    scenario = mist.load(["workload=closed_1k_1k", "model=llama3_1_8b", "parallelism=tp1"])
    with jax.enable_x64(True):
        deployment = build_deployment(scenario)
        kind, layout = kind_of(scenario), Layout(deployment)
        column = np.concatenate([np.ravel(x) for x in jax.tree.leaves(deployment)])
        each = jax.vmap(block.point_function(kind), in_axes=(-1, 1))
        point = lambda columns, inner: each(layout.unflatten(columns), inner)  # noqa: E731
        rates = []
        for count in (NUMPY_POINTS, 1):
            inner = np.full((len(block.inner_paths(kind)), count), np.nan)
            inner[block.inner_paths(kind).index("workload.concurrency")] = np.linspace(1, 200, count)
            columns = np.repeat(column[:, None], count, axis=1)
            plain = numpy_version(point, columns, inner)
            _, best = median_seconds(lambda: plain(columns, inner), repeats=2)  # noqa: B023
            rates.append(count / best)
    return rates[0], rates[1]


def million(dtype: Any) -> tuple[float, dict[str, float]]:
    """(seconds for a million points, how many were evaluated and the most memory), the best of two warm sweeps."""
    import mist_jax as mist

    scenario, axes = scenario_and_axes(1_024_000)
    mist.sweep(scenario, axes, dtype=dtype, progress=False)
    times = []
    for _ in range(2):
        ds = None  # else the last million stays in memory beside the next
        start = time.perf_counter()
        ds = mist.sweep(scenario, axes, dtype=dtype, progress=False)
        times.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    details = {
        "points": ds["status"].size,
        "evaluated": int((ds["status"] == 0).sum()),
        "peak_memory_gb": round(memory / 1e9, 2),
    }
    return min(times) * 1e6 / details["points"], details


def measure() -> list[Measurement]:
    """Seconds for a million points, and the cost of a point from 1e4 to 1e7 points."""
    import mist_jax as mist
    from mist_jax.application import start_jax

    start_jax()
    batches, single = numpy_rates()
    out, baseline = [], 1e6 / batches
    for name, dtype in (("sweep_million_warm", np.float32), ("sweep_million_warm_float64", np.float64)):
        seconds, details = million(dtype)
        details["one_at_a_time_ratio"] = 1e6 / single / seconds
        what = "the same operations in NumPy, one core, from a sample"
        out.append(Measurement(name, seconds, "s", baseline, what, baseline / seconds, details))
        print(f"{name}: {seconds:.1f} s, {details}", flush=True)
    seconds = out[0].value
    for count in (10_000, 100_000, 256_000, 10_240_000):
        scenario, axes = scenario_and_axes(count)

        def one_figure(scenario: Any = scenario, axes: Any = axes) -> Any:
            return mist.sweep(scenario, axes, variables=["ttft_s"], dtype=np.float32, progress=False)

        if count < 1_000_000:  # short, and with a program of its own
            _, best = median_seconds(one_figure)
            each = best / count
        else:
            start = time.perf_counter()
            one_figure()
            each = (time.perf_counter() - start) / count
        name = f"sweep_point_{count // 1000}k"
        out.append(
            Measurement(name, each * 1e6, "us", seconds, "a point of the million", seconds / (each * 1e6))
        )
    return out
