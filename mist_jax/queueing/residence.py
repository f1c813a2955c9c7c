"""Where a request is on an engine: in the waiting queue, in the decode steps, preempted."""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.prefix_cache import (
    release_blocks,
)
from mist_jax.queueing.queues import heap_pop, heap_push, ring_insert, ring_remove, run_remove
from mist_jax.queueing.state import (
    DECODE,
    PREFILL,
    PRIORITY,
    RESERVE_ALL,
    SHORTEST,
    WAITING,
)
from mist_jax.queueing.views import (
    clients,
    phase,
    requests,
    segment_log,
    world,
)


@kernel
def computed_now(S, c, r):
    """Tokens of r whose KV is computed after the last finished step."""
    q = requests(S)[r]
    if q.state == DECODE:
        return q.base + clients(S)[c].step - q.base_step
    return np.int64(q.computed)


@kernel
def _first_look(S, c):
    """Decode iterations of client c after which its scheduler looks at what arrives now."""
    k = clients(S)[c]
    following = k.step + (1 if k.busy and k.step_decodes > 0 else 0)
    whole = np.floor((following + 1.0) * k.lag) - np.floor(following * k.lag)
    due = following + np.int64(whole)
    return due + (-due) % k.poll


@kernel
def enqueue(S, c, r, front):
    """Put r in the waiting queue of client c, at its head if it was preempted."""
    k = clients(S)[c]
    q = requests(S)[r]
    q.state = WAITING
    q.client = c
    q.key = 0.0
    if k.order == PRIORITY:
        q.key = q.priority
    elif k.order == SHORTEST:
        q.key = -1.0 if front else np.float64(q.prompt)
    if front:
        k.front -= 1
        q.seq = k.front
    else:
        k.back += 1
        q.seq = k.back
    q.due = 0 if front else _first_look(S, c)
    k.queue = heap_push(requests(S), k.queue, r)
    k.waiting += 1


@kernel
def dequeue(S, c):
    """Take the head of the waiting queue of client c."""
    k = clients(S)[c]
    r = np.int64(k.queue)
    k.queue = heap_pop(requests(S), r)
    k.waiting -= 1
    return r


@kernel
def join_decode(S, c, r, computed, t, after):
    """Let r take part in the decode steps of client c from now on, or `after` more of them."""
    k = clients(S)[c]
    q = requests(S)[r]
    q.state = DECODE
    q.base = computed
    q.base_step = k.step + after
    k.decoding += 1
    k.context += computed + 1
    ring_insert(S, c, r, q.base_step + q.output - q.emitted)
    if k.reserve != RESERVE_ALL:
        phase(S)[c, (computed - q.base_step) % k.block] += 1
    log_segment(S, c, r, t)


@kernel
def log_segment(S, c, r, t):
    """Note that the last emitted token of r came at t and that the next ones come with the decode steps that
    follow."""
    g = world(S)[0]
    if g.log and g.segments < segment_log(S).size:
        e = segment_log(S)[g.segments]
        e.request = r
        e.client = c
        e.emitted = requests(S)[r].emitted
        e.step = requests(S)[r].base_step
        e.time = t
        g.segments += 1


@kernel
def leave_decode(S, c, r):
    """Take r out of the decode steps; returns the tokens whose KV is computed."""
    k = clients(S)[c]
    q = requests(S)[r]
    computed = computed_now(S, c, r)
    k.decoding -= 1
    k.context -= computed + 1
    if k.reserve != RESERVE_ALL:
        phase(S)[c, (q.base - q.base_step) % k.block] -= 1
    return computed


@kernel
def preempt(S, c, r):
    """Give up the KV of r and put it at the head of the waiting queue; it will recompute prompt and
    answer."""
    k = clients(S)[c]
    q = requests(S)[r]
    computed = computed_now(S, c, r)
    if q.state == DECODE:
        ring_remove(S, c, r, q.base_step + q.output - q.emitted)
        q.emitted += np.int32(k.step - q.base_step)
    release_blocks(S, c, r, computed)
    if q.state == DECODE:
        leave_decode(S, c, r)
    else:
        k.partial -= 1
    run_remove(S, c, r)
    q.target = q.prompt + q.emitted
    k.backlog += computed if q.state == PREFILL else q.target
    k.tokens += computed if q.state == PREFILL else q.target
    q.computed = 0
    q.preemptions += 1
    enqueue(S, c, r, np.int64(1))
