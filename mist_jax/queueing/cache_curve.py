"""Hit ratio of a prefix cache against its size, from the trace alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from mist_jax.queueing.trace import Trace

Array = np.ndarray


def hit_ratio(trace: Trace, capacity_units: float = np.inf) -> float:
    """Share of the prefix units of the trace found in an LRU cache of this many units, request after request.

    A request finds the longest prefix that is cached, up to its whole prompt, and leaves all of its units behind;
    the beginning of a prompt counts as used later than its end, so that ends are evicted first.
    Not modelled: the time that computing takes, so a unit is there for the request right after.
    """
    if trace.units is None or trace.unit_offsets is None:
        raise ValueError("the trace names no prefix units")
    if not capacity_units >= 0:
        raise ValueError(f"a cache holds 0 units or more, got {capacity_units}")
    o = trace.unit_offsets
    order = np.argsort(trace.arrival_s, kind="stable")
    if trace.units.size == 0:
        return float("nan")
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for i in order.tolist():
        ids = trace.units[o[i] : o[i + 1]].tolist()
        for h in ids:
            if h not in kept:
                break
            hits += 1
        for h in reversed(ids):
            kept[h] = None
            kept.move_to_end(h)
        while len(kept) > capacity_units:
            kept.popitem(last=False)
    return hits / trace.units.size


def cache_curve(trace: Trace, capacity_units: Sequence[float]) -> Array:
    """`hit_ratio` for several sizes: (len(capacity_units),)."""
    return np.array([hit_ratio(trace, c) for c in capacity_units])
