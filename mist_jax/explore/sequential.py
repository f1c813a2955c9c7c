"""Sequential linear programs: from designs to the best ones near them, along the limits that bind.

The optimum of a design with limits lies where several of them meet, on a ridge that descents along one slope of a
penalty cross to and fro. Each round takes the slopes of the objective and of the limits at hand, solves the linear
program between them within a box (HiGHS, by SciPy), and evaluates its solution, a shorter step, whole numbers one up
and down with all else adapted, and the solution corrected by the limits as they turned out (J. Nocedal, S. Wright,
Numerical Optimization, 2nd ed., 18.3 and 18.5).

What a design is worth is said by `Assess`: the steady state, or the playback (`played`), whose limits are aimed at with
the slopes of the steady state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from mist_jax.explore.problem import PENALTY, Problem

#: Distance below a limit (of logarithms) up to which its slope is worth an evaluation.
NEAR = 0.4
#: Half width of the first box and of the last, in positions between the bounds.
BOX, SMALLEST = 0.12, 1e-4
#: Whole numbers further apart than this are tried one up and one down.
COARSE = 0.01
#: Times that a step is corrected by the limits at its end, and by how much at most they may be missed there.
CORRECTIONS, BENT = 4, 0.3
#: Weight of the augmented Lagrangian at which a multiplier of 1 adds the slope of its limit and nothing else.
NO_PENALTY = 1e-9

#: (positions [n, variables], choices [n]) → (`standing` [n], limits `c` [n, 2, figures])
Assess = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
#: (positions [k, variables], their `standing` [k], their limits [k, 2, figures]) of what is tried from one design
Tried = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass
class _Local:
    """The linear program at one design: slopes of the objective [n] and of limits [m, n], values of those [m]."""

    slope: np.ndarray
    jacobian: np.ndarray
    values: np.ndarray
    which: tuple[np.ndarray, ...]  #: places of the limits in `c`

    def step(self, low: np.ndarray, high: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The best step [n] between `low` and `high`; what no step meets is violated as little as can be."""
        from scipy.optimize import linprog

        n, m = len(self.slope), len(values)
        if not m:
            return np.where(self.slope > 0, low, high)
        rows = np.hstack([self.jacobian, -np.ones((m, 1))])
        bounds = np.vstack([np.stack([low, high], axis=1), [0.0, np.inf]])
        found = linprog(
            np.append(self.slope, PENALTY), A_ub=rows, b_ub=-values, bounds=bounds, method="highs"
        )
        return found.x[:n] if found.x is not None else np.zeros(n)


