"""Search against an exhaustive grid of a million points, random search, CMA-ES and TPE, on three problems.

Every method reports designs that were evaluated as they stand, whole numbers rounded. The figure is the number of
evaluations (a gradient counts as one) until the best feasible design is within 1 % of the grid's optimum.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurement import Measurement

COST = "cost_per_million_output_tokens_usd"


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: what `mist.search` takes, and the sizes of the grid."""

    name: str
    overrides: list[str]
    objective: str
    variables: dict[str, tuple[float, float]]
    limits: dict[str, float]  #: upper limits
    choices: dict[str, list[Any]]
    sizes: tuple[int, ...]


CASES = (
    Case(
        "cheapest tokens while reading along",
        ["model=llama3_1_8b", "parallelism=tp1"],
        COST,
        {
            "workload.rate": (0.5, 60),
            "engine.max_num_batched_tokens": (128, 16384),
            "engine.max_num_seqs": (8, 1024),
        },
        {"ttft_s": 0.5, "tpot_s": 0.03},
        {"hardware": ["h100_sxm", "a100_sxm", "l40s"]},
        (150, 50, 50),
    ),
    Case(
        "least energy a token within an end-to-end limit",
        ["model=qwen3_32b", "hardware=h200_sxm", "parallelism=tp2"],
        "energy_per_output_token_j",
        {
            "workload.rate": (0.1, 30),
            "engine.max_num_batched_tokens": (256, 16384),
            "hardware.memory.bandwidth": (1e12, 8e12),
            "engine.max_num_seqs": (4, 512),
        },
        {"e2e_s": 10.0, "ttft_s": 1.0},
        {},
        (60, 20, 30, 30),
    ),
    Case(
        "quickest answers of a fleet of given price",
        ["model=llama3_1_70b"],
        "e2e_s",
        {
            "parallelism.replicas": (1, 16),
            "workload.rate": (5, 50),
            "engine.max_num_batched_tokens": (256, 16384),
        },
        {COST: 3.0, "ttft_s": 2.0},
        {"hardware": ["h100_sxm", "mi300x"], "parallelism": ["tp2", "tp4", "tp8"]},
        (16, 220, 72),
    ),
)


def grid_optimum(case: Case) -> tuple[float, int]:
    """(best feasible value, points) of the exhaustive grid."""
    import mist_jax as mist
    from mist_jax.explore.problem import WHOLE

    axes: dict[str, Any] = {**case.choices}
    for (path, (low, high)), size in zip(case.variables.items(), case.sizes, strict=True):
        values = np.geomspace(low, high, size)
        axes[path] = np.unique(np.round(values)) if path.rsplit(".", 1)[-1] in WHOLE else values
    ds = mist.sweep(mist.load(case.overrides), axes, variables=[case.objective, *case.limits], progress=False)
    good = ds["status"] == 0
    for name, limit in case.limits.items():
        good = good & (ds[name] <= limit)
    return float(ds[case.objective].where(good).min()), ds["status"].size


def _until(best: np.ndarray, target: float) -> int | None:
    at = np.flatnonzero(best <= target)
    return int(at[0]) + 1 if at.size else None


def random_search(problem: Any, budget: int, seed: int) -> np.ndarray:
    """Best objective so far of uniform random designs in log space."""
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(problem.structure.kind == 0)
    x = np.full((budget, problem.low.size), 0.5)
    x[:, : len(problem.paths)] = rng.random((budget, len(problem.paths)))
    out = problem.evaluate(problem.rounded(x), rng.choice(usable, budget))
    return np.exp(np.minimum.accumulate(out["score"]))


def cma_search(problem: Any, budget: int, seed: int) -> np.ndarray:
    """Best objective so far of CMA-ES with restarts, the budget split over the choices; infeasible by penalty."""
    import cma

    # in random order: the first choice listed may be the best
    usable = np.random.default_rng(seed).permutation(np.flatnonzero(problem.structure.kind == 0))
    n = len(problem.paths)
    scores: list[np.ndarray] = []
    share, spent = budget // len(usable), 0
    for number, choice in enumerate(usable):
        spent, restart = 0, 0
        while spent < share:
            start = np.random.default_rng(seed + 97 * number + restart).random(n)
            options = {"bounds": [0, 1], "seed": seed + restart + 1, "verbose": -9, "popsize": 16}
            es = cma.CMAEvolutionStrategy(start, 0.3, options)
            while not es.stop() and spent < share:
                asked = es.ask()
                x = np.full((len(asked), problem.low.size), 0.5)
                x[:, :n] = np.stack(asked)
                out = problem.evaluate(problem.rounded(x), np.full(len(asked), choice))
                es.tell(asked, out["merit"].tolist())
                scores.append(out["score"])
                spent += len(asked)
            restart += 1
    return np.exp(np.minimum.accumulate(np.concatenate(scores)))


