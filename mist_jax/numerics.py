"""Small numeric guards; each says which NaN or broken gradient it avoids."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

Array = Any


def safe_divide(a: Array, b: Array, otherwise: Array = 0.0) -> Array:
    """a / b where b != 0, else `otherwise`.

    The denominator is replaced *before* the division: `where(b == 0, 0, a / b)` would still send the NaN of the
    unused branch through the gradient.
    """
    ok = b != 0
    return jnp.where(ok, a / jnp.where(ok, b, 1.0), otherwise)


def smooth_max(a: Array, b: Array, sharpness: Array = 8.0) -> Array:
    """p-norm of two non-negative numbers, (a^p + b^p)^(1/p) >= max(a, b): a maximum with a slope on both sides.

    Scaled by the hard maximum, so that neither power overflows nor the gradient at (0, 0) is NaN.
    """
    top = jnp.maximum(jnp.maximum(a, b), jnp.finfo(jnp.result_type(float)).tiny * 1e30)
    return top * ((a / top) ** sharpness + (b / top) ** sharpness) ** (1.0 / sharpness)


def ceil_div(a: Array, b: Array) -> Array:
    """ceil(a / b): exact counts for memory and scheduling. Its slope is zero; use a / b where a search needs one."""
    return jnp.ceil(safe_divide(a, b))
