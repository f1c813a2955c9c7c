"""Evaluations of `step_time` per second: JAX under `vmap` beside the same operations in NumPy.

Every evaluation has a deployment and a batch of its own: chip rates, links, model dimensions, degrees of
parallelism, engine, calibration and lengths all vary, so nothing is shared between them. Measured are the seconds of
an iteration on resolved deployments (`physics.resolve` picks the coefficients of a deployment's precisions once, ahead
of the many iterations that steady state, tables and sweeps ask for), the same with the resolving done for every single
evaluation, and the full breakdown by operator. The figure is the best wall time on all cores; evaluations per second of
processor time are in the details, because they do not depend on what else the machine does.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.measurement import Measurement, median_seconds

#: Evaluations in one call of the JAX program, and in one call of the NumPy one: each near its own optimum
#: (NumPy's temporaries must stay in the cache).
POINTS = 32768
NUMPY_POINTS = 2048
REPEATS = 40


def deployments(points: int, dtype: Any, seed: int = 0) -> tuple[Any, Any]:
    """(systems, batches) with a leading axis of `points` that all differ."""
    import jax

    import mist_jax as mist
    from mist_jax import build
    from mist_jax.system.batch import Batch

    rng = np.random.default_rng(seed)
    base = [
        build.build_system(mist.load([f"model={m}", f"hardware={h}", f"parallelism={p}"]))
        for m, h, p in (
            ("llama3_1_8b", "a100_sxm", "tp1"),
            ("llama3_1_70b", "h100_sxm", "tp8"),
            ("mixtral_8x7b", "h200_sxm", "tp2"),
            ("qwen3_30b_a3b", "l40s", "tp4"),
            ("deepseek_v3", "b200_sxm", "dp8_ep8"),
            ("gpt_oss_120b", "mi300x", "tp1"),
        )
    ]
    which = rng.integers(0, len(base), points)

    def spread(*leaves: Any) -> Any:
        stacked = np.stack([np.asarray(x, dtype=np.float64) for x in leaves])[which]
        factor = rng.uniform(0.8, 1.25, (points, *(1,) * (stacked.ndim - 1)))
        return np.asarray(stacked * factor, dtype=dtype)

    systems = jax.tree.map(spread, *base)
    # indices and switches are not scaled
    model = systems.model
    exact = {
        name: np.stack([np.asarray(getattr(b.model, name)) for b in base])[which].astype(dtype)
        for name in (
            "attention_gemm_precision",
            "ffn_precision",
            "expert_precision",
            "attention_core_precision",
        )
    }
    from mist_jax.pytree import replace

    switches = {
        name: np.stack([np.asarray(getattr(b.model.attention, name)) for b in base])[which].astype(dtype)
        for name in ("is_mla", "is_recurrent")
    }
    parallel = jax.tree.map(lambda *x: np.stack(x)[which].astype(dtype), *(b.parallel for b in base))
    systems = replace(
        systems,
        model=replace(model, **exact, attention=replace(model.attention, **switches)),
        parallel=parallel,
    )
    batches = Batch(
        prefill_tokens=np.floor(rng.uniform(0, 2048, points)).astype(dtype)
        * (rng.random(points) < 0.5).astype(dtype),
        prefill_seqs=np.ones(points, dtype),
        prefill_past=np.floor(rng.uniform(0, 4096, points)).astype(dtype),
        decode_seqs=np.floor(rng.uniform(1, 256, points)).astype(dtype),
        decode_context=np.floor(rng.uniform(64, 8192, points)).astype(dtype),
        emitting_prefills=np.ones(points, dtype),
        decode_width=np.ones(points, dtype),
    )
    return systems, batches


def measure() -> list[Measurement]:
    """Five figures; `step_time` itself is float32 seconds of resolved deployments under `vmap`."""
    import jax

    from benchmarks.numpy_interpreter import numpy_version
    from mist_jax.physics.resolve import resolve
    from mist_jax.physics.step import step_seconds, step_time
    from mist_jax.programs import compiled

    out = []
    for name, function, dtype, resolved in (
        ("step_time", step_seconds, np.float32, True),
        ("step_time_float64", step_seconds, np.float64, True),
        ("step_time_with_resolve", step_seconds, np.float32, False),
        ("step_time_breakdown", step_time, np.float32, True),
        ("step_time_breakdown_float64", step_time, np.float64, True),
    ):
        with jax.enable_x64(dtype == np.float64):
            many, few = (deployments(n, dtype) for n in (POINTS, NUMPY_POINTS))
            if resolved:
                many, few = (
                    (jax.tree.map(np.asarray, compiled(jax.vmap(resolve))(s)), b) for s, b in (many, few)
                )
            arguments = jax.device_put(many)
            # with the fusion emitters: they compile longer, but such a grid then runs twice as fast
            program = jax.jit(jax.vmap(function))

            def run(program: Any = program, arguments: Any = arguments) -> None:
                jax.block_until_ready(program(*arguments))

            seconds, best = median_seconds(run, repeats=REPEATS)
            processor = _processor_seconds(run)
            plain = numpy_version(jax.vmap(function), *few)
            _, slow = median_seconds(lambda plain=plain, few=few: plain(*few), repeats=5)
        value, baseline = POINTS / best, NUMPY_POINTS / slow
        details = {
            "median": POINTS / seconds,
            "per_processor_second": POINTS / processor,
            "points": POINTS,
            "numpy_points": NUMPY_POINTS,
            "dtype": np.dtype(dtype).name,
        }
        words = "the same operations in NumPy, one core"
        out.append(Measurement(name, value, "evaluations/s", baseline, words, value / baseline, details))
    return out


def _processor_seconds(run: Any) -> float:
    """Median processor time of one call, all threads together."""
    times = []
    for _ in range(REPEATS):
        before = time.process_time()
        run()
        times.append(time.process_time() - before)
    return statistics.median(times)
