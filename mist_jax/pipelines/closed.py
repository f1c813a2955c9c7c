"""The rate of a pipeline's closed loop: where requests in the main LLM pool and elsewhere add up to the concurrency.

    lambda = X(C - lambda E(lambda))        (Little's law)

X(n): requests/s that the main pool completes while it holds n of them, continued as a straight line below zero;
E(lambda): seconds of a request elsewhere on its longest path. The excess of the right side over lambda falls at least
as fast as lambda rises, so that it bounds the distance to the root: secants end where it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import critical_path
from mist_jax.pipelines.llm import mix_of, whole

if TYPE_CHECKING:
    from mist_jax.pipelines.batch import Batch, StageTimes

Array = np.ndarray
#: A rate at which nobody meets anybody, 1/s; requests that the main pool holds at least.
_IDLE, _LEAST = 1e-9, 1e-6
#: Relative tolerance of the rate, and most steps to it.
_TOLERANCE, _STEPS = 1e-7, 48
#: Steps after which one that did not halve the excess halves the bracket.
_MANY = 8


def closed_loop(batch: Batch, concurrency: Array) -> StageTimes:
    """Means of every node where each point's loop of `concurrency` [points] requests settles."""
    idle = batch.at(np.full(concurrency.shape, _IDLE), alone=False)
    elsewhere, whole_s = _elsewhere(batch, idle), np.maximum(batch.ends(idle), 1e-9)
    inside_s = np.maximum(whole_s - elsewhere, 1e-3)

    def excess(point: Array, rate: Array) -> Array:
        part = batch if len(point) == len(concurrency) else batch.take(point)
        offered = part.at(rate, alone=False)
        return _excess(part, offered, concurrency[point], inside_s[point])

    most = _excess(batch, idle, concurrency, inside_s)
    # the root where X is a line through the origin and E does not depend on the load
    guess = 1.0 / (1.0 / most + elsewhere / concurrency)
    rate = falling_root(excess, most, guess, concurrency / whole_s)
    offered = batch.at(rate)
    return _held(batch, offered, _inside(batch, offered, concurrency))


def falling_root(excess: Callable[[Array, Array], Array], at_zero: Array, guess: Array, high: Array) -> Array:
    """Where functions of slopes below -1 are zero, [points], within 1e-7 of the root; of one that jumps across zero the
    place before.

    A secant through the last two steps; half of the bracket where it leaves that, where two steps across the root tell
    little about it, and where many steps have not found it.

    Args:
        excess: (indices of points, a place of each) → value there; what is not finite counts as too far.
        at_zero: value at 0, [points]. guess: first place. high: no root is above.
    """
    low, high, x = np.zeros_like(high), high.copy(), np.minimum(guess, high)
    last_x, last = low.copy(), at_zero.copy()
    todo = np.arange(len(x))
    for step in range(_STEPS):
        here, before = x[todo], last[todo]
        value = excess(todo, here)
        value = np.where(np.isfinite(value), value, -here)
        a, b = np.where(value > 0, here, low[todo]), np.where(value > 0, high[todo], here)
        found, jumps = np.abs(value) <= _TOLERANCE * here, b - a <= _TOLERANCE * b
        run = here - last_x[todo]
        following = here - value / np.minimum((value - before) / np.where(run == 0, 1.0, run), -1.0)
        slow = (np.abs(value) > 0.5 * np.abs(before)) & ((value * before < 0) | (step >= _MANY))
        halves = slow | (following <= a) | (following >= b)
        following = np.where(halves, 0.5 * (a + b), following)
        low[todo], high[todo], last_x[todo], last[todo] = a, b, here, value
        x[todo] = np.where(found, here, np.where(jumps, a, following))
        todo = todo[~(found | jumps)]
        if not todo.size:
            break
    return x


def _excess(batch: Batch, offered: StageTimes, concurrency: Array, inside_s: Array) -> Array:
    """Requests/s that the main pool completes beyond those `offered`, [points]; one alone takes it `inside_s`."""
    inside = _inside(batch, offered, concurrency)
    held = _held(batch, offered, inside)
    _, calls = held.calls[MAIN]
    per_request = (calls.rate * calls.branches).sum(axis=1) / held.rate
    completed = np.asarray(whole(held.states[MAIN]).rate) / per_request
    if MAIN in batch.slower:
        completed = completed / batch.slower[MAIN].stretch(whole(held.states[MAIN]), mix_of(calls))
    return completed + np.minimum(inside, 0.0) / inside_s - held.rate


def _inside(batch: Batch, offered: StageTimes, concurrency: Array) -> Array:
    """Requests that are left for the main pool, [points]; negative where the other stages hold more than there are."""
    return concurrency - offered.rate * _elsewhere(batch, offered)


def _held(batch: Batch, offered: StageTimes, inside: Array) -> StageTimes:
    """`offered` where the main pool holds the requests `inside`, with all their branches, whatever their rate."""
    own, calls = offered.calls[MAIN]
    spent = calls.rate * offered.seconds[:, own] / calls.rounds
    branches = (spent * calls.branches).sum(axis=1) / np.maximum(spent.sum(axis=1), 1e-300)
    return batch.holding(offered, np.maximum(inside, _LEAST) * branches)


def _elsewhere(batch: Batch, times: StageTimes) -> Array:
    """Seconds of a request on its longest path that it is not in the main pool, [points]."""
    mine = np.array([n.type == "engine" and n.client == MAIN for n in batch.nodes])
    there = critical_path(batch.pipeline, times.finish) & ~mine
    return np.where(there, times.expected, 0.0).sum(axis=1)
