"""Intrusive lists and heaps of the playback: waiting queue, running list, finish ring, timers.

A request sits in one queue of each kind at most, so the links live in its record and memory stays linear in
the number of requests whatever the number of clients.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.state import NONE
from mist_jax.queueing.views import clients, requests, ring, timers, world


@kernel
def _before(rq, a, b):
    return rq[a].key < rq[b].key or (rq[a].key == rq[b].key and rq[a].seq < rq[b].seq)


@kernel
def _meld(rq, a, b):
    if a == NONE:
        return b
    if b == NONE:
        return a
    if _before(rq, b, a):
        a, b = b, a
    rq[b].sibling = rq[a].child
    rq[a].child = b
    return a


@kernel
def heap_push(rq, root, r):
    """Add request r to the pairing heap (Fredman et al., Algorithmica 1, 1986); returns the root."""
    rq[r].child = NONE
    rq[r].sibling = NONE
    return _meld(rq, root, np.int32(r))


@kernel
def heap_pop(rq, root):
    """Remove the root (smallest key, then smallest seq); returns the new root."""
    node = rq[root].child
    pairs = np.int32(NONE)
    while node != NONE:  # first pass: meld pairs, stacking them through their sibling link
        a = node
        b = rq[a].sibling
        if b == NONE:
            node = np.int32(NONE)
            rq[a].sibling = NONE
            m = a
        else:
            node = rq[b].sibling
            rq[a].sibling = NONE
            rq[b].sibling = NONE
            m = _meld(rq, a, b)
        rq[m].sibling = pairs
        pairs = m
    out = np.int32(NONE)
    while pairs != NONE:  # second pass: from the last pair back
        following = rq[pairs].sibling
        rq[pairs].sibling = NONE
        out = _meld(rq, out, pairs)
        pairs = following
    return out


@kernel
def run_append(S, c, r):
    """Put r at the end of the running list of client c."""
    k = clients(S)[c]
    q = requests(S)[r]
    q.run_prev = k.run_tail
    q.run_next = NONE
    if k.run_tail == NONE:
        k.run_head = r
    else:
        requests(S)[k.run_tail].run_next = r
    k.run_tail = r
    k.running += 1
    k.admissions += 1
    q.admission = k.admissions


@kernel
def run_remove(S, c, r):
    """Take r out of the running list of client c."""
    k = clients(S)[c]
    a = requests(S)[r].run_prev
    b = requests(S)[r].run_next
    if a == NONE:
        k.run_head = b
    else:
        requests(S)[a].run_next = b
    if b == NONE:
        k.run_tail = a
    else:
        requests(S)[b].run_prev = a
    k.running -= 1


@kernel
def ring_insert(S, c, r, step):
    """Note that r emits its last token in decode step `step` of client c."""
    slot = step & (ring(S).shape[1] - 1)
    head = ring(S)[c, slot]
    requests(S)[r].ring_prev = NONE
    requests(S)[r].ring_next = head
    if head != NONE:
        requests(S)[head].ring_prev = r
    ring(S)[c, slot] = r


@kernel
def ring_remove(S, c, r, step):
    """Undo `ring_insert`."""
    a = requests(S)[r].ring_prev
    b = requests(S)[r].ring_next
    if a == NONE:
        ring(S)[c, step & (ring(S).shape[1] - 1)] = b
    else:
        requests(S)[a].ring_next = b
    if b != NONE:
        requests(S)[b].ring_prev = a


@kernel
def _timer_less(heap, i, j):
    return heap[i].time < heap[j].time or (heap[i].time == heap[j].time and heap[i].seq < heap[j].seq)


@kernel
def _timer_swap(heap, i, j):
    a = heap[i]
    b = heap[j]
    a.time, b.time = b.time, a.time
    a.seq, b.seq = b.seq, a.seq
    a.kind, b.kind = b.kind, a.kind
    a.arg, b.arg = b.arg, a.arg


@kernel
def timer_push(S, t, kind, arg):
    """Schedule an event at time t; equal times go in the order of the calls."""
    g = world(S)[0]
    heap = timers(S)
    i = g.n_timers
    e = heap[i]
    e.time = t
    e.seq = g.seq
    e.kind = kind
    e.arg = arg
    g.seq += 1
    g.n_timers += 1
    while i > 0 and _timer_less(heap, i, (i - 1) // 2):
        _timer_swap(heap, i, (i - 1) // 2)
        i = (i - 1) // 2


@kernel
def timer_drop(S):
    """Remove the earliest timer (entry 0)."""
    g = world(S)[0]
    heap = timers(S)
    g.n_timers -= 1
    n = g.n_timers
    _timer_swap(heap, 0, n)
    i = 0
    while True:
        j = 2 * i + 1
        if j >= n:
            break
        if j + 1 < n and _timer_less(heap, j + 1, j):
            j += 1
        if not _timer_less(heap, j, i):
            break
        _timer_swap(heap, i, j)
        i = j
