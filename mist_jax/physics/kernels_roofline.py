"""What all kernel models share: a chip's rate at a precision, cache hits, how compute and memory overlap."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware

Array = Any

BF16 = float(COMPUTE_PRECISIONS.index("bf16"))
_FP32 = float(COMPUTE_PRECISIONS.index("fp32"))


def at_precision(values: Array, index: Array | None) -> Array:
    """The entry of a per-precision vector: values[index].

    A chain of selects instead of a gather: it vectorizes on CPUs and its gradient is dense.

    Args:
        values: [..., len(COMPUTE_PRECISIONS)], or a scalar that was picked before (see `physics.resolve`).
        index: position in COMPUTE_PRECISIONS (a float is fine), broadcastable; None: `values` were picked
            before, whatever their shape.
    """
    if index is None:
        return values
    values = jnp.asarray(values)
    if values.ndim == 0:
        return values
    out = values[..., 0]
    for position in range(1, len(COMPUTE_PRECISIONS)):
        out = jnp.where(jnp.asarray(index) == position, values[..., position], out)
    return out


def effective_precision(hw: Hardware, index: Array | None) -> Array:
    """The precision a chip computes in: the wanted one, bf16 where it has no unit for it, else fp32.

    Weights stored narrower than the chip computes are widened on the way in (weight-only quantization).
    None (rates and coefficients were picked before) stays None.
    """
    if index is None:
        return None
    wanted = at_precision(hw.peak_flops, index)
    bf16 = at_precision(hw.peak_flops, BF16)
    return jnp.where(wanted > 0, index, jnp.where(bf16 > 0, BF16, _FP32))


def peak_flops(hw: Hardware, index: Array) -> Array:
    """Dense peak rate in FLOP/s (OP/s for int8) at `effective_precision`."""
    return at_precision(hw.peak_flops, effective_precision(hw, index))


def overlap(first: Array, second: Array, serialization: Array) -> Array:
    """Time of two activities that overlap in part: ((a+b) + sqrt((a-b)^2 + 4 s a b)) / 2.

    s = 0 is the roofline's max(a, b) (S. Williams et al., "Roofline", CACM 52(4), 2009), s = 1 the plain sum;
    between them the corner is rounded. Homogeneous of degree 1, and monotone in a and b for 0 <= s <= 1.
    One square root: cheaper than a p-norm, and differentiable at a = b for s > 0.

    Args:
        first, second: s, non-negative.
        serialization: s in [0, 1].
    """
    square = (first - second) ** 2 + 4.0 * serialization * first * second
    positive = square > 0
    # sqrt has an infinite slope at 0: sanitize its input
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return 0.5 * (first + second + root)


#: Share of the last-level cache that one kernel's operands may fill before they evict each other. Assumption:
#: hashed slices and other traffic leave less than the nominal capacity.
CACHE_SHARE = 0.7


def from_cache(hw: Hardware, nbytes: Array, speedup: Array, warm: Array) -> Array:
    """Factor on the time to read `nbytes` that the call before has left in the cache: 1 - w h (1 - 1/s).

    h = 1 / (1 + (nbytes / (0.7 C))^4) is the hit share: nearly 1 below the capacity C, nearly 0 above, as a
    cyclic sweep through a least-recently-used cache.

    Args:
        nbytes: bytes read.
        speedup: s >= 1, rate of the cache over that of the memory for this kernel.
        warm: w, 1 = the operands are the same as in the call before (microbenchmarks), 0 = they are cold (one
            pass through the layers of a model touches far more than any cache holds). The number 0.0 itself, as in
            all models, leaves the formula out of the program.
    """
    if isinstance(warm, float) and warm == 0.0:
        return 1.0
    has_cache = hw.cache_capacity > 0
    capacity = jnp.where(has_cache, hw.cache_capacity, 1.0)
    hits = jnp.where(has_cache, 1.0 / (1.0 + (nbytes / (CACHE_SHARE * capacity)) ** 4), 0.0)
    return 1.0 - warm * hits * (1.0 - 1.0 / speedup)


def when(active: Array, time: Array) -> Array:
    """`time` where there is work at all, else 0 (no work, no launch)."""
    return jnp.where(active, time, 0.0)
