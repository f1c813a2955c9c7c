"""What more of each resource of each client would give: d ln E2E / d ln resource at the same rate, many points at once.

The end is the longest path, a sum of nodes' times; a resource acts on it through the services and transfers of its
client (derivatives of `pipelines.sharing`) and through the LLM pool on it (central differences).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mist_jax.elasticity import FIELDS
from mist_jax.physics.demand import RESOURCES
from mist_jax.pipelines.batch import Batch, StageTimes
from mist_jax.pipelines.dag import critical_path
from mist_jax.pipelines.llm import mix_of, whole
from mist_jax.pipelines.sharing import slopes

Array = np.ndarray

#: Variables along `client` and `resource`: name → (units, what it is)
CLIENT_VARIABLES = {
    "elasticity": ("1", "d ln(end-to-end latency) / d ln(resource) at the same rate of requests"),
    "utilization": ("1", "busy share by services and transfers"),
}
#: Field of `Hardware` → resource of the demand's axis; what an LLM's iteration depends on.
LLM_FIELDS = {field: resource for field, resource in FIELDS.items() if resource in RESOURCES}
#: Steps of the central differences, as factors on a resource.
_MORE, _LESS = 1.01, 0.99


def elasticities(batch: Batch, times: StageTimes) -> Array:
    """d ln(end to end) / d ln(resource), [points, clients, RESOURCES]; NaN where no mean exists."""
    weights = np.where(critical_path(batch.pipeline, times.finish), batch.probability, 0.0)
    table = _machine_slopes(batch, times, weights)
    for name in times.calls:
        resources = [RESOURCES.index(r) for r in LLM_FIELDS.values()]
        table[:, batch.names.index(name), resources] += _pool_slopes(batch, times, name, weights)
    return table / batch.ends(times)[:, None, None]


def _machine_slopes(batch: Batch, times: StageTimes, weights: Array) -> Array:
    """d E2E / d ln(rate) of the machines' resources, [points, clients, RESOURCES] s, services and transfers."""
    own = np.array([n.type in ("service", "transfer") for n in batch.nodes])

    def weight(shared: Array) -> Array:
        # a queue's waits have the elasticity of the shared times
        there = own & (shared > 0)
        return weights * np.where(there, times.seconds / np.where(there, shared, 1.0), 0.0)

    return slopes(batch.machine_rate, batch.interference, batch.jobs, times.asked, times.arrivals, weight)


def _pool_slopes(batch: Batch, times: StageTimes, name: str, weights: Array) -> Array:
    """d E2E / d ln(resource) of one LLM pool, [points, LLM_FIELDS] s; the pool's mix and rate stay as they are.

    Central differences of the pool's own compiled program over +-1 %, so that nothing further is compiled for one
    point; tests compare them with the derivative. In double precision always: a per cent of a difference is all that
    single precision would leave. For two pools the decode pool's resources.
    """
    own, calls = times.calls[name]
    weight = weights[:, own] * times.asked.call.probability[:, own] * calls.rounds
    steps = np.maximum(calls.longest - 1.0, 0.0) / calls.gain
    # of each point two rows a resource: a per cent more of it, and one less
    points, size = len(weights), 2 * len(LLM_FIELDS)
    row = np.repeat(np.arange(points), size)
    scale = {}
    for k, field in enumerate(LLM_FIELDS):
        factor = np.ones((points, size))
        factor[:, 2 * k : 2 * k + 2] = _MORE, _LESS
        left = np.broadcast_to(times.left[name].get(field, 1.0), (points,))
        scale[field] = (factor * left[:, None]).ravel()
    mix = mix_of(calls)
    mix = dataclasses.replace(mix, **{f: np.asarray(v)[row] for f, v in vars(mix).items()})
    state = whole(batch.pools[name].run("open", mix, scale=scale, at=row, dtype=np.float64))
    ttft, tpot = (np.asarray(x).reshape(points, size) for x in (state.ttft, state.tpot))
    total = weight.sum(axis=1)[:, None] * ttft + (weight * steps).sum(axis=1)[:, None] * tpot
    return (total[:, 0::2] - total[:, 1::2]) / np.log(_MORE / _LESS)
