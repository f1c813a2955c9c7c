"""`search`: the best design between bounds, by gradients from many starts, whole numbers and choices included.

Continuous variables descend in log space (Adam on the augmented Lagrangian of `gradient`), all starts of all discrete
choices side by side. The best are rounded, evaluated again, and improved by linear programs along the limits that bind
(`sequential`): what is reported has been evaluated as it stands. After Hong et al., DOSA (MICRO 2023), which rounds and
re-evaluates while it descends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.explore.played import Played, numbers, split_tails
from mist_jax.explore.problem import Problem
from mist_jax.explore.sequential import improve, in_steady_state
from mist_jax.schema import Scenario

#: Steps after which the worse half of the descents ends (successive halving: K. Jamieson, A. Talwalkar, AISTATS 2016).
HALVINGS = (1, 4, 9)
#: Designs that are improved to the end, and linear programs that the best of every choice gets.
LEADERS, ALL_ROUNDS = 3, 3
#: Designs that are looked at along each variable, and how many points.
SCANNED, SCAN = 2, 9
#: Designs that are improved on the playback, and half width of their first box: they start next to their optimum.
PLAYED, PLAYED_BOX = 2, 0.05


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The best design found, evaluated as it stands (whole numbers rounded)."""

    best: dict[str, Any]  #: path → value, choices included; empty if nothing feasible was found
    objective: float  #: value of the objective figure (or product of figures)
    feasible: bool
    figures: dict[str, float]  #: all figures at the best design
    evaluations: int  #: deployments evaluated, each gradient counted as one
    history: xr.Dataset  #: `objective(evaluation)`: best feasible value so far
    runners_up: list[dict[str, Any]]  #: best of the other discrete choices, with their `objective`
    scenario: Scenario | None = dataclasses.field(repr=False, default=None)  #: the best design as a scenario
    #: with `requests`: numbers of a playback of the best design over requests that the search did not see (of a trace:
    #: over the same ones)
    played: dict[str, float] = dataclasses.field(repr=False, default_factory=dict)
    missed: list[str] = dataclasses.field(default_factory=list)  #: limits that it missed there


def search(
    scenario: Scenario,
    objective: str | Mapping[str, float] = "cost_per_million_output_tokens_usd",
    variables: Mapping[str, Any] | None = None,
    constraints: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    *,
    maximize: bool | None = None,
    starts: int = 8,
    steps: int = 12,
    polish: int = 12,
    seed: int = 0,
    requests: float = 0,
) -> SearchResult:
    """The best design between bounds.

    Args:
        scenario: what the variables and choices vary.
        objective: a figure of `sweep` or of the chip model (`die_area_mm2`, `chip_cost_usd`, `chip_power_w`), or
            figure → exponent for a product of powers. Minimized if less of it is better, else maximized.
        variables: dotted path → (low, high), 1 to 10. Paths joined by commas move together, their ratios kept.
        constraints: figure → "<= v", ">= v" or (low, high), SI. Memory and, for open load, stability always hold.
        choices: axes as for `sweep`, all combinations of which are searched.
        maximize: overrides the sense of the objective.
        starts, steps: descents per choice, and gradient steps of each.
        polish: linear programs that improve each of the best rounded designs, at most.
        seed: of the starts.
        requests: play this many requests of the workload for each of the best designs, improve the best two as the
            playback sees them, and rank by that; `constraints` may then name percentiles (`ttft_p99_s`). 0: none.

    Returns:
        `SearchResult`; its design has been evaluated as it stands.

    Raises:
        ConfigError: an unknown figure, path or option, or bounds that cannot be.

    Range: that of the steady state (means), and of the playback with `requests`. Not modelled: margins on chips.
    """
    if not variables:
        raise ConfigError(
            "search: no variables; give at least one, such as {'engine.max_num_batched_tokens': (256, 16384)}"
        )
    means, tails = split_tails(dict(constraints or {}), requests)
    problem = Problem(scenario, objective, variables, means, choices, maximize, tails)
    played = Played(problem, requests) if requests else None
    import jax

    with jax.enable_x64(True):
        x, choice = _descend(problem, starts, steps, seed)
        x, choice = _refined(problem, x, choice, polish)
        if played is not None:
            x = _on_playback(problem, x, choice, polish, played)
        return _result(problem, x, choice, objective, played)


