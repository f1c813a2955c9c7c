"""Requests per second of the exact playback: the Azure 2023 conversation trace through Llama-3.1-70B on 8 x H100.

The baseline is the independent simulator of `tests/oracle`, which is written to be read, not to be fast, on the first
requests of the same trace with the same step table. Cold start is a process of its own with an empty numba cache.
"""

from __future__ import annotations

import tempfile
import time

from benchmarks.measurement import Measurement, median_seconds, run_process

ORACLE_REQUESTS = 300


def client(context: int, blocks: int = 86000):
    """One engine with the step table of Llama-3.1-70B on 8 x H100."""
    import mist_jax as mist
    from mist_jax import build
    from mist_jax.queueing.playback import Engine
    from mist_jax.queueing.step_table import build_step_table

    system = build.build_system(mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8"]))
    return Engine(build_step_table(system, max_context=context), kv_blocks=blocks, max_num_seqs=1024)


def _import_and_play(cache: str) -> tuple[float, float]:
    """(wall, processor) seconds of a process that imports, compiles if it must, and plays nine requests."""
    code = (
        "import numpy as np;from mist_jax.queueing.table import StepTable;"
        "from mist_jax.queueing.playback import play_engine;"
        "play_engine(StepTable.linear(),{'kv_blocks':1000},np.arange(9.0),np.full(9,50),np.full(9,5))"
    )
    return run_process(["-c", code], NUMBA_CACHE_DIR=cache)[:2]


def measure() -> list[Measurement]:
    """The whole trace, best of 25, wall and CPU; cold and warm start of a process."""
    from mist_jax.io.trace_sources import open_trace
    from mist_jax.queueing.clients import Router
    from mist_jax.queueing.playback import play
    from tests.oracle.simulator import simulate

    trace, text = open_trace("azure_2023_conversation")
    engine = client(int((trace.prompt_tokens + trace.output_tokens).max()))
    seconds, best = median_seconds(lambda: play(trace, engine), repeats=25)
    start = time.process_time()
    for _ in range(9):
        play(trace, engine)
    cpu = (time.process_time() - start) / 9
    rate = trace.size / best
    head = trace.head(ORACLE_REQUESTS)
    start = time.perf_counter()
    simulate(head, engine, Router())
    naive = ORACLE_REQUESTS / (time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = _import_and_play(cache), _import_and_play(cache)
    details = {
        "trace": text,
        "median": trace.size / seconds,
        "requests_per_cpu_s": trace.size / cpu,
        "requests": trace.size,
        "process_s_cold_cache": cold[0],
        "processor_s_cold_cache": cold[1],
        "process_s_warm_cache": warm[0],
        "processor_s_warm_cache": warm[1],
    }
    baseline = f"tests/oracle, the first {ORACLE_REQUESTS} requests"
    return [Measurement("playback_azure", rate, "requests/s", naive, baseline, rate / naive, details)]
