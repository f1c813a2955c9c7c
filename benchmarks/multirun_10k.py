"""A Hydra multirun of 10,000 jobs in a new process that compiles everything, beside Hydra's own composition."""

from __future__ import annotations

import tempfile
import time

from benchmarks.measurement import Measurement, run_process

JOBS = 10_000
COMPOSED = 20


def measure() -> list[Measurement]:
    """Seconds from the start of the process; the baseline composes the jobs one by one (and evaluates none)."""
    import mist_jax as mist

    rates = ",".join(f"{0.1 + 0.05 * i:.2f}" for i in range(125))
    grid = [
        "hardware=h100_sxm,mi300x", "model=llama3_1_8b,qwen3_32b",
        "parallelism=tp1,tp2,tp4,tp8", f"workload.rate={rates}",
        "engine.max_num_batched_tokens=512,1024,2048,4096,8192",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        seconds, busy, said = run_process(
            ["-m", "mist_jax", "-m", *grid, f"hydra.sweep.dir={folder}/out"], MIST_CACHE_DIR=f"{folder}/cache"
        )
    assert f"{JOBS} jobs in one batch" in said, said
    start = time.perf_counter()
    for i in range(COMPOSED):
        mist.load(["hardware=mi300x", "model=qwen3_32b", "parallelism=tp4", f"workload.rate={1 + i}"])
    baseline = (time.perf_counter() - start) / COMPOSED * JOBS
    what = f"composing {JOBS} configs one by one, from {COMPOSED}"
    return [
        Measurement("multirun_10k", seconds, "s", baseline, what, baseline / seconds, {"processor_s": busy})
    ]
