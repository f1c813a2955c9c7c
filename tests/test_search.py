"""Search: against an exhaustive grid, constraints kept, whole numbers whole; chips; Pareto fronts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.explore import chip
from mist_jax.explore.problem import Problem

VARIABLES = {
    "workload.rate": (0.5, 60),
    "engine.max_num_batched_tokens": (128, 16384),
    "engine.max_num_seqs": (8, 1024),
}
LIMITS = {"ttft_s": "<= 0.5", "tpot_s": "<= 0.03"}
CHOICES = {"hardware": ["h100_sxm", "l40s"]}
COST = "cost_per_million_output_tokens_usd"


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["model=llama3_1_8b", "parallelism=tp1"])


@pytest.fixture(scope="module")
def found(scenario: mist.Scenario) -> mist.SearchResult:
    return mist.search(scenario, COST, VARIABLES, LIMITS, CHOICES)


@pytest.mark.slow
def test_search_reaches_the_grid(scenario: mist.Scenario, found: mist.SearchResult) -> None:
    axes = {
        "hardware": CHOICES["hardware"],
        "workload.rate": np.geomspace(0.5, 60, 60),
        "engine.max_num_batched_tokens": np.unique(np.round(np.geomspace(128, 16384, 16))),
        "engine.max_num_seqs": np.unique(np.round(np.geomspace(8, 1024, 20))),
    }
    ds = mist.sweep(scenario, axes, variables=[COST, "ttft_s", "tpot_s"])
    good = (ds.status == 0) & (ds.ttft_s <= 0.5) & (ds.tpot_s <= 0.03)
    assert found.objective <= 1.01 * float(ds[COST].where(good).min())
    assert found.evaluations < ds.status.size / 9


@pytest.mark.slow
def test_what_is_reported_is_evaluated_as_it_stands(found: mist.SearchResult) -> None:
    assert found.feasible
    assert found.scenario is not None
    single = mist.evaluate(found.scenario)
    np.testing.assert_allclose(float(single[COST]), found.objective, rtol=1e-6)
    assert float(single.ttft_s) <= 0.5 * (1 + 1e-5)
    assert float(single.tpot_s) <= 0.03 * (1 + 1e-5)
    for path in ("engine.max_num_batched_tokens", "engine.max_num_seqs"):
        assert found.best[path] == int(found.best[path])
    for path, (low, high) in VARIABLES.items():
        assert low - 1e-9 <= found.best[path] <= high + 1e-9
    assert {r["hardware"] for r in found.runners_up} | {found.best["hardware"]} == set(CHOICES["hardware"])
    assert all(r["objective"] >= found.objective for r in found.runners_up)
    history = found.history.objective.values
    assert len(history) == found.evaluations
    assert (np.diff(history[np.isfinite(history)]) <= 1e-15).all()


@pytest.mark.slow
def test_slopes_agree_with_differences(scenario: mist.Scenario) -> None:
    problem = Problem(
        scenario, "e2e_s", {"hardware.memory.bandwidth": (1e12, 8e12), "workload.rate": (0.5, 8)}
    )
    x = np.full((4, problem.low.size), 0.5)
    x[:, :2] = np.random.default_rng(1).uniform(0.1, 0.6, (4, 2))
    choice = np.zeros(4, dtype=int)
    slope = problem.evaluate(x, choice, slopes=True)["slope"]
    for k in range(2):
        up, down = x.copy(), x.copy()
        up[:, k] += 1e-4
        down[:, k] -= 1e-4
        difference = (problem.evaluate(up, choice)["total"] - problem.evaluate(down, choice)["total"]) / 2e-4
        np.testing.assert_allclose(slope[:, k], difference, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "cost"}, "objective: no 'cost'"),
        ({"objective": "ttft"}, "did you mean 'ttft_s'"),
        ({"variables": {"workload.rat": (1, 2)}}, "did you mean 'workload.rate'"),
        ({"variables": {"parallelism.tp": (1, 8)}}, "put it under choices"),
        ({"variables": {"workload.rate": (5, 1)}}, "0 < low < high"),
        ({"variables": {"workload.rate": 5}}, r"expected \(low, high\)"),
        ({"variables": {}}, "no variables"),
        ({"constraints": {"ttft_s": "< 2"}}, "write '<= 2.0'"),
        ({"constraints": {"ttft": 2}}, "did you mean 'ttft_s'"),
        ({"choices": {"hardware": ["h100_smx"]}}, "did you mean 'h100_sxm'"),
        ({"choices": {"workload.rate": [1, 2]}}, "both a variable and a choice"),
    ],
)
def test_problems_that_cannot_be(scenario: mist.Scenario, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mist.search(scenario, **{"variables": {"workload.rate": (1, 2)}, **changes})


def _chip(scenario: mist.Scenario) -> object:
    from mist_jax.build import build_hardware

    return build_hardware(scenario.hardware)


def test_the_h100_comes_out_near_its_die(scenario: mist.Scenario) -> None:
    """814 mm2 (NVIDIA H100 whitepaper): the logic density is set from it, the parts must add up."""
    area = float(chip.die_area(_chip(scenario), chip.ChipModel()))
    assert 700 < area < 900


def test_cost_rises_faster_than_area() -> None:
    """Yield falls and fewer dies fit, so twice the area costs more than twice."""
    model = chip.ChipModel()
    for area in (100.0, 200.0, 400.0):
        one = 1.0 / (chip.dies_per_wafer(area, model) * chip.die_yield(area, model))
        two = 1.0 / (chip.dies_per_wafer(2 * area, model) * chip.die_yield(2 * area, model))
        assert float(two) > 2 * float(one)
    assert float(chip.dies_per_wafer(814.0, model)) == pytest.approx(63.5, abs=2)


def test_fronts_hold_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    dims = ("a", "b")
    status = np.zeros((30, 40), np.int8)
    status[0] = 1
    ds = xr.Dataset(
        {
            "ttft_s": (dims, rng.random((30, 40))),
            "request_rate": (dims, rng.random((30, 40))),
            "status": (dims, status),
        },
        coords={"a": np.arange(30.0), "b": np.arange(40.0)},
    )
    front = mist.pareto(ds, ["ttft_s", "request_rate"])
    x, y = ds.ttft_s.values[1:].ravel(), ds.request_rate.values[1:].ravel()
    for p, q in zip(front.ttft_s.values, front.request_rate.values):
        assert not ((x < p) & (y > q)).any()
    assert (np.diff(front.request_rate.values) > 0).all()
    at = {d: front[d].values for d in dims}
    np.testing.assert_array_equal(
        ds.ttft_s.values[at["a"].astype(int), at["b"].astype(int)], front.ttft_s.values
    )
    assert 0.5 < front.attrs["hypervolume"] <= 1
    with pytest.raises(ConfigError, match="did you mean 'ttft_s'"):
        mist.pareto(ds, ["ttft", "request_rate"])
