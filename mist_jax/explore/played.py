"""Designs of a search judged by playback: the same requests for all of them (common random numbers).

The steady state knows means; a limit on a percentile, and a finite run with its ramp and its tail, are known to the
playback alone. Designs that play the same requests differ by what they are and not by what came along, so that small
differences show (A. Law, Simulation Modeling and Analysis, 5th ed., 11.2). Slopes stay those of the steady state.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.compose import with_overrides
from mist_jax.errors import ConfigError
from mist_jax.explore.problem import LOST, PENALTY, SLACK, Problem
from mist_jax.explore.sequential import standing
from mist_jax.schema import Scenario

#: Figures that a playback measures: name → its attribute.
MEASURED = {
    **{f"{n}_s": f"{n}_mean_s" for n in ("ttft", "tpot", "e2e")},
    "output_tokens_per_s": "output_tokens_per_s",
    "cost_per_million_output_tokens_usd": "cost_per_million_output_tokens_usd",
    "energy_per_output_token_j": "energy_per_output_token_j",
}
#: Figures of a percentile that constraints may name beside those of the steady state.
TAIL = re.compile(r"(ttft|tpot|e2e)_p(50|90|95|99)_s")


class Played:
    """What a playback of `requests` requests says of designs; `problem.tails` are limits on percentiles."""

    def __init__(self, problem: Problem, requests: float) -> None:
        self.problem, self.requests = problem, requests
        self.known: dict[tuple[int, bytes], dict[str, float] | None] = {}

    def assess(self, x: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(`standing`, limits) of designs, as `sequential.Assess`."""
        score, merit, c = self._judged(x, choice)
        return standing(score, merit), c

    def scores(self, x: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Signed log objective of designs, inf where they miss a limit."""
        return self._judged(x, choice)[0]

    def _judged(self, x: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        problem = self.problem
        out = problem.evaluate(x, choice)
        logs, c = np.log(out["y"]), out["c"].copy()
        lost = np.zeros(len(x), dtype=bool)
        for i in range(len(x)):
            figures = self._figures(x[i], int(choice[i]))
            if figures is None:
                lost[i] = True
                continue
            for k, name in enumerate(problem.names):
                measured = figures.get(MEASURED.get(name, ""), np.nan)
                if not measured > 0:
                    continue
                logs[i, k] = np.log(measured)
                over = [logs[i, k] - problem.mean_upper[k]]
                over += [
                    np.log(figures[tail] / limit)
                    for tail, (slot, limit) in problem.tails.items()
                    if slot == k
                ]
                c[i, 0, k], c[i, 1, k] = max(over), problem.lower[k] - logs[i, k]
        worst = problem.worst(c)
        objective = logs @ (problem.exponents * problem.sign)
        score = np.where(~lost & (worst <= SLACK), objective, np.inf)
        return score, np.where(lost, LOST, objective) + PENALTY * np.maximum(worst, 0.0), c

    def _figures(self, x: np.ndarray, choice: int) -> dict[str, float] | None:
        """Numbers of the playback of one design; None if it cannot be played."""
        key = (choice, np.round(x, 12).tobytes())
        if key not in self.known:
            scenario = self.problem.scenario_at(x, choice)
            try:
                self.known[key] = numbers(self.play(scenario))
            except ConfigError:
                self.known[key] = None
        return self.known[key]

    def play(self, scenario: Scenario, seed: int = 0) -> xr.Dataset:
        """The playback of a design; another `seed` gives other requests, except of a trace."""
        from mist_jax.play import play

        length = "workload.limit" if scenario.workload.arrivals == "trace" else "workload.requests"
        return play(with_overrides(scenario, {length: self.requests, "seed": scenario.seed + seed}))

    def missed(self, figures: dict[str, float]) -> list[str]:
        """Names of the limits that measured figures miss."""
        problem = self.problem
        out = [n for n, (_, limit) in problem.tails.items() if figures.get(n, 0.0) > limit * (1 + SLACK)]
        for k, name in enumerate(problem.names):
            value = figures.get(MEASURED.get(name, ""), np.nan)
            if np.isfinite(value) and problem.judged[:, k].any():
                low = problem.judged[1, k] and np.log(value) < problem.lower[k] - SLACK
                if np.log(value) > problem.mean_upper[k] + SLACK or low:
                    out.append(name)
        return out


def numbers(ds: xr.Dataset) -> dict[str, float]:
    """The numeric attributes of a playback."""
    return {
        k: float(v) for k, v in ds.attrs.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }


def split_tails(constraints: dict[str, Any], requests: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(constraints on figures, those on percentiles).

    Raises:
        ConfigError: percentiles without a playback.
    """
    tails = {n: v for n, v in constraints.items() if TAIL.fullmatch(n)}
    if tails and not requests:
        raise ConfigError(
            f"constraints.{next(iter(tails))}: percentiles are those of a playback; give `requests`, such as 2000"
        )
    return {n: v for n, v in constraints.items() if n not in tails}, tails
