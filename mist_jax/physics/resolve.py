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


def _rated(coef: Any, hw: Hardware, precision: Array, floor_scale: Array) -> Rated:
    index = jnp.asarray(k.effective_precision(hw, precision))
    names = [f.name for f in dataclasses.fields(coef) if jnp.ndim(getattr(coef, f.name))]
    # Selects vectorize where a gather or a product with a one-hot vector does not: twice as fast under `vmap`. All
    # coefficients in one chain of them: a third of the program to trace.
    table = jnp.stack([*(jnp.asarray(getattr(coef, n)) for n in names), jnp.asarray(hw.peak_flops)])
    picked = at_precision(table.reshape(len(table), *(1,) * index.ndim, -1), index)
    *values, peak = (picked[i] for i in range(len(names) + 1))
    fields = {f.name: getattr(coef, f.name) for f in dataclasses.fields(coef)}
    fields |= dict(zip(names, values, strict=True))
    fields["launch_s"] = fields["launch_s"] * floor_scale
    return Rated(coef=type(coef)(**fields), peak=peak)


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
    resolved = ResolvedKernels(
        attention_gemm=_rated(kern.gemm, hw, model.attention_gemm_precision, share),
        ffn_gemm=_rated(kern.gemm, hw, model.ffn_precision, share),
        wide_gemm=_rated(kern.gemm, hw, jnp.asarray(BF16), share),
        moe=_rated(kern.moe, hw, model.expert_precision, share),
        prefill_attention=_rated(kern.prefill_attention, hw, core, share),
        decode_attention=_rated(kern.decode_attention, hw, core, share),
        prefill_mla=_rated(kern.prefill_mla, hw, core, share),
        decode_mla=_rated(kern.decode_mla, hw, core, share),
        recurrent=Rated(coef=rec, peak=k.peak_flops(hw, BF16)),
        elementwise=replace(kern.elementwise, launch_s=kern.elementwise.launch_s * share),
        all_reduce=kern.all_reduce,
        all_gather=kern.all_gather,
        reduce_scatter=kern.reduce_scatter,
        all_to_all=kern.all_to_all,
        p2p=kern.p2p,
    )
    return replace(system, calibration=replace(system.calibration, kernels=resolved))