def _better_half(choice: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """The better half of the descents over all choices, and the best one of each choice."""
    first = [at[np.argmin(merit[at])] for at in (np.flatnonzero(choice == c) for c in np.unique(choice))]
    half = np.argsort(merit, kind="stable")[: (len(merit) + 1) // 2]
    return np.unique(np.concatenate([first, half]))


def _descend(problem: Problem, starts: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The final positions of all starts of all choices that can be built."""
    import jax
    import optax
    from scipy.stats import qmc

    from mist_jax.explore import gradient

    usable = np.flatnonzero(problem.structure.kind == 0)
    n = len(problem.paths)
    points = qmc.Sobol(n, rng=seed).random_base2(max(int(np.ceil(np.log2(starts))), 0))[:starts]
    x = np.full((len(usable) * starts, gradient.MAX_VARIABLES), 0.5)
    x[:, :n] = np.tile(points, (len(usable), 1))
    choice = np.repeat(usable, starts)
    multipliers = np.zeros((len(x), 2, len(problem.names)))
    weight = 5.0
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps, 0.05))
    state = optimizer.init(x)
    best, merit = x.copy(), np.full(len(x), np.inf)
    for step in range(steps):
        # whole numbers are evaluated whole, and moved by the slope there ("straight through")
        at = problem.rounded(x)
        out = problem.evaluate(at, choice, multipliers, weight, slopes=True)
        better = out["merit"] < merit
        best[better], merit[better] = at[better], out["merit"][better]
        size = np.linalg.norm(out["slope"], axis=1, keepdims=True)
        updates, state = optimizer.update(out["slope"] / np.maximum(size, 1.0), state)
        x = np.clip(x + np.asarray(updates), 0.0, 1.0)
        if step % 10 == 9:
            multipliers = np.maximum(0.0, multipliers + weight * out["c"]) * problem.judged
            weight = min(weight * 1.5, 50.0)
        if step in HALVINGS and step < steps - 1:
            keep = _better_half(choice, merit)
            x, choice, multipliers, best, merit = (v[keep] for v in (x, choice, multipliers, best, merit))
            state = jax.tree.map(lambda v, keep=keep: v[keep] if np.ndim(v) else v, state)
    return best, choice


def _refined(
    problem: Problem, x: np.ndarray, choice: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Round, improve the best of each choice a little and the leaders to the end, and look along every variable."""
    assess, n = in_steady_state(problem), len(problem.paths)
    x = problem.rounded(x)
    rank, limits = assess(x, choice)
    best = [at[np.argmin(rank[at])] for at in (np.flatnonzero(choice == c) for c in np.unique(choice))]
    keep = np.unique([*best, *np.argsort(rank, kind="stable")[:LEADERS]])
    x, choice, rank, limits = x[keep], choice[keep], rank[keep], limits[keep]

    def improved(at: np.ndarray, rounds: int) -> None:
        x[at], (rank[at], limits[at]) = improve(
            problem, x[at], choice[at], (rank[at], limits[at]), rounds, assess
        )

    improved(np.arange(len(x)), min(rounds, ALL_ROUNDS))
    improved(np.argsort(rank, kind="stable")[:LEADERS], rounds - ALL_ROUNDS)
    # other basins along one variable
    lead = np.argsort(rank, kind="stable")[:SCANNED]
    owner = np.repeat(lead, n * SCAN)
    lines, which = x[owner], np.tile(np.repeat(np.arange(n), SCAN), len(lead))
    lines[np.arange(len(lines)), which] = np.tile(np.linspace(0.0, 1.0, SCAN), n * len(lead))
    lines = problem.rounded(lines)
    seen, c = assess(lines, choice[owner])
    for i in lead:
        top = np.flatnonzero(owner == i)[np.argmin(seen[owner == i])]
        if seen[top] < rank[i]:
            x[i], rank[i], limits[i] = lines[top], seen[top], c[top]
            improved(np.array([i]), rounds)
    return x, choice


def _on_playback(
    problem: Problem, x: np.ndarray, choice: np.ndarray, rounds: int, played: Played
) -> np.ndarray:
    """Positions with the best two improved as the playback sees them."""
    rank, limits = played.assess(x, choice)
    lead = np.argsort(rank, kind="stable")[:PLAYED]
    found, _ = improve(
        problem, x[lead], choice[lead], (rank[lead], limits[lead]), rounds, played.assess, PLAYED_BOX
    )
    x[lead] = found
    return x


def _result(
    problem: Problem, x: np.ndarray, choice: np.ndarray, objective: Any, played: Played | None
) -> SearchResult:
    out = problem.evaluate(x, choice)
    score = out["score"] if played is None else played.scores(x, choice)
    order = np.argsort(np.where(np.isfinite(score), score, 1e6 + out["merit"]), kind="stable")
    top = int(order[0])
    figures = {n: float(v) for n, v in zip(problem.names, out["y"][top], strict=True)}
    designs: dict[int, dict[str, Any]] = {}
    for i in order:
        number = int(choice[i])
        if number not in designs and np.isfinite(score[i]):
            value = float(np.exp(problem.sign * score[i]))
            designs[number] = problem.described(x[i], number) | {"objective": value}
    history = _history(problem, objective)
    if not designs:
        return SearchResult({}, float("nan"), False, figures, problem.evaluations, history, [])
    best, *runners_up = designs.values()
    value = best.pop("objective")
    scenario = problem.scenario_at(x[top], int(choice[top]))
    result = SearchResult(best, value, True, figures, problem.evaluations, history, runners_up, scenario)
    if played is None:
        return result
    fresh = numbers(played.play(scenario, seed=1))
    return dataclasses.replace(result, played=fresh, missed=played.missed(fresh))


def _history(problem: Problem, objective: Any) -> xr.Dataset:
    """The best feasible objective so far, evaluation by evaluation of the steady state."""
    scores = np.concatenate(problem.log)
    best = np.minimum.accumulate(scores)
    best = np.where(np.isfinite(best), np.exp(problem.sign * best), np.nan)
    name = objective if isinstance(objective, str) else "objective"
    attrs = {"sense": "min" if problem.sign > 0 else "max", "long_name": name}
    return xr.Dataset(
        {"objective": ("evaluation", best, attrs)}, coords={"evaluation": np.arange(1, len(best) + 1)}
    )
