"""What the operators of an iteration share: their cost, products on a chip, and the factor of an iteration on them."""

from __future__ import annotations

from typing import Any

from mist_jax.physics import kernels as k
from mist_jax.physics.resolve import Rated, ResolvedKernels
from mist_jax.pytree import pytree
from mist_jax.system.calibration import StepCoefficients
from mist_jax.system.deployment import System
from mist_jax.system.hardware import Hardware

Array = Any


@pytree
class Cost:
    """What one operator takes in one iteration, all layers together, on one chip of each pipeline stage."""

    seconds: Array
    flops: Array
    bytes: Array  #: device memory traffic: weights once, inputs read and outputs written of each product
    sent: Array  #: bytes sent over links


def cost(seconds: Array, flops: Array = 0.0, nbytes: Array = 0.0, sent: Array = 0.0) -> Cost:
    return Cost(seconds=seconds, flops=flops, bytes=nbytes, sent=sent)


#: Tokens of an iteration at which half of `many_tokens_scale` applies.
MANY_TOKENS = 1024.0


def products_scale(step: StepCoefficients, tokens: Array) -> Array:
    """Factor of an iteration on the kernels of products: c (1 + (m - 1) b / (b + 1024)) for b tokens."""
    return step.compute_scale * (1.0 + (step.many_tokens_scale - 1.0) * tokens / (tokens + MANY_TOKENS))


def gemm(
    use: Rated, hw: Hardware, m: Array, n: Array, depth: Array, wb: Array, ab: Array, ob: Array
) -> Array:
    return k.gemm_time(use.coef, use.on(hw), m, n, depth, wb, ab, ob, None)


def kernels_of(system: System) -> ResolvedKernels:
    return system.calibration.kernels  # type: ignore[return-value]
