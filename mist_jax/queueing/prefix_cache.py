"""KV blocks of an engine, shared prefixes, and the cache tiers below HBM.

A unit is a run of `unit_tokens` tokens with an identity (the hash of everything up to its end),
`unit_blocks` KV blocks in memory. A unit in use has references; one without stays until its blocks are
needed, least recently released first, and within a request the end of the prompt before its beginning (as in
vLLM V1, vllm/v1/core/kv_cache_manager.py and block_pool.py). A unit computed twice at the same time is kept
once (as SGLang's radix cache does; vLLM keeps both copies).

Lower tiers hold copies: a computed unit is written to every tier of its client, a loaded one to the tiers above
the one it came from; each tier evicts its least recently written or read unit. Writes cost nothing here: they
are asynchronous in the engines that offer them.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.state import DECODE, NONE, RESERVE_ALL, TIERS, TRANSFER
from mist_jax.queueing.views import clients, requests, tier_units, tiers, unit_ids, units


@kernel
def blocks_for(tokens, block):
    """KV blocks that hold `tokens` tokens."""
    return (tokens + block - 1) // block


@kernel
def lru_remove(units, owner, h):
    """Take unit h out of the list of `owner` (a record with head and tail)."""
    a = units[h].prev
    b = units[h].next
    if a == NONE:
        owner.head = b
    else:
        units[a].next = b
    if b == NONE:
        owner.tail = a
    else:
        units[b].prev = a
    owner.n -= 1


@kernel
def lru_append(units, owner, h):
    """Put unit h at the recently used end."""
    units[h].prev = owner.tail
    units[h].next = NONE
    if owner.tail == NONE:
        owner.head = h
    else:
        units[owner.tail].next = h
    owner.tail = h
    owner.n += 1


@kernel
def tier_touch(S, k, h):
    """Write or read unit h in tier k, evicting its least recently used one if it is full."""
    tier = tiers(S)[k]
    units = tier_units(S)[k]
    if tier.capacity <= 0:
        return
    if units[h].present:
        lru_remove(units, tier, h)
    else:
        if tier.n >= tier.capacity:
            old = tier.head
            lru_remove(units, tier, old)
            units[old].present = 0
        units[h].present = 1
    lru_append(units, tier, h)


@kernel
def _unlru(S, c, h):
    k = clients(S)[c]
    mine = units(S)[c]
    a = mine[h].prev
    b = mine[h].next
    if a == NONE:
        k.lru_head = b
    else:
        mine[a].next = b
    if b == NONE:
        k.lru_tail = a
    else:
        mine[b].prev = a
    k.lru -= 1


@kernel
def _release_unit(S, c, h):
    k = clients(S)[c]
    mine = units(S)[c]
    mine[h].refs -= 1
    if mine[h].refs == 0:
        mine[h].prev = k.lru_tail
        mine[h].next = NONE
        if k.lru_tail == NONE:
            k.lru_head = h
        else:
            mine[k.lru_tail].next = h
        k.lru_tail = h
        k.lru += 1
        k.free += k.unit_blocks


@kernel
def take_blocks(S, c, n):
    """Allocate n blocks of client c (the caller knows that they are there), evicting cached units as
    needed."""
    k = clients(S)[c]
    k.free -= n
    while k.free < k.lru * k.unit_blocks:
        h = k.lru_head
        _unlru(S, c, h)
        units(S)[c, h].present = 0


@kernel
def in_tier(S, c, h):
    """First tier of client c that holds unit h: its place among the client's tiers, or NONE."""
    k = clients(S)[c]
    for j in range(TIERS):
        t = k.tiers[j]
        if t != NONE and tier_units(S)[t, h].present:
            return j
    return NONE


