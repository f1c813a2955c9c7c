"""The event loop: arrivals, ends of iterations, timers and transfers, in the order of time.

At one instant: iterations end first (clients in their order), then arrivals, timers and transfers happen,
    and then
idle engines form their next batch. So a request that arrives when an iteration ends is in the next one, and
routers see the state after that end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from mist_jax.queueing.advance import advance, advance_together, complete, finish
from mist_jax.queueing.kernel import kernel, source_stamp
from mist_jax.queueing.prefix_cache import release_blocks
from mist_jax.queueing.queues import timer_drop, timer_push
from mist_jax.queueing.residence import dequeue, enqueue
from mist_jax.queueing.routing import refusal, route
from mist_jax.queueing.state import (
    BATCH_END,
    FAIL,
    FINISHED,
    HELD,
    KV_READY,
    LOG_FULL,
    NO_CLIENT,
    NONE,
    OK,
    RECOVER,
    RELEASE,
    ROLE_DECODE,
    ROLE_PREFILL,
    SERVED,
    STATION,
    TRANSFER,
    WINDOW,
)
from mist_jax.queueing.stations import serve_station
from mist_jax.queueing.transfer import _serve, end_transfer, next_transfer
from mist_jax.queueing.views import (
    arrivals,
    clients,
    links,
    phase,
    requests,
    ring,
    segment_log,
    step_log,
    timers,
    units,
    world,
)


@kernel
def arrive(S, r, t):
    """Request r is there at t: route it, or say why not."""
    g = world(S)[0]
    q = requests(S)[r]
    if q.status != OK:
        finish(S, r, t, np.int64(q.status))
        return
    if np.isnan(q.queued):
        q.queued = t
    ready = q.state == TRANSFER
    group = np.int64(clients(S)[q.source].group) if ready and g.local else np.int64(NONE)
    c = route(S, r, ROLE_DECODE if ready else ROLE_PREFILL, group)
    if c == NONE:
        _park(S, r, t, ROLE_DECODE if ready else ROLE_PREFILL)
        return
    k = clients(S)[c]
    k.resident += 1
    if k.kind == STATION:
        q.queued = t
        enqueue(S, c, r, np.int64(0))
        serve_station(S, c, t)
        return
    if ready:
        q.target = q.prompt
        k.tokens += q.output - q.emitted
    else:
        q.target = q.prompt
        q.computed = 0
        q.emitted = 0
        k.tokens += q.prompt + q.output
        k.backlog += q.prompt
    enqueue(S, c, r, np.int64(0))


@kernel
def _park(S, r, t, role):
    """No living client can take r: wait for one to recover if one will, else give r up with the reason."""
    g = world(S)[0]
    q = requests(S)[r]
    why = NO_CLIENT
    could = False
    for c in range(clients(S).size):
        k = clients(S)[c]
        if k.model == q.model and (k.kind == STATION or k.role & role):
            no = refusal(S, c, r)
            if no == 0:
                could = True
            else:
                why = no
    if could:
        if g.recoveries > 0:
            q.limbo = NONE
            if g.limbo == NONE:
                g.limbo = r
            else:
                requests(S)[g.limbo_tail].limbo = r
            g.limbo_tail = r
            return
        why = NO_CLIENT
    finish(S, r, t, np.int64(why))


@kernel
def _retry(S, r, t):
    q = requests(S)[r]
    q.state = HELD
    q.client = NONE
    q.computed = 0
    q.emitted = 0
    q.blocks = 0
    q.shared = 0
    q.first = np.nan
    q.scheduled = np.nan
    q.transferred = np.nan
    q.retries += 1
    timer_push(S, t + world(S)[0].retry_delay, RELEASE, r)


@kernel
def fail(S, c, t):
    """Client c is lost at t with all that is on it; its requests start again elsewhere."""
    k = clients(S)[c]
    k.alive = 0
    k.busy = 0
    r = np.int64(k.run_head)
    while r != NONE:
        following = np.int64(requests(S)[r].run_next)
        _retry(S, r, t)
        r = following
    while k.waiting > 0:
        _retry(S, dequeue(S, c), t)
    if k.kind == STATION:
        for r in range(requests(S).size):
            if requests(S)[r].state == SERVED and requests(S)[r].client == c:
                _retry(S, r, t)
    for j in range(links(S).size):
        if links(S)[j].fair:
            _serve(S, j, t)
        before = np.int64(NONE)
        r = np.int64(links(S)[j].head)
        while r != NONE:
            following = np.int64(requests(S)[r].limbo)
            if requests(S)[r].source == c:
                if before == NONE:
                    links(S)[j].head = following
                else:
                    requests(S)[before].limbo = following
                links(S)[j].n -= 1
                _retry(S, r, t)
            else:
                before = r
            r = following
    k.run_head = NONE
    k.run_tail = NONE
    k.running = 0
    k.decoding = 0
    k.partial = 0
    k.load_ahead = 0.0
    k.context = 0
    k.free = k.kv_blocks
    k.zombies = 0
    k.resident = 0
    k.tokens = 0
    k.backlog = 0
    k.in_service = 0
    k.window_set = 0
    k.lru_head = NONE
    k.lru_tail = NONE
    k.lru = 0
    ring(S)[c, :] = NONE
    phase(S)[c, :] = 0
    if k.prefix:
        for h in range(units(S).shape[1]):
            units(S)[c, h].present = 0
            units(S)[c, h].refs = 0


@kernel
def _recover(S, c, t):
    g = world(S)[0]
    clients(S)[c].alive = 1
    g.recoveries -= 1
    r = np.int64(g.limbo)
    g.limbo = NONE
    while r != NONE:
        following = np.int64(requests(S)[r].limbo)
        arrive(S, r, t)
        r = following


@kernel
def _end_batch(S, head, t):
    if requests(S)[head].state != SERVED or requests(S)[head].flow != t:
        return  # the station failed meanwhile
    c = np.int64(requests(S)[head].client)
    k = clients(S)[c]
    k.in_service -= 1
    r = head
    while r != NONE:
        following = np.int64(requests(S)[r].limbo)
        requests(S)[r].first = t
        k.resident -= 1
        finish(S, r, t, np.int64(OK))
        r = following
    serve_station(S, c, t)


@kernel
def _timer(S, t):
    kind = timers(S)[0].kind
    arg = np.int64(timers(S)[0].arg)
    timer_drop(S)
    if kind == RELEASE:
        if requests(S)[arg].retries == 0:
            requests(S)[arg].arrival = t
        arrive(S, arg, t)
    elif kind == FAIL:
        fail(S, arg, t)
    elif kind == RECOVER:
        _recover(S, arg, t)
    elif kind == BATCH_END:
        _end_batch(S, arg, t)
    elif kind == WINDOW:
        clients(S)[arg].window_set = 0
        serve_station(S, arg, t)
    elif kind == KV_READY:
        arrive(S, arg, t)


@kernel
def _leave_link(S, j, t):
    r = end_transfer(S, j, t)
    release_blocks(S, np.int64(requests(S)[r].source), r, np.int64(requests(S)[r].computed))
    timer_push(S, t + links(S)[j].latency, KV_READY, r)


@kernel
def next_event(S):
    """Time (s) of the next event that is not the end of an iteration."""
    g = world(S)[0]
    t = np.inf
    if g.next < g.arrivals:
        t = requests(S)[arrivals(S)[g.next]].arrival
        if np.isnan(t):  # an arrival that is no time: deal with it at once
            t = g.now
    if g.n_timers > 0:
        t = min(t, timers(S)[0].time)
    for j in range(links(S).size):
        t = min(t, next_transfer(S, j))
    return t


@kernel
def _external(S, t):
    """Let happen all that happens at t besides the ends of iterations."""
    g = world(S)[0]
    while True:
        if g.next < g.arrivals and not requests(S)[arrivals(S)[g.next]].arrival > t:
            g.next += 1
            arrive(S, np.int64(arrivals(S)[g.next - 1]), t)
        elif g.n_timers > 0 and timers(S)[0].time <= t:
            _timer(S, t)
        else:
            done = True
            for j in range(links(S).size):
                if next_transfer(S, j) <= t:
                    _leave_link(S, j, t)
                    done = False
                    break
            if done:
                return


@kernel
def _log_full(S, slack):
    g = world(S)[0]
    return g.log and (
        g.steps + clients(S).size + 1 >= step_log(S).size or g.segments + slack >= segment_log(S).size
    )


@kernel
def _drain(S, t, slack):
    """Run engines that cannot influence one another up to t; returns when the next event is, or -1 for a
    full log."""
    for c in range(clients(S).size):
        k = clients(S)[c]
        while k.busy and k.end < t:
            if _log_full(S, slack):
                return -1.0
            end = k.end
            complete(S, c)
            t = min(t, next_event(S))
            if t <= end:
                return t  # a request was released at once: it may be in the next batch
            advance(S, c, end, t)
    return t


@kernel
def run(S, slack):
    """Play until nothing is left to happen, or the log is full (enlarge it and call again)."""
    g = world(S)[0]
    n = clients(S).size
    while True:
        if _log_full(S, slack):
            return LOG_FULL
        t = next_event(S)
        if g.coupled:
            for c in range(n):
                if clients(S)[c].busy:
                    t = min(t, clients(S)[c].end)
        else:
            t = _drain(S, t, slack)
            if t < 0.0:
                return LOG_FULL
        if t == np.inf:
            return FINISHED
        g.now = t
        for c in range(n):
            if clients(S)[c].busy and clients(S)[c].end <= t:
                complete(S, c)
        _external(S, t)
        for c in range(n):
            k = clients(S)[c]
            if k.kind == STATION:
                continue
            if k.ranks > 1:
                if k.peer == c:
                    advance_together(S, c, t)
            elif not k.busy and k.alive and k.running + k.waiting > 0:
                advance(S, c, t, -np.inf)


def _program(stamp: int) -> Any:
    # the stamp is in the closure, so that numba takes it into the key of the cache
    @njit(cache=True, nogil=True, error_model="numpy")
    def play_events(S: Any, slack: Any) -> Any:
        if stamp < 0:
            return -1
        return run(S, slack)

    return play_events


play_events = _program(source_stamp())  #: (address of the directory, slack of the segment log) -> return code
