"""The step of the gradient search: all figures of a batch of designs, and their descent directions.

One compiled program a kind of deployment serves every problem: variables, objective and constraints are arrays.

    L(x) = s . log y(x) + sum_j ((max(0, m_j + r c_j))^2 - m_j^2) / (2 r)        augmented Lagrangian
    c_j  = log y_j - log high_j   or   log low_j - log y_j

(J. Nocedal, S. Wright, Numerical Optimization, 2nd ed., 17.4), x the position between the bounds in log space.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.errors import Status
from mist_jax.explore import block, chip
from mist_jax.explore.deployments import Deployment, Kind, Layout
from mist_jax.kept_programs import Kept
from mist_jax.physics.memory import memory_use
from mist_jax.programs import Effort
from mist_jax.queueing.root import Form

Array = Any

#: Designs of one call, variables of a problem.
BATCH = 64
MAX_VARIABLES = 10

#: Figures of the search beside those of a sweep: name → (units, what it is).
DESIGN = {
    "die_area_mm2": ("mm2", "area of the die"),
    "chip_cost_usd": ("USD", "cost of die, memory and package"),
    "chip_power_w": ("W", "power at full compute and bandwidth"),
    "memory_need": ("1", "KV tokens that one request needs over those that fit"),
}


def names_of(kind: Kind) -> tuple[str, ...]:
    """Figures that objectives and constraints may name, in the order of `y`."""
    return (*(n for n in block.variables_of(kind) if n not in ("status", "meets_slo")), *DESIGN)


def _figures(kind: Kind, d: Deployment) -> tuple[Array, Array]:
    """(y [names], status) of one design; a figure that does not exist is 1, so that its logarithm has no slope."""
    values = block.evaluate_deployment(kind, d)
    model = chip.ChipModel()
    hw = d.system.hardware
    memory = memory_use(d.system)
    need = d.workload.isl + d.workload.osl
    # below zero bytes the shortage goes on growing, so that the search finds its way back
    short = jnp.maximum(-memory.kv_budget, 0.0) / hw.memory_capacity
    tokens = jnp.maximum(memory.kv_tokens, 1.0)
    values["memory_need"] = jnp.where(memory.kv_budget > 0, need / tokens, need * jnp.exp(short))
    values["die_area_mm2"] = chip.die_area(hw, model)
    values["chip_cost_usd"] = chip.chip_cost(hw, model)
    values["chip_power_w"] = chip.chip_power(hw, model)
    y = jnp.stack([jnp.asarray(values[n], float) for n in names_of(kind)])
    return jnp.where(jnp.isfinite(y) & (y > 0), y, 1.0), values["status"]


def _write(column: Array, x: Array, problem: dict[str, Array]) -> Array:
    """The column with the variables' numbers at position x in [0, 1]^n; `spread` [rows, variables] holds factors."""
    values = jnp.exp(problem["low"] + x * (problem["high"] - problem["low"]))
    return jnp.where(problem["moved"], problem["spread"] @ values, column)


def _lagrangian(kind: Kind, layout: Layout, x: Array, column: Array, multipliers: Array, problem: Any) -> Any:
    y, status = _figures(kind, layout.unflatten(_write(column, x, problem)))
    logs = jnp.log(y)
    works = (status == Status.OK) | (status == Status.UNSTABLE)
    objective = jnp.where(works, problem["objective"] @ logs, 0.0)
    c = jnp.stack([logs - problem["upper"], problem["lower"] - logs])
    # figures of a design that does not work say nothing, except how far it is from working
    judged = problem["judged"] & (works | problem["always"])
    c = jnp.where(judged, c, -1.0)
    r = problem["weight"]
    terms = (jnp.maximum(multipliers + r * c, 0.0) ** 2 - multipliers**2) / (2.0 * r)
    total = objective + jnp.sum(jnp.where(judged, terms, 0.0))
    return total, (y, status, c)


@lru_cache(maxsize=16)
def _program(kind: Kind, layout_key: Any) -> Any:
    layout = LAYOUTS[layout_key]

    def one(x: Array, column: Array, multipliers: Array, problem: Any, directions: Array) -> Any:
        def loss(x: Array) -> Any:
            return _lagrangian(kind, layout, x, column, multipliers, problem)

        # Forward mode: few variables, and a program half the size of the reverse one. One direction after the other:
        # side by side, the fusions of [designs] with [designs, directions] took XLA minutes and gigabytes to compile.
        def along(k: Array, carry: Any) -> Any:
            slope, _ = carry
            direction = (jnp.arange(MAX_VARIABLES) == k).astype(x.dtype)
            total, along_k, (y, status, c) = jax.jvp(loss, (x,), (direction,), has_aux=True)
            slope = jnp.where(direction > 0, jnp.nan_to_num(along_k, nan=0.0, posinf=0.0, neginf=0.0), slope)
            return slope, {"total": total, "y": y, "status": status, "c": c}

        shapes = jax.eval_shape(lambda: along(jnp.asarray(0), (x, None))[1])
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        # the program serves any number of variables: how many is a number of its own
        slope, figures = jax.lax.fori_loop(0, directions, along, (jnp.zeros_like(x), empty))
        return {"slope": slope, **figures}

    name = f"gradient {kind} {layout_key}"
    return Kept(jax.vmap(one, in_axes=(0, 0, 0, None, None)), name, effort=Effort.LITTLE, form=Form.FORWARD)


#: Layouts by tree, for the cache of programs.
LAYOUTS: dict[Any, Layout] = {}


def evaluate_designs(
    kind: Kind,
    layout: Layout,
    x: np.ndarray,
    columns: np.ndarray,
    multipliers: np.ndarray,
    problem: dict[str, Any],
    directions: int = MAX_VARIABLES,
) -> dict[str, np.ndarray]:
    """Figures, slopes and constraints of designs, any number of them.

    Args:
        x: [designs, MAX_VARIABLES] positions in [0, 1]. columns: [designs, rows]. multipliers: [designs, 2, figures].
        directions: variables along which slopes are wanted, the first ones; at least 1, which costs least.

    Returns:
        total [designs], slope like x, y [designs, figures], status, c [designs, 2, figures].
    """
    LAYOUTS.setdefault(layout.tree, layout)
    program = _program(kind, layout.tree)
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(x), BATCH):
            at = np.minimum(np.arange(start, start + BATCH), len(x) - 1)
            out = program(x[at], columns[at], multipliers[at], problem, np.int64(directions))
            parts.append({k: np.asarray(v)[: len(x) - start] for k, v in out.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
