"""Entries of the trace that a pipeline is played as, and the edges between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mist_jax.pipelines.dag import Pipeline

Array = np.ndarray


class Rows:
    """Entries of the trace as they are added, node by node."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Array]] = {}

    def add(self, node: int, request: Array, model: int, **given: Any) -> None:
        """Entries of `node` for the requests; further columns: work, before, prompt, output, cached, step."""
        size = len(request)
        values = {
            "node": node, "request": request, "model": model, "work": 0.0, "before": 0.0, "prompt": 1, "output": 1,
            "cached": 0, "step": 0, **given,
        }  # fmt: skip
        for name, value in values.items():
            self.columns.setdefault(name, []).append(np.broadcast_to(np.asarray(value, float), (size,)))

    def column(self, name: str) -> Array:
        return np.concatenate(self.columns[name])


def _pairs(parent: Array, child: Array, request: Array) -> Array:
    """(parent, child) for all pairs of rows of the same request."""
    return _pairs_by(parent, child, request[parent], request[child])


def _pairs_by(parent: Array, child: Array, parent_key: Array, child_key: Array) -> Array:
    """(parent, child) for all pairs of rows with equal keys; the parents' keys rise."""
    start = np.searchsorted(parent_key, child_key, "left")
    stop = np.searchsorted(parent_key, child_key, "right")
    count = stop - start
    at = np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
    return np.stack([parent[at], np.repeat(child, count)], axis=1)


def stage_edges(pipeline: Pipeline, request: Array, node: Array, step: Array) -> Array:
    out = [np.zeros((0, 2), np.int64)]
    for i, described in enumerate(pipeline.nodes):
        mine = np.flatnonzero(node == i)
        first = mine[step[mine] == 0]
        for parent in described.parents:
            rows = np.flatnonzero(node == parent)
            last = rows[step[rows] == _last_step(request, step, rows)]
            out.append(_pairs(last, first, request))
        for k in range(1, int(step[mine].max(initial=0)) + 1):
            out.append(_pairs(mine[step[mine] == k - 1], mine[step[mine] == k], request))
    return np.concatenate(out)


def _last_step(request: Array, step: Array, rows: Array) -> Array:
    """Last round of the call that each row belongs to."""
    if rows.size == 0:
        return np.zeros(0, np.int64)
    top = np.zeros(request[rows].max() + 1, np.int64)
    np.maximum.at(top, request[rows], step[rows])
    return top[request[rows]]


def loop_edges(pipeline: Pipeline, request: Array, node: Array, step: Array, users: int) -> Array:
    """A closed loop as `users` people who send their next request when the one before has ended."""
    waits = np.array([x.spec.wait for x in pipeline.nodes])
    parents = {p for i, x in enumerate(pipeline.nodes) if waits[i] for p in x.parents}
    ends = [i for i in range(len(pipeline.nodes)) if waits[i] and i not in parents]
    starts = [i for i, x in enumerate(pipeline.nodes) if not x.parents]
    out = [np.zeros((0, 2), np.int64)]
    for end in ends:
        rows = np.flatnonzero(node == end)
        last = rows[step[rows] == _last_step(request, step, rows)]
        for start in starts:
            mine = np.flatnonzero((node == start) & (step == 0))
            later = mine[request[mine] >= users]
            shifted = request.copy()
            shifted[later] -= users
            out.append(_pairs_by(last, later, request[last], shifted[later]))
    return np.concatenate(out)
