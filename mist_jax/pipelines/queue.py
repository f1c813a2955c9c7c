"""The queue of one stage on its machines: how many jobs run side by side, and how long one waits.

A job takes the share u of a machine on its dominant resource while it is busy for t seconds alone, so
c = floor(1 / u) of them run side by side, each for s = c u t: c / s = 1 / (u t) is the machine's capacity. What s is
short of t (u does not divide 1), and latency that no bandwidth shortens, passes outside of the queue. With k machines
behind one queue the wait is that of M/D/c with c k servers, half of M/M/c's (Erlang C; exact for one server,
within some per cent for more: Tijms, A First Course in Stochastic Models, 9.6). A server that batches up to B takes
all that wait: b = lambda t(b), and the wait is what is left of the batch before, min(rho, 1) t(b) / 2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

Array = np.ndarray
#: Jobs side by side of a stage that takes nothing of its machine.
_FREE = 1 << 20


def side_by_side(share: float) -> int:
    """Jobs that run at once on one machine, each taking `share` of it: floor(1 / share), at least 1."""
    return max(int(min(math.floor(1.0 / share + 1e-9), _FREE)), 1) if share > 0 else _FREE


def erlang_c(servers: int, offered: float) -> float:
    """Probability of waiting in M/M/c at `offered` < c erlangs (Erlang C), by the recursion of Erlang B."""
    if servers > 10 * offered + 100:
        return 0.0
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    rho = offered / servers
    return blocked / (1.0 - rho * (1.0 - blocked))


@dataclasses.dataclass(frozen=True)
class Queue:
    """Machines behind one queue (groups of them where a request occupies several at once)."""

    groups: float
    max_batch: float
    window: float  #: s
    rate: Array  #: [RESOURCES] of one machine

    def share(self, amount: Array, busy: float) -> float:
        """Share of a machine that a job of `amount` [RESOURCES] takes while busy, on its dominant resource."""
        there = self.rate > 0
        whole = float(np.max(np.where(there, amount / np.where(there, self.rate, 1.0), 0.0)))
        return min(whole / busy, 1.0) if busy > 0 else 0.0

    def seconds(
        self, asked: Any, shared: dict[str, Array], node: int, factor: float, batch: float, rate: float
    ) -> float:
        """Mean seconds of a job, waiting included.

        Args:
            asked, shared: of `walk` and `sharing` at this batch. factor: slow-down by other stages. batch: mean jobs
            served together. rate: jobs/s over all machines.
        """
        fixed = float(np.sum(asked.fixed_s[node]))
        busy = max(float(shared["alone"][node]) - fixed, 0.0)
        share = self.share(asked.amount[node].sum(axis=0), busy)
        busy *= factor
        if busy <= 1e-11:
            return fixed
        if self.max_batch > 1:
            each = rate / self.groups
            width = side_by_side(share) if share <= 0.5 else 1
            wait = 0.5 * min(each * busy / batch / width, 1.0) * busy
            filled = min(self.window, (self.max_batch - 1.0) / max(each, 1e-300))
            gather = filled * (1.0 + 0.5 * each * filled) / (1.0 + each * filled)
            return fixed + busy + wait + gather
        width = side_by_side(share)
        held = busy * min(width * share, 1.0)
        servers = round(width * self.groups)
        offered = rate * held
        if offered >= servers:
            return math.inf
        wait = 0.5 * erlang_c(servers, offered) * held / (servers - offered)
        return fixed + busy + wait
