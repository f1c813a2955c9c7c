"""The load at which flow balances: a root whose function costs step times, found with few of them.

Shared by the aggregated and the disaggregated steady state.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

Array = Any

#: Where the times are worked out before the root is bracketed: shares of the logarithm of the largest batch. The middle
#: one is high, because the curve is flat and the start matters near saturation.
PLACES = (0.0, 0.7, 1.0)
NODES = len(PLACES)
#: Bisections between them. Fewer start the secants of closed loops where the curve is another: with 15, TTFT was up to
#: 3 % off, with 12 up to 64 %.
BISECTIONS = 24
#: Secant steps with exact times after the bisection.
POLISH = 5
#: Relative distance from the root of the two points between which `Form.FORWARD` takes the slope.
ASIDE = 1e-4


class Form(enum.Enum):
    """How `solve_load` is written into a program: the same numbers, more or less to trace and compile.

    The step is thousands of operations, so a program takes as long to compile as it has copies of it. A form with two
    copies, whose last turn alone works out the breakdown, took 1.7 times as long to compile and was no faster.
    """

    DIFFERENTIABLE = "three copies: at the nodes, in the secant steps, at the root"
    COMPACT = "one copy: nodes, secant steps and the root are turns of one loop, each with the breakdown; no gradient"
    SHORT = "COMPACT, with products of one kind in one call: for programs that run a few times"
    FORWARD = (
        "one copy, with the root's gradient in forward mode: two more turns beside the root give its slope"
    )


_FORM: ContextVar[Form] = ContextVar("form", default=Form.DIFFERENTIABLE)


@contextmanager
def written_as(form: Form) -> Iterator[None]:
    """Programs traced inside are written in this form; those that are differentiated need the default."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def is_short() -> bool:
    """Whether what is traced now should be short rather than quick."""
    return _FORM.get() is Form.SHORT


def solve_load(
    times: Callable[[Array], Array],
    whole: Callable[[Array], tuple[Array, Any]],
    others_of: Callable[[Array], Array],
    excess: Callable[[Array, Array], Array],
    high: Array,
) -> tuple[Array, Array, Array, tuple[Array, Any]]:
    """The n in (0, high] at which `excess(n, times)`, rising in n, is zero; `high` if it stays below.

    `times` is worked out at `NODES` points and interpolated linearly for a bisection; `POLISH` secant steps with the
    exact times, the first with the interpolated slope, remove the interpolation error. The gradient is that of the
    root (implicit differentiation, `jax.lax.custom_root`), not of the iteration.

    Iterations are affine in the batch to a good part, t = a + b n, so a rate n / t has a reciprocal that is affine in
    1/n: secants of 1 - wanted / reached over 1/n hit such a root at once, and a pole of a wait is no pole there.
    Measured on 43,200 deployments each (6 models, 6 chips, TP, loads, lengths) against 25 steps: TTFT, TPOT within
    5e-4 in the open loop and 1e-4 in the closed one, all but 0.1 % of the points within 2e-8 and 2e-6.

    Args:
        times: others → seconds [k], smooth and positive.
        whole: others → (the same seconds, whatever else is wanted at the root).
        others_of: n → the sequences that one of them sees besides itself.
        excess: (n, seconds [k]) → 1 - wanted / reached.
        high: largest n.

    Returns:
        n, whether it sits at the limit, the seconds at the limit, [k], and `whole` at n.
    """
    search = _Search(others_of, excess, high)
    form = _FORM.get()
    if form is Form.DIFFERENTIABLE:
        n, at_limit, top = search.implicit(times)
        return n, at_limit, top, whole(others_of(n))
    n, top, at_root = search.one_loop(whole, form is Form.FORWARD)
    return n, n >= high, top, at_root


