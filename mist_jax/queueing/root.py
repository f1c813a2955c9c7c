"""The load at which flow balances: a root whose function costs step times, found with few of them.

Shared by the aggregated and the disaggregated steady state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = Any

#: Points at which the times are worked out before the root is bracketed, and bisections between them.
NODES = 5
BISECTIONS = 24
#: Secant steps with exact times after the bisection.
POLISH = 5


def solve_load(
    times: Callable[[Array], Array],
    others_of: Callable[[Array], Array],
    excess: Callable[[Array, Array], Array],
    high: Array,
) -> tuple[Array, Array, Array]:
    """The n in (0, high] at which `excess(n, times)`, rising in n, is zero; `high` if it stays below.

    `times` is worked out at `NODES` points and interpolated log-linearly for a bisection; `POLISH` secant steps with
    the exact times, the first with the interpolated slope, remove the interpolation error. The gradient is that of
    the root (implicit differentiation, `jax.lax.custom_root`), not of the iteration.

    Args:
        times: others → seconds [k], smooth and positive.
        others_of: n → the sequences that one of them sees besides itself.
        excess: (n, seconds [k]) → surplus.
        high: largest n.

    Returns:
        n, whether it sits at the limit, and the seconds at the limit, [k].
    """
    low = jnp.minimum(1e-4, 0.5 * high)
    log_m = jnp.log1p(others_of(high)) * jnp.linspace(0.0, 1.0, NODES)
    nodes = jax.vmap(times, out_axes=1)(jnp.expm1(log_m))
    log_nodes = jnp.log(nodes)
    span = jnp.maximum(log_m[-1], 1e-12)

    def interpolated(n: Array) -> Array:
        position = jnp.clip(jnp.log1p(others_of(n)) / span * (NODES - 1), 0.0, NODES - 1)
        # hat functions: a gather would not vectorize
        weights = jnp.maximum(1.0 - jnp.abs(jnp.arange(NODES) - position), 0.0)
        return excess(n, jnp.exp(log_nodes @ weights))

    def exact(n: Array) -> Array:
        return excess(n, times(others_of(n)))

    def root(f: Callable[[Array], Array], _: Array) -> Array:
        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            a, b = bracket
            mid = jnp.sqrt(a * b)
            below = interpolated(mid) < 0
            return jnp.where(below, mid, a), jnp.where(below, b, mid)

        a, b = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
        n = jnp.sqrt(a * b)
        h = 0.01 * n
        slope = jnp.maximum((interpolated(n + h) - interpolated(n - h)) / (2.0 * h), 1e-30)

        def polish(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
            n, last_n, last_f, slope = state
            value = f(n)
            run = n - last_n
            moved = jnp.abs(run) > 1e-9 * n
            secant = (value - last_f) / jnp.where(moved, run, 1.0)
            # near saturation the curve is flat and bent: trust the secant, but only where it rises
            slope = jnp.where(moved & (secant > 0.05 * slope), secant, slope)
            following = jnp.clip(n - value / slope, 0.5 * n, jnp.minimum(2.0 * n, high))
            return following, n, value, slope

        return jax.lax.fori_loop(0, POLISH, polish, (n, n, jnp.zeros_like(n), slope))[0]

    n = jax.lax.custom_root(exact, high, root, lambda g, y: y / g(jnp.ones_like(y)))
    at_limit = jax.lax.stop_gradient(n >= high * (1.0 - 1e-6))
    # at the limit n follows the limit, not the root
    return jnp.where(at_limit, high, n), at_limit, nodes[:, -1]
