"""Stations: pools of servers with a batching window, for the stages that are not LLM engines.

A server takes a batch as soon as one is full or the oldest request has waited for the window; a batch of n
requests with total work w takes `service[0] + service[1] n + service[2] w` seconds.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.queues import timer_push
from mist_jax.queueing.residence import dequeue
from mist_jax.queueing.state import BATCH_END, NONE, SERVED, WINDOW
from mist_jax.queueing.views import clients, requests


@kernel
def serve_station(S, c, t):
    """Start what batches station c can start at t, or set the timer of its window."""
    k = clients(S)[c]
    while k.alive and k.waiting > 0 and k.in_service < k.servers:
        due = requests(S)[k.queue].queued + k.window
        if k.waiting < k.max_batch and due > t:
            if not k.window_set:
                k.window_set = 1
                timer_push(S, due, WINDOW, c)
            return
        n = min(k.waiting, k.max_batch)
        work = 0.0
        head = np.int64(NONE)
        last = np.int64(NONE)
        for _ in range(n):
            r = np.int64(dequeue(S, c))
            q = requests(S)[r]
            q.state = SERVED
            q.scheduled = t
            q.limbo = NONE
            work += q.work
            if last == NONE:
                head = r
            else:
                requests(S)[last].limbo = r
            last = r
        duration = k.service[0] + k.service[1] * n + k.service[2] * work
        end = t + duration
        r = head
        while r != NONE:
            requests(S)[r].flow = end
            r = np.int64(requests(S)[r].limbo)
        k.in_service += 1
        k.steps += 1
        k.busy_s += duration
        k.batch_s += n * duration
        timer_push(S, end, BATCH_END, head)
