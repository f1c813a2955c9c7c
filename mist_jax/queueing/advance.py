"""The end of an iteration, and the beginning of the next: tokens, ends of requests, runs of equal
iterations."""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.prefix_cache import release_blocks, take_blocks
from mist_jax.queueing.queues import run_remove, timer_push
from mist_jax.queueing.residence import computed_now, join_decode, leave_decode, log_segment
from mist_jax.queueing.schedule import begin_step, step_tokens
from mist_jax.queueing.state import (
    BLOCKED,
    DONE,
    NONE,
    OK,
    RELEASE,
    RESERVE_ALL,
    ROLE_DECODE,
    TRANSFER,
)
from mist_jax.queueing.table import decode_line, experts_time, seqs_time, tokens_time
from mist_jax.queueing.transfer import start_transfer
from mist_jax.queueing.views import (
    arrivals,
    children,
    chunk_request,
    chunk_tokens,
    clients,
    phase,
    requests,
    ring,
    step_log,
    world,
)


@kernel
def _release_followers(S, r, t, status):
    """Let the requests go that waited for the end of r: its children, and the next of a closed loop."""
    g = world(S)[0]
    q = requests(S)[r]
    for i in range(q.children_at, q.children_at + q.children):
        child = np.int64(children(S)[i])
        w = requests(S)[child]
        w.parents -= 1
        if status != OK and w.status == OK:
            w.status = BLOCKED
        if w.parents == 0:
            timer_push(S, t + w.delay, RELEASE, child)
    if g.pool < g.pool_end:
        timer_push(S, t + g.think, RELEASE, np.int64(arrivals(S)[g.pool]))
        g.pool += 1


@kernel
def finish(S, r, t, status):
    """End request r at t, served (OK) or not."""
    q = requests(S)[r]
    q.state = DONE
    q.status = status
    if status == OK:
        q.finish = t
    _release_followers(S, r, t, status)


@kernel
def leave_engine(S, c, r, t):
    """The last token of r came at t on engine c."""
    k = clients(S)[c]
    run_remove(S, c, r)
    k.resident -= 1
    finish(S, r, t, np.int64(OK))


@kernel
def _record(S, c, t):
    k = clients(S)[c]
    g = world(S)[0]
    used = k.kv_blocks - k.free
    k.steps += 1
    k.busy_s += t - k.start
    k.kv_s += used * (t - k.start)
    k.batch_s += (k.step_decodes + k.chunks) * (t - k.start)
    k.decoded += k.step_decodes
    if g.log:
        e = step_log(S)[g.steps]
        e.start = k.start
        e.end = t
        e.client = c
        e.decodes = k.step_decodes
        e.prefill = k.step_prefill
        e.blocks = used
        g.steps += 1


@kernel
def _end_decodes(S, c, t):
    """Requests whose last token is the one of this decode step, in the order of their admission."""
    k = clients(S)[c]
    slot = k.step & (ring(S).shape[1] - 1)
    r = np.int64(ring(S)[c, slot])
    ring(S)[c, slot] = NONE
    first = np.int64(NONE)
    while r != NONE:
        following = np.int64(requests(S)[r].ring_next)
        before = np.int64(NONE)
        at = first
        while at != NONE and requests(S)[at].admission < requests(S)[r].admission:
            before = at
            at = np.int64(requests(S)[at].ring_next)
        requests(S)[r].ring_next = at
        if before == NONE:
            first = r
        else:
            requests(S)[before].ring_next = r
        r = following
    r = first
    while r != NONE:
        q = requests(S)[r]
        following = np.int64(q.ring_next)
        release_blocks(S, c, r, computed_now(S, c, r))
        leave_decode(S, c, r)
        q.emitted = q.output
        leave_engine(S, c, r, t)
        r = following


@kernel
def _end_chunks(S, c, t):
    k = clients(S)[c]
    for i in range(k.chunks):
        r = np.int64(chunk_request(S)[c, i])
        n = chunk_tokens(S)[c, i]
        q = requests(S)[r]
        q.computed += n
        q.computed_total += n
        k.tokens -= n
        k.backlog -= n
        k.prefilled += n
        if q.computed < q.target:
            continue
        k.partial -= 1
        k.tokens -= 1
        q.emitted += 1
        if np.isnan(q.first):
            q.first = t
            q.prefilled_by = c
        if q.emitted == q.output:
            release_blocks(S, c, r, np.int64(q.computed))
            q.base_step = k.step
            log_segment(S, c, r, t)
            leave_engine(S, c, r, t)
        elif k.role & ROLE_DECODE:
            join_decode(S, c, r, np.int64(q.computed), t, 0)
        else:
            q.base_step = k.step
            log_segment(S, c, r, t)
            run_remove(S, c, r)
            k.resident -= 1
            k.tokens -= q.output - q.emitted
            q.state = TRANSFER
            q.source = c
            start_transfer(S, c, r, t)


