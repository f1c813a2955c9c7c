"""`search_front`: the Pareto front of several figures between bounds, choices included, by NSGA-II.

For fronts in spaces too large for a grid: numbers, whole numbers and choices side by side. The algorithm is pymoo's
NSGA-II for mixed variables (K. Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002; J. Blank, K. Deb, IEEE Access 8,
2020), over the steady state, a population a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError, Status
from mist_jax.explore import gradient
from mist_jax.explore.bottleneck import bottlenecks
from mist_jax.explore.pareto import direction, pareto
from mist_jax.explore.problem import LOST, SLACK, Problem
from mist_jax.schema import Scenario
from mist_jax.variables import VARIABLES

#: Designs of a generation: one call of the program.
POPULATION = gradient.BATCH
#: Place of the choice among a design's variables.
CHOICE = "choice"


def search_front(
    scenario: Scenario,
    objectives: Sequence[str],
    variables: Mapping[str, Any],
    constraints: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    *,
    evaluations: int = 3000,
    seed: int = 0,
) -> xr.Dataset:
    """The designs between bounds that no other design found beats in all objectives.

    Args:
        scenario: what the variables and choices vary.
        objectives: two or more figures; less of latencies, cost, energy, power, chips and area is better, more of the
            rest.
        variables, constraints, choices: as for `search`.
        evaluations: deployments evaluated, in generations of 64.
        seed: of the evolution.

    Returns:
        As `pareto`: along `point`, all figures; its coordinates are the variables and choices of each design, by their
        dotted paths, with their bounds (`low`, `high`, SI) or `options`. Figures that have a limit carry it as
        `upper_limit` or `lower_limit`; `bottleneck(point)` is that of `bottleneck.bottlenecks`. Along `evaluation`,
        `evaluated_<objective>` of every design (NaN: it misses a limit) and the `hypervolume` so far. The attributes
        `hypervolume` (of the box of all feasible designs evaluated), `objectives` and `evaluations`.

    Raises:
        ConfigError: pymoo is not installed; as `search`; no feasible design.

    Range: that of the steady state (means). Every design has been evaluated as it stands, whole numbers whole.
    """
    if len(objectives) < 2:
        raise ConfigError("objectives: a front needs two or more")
    if not variables:
        raise ConfigError("search_front: no variables; give at least one")
    try:
        from pymoo.core.evaluator import Evaluator  # noqa: F401
    except ImportError:
        raise ConfigError("search_front: pymoo is not installed; pip install 'mist-jax[search]'") from None
    import jax

    problem = Problem(scenario, objectives[0], variables, constraints, choices)
    for name in objectives:
        problem.figure(name, "objectives")
    with jax.enable_x64(True):
        seen = _evolve(problem, objectives, evaluations, seed)
        return _front(problem, objectives, seen)


def _evolve(
    problem: Problem, objectives: Sequence[str], evaluations: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(positions, choices, figures, whether feasible) of all designs evaluated, generation by generation."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mixed import (
        MixedVariableDuplicateElimination,
        MixedVariableMating,
        MixedVariableSampling,
    )
    from pymoo.core.problem import Problem as Pymoo
    from pymoo.core.variable import Choice, Real
    from pymoo.optimize import minimize

    usable = np.flatnonzero(problem.structure.kind == 0)
    n = len(problem.paths)
    where = [problem.figure(name, "objectives") for name in objectives]
    sign = direction(objectives)
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    class Space(Pymoo):
        """Positions and a choice; log figures as objectives, the worst limit as constraint."""

        def __init__(self) -> None:
            space: dict[str, Any] = {str(k): Real(bounds=(0.0, 1.0)) for k in range(n)}
            space[CHOICE] = Choice(options=usable.tolist())
            super().__init__(vars=space, n_obj=len(objectives), n_ieq_constr=1)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            at = np.full((len(x), problem.low.size), 0.5)
            at[:, :n] = [[design[str(k)] for k in range(n)] for design in x]
            choice = np.array([design[CHOICE] for design in x])
            at = problem.rounded(at)
            found = problem.evaluate(at, choice)
            worst = problem.worst(found["c"])
            works = np.isin(found["status"], (Status.OK, Status.UNSTABLE))
            logs = np.log(found["y"][:, where]) * sign
            out["F"] = np.where(works[:, None], logs, LOST)
            out["G"] = np.where(works, worst - SLACK, np.maximum(worst, LOST))[:, None]
            good = (found["status"] == Status.OK) & (worst <= SLACK)
            seen.append((at, choice, found["y"], good))

    unlike = MixedVariableDuplicateElimination()
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=MixedVariableSampling(),  # pyright: ignore[reportArgumentType]
        mating=MixedVariableMating(eliminate_duplicates=unlike),  # pyright: ignore[reportArgumentType]
        eliminate_duplicates=unlike,
    )
    minimize(Space(), algorithm, ("n_eval", evaluations), seed=seed, verbose=False)
    return seen


def _front(
    problem: Problem,
    objectives: Sequence[str],
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
) -> xr.Dataset:
    x, choice, y, good = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    if not good.any():
        raise ConfigError(
            f"search_front: no design within the bounds meets the constraints ({len(good)} evaluations)"
        )
    _, first = np.unique(np.column_stack([x, choice]), axis=0, return_index=True)
    first = np.sort(first[good[first]])
    ds = xr.Dataset(
        {name: ("point", y[first, k], _attributes(problem, name)) for k, name in enumerate(problem.names)}
        | {"status": ("point", np.zeros(len(first), np.int8))},
        coords={"point": first},
    )
    front = pareto(ds, objectives)
    at = front["point"].values
    designs = [problem.described(x[i], int(choice[i])) for i in at]
    front["bottleneck"] = (
        "point",
        bottlenecks(problem, x[at], choice[at]),
        {"units": "", "long_name": "bottleneck"},
    )
    values = y[:, [problem.names.index(name) for name in objectives]]
    for name, column in zip(objectives, values.T, strict=True):
        told = _attributes(problem, name) | {"long_name": f"{name} of every design; NaN: it misses a limit"}
        front[f"evaluated_{name}"] = ("evaluation", np.where(good, column, np.nan), told)
    ends = np.cumsum([len(part[0]) for part in seen])
    front["hypervolume"] = ("evaluation", _hypervolumes(values * direction(objectives), good, ends), {
        "units": "1", "long_name": "hypervolume of the front so far", "sense": "max",
    })  # fmt: skip
    front = front.drop_vars(["status", "point"]).assign_coords(
        {path: ("point", np.array([d[path] for d in designs]), _bounds(problem, path)) for path in designs[0]}
        | {"evaluation": np.arange(1, len(good) + 1)}
    )
    return front.assign_attrs(evaluations=problem.evaluations)


def _attributes(problem: Problem, name: str) -> dict[str, Any]:
    """Units, long name and limits of a figure."""
    units, long_name = {**VARIABLES, **gradient.DESIGN}.get(name, ("1", name))
    out: dict[str, Any] = {"units": units, "long_name": long_name}
    k = problem.names.index(name)
    for i, (key, ends) in enumerate({"upper_limit": problem.upper, "lower_limit": problem.lower}.items()):
        if problem.judged[i, k]:
            out[key] = float(np.exp(ends[k]))
    return out


def _bounds(problem: Problem, path: str) -> dict[str, Any]:
    """Units of a variable, and its bounds if it leads those that move together; the options of a choice."""
    for axis in problem.choice_axes:
        if axis.name == path:
            return {"options": ", ".join(map(str, axis.values))} | (
                {"units": axis.units} if axis.units else {}
            )
    for tied, units, (low, high) in zip(problem.paths, problem.units, problem.bounds, strict=True):
        names = [name.strip() for name in tied.split(",")]
        if path in names:
            return {"units": units} | ({"low": float(low), "high": float(high)} if path == names[0] else {})
    return {}


def _hypervolumes(values: np.ndarray, good: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hypervolume after each design [n] of the generations that are complete by then; `values`: less is better.

    Of the box of all feasible designs, as `pareto` has it; NaN before the first feasible design.
    """
    import moocore

    low, high = values[good].min(axis=0), values[good].max(axis=0)
    unit = (values - low) / np.where(high > low, high - low, 1.0)
    out, front, start = np.full(len(good), np.nan), np.empty((0, values.shape[1])), 0
    for end in ends:
        front = np.concatenate([front, unit[start:end][good[start:end]]])
        if len(front):
            front = front[np.asarray(moocore.is_nondominated(front))]
            out[end - 1 :] = moocore.hypervolume(front, ref=np.ones(values.shape[1]))
        start = end
    return out
