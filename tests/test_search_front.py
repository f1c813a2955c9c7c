"""Fronts by evolution: against the front of a grid, limits kept, whole numbers whole, from the command line too."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax.errors import ConfigError

OBJECTIVES = ["tpot_s", "cost_per_million_output_tokens_usd"]
VARIABLES = {"workload.rate": (0.5, 60), "engine.max_num_batched_tokens": (128, 16384)}
CHOICES = {"hardware": ["h100_sxm", "l40s"]}


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["model=llama3_1_8b", "parallelism=tp1"])


def _volume(front: xr.Dataset, low: np.ndarray, high: np.ndarray) -> float:
    import moocore

    return float(moocore.hypervolume((_logs(front) - low) / (high - low), ref=np.full(2, 1.05)))


def _logs(front: xr.Dataset) -> np.ndarray:
    return np.log(np.stack([front[o].values for o in OBJECTIVES], axis=1))


@pytest.mark.slow
def test_the_front_of_a_grid_is_reached(scenario: mist.Scenario) -> None:
    pytest.importorskip("pymoo")
    front = mist.search_front(scenario, OBJECTIVES, VARIABLES, {"ttft_s": "<= 1"}, CHOICES, evaluations=1000)
    assert 1000 <= front.attrs["evaluations"] < 1100
    assert (front.ttft_s <= 1.0 + 1e-6).all()
    tokens = front["engine.max_num_batched_tokens"].values
    np.testing.assert_array_equal(tokens, np.round(tokens))
    # nothing on the front is beaten by another point of it
    tpot, cost = (front[o].values for o in OBJECTIVES)
    for a, b in zip(tpot, cost, strict=True):
        assert not ((tpot <= a) & (cost < b)).any()
    # a design of it evaluates to what is said
    at = front.isel(point=len(tpot) // 2)
    changes = {path: float(at[path]) for path in VARIABLES}
    single = mist.evaluate(mist.load(["model=llama3_1_8b", "parallelism=tp1", f"hardware={at.hardware.item()}",
                                      *(f"{k}={v}" for k, v in changes.items())]))  # fmt: skip
    for name in OBJECTIVES:
        np.testing.assert_allclose(float(single[name]), float(at[name]), rtol=1e-6)
    # what its picture and its report are made of
    assert front.sizes["evaluation"] == front.attrs["evaluations"]
    assert float(front.hypervolume[-1]) == pytest.approx(front.attrs["hypervolume"], rel=1e-12)
    feasible = np.isfinite(front.evaluated_tpot_s.values)
    assert front.evaluated_tpot_s.values[feasible].min() == pytest.approx(tpot.min(), rel=1e-12)
    assert front["workload.rate"].attrs == {"units": "1/s", "low": 0.5, "high": 60.0}
    assert front.hardware.attrs["options"] == "h100_sxm, l40s"
    assert front.ttft_s.attrs["upper_limit"] == pytest.approx(1.0)
    # `evaluate` names the same resource
    assert front.bottleneck.values[0] == "device_memory"
    assert single.attrs["bottleneck"].removeprefix("engine: ") == at.bottleneck.item()
    # as much as a grid of 9,000 points
    grid = mist.sweep(
        scenario,
        {
            **CHOICES,
            "workload.rate": np.geomspace(0.5, 60, 90),
            "engine.max_num_batched_tokens": np.unique(np.round(np.geomspace(128, 16384, 50))),
        },
        variables=[*OBJECTIVES, "ttft_s"],
    )
    grid["status"] = grid.status.where(grid.ttft_s <= 1.0, 3)
    best = mist.pareto(grid, OBJECTIVES)
    both = np.concatenate([_logs(front), _logs(best)])
    low, high = both.min(axis=0), both.max(axis=0)
    assert _volume(front, low, high) > 0.995 * _volume(best, low, high)
    again = mist.search_front(scenario, OBJECTIVES, VARIABLES, {"ttft_s": "<= 1"}, CHOICES, evaluations=1000)
    xr.testing.assert_identical(front, again)


def test_fronts_that_cannot_be(scenario: mist.Scenario) -> None:
    pytest.importorskip("pymoo")
    with pytest.raises(ConfigError, match="two or more"):
        mist.search_front(scenario, ["tpot_s"], VARIABLES)
    with pytest.raises(ConfigError, match="did you mean 'tpot_s'"):
        mist.search_front(scenario, ["tpot", "power_w"], VARIABLES)
    with pytest.raises(ConfigError, match="no variables"):
        mist.search_front(scenario, OBJECTIVES, {})