@kernel
def complete(S, c):
    """Finish the step in flight on engine c."""
    k = clients(S)[c]
    t = k.end
    k.busy = 0
    _record(S, c, t)
    if k.step_decodes > 0:
        k.step += 1
        k.context += k.step_decodes
        k.tokens -= k.step_decodes
        if ring(S)[c, k.step & (ring(S).shape[1] - 1)] != NONE:
            _end_decodes(S, c, t)
    if k.chunks > 0:
        _end_chunks(S, c, t)
    if k.lock and k.running == 0:
        k.free += k.zombies
        k.zombies = 0


@kernel
def _end_of(S, c, t, duration):
    """When an iteration that client c forms at t ends.

    Micro-batches of a pipeline with equal stages follow one another: the next enters when the first stage is free,
    and leaves no sooner than a stage's time after the one before it (a proportionate flow shop).
    """
    k = clients(S)[c]
    if k.stages <= 1:
        return t + duration
    line = clients(S)[k.pipe]
    stage = duration / k.stages
    enter = max(t, line.gate)
    line.gate = enter + stage
    line.last = max(enter + duration, line.last + stage)
    return line.last


@kernel
def advance_together(S, first, t):
    """Start the next iteration of the attention-DP ranks from `first` on, if all are done with the last one.

    Experts and their all-to-all need every rank, so that all take as long as the longest; a rank without work runs
    an empty batch. Experts are shared: their time is that of the mean number of tokens.
    """
    n = clients(S)[first].ranks
    table = clients(S)[first].table
    for c in range(first, first + n):
        if clients(S)[c].busy:
            return
    longest = 0.0
    tokens = 0.0
    for c in range(first, first + n):
        k = clients(S)[c]
        if k.alive and k.running + k.waiting > 0:
            duration, _ = begin_step(S, c, t)
            if duration > 0.0:
                k.busy = 1
                k.start = t
                own = step_tokens(S, c)
                longest = max(longest, duration - experts_time(S, table, own))
                tokens += own
    if tokens > 0:
        end = _end_of(S, first, t, longest + experts_time(S, table, tokens / n))
        for c in range(first, first + n):
            clients(S)[c].end = end


@kernel
def advance(S, c, t, horizon):
    """Start the next iteration of engine c at t, and run through equal ones that end before `horizon`.

    A pure decode iteration is followed by one with the same requests until one of them ends, blocks run out,
    or something arrives; only the context grows, and the step time is linear in it between two knots.
    """
    k = clients(S)[c]
    g = world(S)[0]
    duration, plain = begin_step(S, c, t)
    if duration <= 0.0:
        k.busy = 0
        return
    k.busy = 1
    k.start = t
    k.end = _end_of(S, c, t, duration)
    if not plain or k.end >= horizon:
        return
    n = np.int64(k.step_decodes)
    mask = ring(S).shape[1] - 1
    grows = k.reserve != RESERVE_ALL
    base = tokens_time(S, k.table, step_tokens(S, c))
    base += seqs_time(S, k.table, np.float64(n))
    mean = k.context / n
    value, slope, edge = decode_line(S, k.table, np.float64(n), mean)
    origin = mean
    while k.end < horizon:
        step = k.step + 1
        if ring(S)[c, step & mask] != NONE:
            return
        if grows:
            grow = phase(S)[c, (-step) % k.block]
            if grow > k.free:
                return
            # an eviction may shorten the prefix that whoever waits would find, and with it what it has to hold
            if grow > 0 and k.waiting > 0 and k.free - grow < k.lru * k.unit_blocks:
                return
        else:
            grow = 0
        if g.log and g.steps + clients(S).size + 1 >= step_log(S).size:
            return
        _record(S, c, k.end)
        k.step = step
        k.context += n
        k.tokens -= n
        if grow > 0:
            take_blocks(S, c, grow)
        mean = k.context / n
        if mean >= edge:
            value, slope, edge = decode_line(S, k.table, np.float64(n), mean)
            origin = mean
        k.start = k.end
        k.end += base + (value + slope * (mean - origin))