def standing(score: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """One number a design, less is better: feasible ones by their objective, before all others by their merit."""
    return np.where(np.isfinite(score), score - 1e6, merit)


def in_steady_state(problem: Problem) -> Assess:
    """Designs by their means."""

    def assess(x: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = problem.evaluate(x, choice)
        return standing(out["score"], out["merit"]), out["c"]

    return assess


def improve(
    problem: Problem,
    x: np.ndarray,
    choice: np.ndarray,
    assessed: tuple[np.ndarray, np.ndarray],
    rounds: int,
    assess: Assess,
    box: float = BOX,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(better positions, what `assess` says of them) of designs side by side.

    Args:
        problem: what is searched.
        x: [designs, variables] rounded positions. choice: [designs]. assessed: what `assess` says of them.
        rounds: linear programs a design at most.
        box: half width of the first box.
    """
    x, rank, limits = x.copy(), assessed[0].copy(), assessed[1].copy()
    n = len(problem.paths)
    width = np.full(len(x), box)
    for _ in range(rounds):
        live: list[int] = np.flatnonzero(width > SMALLEST).tolist()
        if not live:
            break
        local = _locals(problem, x, choice, limits, live)
        tried = {i: _trials(problem, local[i], x[i, :n], width[i]) for i in live}
        first = _assessed(problem, x, choice, tried, assess)
        seen = _corrected(problem, local, x, choice, width, first, rank, assess)
        for i in live:
            at, own, c = seen[i]
            best = int(own.argmin())
            if own[best] > rank[i] - 1e-9:
                width[i] *= 0.3
                continue
            moved = np.abs(at[best] - x[i]).max()
            width[i] = min(1.5 * width[i], 0.3) if moved > 0.7 * width[i] else max(0.5 * width[i], moved)
            x[i], rank[i], limits[i] = at[best], own[best], c[best]
    return x, (rank, limits)


def _locals(
    problem: Problem, x: np.ndarray, choice: np.ndarray, limits: np.ndarray, live: list[int]
) -> dict[int, _Local]:
    """The linear programs at the designs `live`: slopes of the steady state, values of `limits`."""
    n = len(problem.paths)
    slopes = problem.evaluate(x[live], choice[live], None, NO_PENALTY, slopes=True)["slope"][:, :n]
    near = [np.nonzero(problem.judged & (limits[i] > -NEAR)) for i in live]
    owners = np.repeat(np.arange(len(live)), [len(w[0]) for w in near])
    jacobian = np.zeros((0, n))
    if owners.size:
        multipliers = np.zeros((len(owners), *problem.judged.shape))
        places = np.concatenate([np.stack(w) for w in near], axis=1)
        multipliers[np.arange(len(owners)), places[0], places[1]] = 1.0
        at = np.asarray(live)[owners]
        both = problem.evaluate(x[at], choice[at], multipliers, NO_PENALTY, slopes=True)["slope"][:, :n]
        jacobian = both - slopes[owners]
    return {
        i: _Local(slopes[k], jacobian[owners == k], limits[i][near[k]], near[k]) for k, i in enumerate(live)
    }


def _spacing(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Distance of neighbouring whole numbers at x [n]; 0 for other variables."""
    n = len(problem.paths)
    return np.where(problem.whole, 1.0 / problem.values(x) / (problem.high - problem.low)[:n], 0.0)


def _box(problem: Problem, x: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest step from x [n]: the box, within the bounds."""
    return np.maximum(-width, -x), np.minimum(width, 1.0 - x)


def _trials(problem: Problem, local: _Local, x: np.ndarray, width: float) -> list[np.ndarray]:
    """Positions [n] to evaluate: the program's solution first."""
    low, high = _box(problem, x, width)
    step = local.step(low, high, local.values)
    coarse = _coarse(problem, x)
    steps = []
    if coarse.size:
        # whole numbers where they come to lie, and one up or down: the rest is adapted to them, however far that is
        ends = [(_whole_at(problem, x + step), width)]
        for k in coarse:
            ends += [(_whole_at(problem, x, int(k), by), max(width, BOX)) for by in (1.0, -1.0)]
        for end, wide in ends:
            lo, hi = _box(problem, x, wide)
            lo[coarse] = hi[coarse] = np.clip(end[coarse], 0.0, 1.0) - x[coarse]
            steps.append(local.step(lo, hi, local.values))
    else:
        steps.append(step)
    return [x + s for s in (steps[0], 0.4 * steps[0], *steps[1:])]


def _coarse(problem: Problem, x: np.ndarray) -> np.ndarray:
    """Variables whose neighbouring whole numbers are far apart at x [n]."""
    return np.flatnonzero(_spacing(problem, x) > COARSE)


def _corrected(
    problem: Problem,
    local: dict[int, _Local],
    x: np.ndarray,
    choice: np.ndarray,
    width: np.ndarray,
    first: dict[int, Tried],
    rank: np.ndarray,
    assess: Assess,
) -> dict[int, Tried]:
    """`first` with what comes of aiming again at limits that bent away under the first trial and the best other one.

    A whole number is one up or down and not less, so that a step to it does not get shorter: up to `CORRECTIONS` times,
    while a limit is missed whose meeting would make a better design.
    """
    seen, n = dict(first), len(problem.paths)
    pending: dict[int, list[tuple[np.ndarray, np.ndarray, bool]]] = {}
    for i, (at, own, c) in first.items():
        others = range(2, len(at))  # 1 is the short step
        which = [0, *sorted(others, key=lambda k, own=own: own[k])[:1]]
        pending[i] = [(at[k], c[k], k > 0) for k in which]
    for _ in range(CORRECTIONS):
        aims = {i: [_aim(problem, local[i], x[i, :n], width[i], *p) for p in ps] for i, ps in pending.items()}
        found = _assessed(problem, x, choice, aims, assess)
        still: dict[int, list[tuple[np.ndarray, np.ndarray, bool]]] = {}
        for i, (at, own, c) in found.items():
            seen[i] = tuple(np.concatenate(pair) for pair in zip(seen[i], (at, own, c), strict=True))  # type: ignore[assignment]
            worst = problem.worst(c)
            # the objective, were the limit met; a feasible design is done
            would = own - PENALTY * worst - (1e6 if rank[i] < -1e5 else 0.0)
            more = [k for k in range(len(at)) if 0 < worst[k] < BENT and own[k] > -1e5 and would[k] < rank[i]]
            if more:
                still[i] = [(at[k], c[k], pending[i][k][2]) for k in more]
        pending = still
        if not pending:
            break
    return seen


def _aim(
    problem: Problem,
    local: _Local,
    x: np.ndarray,
    width: float,
    at: np.ndarray,
    c: np.ndarray,
    far: bool,
) -> np.ndarray:
    """The position [n] at which the limits would be met if they had the values `c` at `at` and bent no more."""
    coarse, step = _coarse(problem, x), at[: len(x)] - x
    low, high = _box(problem, x, max(width, BOX) if far else width)
    low[coarse] = high[coarse] = step[coarse]
    return x + local.step(low, high, c[local.which] - local.jacobian @ step)


def _whole_at(problem: Problem, x: np.ndarray, which: int | None = None, by: float = 0.0) -> np.ndarray:
    """x [n] with whole variables at whole numbers, one of them moved `by` some."""
    n = len(problem.paths)
    values = problem.values(x)
    if which is not None:
        values[which] = max(values[which] + by, 1e-9)
    values = np.where(problem.whole, np.maximum(np.round(values), 1.0), values)
    return (np.log(values) - problem.low[:n]) / (problem.high - problem.low)[:n]


def _assessed(
    problem: Problem, x: np.ndarray, choice: np.ndarray, tried: dict[int, list[np.ndarray]], assess: Assess
) -> dict[int, Tried]:
    """design → (rounded positions, their standing, their limits) of what is tried from each."""
    owner = np.repeat(list(tried), [len(v) for v in tried.values()])
    at = x[owner]
    at[:, : len(problem.paths)] = np.clip(np.concatenate([np.stack(v) for v in tried.values()]), 0.0, 1.0)
    at = problem.rounded(at)
    rank, c = assess(at, choice[owner])
    return {i: (at[owner == i], rank[owner == i], c[owner == i]) for i in tried}
