"""Runs as pairs of engine iterations: what energy, static batches and offline throughput are made of.

A run gives two batches, e.g. one of decodes alone and one with the prompts that come in. One vmapped program returns
their time, work and traffic under logarithmic factors on named coefficients; fits of a few factors differentiate it.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np

from calibration import e2e_systems
from mist_jax.schema import PrecisionSpec
from mist_jax.system.deployment import System
from mist_jax.system.engine import Engine
from mist_jax.system.parallel import Parallel

Array = Any

#: Coefficients of the step that a fit may scale; then those of `mist_jax.vendor_catalog`.
STEP_FACTORS = (
    "host_s",
    "host_per_seq_s",
    "layer_s",
    "prefill_host_s",
    "compute_scale",
    "many_tokens_scale",
    "expert_scale",
    "attention_scale",
    "comm_scale",
    "imbalance",
)
VENDOR_FACTORS = ("compute_efficiency", "memory_efficiency", "link_efficiency", "launch", "host")
FACTORS = (*STEP_FACTORS, *VENDOR_FACTORS)
#: Last axis of `measures`: s, s in which kernels compute or load, bf16-equivalent FLOPs, bytes, bytes sent; per chip.
#: Then parts: time of attention over the cache and of routed experts, bytes of the former, unpacked weights; FLOPs as
#: they are.
MEASURES = (
    "seconds",
    "kernel_seconds",
    "flops",
    "bytes",
    "sent",
    "attention_seconds",
    "expert_seconds",
    "attention_bytes",
    "unpacked",
    "plain_flops",
)


def measures(x: Array, system: Any, batches: Any) -> Array:
    """[2, len(MEASURES)] of the two `batches` (leading axis 2) under exp(x), x [len(FACTORS)]."""
    import jax
    import jax.numpy as jnp

    from mist_jax.physics.operators import OPERATORS
    from mist_jax.physics.step import step_time
    from mist_jax.physics.step_energy import busy_seconds, equivalent_flops, unpacked_weights
    from mist_jax.pytree import replace
    from mist_jax.vendor_catalog import scaled

    factor = dict(zip(FACTORS, jnp.exp(x), strict=True))
    step = system.calibration.step
    step = replace(
        step, **{name: getattr(step, name) * factor[name] for name in STEP_FACTORS if name != "imbalance"}
    )
    step = replace(step, imbalance=1.0 + (step.imbalance - 1.0) * factor["imbalance"])
    calibration = scaled(replace(system.calibration, step=step), {n: factor[n] for n in VENDOR_FACTORS})
    system = replace(system, calibration=calibration)

    def one(batch: Any) -> Array:
        s = step_time(system, batch)
        flops = equivalent_flops(system.hardware, system.model, s.flops)
        pp = system.parallel.pp
        attention, experts = OPERATORS.index("attention_decode"), OPERATORS.index("experts")
        work = (jnp.sum(flops) * pp, jnp.sum(s.bytes) * pp, jnp.sum(s.sent) * pp)
        parts = (s.by_operator[attention], s.by_operator[experts], s.bytes[attention] * pp)
        parts = (*parts, unpacked_weights(system.model, s.bytes) * pp, jnp.sum(s.flops) * pp)
        return jnp.stack([s.seconds, busy_seconds(system, s), *work, *parts])

    return jax.vmap(one)(batches)


@lru_cache(maxsize=1)
def programs() -> tuple[Any, Any]:
    """(measures [runs, 2, M], their Jacobian [runs, 2, M, K]) over runs."""
    import jax

    from mist_jax.programs import compiled

    return compiled(jax.vmap(measures)), compiled(jax.vmap(jax.jacfwd(measures)))


@dataclasses.dataclass(frozen=True)
class Runs:
    """Systems and batches of many runs, leading axis on every leaf."""

    system: Any
    batches: Any

    @staticmethod
    def of(pairs: list[tuple[System, tuple[Any, Any]]]) -> Runs:
        """Stack; each pair is (system, (first batch, second batch))."""
        import jax

        def column(trees: list[Any]) -> Any:
            return jax.tree.map(lambda *leaf: np.stack([np.asarray(v, np.float64) for v in leaf]), *trees)

        return Runs(column([s for s, _ in pairs]), column([column(list(b)) for _, b in pairs]))

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """[runs, 2, M] for factors x [runs, K]."""
        import jax

        with jax.enable_x64(True):
            return np.asarray(programs()[0](x, self.system, self.batches))

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """[runs, 2, M, K]."""
        import jax

        with jax.enable_x64(True):
            return np.asarray(programs()[1](x, self.system, self.batches))

    def with_batches(self, batches: list[tuple[Any, Any]]) -> Runs:
        """The same systems doing other work."""
        import jax

        def column(trees: list[Any]) -> Any:
            return jax.tree.map(lambda *leaf: np.stack([np.asarray(v, np.float64) for v in leaf]), *trees)

        return Runs(self.system, column([column(list(b)) for b in batches]))


def make_batch(
    decode: float, context: float, prompts: float = 0.0, length: float = 0.0, past: float = 0.0
) -> Any:
    """`decode` sequences with `context` tokens each, beside `prompts` (may be a fraction) of `length` tokens."""
    from mist_jax.system.batch import Batch

    return Batch(
        prefill_tokens=prompts * length,
        prefill_seqs=max(prompts, 1.0) if prompts > 0 else 0.0,
        prefill_past=past,
        decode_seqs=decode,
        decode_context=context,
        emitting_prefills=prompts,
        decode_width=1.0,
    )


def make_system(
    chip: str,
    model: str,
    model_file: str,
    precision: PrecisionSpec,
    *,
    engine: str,
    tp: float,
    ep: float = 1.0,
    pp: float = 1.0,
    eager: float = 0.0,
    max_num_seqs: float = 4096.0,
    max_num_batched_tokens: float = 8192.0,
    kernels: str = "default",
    block_scaled: bool = True,
) -> System:
    """One replica with the packaged kernels of `engine` (kernels="none": priors) and the priors of the step.

    `block_scaled`: fp8 experts have a scale for each block of weights, as public checkpoints do; else one a tensor.
    """
    from mist_jax import build
    from mist_jax.calibrations import Calibration, packaged_kernels
    from mist_jax.physics.kernels import default_coefficients
    from mist_jax.physics.step_energy import default_energy_coefficients
    from mist_jax.system.calibration import default_step_coefficients

    spec = e2e_systems.hardware_spec(chip)
    assert spec is not None, chip
    chosen = default_coefficients()
    if kernels != "none":
        experts = None if precision.experts == "fp8" and not block_scaled else precision.experts
        chosen = packaged_kernels(chip, spec.generation, engine, experts)[0]
    built = e2e_systems.build_model(model, model_file, precision)
    moe = float(built.moe_layers) > 0
    return build.as_float64(
        System(
            hardware=e2e_systems.build_hardware(chip),
            model=built,
            parallel=Parallel(tp=tp, pp=pp, dp=1.0, ep=ep if moe else 1.0, moe_tp=tp / (ep if moe else 1.0)),
            engine=Engine(
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
                block_size=16.0,
                memory_utilization=0.9,
                reserve_bytes=2e9,
                activation_bytes_per_token=0.0,
                eager=eager,
                prefix_hit_rate=0.0,
            ),
            calibration=Calibration(
                kernels=chosen, step=default_step_coefficients(), energy=default_energy_coefficients()
            ),
        )
    )
