"""The wait for a place in a batch that memory or `max_num_seqs` limit, as that of a queue with many servers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtr

Array = Any


def waits_probability(places: Array, taken: Array) -> Array:
    """Probability that all of c places are taken, M/M/c with a share rho = a / c of them taken; broadcasts.

    Erlang's C = B / (1 - rho (1 - B)) with B = p(c) / P(N <= c) of a Poisson number N of mean a (Cooper, Introduction
    to Queueing Theory, 3.3), where p(c) = exp(-c (rho - 1 - ln rho)) / sqrt(2 pi c) / e^(1 / 12c) by Stirling's formula
    and P(N <= c) by the normal distribution: for any c from 1 on, with slopes. Within 3 % (tests/test_full_memory.py).
    """
    mean = places * taken
    exactly = jnp.exp(-places * (taken - 1.0 - jnp.log(taken)) - 1.0 / (12.0 * places))
    blocked = exactly / jnp.sqrt(2.0 * jnp.pi * places) / ndtr((places + 0.5 - mean) / jnp.sqrt(mean))
    return blocked / (1.0 - taken * (1.0 - blocked))


def place_wait(places: Array, taken: Array, held: Array, cv: Array) -> Array:
    """Mean wait for one of `places` that are each held for `held` s, coefficient of variation `cv`; s.

        W = C held / (c (1 - rho)) (1 + cv^2) / 2

    (A. M. Lee, P. A. Longton, Operational Research Quarterly 10(1), 1959). `taken` is kept from 1: 0.99 at most.
    """
    share = jnp.clip(taken, 1e-6, 0.99)
    wait = waits_probability(places, share) * held / (places * (1.0 - share))
    return wait * 0.5 * (1.0 + cv**2)