def tpe_search(problem: Any, budget: int, seed: int) -> np.ndarray:
    """Best objective so far of Optuna's tree-structured Parzen estimator with its defaults; infeasible by penalty.

    J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, NeurIPS 2011. One design at a time; the choice is a category. Optuna's
    own constraints rank designs as the penalty does, and gave the same designs.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    usable = [int(c) for c in np.flatnonzero(problem.structure.kind == 0)]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    scores = np.empty(budget)
    for number in range(budget):
        trial = study.ask()
        x = np.full((1, problem.low.size), 0.5)
        x[0, : len(problem.paths)] = [trial.suggest_float(path, 0.0, 1.0) for path in problem.paths]
        choice = np.array([trial.suggest_categorical("choice", usable)])
        out = problem.evaluate(problem.rounded(x), choice)
        study.tell(trial, float(out["merit"][0]))
        scores[number] = out["score"][0]
    return np.exp(np.minimum.accumulate(scores))


def compare(case: Case) -> dict[str, Any]:
    """Grid, gradient search, random search, CMA-ES and TPE on one problem: the best after every evaluation."""
    import mist_jax as mist
    from mist_jax.explore.problem import Problem
    from mist_jax.explore.search import search

    optimum, points = grid_optimum(case)
    scenario = mist.load(case.overrides)
    limits = {k: f"<= {v}" for k, v in case.limits.items()}
    found = search(scenario, case.objective, case.variables, limits, case.choices or None)
    curve = np.nan_to_num(found.history["objective"].values, nan=np.inf)
    problem = Problem(scenario, case.objective, case.variables, limits, case.choices or None)
    curves = {
        "gradient search": [curve],
        "random search": [random_search(problem, len(curve), s) for s in range(3)],
        "CMA-ES": [cma_search(problem, len(curve), s) for s in range(3)],
        "TPE": [tpe_search(problem, len(curve), s) for s in range(3)],
    }
    return {"case": case, "optimum": optimum, "points": points, "found": found, "curves": curves}


def measurement(number: int, result: dict[str, Any]) -> Measurement:
    """Evaluations until within 1 % of the grid's optimum, beside random search."""
    optimum, found, curves = result["optimum"], result["found"], result["curves"]
    budget = len(curves["gradient search"][0])
    reached = {n: [_until(c, 1.01 * optimum) for c in cs] for n, cs in curves.items()}
    details: dict[str, Any] = {
        "case": result["case"].name, "grid_points": result["points"], "grid_optimum": optimum,
        "found": found.objective, "over_optimum": found.objective / optimum - 1, "evaluations": budget,
        "best": found.best,
    }  # fmt: skip
    for name, cs in curves.items():
        if name != "gradient search":
            key = name.replace(" ", "_").replace("-", "_").lower()
            details[f"{key}_over_optimum"] = [float(c[-1] / optimum - 1) for c in cs]
            details[f"{key}_reached"] = reached[name]
    arrived = [n for n in reached["random search"] if n]
    all_arrive = len(arrived) == len(reached["random search"])
    needs = float(np.median(arrived)) if all_arrive else float(budget)
    value = float(reached["gradient search"][0] or budget)
    what = "random search" + ("" if all_arrive else ", which does not arrive in as many evaluations")
    return Measurement(f"search_{number}", value, "evaluations", needs, what, needs / value, details)


def measure() -> list[Measurement]:
    """One figure a problem, and the median as `search`."""
    from mist_jax.application import start_jax

    start_jax()
    out = [measurement(i + 1, compare(case)) for i, case in enumerate(CASES)]
    middle = int(np.argsort([m.value for m in out])[1])
    return [dataclasses.replace(out[middle], name="search"), *out]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """How far above the grid's optimum each method is after how many evaluations; one panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(4.2 * len(results), 3.6), squeeze=False)
    for panel, result in zip(panels[0], results, strict=True):
        for color, (name, curves) in zip(("C0", "C1", "C2", "C3"), result["curves"].items(), strict=True):
            for i, curve in enumerate(curves):
                over = np.where(np.isfinite(curve), 100 * (curve / result["optimum"] - 1), np.nan)
                at = np.arange(1, len(curve) + 1)
                panel.plot(at, over, color=color, lw=1.4, label=name if i == 0 else None)
        panel.axhline(1, color="0.5", lw=0.8, ls=":")
        panel.set(xscale="log", ylim=(-6, 40), xlabel="evaluations")
        panel.set_title(result["case"].name, fontsize=9)
    panels[0][0].set_ylabel("above the optimum of the grid (%)")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    # python -m benchmarks.search docs/search_curves.png
    from mist_jax.application import start_jax

    start_jax()
    everything = [compare(case) for case in CASES]
    plot(everything, Path(sys.argv[1] if len(sys.argv) > 1 else "search_curves.png"))
    for number, one in enumerate(everything):
        print(json.dumps(measurement(number + 1, one).to_json(), default=str))
