"""Largest and smallest elements with slopes that survive compilation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = Any


def largest(x: Array, axis: int = -1) -> Array:
    """max over `axis`, with the slope of one element that attains it.

    jnp.max finds the elements to differentiate by comparing them with the result; after fusion the two may be
    computed with different rounding, none is equal, and the slope is 0/0 = NaN. Picking by index cannot fail.
    """
    where = jnp.argmax(jax.lax.stop_gradient(x), axis=axis, keepdims=True)
    return jnp.take_along_axis(x, where, axis=axis).squeeze(axis)


def smallest(x: Array, axis: int = -1) -> Array:
    """min over `axis`, see `largest`."""
    where = jnp.argmin(jax.lax.stop_gradient(x), axis=axis, keepdims=True)
    return jnp.take_along_axis(x, where, axis=axis).squeeze(axis)