@kernel
def find_prefix(S, c, r):
    """Longest cached prefix of request r on client c: (units found, blocks it takes from the free ones).

    At least one token is left to compute, so that the request has something to emit from.
    """
    k = clients(S)[c]
    if not k.prefix:
        return 0, 0
    q = requests(S)[r]
    limit = min(q.units, (q.target - 1) // k.unit_tokens)
    cost = 0
    n = 0
    while n < limit:
        h = unit_ids(S)[q.units_at + n]
        if units(S)[c, h].present:
            if units(S)[c, h].refs == 0:
                cost += k.unit_blocks
        elif in_tier(S, c, h) != NONE:
            cost += k.unit_blocks
        else:
            break
        n += 1
    return n, cost


@kernel
def cached_units(S, c, r):
    """Units of the prompt of r that client c has in HBM (for routing)."""
    k = clients(S)[c]
    if not k.prefix:
        return 0
    q = requests(S)[r]
    limit = min(q.units, (q.prompt - 1) // k.unit_tokens)
    n = 0
    while n < limit and units(S)[c, unit_ids(S)[q.units_at + n]].present:
        n += 1
    return n


@kernel
def take_prefix(S, c, r, n):
    """Hold the first n units for r, loading from lower tiers what HBM does not have; returns the load time
    (s)."""
    k = clients(S)[c]
    q = requests(S)[r]
    first = q.preemptions == 0 and q.retries == 0
    if first:
        q.looked += min(q.units, (q.prompt - 1) // k.unit_tokens)
    for i in range(n):  # hold what is there before making room for what is not
        h = unit_ids(S)[q.units_at + i]
        if units(S)[c, h].present:
            if units(S)[c, h].refs == 0:
                _unlru(S, c, h)
                k.free -= k.unit_blocks
            units(S)[c, h].refs += 1
            if first:
                q.hits[0] += 1
    load = 0.0
    used = 0
    for i in range(n):  # what was found is read, even if writing the first units up pushes out the last
        h = unit_ids(S)[q.units_at + i]
        if not units(S)[c, h].present:
            j = in_tier(S, c, h)
            t = k.tiers[j]
            if not (used >> j) & 1:
                load += tiers(S)[t].latency
                used |= 1 << j
            load += k.unit_tokens * k.kv_bytes / tiers(S)[t].bandwidth
            if first:
                q.hits[j + 1] += 1
    for i in range(n):
        h = unit_ids(S)[q.units_at + i]
        if not units(S)[c, h].present:
            j = in_tier(S, c, h)
            for up in range(TIERS if j == NONE else j + 1):
                if k.tiers[up] != NONE:
                    tier_touch(S, k.tiers[up], h)
            take_blocks(S, c, k.unit_blocks)
            units(S)[c, h].present = 1
            units(S)[c, h].refs = 1
    q.shared = n
    q.blocks = n * k.unit_blocks
    return load


@kernel
def share_units(S, c, r, tokens):
    """Give an identity to the units of r that its first `tokens` tokens fill."""
    k = clients(S)[c]
    if not k.prefix:
        return
    q = requests(S)[r]
    upto = min(q.units, tokens // k.unit_tokens)
    while q.shared < upto:
        h = unit_ids(S)[q.units_at + q.shared]
        if units(S)[c, h].present:  # someone else has computed it meanwhile: keep one copy
            if units(S)[c, h].refs == 0:
                _unlru(S, c, h)
            else:
                k.free += k.unit_blocks
            units(S)[c, h].refs += 1
        else:
            units(S)[c, h].present = 1
            units(S)[c, h].refs = 1
        for j in range(TIERS):
            if k.tiers[j] != NONE:
                tier_touch(S, k.tiers[j], h)
        q.shared += 1


@kernel
def held_blocks(S, c, r):
    """Blocks that request r occupies on client c, shared units included."""
    k = clients(S)[c]
    q = requests(S)[r]
    if q.state == DECODE and k.reserve != RESERVE_ALL:
        return blocks_for(q.base + k.step - q.base_step, k.block)
    return np.int64(q.blocks)


@kernel
def release_blocks(S, c, r, tokens):
    """Free what r holds, after naming the units that its `tokens` computed tokens fill; returns the blocks
    freed."""
    k = clients(S)[c]
    q = requests(S)[r]
    total = held_blocks(S, c, r)
    share_units(S, c, r, tokens)
    own = total - q.shared * k.unit_blocks
    if k.lock and q.state != TRANSFER:
        k.zombies += own  # a static batch gives its memory back when all of it is done
    else:
        k.free += own
    for i in range(q.shared - 1, -1, -1):
        _release_unit(S, c, unit_ids(S)[q.units_at + i])
    q.shared = 0
    q.blocks = 0
    return own
