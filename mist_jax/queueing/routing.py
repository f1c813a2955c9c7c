"""Routers: which client gets a request.

They see the clients as they are after the last finished iteration: requests resident (waiting and running),
    tokens
still to be computed or emitted (answers counted at their true length), KV blocks in use, prefixes in HBM.
Ties go to the client listed first.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.prefix_cache import blocks_for, cached_units
from mist_jax.queueing.state import (
    HEAVY_LIGHT,
    LEAST_KV,
    LEAST_TOKENS,
    NONE,
    POWER_OF_TWO,
    PREFIX_AFFINITY,
    RANDOM,
    ROLE_DECODE,
    ROUND_ROBIN,
    SESSION,
    STATION,
    TOO_LARGE,
    TOO_LONG,
)
from mist_jax.queueing.views import clients, requests, sessions, world


@kernel
def draw(seed, r, i):
    """A 64-bit number that depends on (seed, request, draw) alone: splitmix64 (Steele et al., OOPSLA
    2014)."""
    z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * (np.uint64(4 * r + i) + np.uint64(1))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def refusal(S, c, r):
    """Status with which engine c can never serve r: 0 if it can."""
    k = clients(S)[c]
    q = requests(S)[r]
    if k.kind == STATION:
        return 0
    tokens = q.prompt + q.output
    if tokens > k.max_len:
        return TOO_LONG
    if blocks_for(tokens - 1 if k.role & ROLE_DECODE else q.prompt, k.block) > k.kv_blocks:
        return TOO_LARGE
    return 0


@kernel
def _open(S, c, r, role, group, heavy):
    k = clients(S)[c]
    if not k.alive or k.model != requests(S)[r].model or (heavy != NONE and k.heavy != heavy):
        return False
    if k.kind != STATION and (not k.role & role or (group != NONE and k.group != group)):
        return False
    return refusal(S, c, r) == 0


@kernel
def _load(S, c, rule):
    k = clients(S)[c]
    if rule == ROUND_ROBIN:
        return np.float64(k.turn)
    if rule == LEAST_TOKENS:
        return np.float64(k.tokens)
    if rule == LEAST_KV and k.kind != STATION:
        return (k.kv_blocks - k.free) / k.kv_blocks
    return np.float64(k.resident)


@kernel
def _nth(S, r, role, group, heavy, n):
    for c in range(clients(S).size):
        if _open(S, c, r, role, group, heavy):
            if n == 0:
                return c
            n -= 1
    return NONE


@kernel
def _least(S, r, role, group, heavy, rule):
    best = NONE
    low = np.inf
    for c in range(clients(S).size):
        if _open(S, c, r, role, group, heavy):
            x = _load(S, c, rule)
            if x < low:
                low = x
                best = c
    return best


@kernel
def _pick(S, r, role, group, heavy, rule):
    if rule in (RANDOM, POWER_OF_TWO):
        n = 0
        for c in range(clients(S).size):
            if _open(S, c, r, role, group, heavy):
                n += 1
        if n == 0:
            return NONE
        shift = 0 if role != ROLE_DECODE else 2
        i = np.int64(draw(world(S)[0].seed, r, shift) % np.uint64(n))
        a = _nth(S, r, role, group, heavy, i)
        if rule == RANDOM or n == 1:
            return a
        j = np.int64(draw(world(S)[0].seed, r, shift + 1) % np.uint64(n - 1))
        b = _nth(S, r, role, group, heavy, j if j < i else j + 1)
        return b if clients(S)[b].resident < clients(S)[a].resident else a
    return _least(S, r, role, group, heavy, rule)


@kernel
def _affine(S, r, role, group):
    """The client with the longest cached prefix, unless its uncached backlog exceeds the least one by the
    cap."""
    best = NONE
    most = 0
    least = np.int64(1) << 62
    for c in range(clients(S).size):
        if _open(S, c, r, role, group, NONE):
            least = min(least, clients(S)[c].backlog)
            n = cached_units(S, c, r)
            if n > most or (n == most and n > 0 and clients(S)[c].tokens < clients(S)[best].tokens):
                most = n
                best = c
    if best != NONE and clients(S)[best].backlog <= least + world(S)[0].cap:
        return best
    return NONE


@kernel
def route(S, r, role, group):
    """Client for request r in the given role (and group, if not NONE); NONE if no living client can serve
    it."""
    g = world(S)[0]
    q = requests(S)[r]
    rule = g.router
    c = NONE
    if rule == SESSION:
        rule = g.fallback
        if q.session != NONE and role != ROLE_DECODE:
            c = np.int64(sessions(S)[q.session])
            if c == NONE or not _open(S, c, r, role, group, NONE):
                c = _pick(S, r, role, group, NONE, rule)
                sessions(S)[q.session] = c
    elif rule == HEAVY_LIGHT:
        rule = g.fallback
        c = _pick(S, r, role, group, 1 if q.prompt >= g.threshold else 0, rule)
    elif rule == PREFIX_AFFINITY:
        rule = g.fallback
        c = _affine(S, r, role, group)
    if c == NONE:
        c = _pick(S, r, role, group, NONE, rule)
    if c != NONE:
        g.turn += 1
        clients(S)[c].turn = g.turn
    return c
