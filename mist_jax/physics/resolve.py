"""Pick each kernel's coefficients and peak rate once, ahead of the many evaluations of `step_time`.

Per-precision vectors become the scalars that this model computes in on this chip, and launch floors are scaled to
what a captured graph leaves of them. A resolved system is a `System` whose `calibration.kernels` is a
`ResolvedKernels`; `resolve` is idempotent.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from mist_jax.physics import kernels as k
from mist_jax.physics.kernels_roofline import BF16, at_precision
from mist_jax.pytree import pytree, replace
from mist_jax.system.deployment import System
from mist_jax.system.hardware import Hardware

Array = Any


@pytree
class Rated:
    """A kernel class at one precision: scalar coefficients, and the chip with its scalar peak rate."""

    coef: Any
    peak: Array  #: FLOP/s of the precision that the chip really computes in

    def on(self, hw: Hardware) -> Hardware:
        """The chip as the kernel sees it: one peak rate."""
        return replace(hw, peak_flops=self.peak)


@pytree
class ResolvedKernels:
    """`KernelCoefficients`, one entry per use in an iteration."""

    attention_gemm: Rated
    ffn_gemm: Rated
    wide_gemm: Rated  #: bf16: router and LM head
    moe: Rated
    prefill_attention: Rated
    decode_attention: Rated
    prefill_mla: Rated
    decode_mla: Rated
    recurrent: Rated
    elementwise: k.ElementwiseCoefficients
    all_reduce: k.CollectiveCoefficients
    all_gather: k.CollectiveCoefficients
    reduce_scatter: k.CollectiveCoefficients
    all_to_all: k.CollectiveCoefficients
    p2p: k.CollectiveCoefficients


def _rated(hw: Hardware, floor_scale: Array, uses: dict[str, tuple[Any, Array]]) -> dict[str, Rated]:
    """`Rated` of each use: (coefficients with leaves [P], wanted precision)."""
    index = k.effective_precision(
        hw, jnp.stack([jnp.asarray(precision, float) for _, precision in uses.values()])
    )
    stacked: dict[int, Array] = {}
    tables = []
    for coef, _ in uses.values():
        if id(coef) not in stacked:
            peak = jnp.asarray(hw.peak_flops)
            stacked[id(coef)] = jnp.stack(
                [*(jnp.broadcast_to(x, peak.shape) for x in _leaves(coef).values()), peak]
            )
        tables.append(stacked[id(coef)])
    # Selects vectorize where a gather or a product with a one-hot vector does not: twice as fast under `vmap`. All
    # coefficients in one chain of them: a tenth of a whole program to trace and compile.
    each = [jnp.broadcast_to(i, (len(t),)) for i, t in zip(jnp.unstack(index), tables, strict=True)]
    picked = iter(jnp.unstack(at_precision(jnp.concatenate(tables), jnp.concatenate(each))))
    out = {}
    for use, (coef, _) in uses.items():
        values = dict(zip(_leaves(coef), picked))
        peak = next(picked)
        values["launch_s"] = values["launch_s"] * floor_scale
        out[use] = Rated(coef=replace(coef, **values), peak=peak)
    return out


def _leaves(coef: Any) -> dict[str, Any]:
    return {f.name: getattr(coef, f.name) for f in dataclasses.fields(coef)}


def resolve(system: System) -> System:
    """`system` with its kernels resolved; scalars in, scalars out (leaves of shape [P] become scalars)."""
    kern = system.calibration.kernels
    if isinstance(kern, ResolvedKernels):
        return system
    hw, model, share = system.hardware, system.model, system.calibration.step.floor_scale
    rec = kern.recurrent
    rec = replace(
        rec, prefill_launch_s=rec.prefill_launch_s * share, decode_launch_s=rec.decode_launch_s * share
    )
    core = model.attention_core_precision
    rated = _rated(
        hw,
        share,
        {
            "attention_gemm": (kern.gemm, model.attention_gemm_precision),
            "ffn_gemm": (kern.gemm, model.ffn_precision),
            "wide_gemm": (kern.gemm, BF16),
            "moe": (kern.moe, model.expert_precision),
            "prefill_attention": (kern.prefill_attention, core),
            "decode_attention": (kern.decode_attention, core),
            "prefill_mla": (kern.prefill_mla, core),
            "decode_mla": (kern.decode_mla, core),
        },
    )
    resolved = ResolvedKernels(
        **rated,
        recurrent=Rated(coef=rec, peak=k.peak_flops(hw, BF16)),
        elementwise=replace(kern.elementwise, launch_s=kern.elementwise.launch_s * share),
        all_reduce=kern.all_reduce,
        all_gather=kern.all_gather,
        reduce_scatter=kern.reduce_scatter,
        all_to_all=kern.all_to_all,
        p2p=kern.p2p,
    )
    return replace(system, calibration=replace(system.calibration, kernels=resolved))
