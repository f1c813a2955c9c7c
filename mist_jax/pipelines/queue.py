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


def side_by_side(share: Any) -> Any:
    """Jobs that run at once on one machine, each taking `share` of it: floor(1 / share), at least 1; any shape."""
    share = np.asarray(share, float)
    inverse = np.where(share > 0, 1.0 / np.where(share > 0, share, 1.0), _FREE)
    out = np.maximum(np.floor(np.minimum(inverse, _FREE) + 1e-9), 1.0).astype(np.int64)
    return int(out) if out.ndim == 0 else out


def erlang_c(servers: Any, offered: Any) -> Any:
    """Probability of waiting in M/M/c at `offered` < c erlangs (Erlang C); any shape.

    From Erlang B = p(c) / P(N <= c) of a Poisson number N of mean `offered` (Cooper, Introduction to Queueing Theory,
    3.3), whose distribution function is the regularized incomplete gamma function.
    """
    from scipy.special import gammaincc, gammaln

    c, a = np.asarray(servers, float), np.asarray(offered, float)
    some = a > 0
    a = np.where(some, a, 1.0)
    blocked = np.exp(c * np.log(a) - a - gammaln(c + 1.0)) / gammaincc(c + 1.0, a)
    rho = a / c
    out = np.where(some, blocked / (1.0 - rho * (1.0 - blocked)), 0.0)
    return float(out) if out.ndim == 0 else out


@dataclasses.dataclass(frozen=True)
class Queue:
    """Machines behind one queue (groups of them where a request occupies several at once); [points] each."""

    groups: Array
    max_batch: Array
    window: Array  #: s
    rate: Array  #: [points, RESOURCES] of one machine

    def share(self, amount: Array, busy: Array) -> Array:
        """Share of a machine that a job of `amount` [points, RESOURCES] takes while busy, on its dominant resource."""
        there = self.rate > 0
        whole = np.max(np.where(there, amount / np.where(there, self.rate, 1.0), 0.0), axis=-1)
        return np.where(busy > 0, np.minimum(whole / np.where(busy > 0, busy, 1.0), 1.0), 0.0)

    def seconds(
        self, asked: Any, shared: dict[str, Array], node: int, factor: Array, batch: Array, rate: Array
    ) -> Array:
        """Mean seconds of a job, waiting included, [points]; inf where the machines cannot keep up.

        Args:
            asked, shared: of `walk` and `sharing.apart` at this batch. factor: slow-down by other stages.
            batch: mean jobs served together. rate: jobs/s over all machines.
        """
        fixed = np.sum(asked.fixed_s[:, node], axis=-1)
        busy = np.maximum(shared["alone"][:, node] - fixed, 0.0)
        share = self.share(asked.amount[:, node].sum(axis=-2), busy)
        busy = busy * factor
        work = busy > 1e-11
        wait = np.where(
            self.max_batch > 1, self._of_batches(busy, share, batch, rate), self._of_one(busy, share, rate)
        )
        return fixed + np.where(work, busy + wait, 0.0)

    def _of_batches(self, busy: Array, share: Array, batch: Array, rate: Array) -> Array:
        each = rate / self.groups
        width = np.where(share <= 0.5, side_by_side(share), 1)
        wait = 0.5 * np.minimum(each * busy / batch / width, 1.0) * busy
        filled = np.minimum(self.window, (self.max_batch - 1.0) / np.maximum(each, 1e-300))
        return wait + filled * (1.0 + 0.5 * each * filled) / (1.0 + each * filled)

    def _of_one(self, busy: Array, share: Array, rate: Array) -> Array:
        width = side_by_side(share)
        held = busy * np.minimum(width * share, 1.0)
        servers = np.round(width * self.groups)
        offered = rate * held
        keeps_up = offered < servers
        offered = np.where(keeps_up, offered, 0.0)
        wait = 0.5 * erlang_c(servers, offered) * held / (servers - offered)
        return np.where(keeps_up, wait, math.inf)
