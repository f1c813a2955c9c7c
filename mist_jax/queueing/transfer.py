"""KV transfers from prefill to decode engines over a shared link.

`fair` links share their bandwidth equally among the transfers in progress, which is the max-min share of
equal flows
on one link: with V(t) the bytes that each flow has been served, dV/dt = bandwidth / n, and a flow of b bytes
    ends
when V has grown by b. The others serve one transfer at a time, first come first served. A transfer then
takes the link's latency on top. The prefill engine holds the blocks until the transfer ends.

Layer by layer, the share `behind` of a transfer can go while its prompt is being computed (`share_behind` in
`steady_disaggregated`): as much as the link had idle since that began, so that what hides takes capacity as what shows
does. Transfers that show are not slowed by those that hide: those take the gaps.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.state import NONE
from mist_jax.queueing.views import chunk_request, clients, links, requests


@kernel
def _serve(S, j, t):
    """Bring the bytes served per flow of fair link j up to date."""
    link = links(S)[j]
    if link.n > 0:
        link.served += (t - link.at) * link.bandwidth / link.n
        link.busy_s += t - link.at
    else:
        link.served = 0.0
    link.at = t


@kernel
def _idle(S, j, t):
    """Seconds that link j was idle until t."""
    link = links(S)[j]
    if link.fair:
        _serve(S, j, t)
        return t - link.busy_s
    return t - link.busy_s + max(link.free_at - t, 0.0)


@kernel
def note_prefills(S, c, t):
    """Remember what the link of prefill engine c had idle when the prompts that begin at t began (in `flow`)."""
    k = clients(S)[c]
    if links(S)[k.link].behind == 0:
        return
    for i in range(k.chunks):
        q = requests(S)[chunk_request(S)[c, i]]
        if np.isnan(q.flow):
            q.flow = _idle(S, k.link, t)


@kernel
def start_transfer(S, c, r, t):
    """Begin to send at t the KV of r from engine c, or what has not gone behind the prefill."""
    k = clients(S)[c]
    q = requests(S)[r]
    j = k.link
    link = links(S)[j]
    size = np.float64(q.computed) * k.kv_bytes
    link.bytes += size
    if link.behind > 0:
        idle = max(_idle(S, j, t) - q.flow, 0.0)
        hidden = link.behind * min(size, idle * link.bandwidth)
        link.busy_s += hidden / link.bandwidth
        size -= hidden
    if link.fair:
        _serve(S, j, t)
        q.flow = link.served + size
    else:
        begin = max(t, link.free_at)
        link.free_at = begin + size / link.bandwidth
        link.busy_s += size / link.bandwidth
        q.flow = link.free_at
    # the flows of a link wait in the order of their ends
    before = np.int64(NONE)
    at = np.int64(link.head)
    while at != NONE and requests(S)[at].flow <= q.flow:
        before = at
        at = np.int64(requests(S)[at].limbo)
    q.limbo = at
    if before == NONE:
        link.head = r
    else:
        requests(S)[before].limbo = r
    link.n += 1


@kernel
def next_transfer(S, j):
    """When the next transfer of link j leaves the link (s), inf if none is under way."""
    link = links(S)[j]
    if link.n == 0:
        return np.inf
    if link.fair:
        return link.at + max(0.0, requests(S)[link.head].flow - link.served) * link.n / link.bandwidth
    return requests(S)[link.head].flow


@kernel
def end_transfer(S, j, t):
    """Take the transfer that ends at t off link j; returns its request."""
    link = links(S)[j]
    r = np.int64(link.head)
    if link.fair:
        _serve(S, j, t)
        link.served = requests(S)[r].flow
    link.head = requests(S)[r].limbo
    link.n -= 1
    return r
