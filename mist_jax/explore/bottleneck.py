"""Which resource bounds each of many designs, as `mist.evaluate` says it of one."""

from __future__ import annotations

import numpy as np

from mist_jax.elasticity import BOUND, FIELDS, NOTHING, STEP
from mist_jax.errors import Status
from mist_jax.explore import gradient
from mist_jax.explore.problem import Problem

#: Pools of a deployment without and with prefill apart: name → leaf of `Deployment`.
POOLS = ({"engine": "system"}, {"prefill": "prefill", "decode": "system"})


def bottlenecks(problem: Problem, x: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """The resource with the largest elasticity of the end-to-end latency, - d ln E2E / d ln resource, of each design.

    Args:
        problem: whose program and tables are used: nothing new is compiled.
        x: [designs, variables] positions in [0, 1]. choice: [designs].

    Returns:
        Resources as `elasticity.FIELDS` names them, after the pool and a colon where prefill is apart, [designs];
        `NOTHING` where the largest elasticity is less than 0.05.

    Central differences over +-1 %; the load stays what it is.
    """
    base = problem.columns(choice)
    base = np.where(problem.moved, problem.values(x) @ problem.spread[:, : len(problem.paths)].T, base)
    layout, apart = problem.layout, problem.kind[1]
    shape = dict(zip(layout.names, layout.shapes, strict=True))
    names, moved = [], []
    for pool, leaf in POOLS[apart].items():
        for field, resource in FIELDS.items():
            row = layout.place[name := f"{leaf}.hardware.{field}"]
            names.append(f"{pool}: {resource}" if apart else resource)
            for factor in (1.0 + STEP, 1.0 - STEP):
                columns = base.copy()
                columns[:, row : row + int(np.prod(shape[name]))] *= factor
                moved.append(columns)
    out = gradient.evaluate_designs(
        problem.kind,
        layout,
        np.tile(x, (len(moved), 1)),
        np.concatenate(moved),
        np.zeros((len(moved) * len(x), 2, len(problem.names))),
        {**problem.arrays, "moved": np.zeros_like(problem.moved), "weight": np.float64(1.0)},
        directions=1,
    )
    logs = np.log(out["y"][:, problem.names.index("e2e_s")])
    # a design that stops working with 1 % less is bound by that; its figures are those of the guard
    logs[out["status"] != Status.OK] = np.inf
    up, down = logs.reshape(len(names), 2, len(x)).swapaxes(0, 1)
    with np.errstate(invalid="ignore"):
        gain = np.nan_to_num((down - up) / np.log((1.0 + STEP) / (1.0 - STEP)), nan=0.0)
    return np.where(gain.max(axis=0) >= BOUND, np.array(names)[gain.argmax(axis=0)], NOTHING)
