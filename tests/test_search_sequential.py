"""Linear programs along limits, on problems whose optimum is known; designs polished on the playback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.explore.sequential import improve, in_steady_state

COST = "cost_per_million_output_tokens_usd"


class Curved:
    """Minimize a b with a b^2 c >= 40 (bent), a >= 3 c, all in 1 to 100, c whole: two limits and c fix the corner."""

    low = np.log(np.array([1.0, 1.0, 1.0]))
    high = np.log(np.array([100.0, 100.0, 100.0]))
    whole = (False, False, True)
    paths = ("a", "b", "c")
    judged = np.array([[False, False], [True, True]])

    def worst(self, c: np.ndarray) -> np.ndarray:
        return np.where(self.judged, c, -1.0).max(axis=(1, 2))

    def values(self, x: np.ndarray) -> np.ndarray:
        return np.exp(self.low + x * (self.high - self.low))

    def rounded(self, x: np.ndarray) -> np.ndarray:
        v = self.values(x)
        v[..., 2] = np.round(v[..., 2])
        return (np.log(v) - self.low) / (self.high - self.low)

    def evaluate(
        self,
        x: np.ndarray,
        choice: Any,
        multipliers: Any = None,
        weight: float = 10.0,
        *,
        slopes: bool = False,
    ) -> Any:
        a, b, c = np.log(self.values(x)).T
        limits = np.full((len(x), 2, 2), -1.0)
        # bent: a square of the distance makes the limits curves in log space
        limits[:, 1, 0] = np.log(40) - (a + 2 * b + c) + 0.05 * (a - b) ** 2
        limits[:, 1, 1] = np.log(3) - (a - c)
        scale = self.high - self.low
        slope = np.tile([1.0, 1.0, 0.0], (len(x), 1))
        grads = np.stack([
            np.stack([-1 + 0.1 * (a - b), -2 - 0.1 * (a - b), -np.ones_like(a)], axis=1),
            np.tile([-1.0, 0.0, 1.0], (len(x), 1)),
        ], axis=1)  # fmt: skip
        if multipliers is not None:
            slope = slope + np.einsum("nj,njk->nk", multipliers[:, 1], grads)
        worst = self.worst(limits)
        return {
            "slope": slope * scale, "c": limits, "merit": a + b + 100 * np.maximum(worst, 0),
            "score": np.where(worst <= 1e-6, a + b, np.inf),
        }  # fmt: skip


def _optima() -> dict[int, float]:
    """Whole c → the best of a fine grid."""
    a, b = np.meshgrid(np.geomspace(1, 100, 1000), np.geomspace(1, 100, 1000), indexing="ij")
    out = {}
    for c in range(1, 5):
        values = np.stack([a, b, np.full_like(a, c)], axis=-1).reshape(-1, 3)
        x = (np.log(values) - Curved.low) / (Curved.high - Curved.low)
        out[c] = float(Curved().evaluate(x, None)["score"].min())
    return out


def test_linear_programs_find_the_corner_of_bent_limits() -> None:
    problem: Any = Curved()
    optima = _optima()
    x = problem.rounded(np.random.default_rng(0).random((6, 3)))
    choice = np.zeros(6, dtype=int)
    assess = in_steady_state(problem)
    start = assess(x, choice)
    found, (rank, _) = improve(problem, x, choice, start, 20, assess)
    assert (rank <= start[0]).all()
    score = problem.evaluate(found, choice)["score"]
    whole = problem.values(found)[:, 2]
    np.testing.assert_allclose(whole, np.round(whole))
    # each ends at the corner of its whole number (a grid of a million points is 1 % apart), half of them at the best
    for value, c in zip(score, np.round(whole).astype(int), strict=True):
        assert optima[c] - 0.02 < value < optima[c] + 1e-3
    assert (score < min(optima.values()) + 1e-3).sum() >= 3


def test_percentiles_need_a_playback() -> None:
    scenario = mist.load(["model=llama3_1_8b", "parallelism=tp1"])
    with pytest.raises(ConfigError, match=r"constraints\.ttft_p99_s.*requests"):
        mist.search(scenario, COST, {"workload.rate": (1, 40)}, {"ttft_p99_s": "<= 1"})
    with pytest.raises(ConfigError, match=r"constraints\.ttft_p99_s.*upper limit"):
        mist.search(scenario, COST, {"workload.rate": (1, 40)}, {"ttft_p99_s": ">= 1"}, requests=100)


@pytest.mark.slow
def test_designs_are_polished_on_the_playback() -> None:
    """What is reported meets the limits where it was played, and is better than backing off until they are met."""
    scenario = mist.load(["model=llama3_1_8b", "parallelism=tp1", "hardware=h100_sxm"])
    variables = {"workload.rate": (0.5, 60), "engine.max_num_batched_tokens": (128, 16384)}
    limits = {"ttft_s": "<= 0.5", "tpot_p99_s": "<= 0.03"}
    found = mist.search(scenario, COST, variables, limits, requests=1500)
    assert found.feasible
    assert found.scenario is not None
    seen = mist.play(mist.with_overrides(found.scenario, {"workload.requests": 1500})).attrs
    assert seen["tpot_p99_s"] <= 0.03 * (1 + 1e-6)
    assert seen["ttft_mean_s"] <= 0.5 * (1 + 1e-6)
    assert seen[COST] == pytest.approx(found.objective, rel=1e-9)
    assert seen["tpot_p99_s"] > 0.028  # the limit binds
    # other requests: some other tail, counted as missed or not by the same limits
    assert ("tpot_p99_s" in found.missed) == (found.played["tpot_p99_s"] > 0.03 * (1 + 1e-6))
    tokens = found.best["engine.max_num_batched_tokens"]
    for rate in np.linspace(0.5, 0.95, 8) * found.best["workload.rate"]:
        changes = {
            "workload.rate": float(rate),
            "engine.max_num_batched_tokens": tokens,
            "workload.requests": 1500,
        }
        other = mist.play(mist.with_overrides(scenario, changes)).attrs
        assert other[COST] > found.objective or other["tpot_p99_s"] > 0.03
    again = mist.search(scenario, COST, variables, limits, requests=1500)
    assert again.best == found.best
    assert again.played == found.played
