"""TTFT under Poisson arrivals: an engine is a gated server.

A request that arrives during an iteration is taken into the next one, together with all others that arrived in the
same window. With d an iteration that only decodes, b what one with prompts takes whatever their number (the decodes
beside them, if they share iterations, and preparing the batch), p = 1 - exp(-lambda E[chunks] E[tau]) the chance that
there are any, g the prefill time of one prompt (second moment g^2 (1 + cv^2)) and rho = lambda g, the iteration tau has

    E[tau]   = ((1 - p) d + p b) / (1 - rho)
    E[tau^2] = ((1 - p) d^2 + p b^2 + 2 b rho E[tau] + rho g (1 + cv^2) E[tau]) / (1 - rho^2)

as the number of prompts is Poisson with mean lambda times the iteration before (gated vacation queue: H. Takagi,
"Queueing Analysis" vol. 1, 1991, section 2.2). An arrival meets an iteration of length-biased mean E[tau^2] / E[tau],
waits for half of it, and shares its own iteration with the lambda E[tau^2] / E[tau] prompts of that window, of which
half are ahead of it and half behind. A token budget of K prompts an iteration leaves at most K / 2 behind, and the wait
becomes that of an M/G/1 queue (Pollaczek-Khinchine) whose service is a prompt's share of a full iteration, after half
of an iteration without further prompts; between the two waits lies an 8-norm. Against simulated gates: within 1 %
without a budget; with one (K 0.5 to 8, cv 0.1 to 2, load 0.3 to 0.8) 1.8 % by the median, at most 19 %, where lengths
spread widely and K is large (tests/test_bridge.py).

Where a router evens out what comes to an engine, the number of prompts in a window varies less: `scatter` takes the
place of the 1 in 1 + cv^2.

Not modelled: the correlation of iteration lengths, decode batches that follow the prompts with a delay.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtr

Array = Any

#: Chunks of one prompt that are told apart; longer prompts go on linearly.
MAX_CHUNKS = 12
#: Smallest spread of log prompt length: keeps the expected number of chunks differentiable.
MIN_SPREAD = 0.05


def expected_chunks(isl: Array, cv: Array, room: Array) -> Array:
    """E[ceil(I / room)] of a lognormal prompt length I with mean `isl` and coefficient of variation `cv`; scalars.

    1 + sum_k P(I > k room), the tail beyond `MAX_CHUNKS` taken as linear.
    """
    spread = jnp.maximum(jnp.sqrt(jnp.log1p(cv**2)), MIN_SPREAD)
    k = jnp.arange(1, MAX_CHUNKS + 1)
    above = ndtr((jnp.log(isl / (k * room)) - 0.5 * spread**2) / spread)
    return 1.0 + jnp.sum(above) + above[-1] * jnp.maximum(isl / room - MAX_CHUNKS, 0.0)


def gated_ttft(
    rate: Array,
    decode: Array,
    prompt: Array,
    isl: Array,
    cv: Array,
    room: Array,
    occupied: Array,
    fixed: Array = 0.0,
    beside: Array = 1.0,
    every: Array = 1.0,
    scatter: Array = 1.0,
) -> Array:
    """Mean seconds from arrival to the end of the prompt's last iteration.

    Args:
        rate: arrivals/s of the lane.
        decode: s of an iteration without prefill, at the mean batch.
        prompt: s that one prompt adds to iterations, in all, beside `fixed`.
        isl, cv: new prompt tokens, mean and coefficient of variation.
        room: tokens of an iteration left for prefill.
        occupied: probability that an arrival finds an iteration under way.
        fixed: s that an iteration with prompts takes longer, whatever their number.
        every: iterations from one opening of the gate to the next; the wait for it is not in the result.
        beside: share of `decode` in an iteration with prompts (0: prompts run in iterations of their own).
        scatter: variance of the arrivals in a window over that of Poisson arrivals.
    """
    rho = jnp.clip(rate * prompt, 0.0, 0.995)
    square = scatter + cv**2
    # p depends on E[tau], which depends on p: two turns suffice
    chunks = expected_chunks(isl, cv, room)
    busy = beside * decode + fixed
    came = -jnp.expm1(-every * rate * chunks * decode / (1.0 - rho)) / every
    came = -jnp.expm1(-every * rate * chunks * (decode + came * (busy - decode)) / (1.0 - rho)) / every
    first = (decode + came * (busy - decode)) / (1.0 - rho)
    base = came * busy**2 + (1.0 - came) * decode**2
    second = (base + (2.0 * busy + prompt * square) * rho * first) / (1.0 - rho**2)
    window = occupied * second / first
    gathered = window + (every - 1.0) * (1.0 - rho) * decode
    # the prompts of the window ahead, and those behind
    half = 0.5 * others_seen(rate * gathered, scatter) * prompt
    # the budget: a prompt's share of full iterations serves it no faster than this
    service = prompt + busy * isl / room
    full = jnp.clip(rate * service, 0.0, 0.995)
    queue = 0.5 * (occupied * first * (1.0 - rho) + square * full * service / (1.0 - full))
    wait = norm(0.5 * window + half, queue)
    behind = jnp.minimum(half, 0.5 * prompt * room / isl)
    return wait + chunks * busy + prompt + behind


def others_seen(mean: Array, scatter: Array) -> Array:
    """How many others one of a number of things sees: its mean where they are Poisson, one less where it is fixed.

    E[n^2] / E[n] - 1 = n - (1 - scatter) of a variance of `scatter` n; of few things that are spread evenly, none.
    """
    return mean + (1.0 - scatter) * jnp.expm1(-mean)


def norm(a: Array, b: Array, power: float = 8.0) -> Array:
    """(a^power + b^power)^(1 / power), scaled so that neither overflows, of numbers that are not negative."""
    top = jnp.maximum(jnp.maximum(a, b), 1e-12)
    # 1e-30: else the gradient of 0 and 0 is NaN
    return top * ((a / top) ** power + (b / top) ** power + 1e-30) ** (1.0 / power)
