"""Services and transfers of all clients in steady state: who slows whom, and what more of a resource would give.

Every machine holds the classes of jobs that its stages bring; `physics.demand.steady_together` decides their mean
times. Machines and classes are padded to fixed numbers, so that one compiled program serves every pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.demand import RESOURCES, Demand, Machine, steady_together
from mist_jax.pipelines.points import OverPoints, rows
from mist_jax.pipelines.walk import PHASES
from mist_jax.programs import compiled

Array = Any

#: Sizes that programs are compiled for; larger pipelines take the next multiple.
MACHINES, CLASSES = 4, 4


def machine_seconds(
    amount: Array, cap: Array, fixed: Array, arrivals: Array, rate: Array, kappa: Array
) -> dict:
    """Mean seconds of the job classes of one machine.

    Args:
        amount, cap: [classes, PHASES, RESOURCES]. fixed: [classes, PHASES] s. arrivals: [classes] jobs/s on this
            machine. rate, kappa: [RESOURCES].

    Returns:
        of `steady_together`.
    """
    # a class that asks for nothing (padding, or latency alone) gets a picosecond of what there is most of
    idle = jnp.sum(amount, axis=(1, 2)) <= 0
    most = jax.nn.one_hot(jnp.argmax(rate), len(RESOURCES))
    trace = jnp.where(idle[:, None], 1e-12 * jnp.maximum(rate, 1.0) * most, 0.0)
    amount = amount.at[:, 0, :].add(trace)
    rate = jnp.where(jnp.max(rate) > 0, rate, rate + most)
    works = [Demand(amount=amount[k], cap=cap[k], fixed_s=fixed[k]) for k in range(amount.shape[0])]
    out: dict = steady_together(works, jnp.where(idle, 0.0, arrivals), Machine(rate=rate, interference=kappa))
    return out


def _all(
    rate: Array, weights: Array, amount: Array, cap: Array, fixed: Array, arrivals: Array, kappa: Array
) -> Any:
    out = jax.vmap(machine_seconds)(amount, cap, fixed, arrivals, rate, kappa)
    return jnp.sum(weights * out["seconds"]), out


@lru_cache(maxsize=1)
def _sloped() -> OverPoints:
    one = jax.value_and_grad(_all, has_aux=True)
    return OverPoints(compiled(one), compiled(jax.vmap(one)))


@lru_cache(maxsize=1)
def _together() -> OverPoints:
    def seconds_of_jobs(*args: Array) -> Array:
        return machine_seconds(*args)["seconds"]

    # not kept as executables: they call LAPACK, which a process that has traced nothing does not know yet
    return OverPoints(compiled(seconds_of_jobs), compiled(jax.vmap(seconds_of_jobs)))


def apart(rate: np.ndarray, jobs: list[list[int]], asked: Any, arrivals: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of every node without the others: the roofline of its phases, and what it keeps busy.

    Args:
        rate: [points, machines, RESOURCES], of one machine of each client. jobs: nodes that run on each.
        asked: `walk.Asked` as NumPy, [points, ...]. arrivals: [points, nodes] jobs/s that reach one machine.

    Returns:
        [points, nodes] `alone` (`demand.seconds`), `by_resource` [.., RESOURCES] (`demand.seconds_by_resource`);
        [points, machines] `utilization` [.., RESOURCES], `stable`.
    """
    (points, nodes), width = arrivals.shape, len(RESOURCES)
    alone, bound = np.zeros((points, nodes)), np.zeros((points, nodes, width))
    used = np.zeros(rate.shape)
    for i, own in enumerate(jobs):
        if not own:
            continue
        amount, speed = np.asarray(asked.amount)[:, own], rate[:, i, None, None, :]
        limit = np.minimum(np.asarray(asked.cap)[:, own], speed)
        there = limit > 0
        terms = np.where(amount > 0, np.where(there, amount / np.where(there, limit, 1.0), np.inf), 0.0)
        alone[:, own] = np.sum(np.asarray(asked.fixed_s)[:, own] + terms.max(axis=-1), axis=-1)
        slowest = np.arange(width) == terms.argmax(axis=-1)[..., None]
        bound[:, own] = np.where(slowest, terms, 0.0).sum(axis=2)
        offered = (arrivals[:, own, None] * amount.sum(axis=2)).sum(axis=1)
        used[:, i] = offered / np.where(rate[:, i] > 0, rate[:, i], 1e-300)
    stable = np.asarray((used < 1.0).all(axis=-1))
    return {"alone": alone, "by_resource": bound, "utilization": used, "stable": stable}


def together(
    rate: np.ndarray, interference: np.ndarray, asked: Any, own: list[int], arrivals: np.ndarray
) -> np.ndarray:
    """Mean seconds of the nodes `own` of one machine under several loads, [points, loads, own].

    Args:
        rate, interference: [points, RESOURCES]. arrivals: [points, loads, own] jobs/s on this machine.
    """
    points, loads, jobs = arrivals.shape
    extra = -jobs % CLASSES

    def padded(x: Any, fill: float = 0.0) -> np.ndarray:
        x = np.asarray(x)
        return np.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)

    amount, cap = padded(np.asarray(asked.amount)[:, own]), padded(np.asarray(asked.cap)[:, own], np.inf)
    fixed, come = padded(np.asarray(asked.fixed_s)[:, own]), padded(arrivals.reshape(points * loads, jobs))

    def arguments(row: np.ndarray) -> tuple:
        at = row // loads
        return amount[at], cap[at], fixed[at], come[row], rate[at], interference[at]

    return _together()(points * loads, arguments)[:, :jobs].reshape(points, loads, jobs)


def slopes(
    rate: np.ndarray, interference: np.ndarray, jobs: list[list[int]], asked: Any, arrivals: np.ndarray,
    weight: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """d (sum weights * seconds) / d ln(rate) of pipelines' machines, [points, machines, RESOURCES].

    Args:
        rate, interference: [points, machines, RESOURCES]. asked, arrivals: [points, nodes, ...].
        weight: mean seconds of the nodes [points, nodes] → their weights.
    """
    points, clients, width = rate.shape
    m = -(-max(clients, 1) // MACHINES) * MACHINES
    k = -(-max(max((len(j) for j in jobs), default=1), 1) // CLASSES) * CLASSES
    amount, cap = np.zeros((points, m, k, PHASES, width)), np.full((points, m, k, PHASES, width), np.inf)
    fixed, come, weigh = np.zeros((points, m, k, PHASES)), np.zeros((points, m, k)), np.zeros((points, m, k))
    speed, kappa = np.ones((points, m, width)), np.zeros((points, m, width))
    speed[:, :clients], kappa[:, :clients] = rate, interference
    places = [(i, j, node) for i, own in enumerate(jobs) for j, node in enumerate(own)]
    for i, j, node in places:
        amount[:, i, j], cap[:, i, j] = asked.amount[:, node], asked.cap[:, node]
        fixed[:, i, j], come[:, i, j] = asked.fixed_s[:, node], arrivals[:, node]

    def solved() -> Any:
        return _sloped()(points, lambda at: rows((speed, weigh, amount, cap, fixed, come, kappa), at))

    (_, out), _ = solved()
    seconds = np.zeros(arrivals.shape)
    for i, j, node in places:
        seconds[:, node] = out["seconds"][:, i, j]
    weights = weight(seconds)
    for i, j, node in places:
        weigh[:, i, j] = weights[:, node]
    _, slope = solved()
    return (slope * speed)[:, :clients]
