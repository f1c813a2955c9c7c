"""What the operators of an iteration share: their cost, products on a chip, and the factor of an iteration on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

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


#: Names of the figures of a `Cost`.
FIELDS = tuple(f.name for f in dataclasses.fields(Cost))


def column(costs: Iterable[Cost], field: str) -> Array:
    """One figure of several operators, [operators]."""
    return jnp.stack([jnp.asarray(getattr(c, field), dtype=jnp.result_type(float)) for c in costs])


#: Tokens of an iteration at which half of `many_tokens_scale` applies.
MANY_TOKENS = 1024.0


def products_scale(step: StepCoefficients, tokens: Array) -> Array:
    """Factor of an iteration on the kernels of products: c (1 + (m - 1) b / (b + 1024)) for b tokens."""
    return step.compute_scale * (1.0 + (step.many_tokens_scale - 1.0) * tokens / (tokens + MANY_TOKENS))


def gemms(
    use: Rated, hw: Hardware, m: Any, n: Any, depth: Any, wb: Any, ab: Any, ob: float, *, together: bool
) -> tuple[Array, ...]:
    """Seconds of several products of one kind.

    `m`, `n`, `depth`, `wb` are one for all, or a tuple of one a product. `together`: in one call of the kernel on
    stacked arguments, the same numbers. That saves a quarter of a whole program's time to compile, and makes it slower
    by a tenth or more: the stack is the innermost dimension of a block.
    """
    groups = [x if isinstance(x, tuple) else (x,) for x in (m, n, depth, wb)]
    count = max(map(len, groups))

    def seconds(m: Array, n: Array, depth: Array, wb: Array) -> Array:
        return k.gemm_time(use.coef, use.on(hw), m, n, depth, wb, ab, ob, None)

    if not together:
        return tuple(map(seconds, *(g * count if len(g) == 1 else g for g in groups)))
    shape = jnp.broadcast_shapes(*(jnp.shape(x) for g in groups if len(g) > 1 for x in g))
    m, n, depth, wb = (
        g[0] if len(g) == 1 else jnp.stack([jnp.broadcast_to(x, shape) for x in g]) for g in groups
    )
    return tuple(jnp.unstack(seconds(m, n, depth, wb)))


def kernels_of(system: System) -> ResolvedKernels:
    return system.calibration.kernels  # type: ignore[return-value]
