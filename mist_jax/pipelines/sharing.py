"""Services and transfers of all clients in steady state: who slows whom, and what more of a resource would give.

Every machine holds the classes of jobs that its stages bring; `physics.demand.steady_together` decides their mean
times. Machines and classes are padded to fixed numbers, so that one compiled program serves every pipeline.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.demand import RESOURCES, Demand, Machine, seconds_by_resource, steady_together
from mist_jax.pipelines.walk import PHASES
from mist_jax.programs import compiled

Array = Any

#: Sizes that programs are compiled for; larger pipelines take the next multiple.
MACHINES, CLASSES = 4, 8


def machine_seconds(
    amount: Array, cap: Array, fixed: Array, arrivals: Array, rate: Array, kappa: Array
) -> dict:
    """Mean seconds of the job classes of one machine.

    Args:
        amount, cap: [classes, PHASES, RESOURCES]. fixed: [classes, PHASES] s. arrivals: [classes] jobs/s on this
            machine. rate, kappa: [RESOURCES].

    Returns:
        of `steady_together`; and `by_resource` [classes, RESOURCES], s that each resource bounds a job alone.
    """
    # a class that asks for nothing (padding, or latency alone) gets a picosecond of what there is most of
    idle = jnp.sum(amount, axis=(1, 2)) <= 0
    most = jax.nn.one_hot(jnp.argmax(rate), len(RESOURCES))
    trace = jnp.where(idle[:, None], 1e-12 * jnp.maximum(rate, 1.0) * most, 0.0)
    amount = amount.at[:, 0, :].add(trace)
    rate = jnp.where(jnp.max(rate) > 0, rate, rate + most)
    works = [Demand(amount=amount[k], cap=cap[k], fixed_s=fixed[k]) for k in range(amount.shape[0])]
    out = steady_together(works, jnp.where(idle, 0.0, arrivals), Machine(rate=rate, interference=kappa))
    bound = jax.vmap(lambda a, c, f: seconds_by_resource(Demand(amount=a, cap=c, fixed_s=f), rate))(
        amount, cap, fixed
    )
    return {**out, "by_resource": bound}


def _all(
    rate: Array, weights: Array, amount: Array, cap: Array, fixed: Array, arrivals: Array, kappa: Array
) -> Any:
    out = jax.vmap(machine_seconds)(amount, cap, fixed, arrivals, rate, kappa)
    return jnp.sum(weights * out["seconds"]), out


@lru_cache(maxsize=1)
def _programs() -> tuple[Any, Any]:
    return compiled(_all), compiled(jax.value_and_grad(_all, has_aux=True))


def share(
    machines: list[Machine],
    jobs: list[list[int]],
    asked: Any,
    arrivals: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Mean times of every node in `jobs`, all machines at once.

    Args:
        machines: one of each client. jobs: nodes that run on each. asked: `walk.Asked` as NumPy.
        arrivals: [nodes] jobs/s that reach one machine. weights: [nodes]; if given, `slope` is computed.

    Returns:
        [nodes] `seconds`, `alone`, `by_resource` [nodes, RESOURCES]; [machines] `utilization` [.., RESOURCES],
        `stable`; `slope` [machines, RESOURCES], d (sum weights * seconds) / d ln(rate).
    """
    nodes, width = len(arrivals), len(RESOURCES)
    m = -(-max(len(machines), 1) // MACHINES) * MACHINES
    k = -(-max(max((len(j) for j in jobs), default=1), 1) // CLASSES) * CLASSES
    amount, cap = np.zeros((m, k, PHASES, width)), np.full((m, k, PHASES, width), np.inf)
    fixed, come, weigh = np.zeros((m, k, PHASES)), np.zeros((m, k)), np.zeros((m, k))
    rate, kappa = np.ones((m, width)), np.zeros((m, width))
    for i, (machine, own) in enumerate(zip(machines, jobs, strict=True)):
        rate[i], kappa[i] = machine.rate, machine.interference
        for j, node in enumerate(own):
            amount[i, j], cap[i, j], fixed[i, j] = asked.amount[node], asked.cap[node], asked.fixed_s[node]
            come[i, j] = arrivals[node]
            weigh[i, j] = 0.0 if weights is None else weights[node]
    plain, sloped = _programs()
    args = (rate, weigh, amount, cap, fixed, come, kappa)
    if weights is None:
        _, out = plain(*args)
        slope = None
    else:
        (_, out), slope = sloped(*args)
    out = {key: np.asarray(v) for key, v in out.items()}
    result = {
        "seconds": np.zeros(nodes), "alone": np.zeros(nodes), "by_resource": np.zeros((nodes, width)),
        "utilization": out["utilization"][: len(machines)], "stable": out["stable"][: len(machines)],
    }  # fmt: skip
    for i, own in enumerate(jobs):
        for j, node in enumerate(own):
            for name in ("seconds", "alone", "by_resource"):
                result[name][node] = out[name][i, j]
    if slope is not None:
        result["slope"] = (np.asarray(slope) * rate)[: len(machines)]
    return result
