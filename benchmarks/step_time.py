"""Evaluations of `step_time` per second: JAX under `vmap` beside the same operations in NumPy.

Every evaluation has a deployment and a batch of its own: chip rates, links, model dimensions, degrees of
parallelism, engine and lengths all vary, so nothing is shared between them. Two programs are measured: the
seconds of an iteration alone (what steady state and sweeps call) and the full breakdown by operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measurement import Measurement, median_seconds

#: Evaluations in one call of the JAX program, and in one call of the NumPy one: each near its own optimum
#: (NumPy's temporaries must stay in the cache).
POINTS = 32768
NUMPY_POINTS = 2048


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
    )
    return systems, batches


def measure() -> list[Measurement]:
    """Four figures; `step_time` itself is float32 seconds under `vmap`."""
    import jax

    from benchmarks.numpy_interpreter import numpy_version
    from mist_jax.physics.step import step_seconds, step_time

    out = []
    for name, function, dtype in (
        ("step_time", step_seconds, np.float32),
        ("step_time_float64", step_seconds, np.float64),
        ("step_time_breakdown", step_time, np.float32),
        ("step_time_breakdown_float64", step_time, np.float64),
    ):
        with jax.enable_x64(dtype == np.float64):
            arguments = jax.device_put(deployments(POINTS, dtype))
            program = jax.jit(jax.vmap(function)).lower(*arguments).compile()
            seconds, best = median_seconds(lambda: jax.block_until_ready(program(*arguments)), repeats=15)  # noqa: B023
            few = deployments(NUMPY_POINTS, dtype)
            plain = numpy_version(jax.vmap(function), *few)
            slow, _ = median_seconds(lambda: plain(*few), repeats=5)  # noqa: B023
        value, baseline = POINTS / seconds, NUMPY_POINTS / slow
        details = {
            "points": POINTS,
            "best": POINTS / best,
            "numpy_points": NUMPY_POINTS,
            "dtype": np.dtype(dtype).name,
        }
        out.append(
            Measurement(
                name,
                value,
                "evaluations/s",
                baseline,
                "the same operations in NumPy, one core",
                value / baseline,
                details,
            )
        )
    return out