class _Search:
    """The steps that the forms share."""

    def __init__(self, others_of: Any, excess: Any, high: Array) -> None:
        self.others_of, self.excess, self.high = others_of, excess, high
        self.nodes = jnp.expm1(jnp.log1p(others_of(high)) * jnp.asarray(PLACES))
        self.gaps = jnp.maximum(self.nodes[1:] - self.nodes[:-1], 1e-12)

    def bracketed(self, node_times: Array) -> tuple[Array, ...]:
        """(n, last n, last value, slope) before the first secant step, from the times at the nodes [NODES, k]."""

        def interpolated(n: Array) -> Array:
            # a sum of ramps: a gather would not vectorize
            ramps = jnp.clip((self.others_of(n) - self.nodes[:-1]) / self.gaps, 0.0, 1.0)
            # summed one by one: a product of matrices so small costs more than all the rest
            rises = [ramps[k] * (node_times[k + 1] - node_times[k]) for k in range(NODES - 1)]
            return self.excess(n, node_times[0] + sum(rises))

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            a, b = bracket
            mid = jnp.sqrt(a * b)
            below = interpolated(mid) < 0
            return jnp.where(below, mid, a), jnp.where(below, b, mid)

        low = jnp.minimum(1e-4, 0.5 * self.high)
        a, b = jax.lax.fori_loop(0, BISECTIONS, halve, (low, self.high))
        n = jnp.sqrt(a * b)
        h = 0.01
        below, above = jax.vmap(interpolated)(jnp.stack([n * (1 - h), n * (1 + h)]))
        slope = jnp.maximum((above - below) / (2.0 * h / n), 1e-30)
        return n, n, jnp.zeros_like(n), slope

    def secant(self, state: tuple[Array, ...], value: Array) -> tuple[Array, ...]:
        """The state of `bracketed` after one step, `value` being that of its n."""
        n, last_n, last_f, slope = state
        run = 1.0 / last_n - 1.0 / n
        moved = jnp.abs(run) * n > 1e-9
        secant = (value - last_f) / jnp.where(moved, run, 1.0)
        # near saturation the curve is flat and bent: trust the secant, but only where it rises
        slope = jnp.where(moved & (secant > 0.05 * slope), secant, slope)
        following = jnp.minimum(n / jnp.clip(1.0 + n * value / slope, 0.5, 2.0), self.high)
        return following, n, value, slope

    def implicit(self, times: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        """(n, whether it is at the limit, seconds at the limit), with the root's gradient."""
        node_times = jax.vmap(times)(self.nodes)

        def exact(n: Array) -> Array:
            return self.excess(n, times(self.others_of(n)))

        def root(f: Callable[[Array], Array], _: Array) -> Array:
            state = self.bracketed(node_times)
            return jax.lax.fori_loop(0, POLISH, lambda _, s: self.secant(s, f(s[0])), state)[0]

        n = jax.lax.custom_root(exact, self.high, root, lambda g, y: y / g(jnp.ones_like(y)))
        at_limit = jax.lax.stop_gradient(self._at_limit(n))
        # at the limit n follows the limit, not the root
        return jnp.where(at_limit, self.high, n), at_limit, node_times[-1]

    def _at_limit(self, n: Array) -> Array:
        return n >= self.high * (1.0 - 1e-6)

    def one_loop(
        self, work: Callable[[Array], tuple[Array, Any]], forward: bool = False
    ) -> tuple[Array, Array, tuple[Array, Any]]:
        """(n, seconds at the limit, `work` in the last turn): first the nodes, then the secant steps, then the root.

        The last turn leaves n alone, so its `work` is that of the root. With `forward` two turns come before it,
        at n (1 -+ h): the mean of their values, which is zero but for its tangent, over their slope, moves n.
        """
        numbers = jnp.arange(NODES)
        asides = 2 if forward else 0
        # the turn is the same for all points of a block, so only one of the stages runs
        stages = jnp.cumsum(jnp.asarray([NODES - 1, 1, POLISH, asides // 2, asides // 2]))

        def turn(i: Array, carry: Any) -> Any:
            state, node_times, _ = carry
            here = numbers == i
            node = jnp.sum(jnp.where(here, self.nodes, 0.0))
            visited, last_f = state[0], state[2]
            if forward:
                side = jnp.where(i == stages[2], -ASIDE, 0.0) + jnp.where(i == stages[3], ASIDE, 0.0)
                visited = visited * (1.0 + side)
            done = work(jnp.where(i < NODES, node, self.others_of(visited)))
            node_times = jnp.where(here[:, None], done[0], node_times)

            def value() -> Array:
                return self.excess(visited, done[0])

            def stepped() -> tuple[Array, ...]:
                n, *rest = self.secant(state, value())
                return (jnp.where(self._at_limit(n), self.high, n), *rest)

            def below() -> tuple[Array, ...]:
                return (state[0], state[1], value(), state[3])

            def above() -> tuple[Array, ...]:
                n, here = state[0], value()
                slope = jnp.maximum((here - last_f) / (2.0 * ASIDE * n), 1e-30)
                # the value at n differs from zero by the secant's rest: only the tangent counts
                change = 0.5 * (here + last_f)
                moved = n - (change - jax.lax.stop_gradient(change)) / jax.lax.stop_gradient(slope)
                # at the limit n follows the limit, not the root
                return (jnp.where(self._at_limit(n), self.high, moved), *state[1:])

            def fixed(step: Callable[[], tuple[Array, ...]]) -> Callable[[], tuple[Array, ...]]:
                """Steps of the iteration carry no tangent; without `forward` nobody asks."""
                return (lambda: jax.lax.stop_gradient(step())) if forward else step

            idle = lambda: state  # noqa: E731
            steps = [idle, fixed(lambda: self.bracketed(node_times)), fixed(stepped)]
            steps += [below, above] if forward else []
            stage = jnp.searchsorted(stages[: len(steps)], i, side="right")
            state = jax.lax.switch(stage, [*steps, idle])
            return state, node_times, done

        empty = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(work, self.others_of(self.high))
        )
        start = (self.high, self.high, jnp.zeros_like(self.high), jnp.ones_like(self.high))
        node_times = jnp.zeros((NODES, *empty[0].shape), empty[0].dtype)
        turns = NODES + POLISH + asides + 1
        state, node_times, done = jax.lax.fori_loop(0, turns, turn, (start, node_times, empty))
        return state[0], node_times[-1], done
