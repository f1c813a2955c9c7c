"""Sweeps: the same figures as one evaluation at a time, whatever the axes; bad points carry a status."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax import build
from mist_jax.errors import ConfigError, Status
from mist_jax.explore import block
from mist_jax.explore.axes import parse_axes
from mist_jax.explore.deployments import SLOTS, Layout, Structure, build_deployment, is_direct
from mist_jax.explore.plan import Plan
from mist_jax.explore.sweep import count_status, require_some
from mist_jax.programs import Effort

BASE = ["model=llama3_1_8b", "parallelism=tp1", "hardware=h100_sxm"]
POOLED = [*BASE, "prefill=pool", "prefill.parallelism.tp=2"]


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(BASE)


@pytest.fixture(scope="module")
def pooled() -> mist.Scenario:
    return mist.load(POOLED)


AXES = {
    "hardware": ["h100_sxm", "l4", "mi300x"],
    "workload.rate": [0.5, 4.0],
    "parallelism.tp": [1, 2, 3],
    "engine.max_num_batched_tokens": [512, 8192],
    "model.precision.kv": [None, "fp8"],
}


@pytest.fixture(scope="module")
def swept(scenario: mist.Scenario) -> xr.Dataset:
    return mist.sweep(scenario, AXES, variables=[*block.variables_of(("open", False)), "breakdown_s"])


def _one(overrides: list[str], point: dict[str, object]) -> xr.Dataset:
    text = [f"{k}={'null' if v is None else v}" for k, v in point.items()]
    return mist.evaluate(mist.load([*overrides, *text]))


def _agree(point: xr.Dataset, single: xr.Dataset) -> None:
    for name in single.data_vars:
        if name in point:
            np.testing.assert_allclose(point[name].values, single[name].values, rtol=1e-9, err_msg=str(name))


def test_dimensions_follow_the_axes_with_units(swept: xr.Dataset) -> None:
    assert tuple(swept.ttft_s.dims) == tuple(AXES)
    assert swept.sizes == {**{k: len(v) for k, v in AXES.items()}, "part": swept.sizes["part"]}
    assert swept["workload.rate"].attrs["units"] == "1/s"
    assert list(swept["hardware"].values) == AXES["hardware"]
    assert all(swept[v].attrs["units"] for v in swept.data_vars)


@pytest.mark.parametrize(
    "index", [(0, 0, 0, 0, 0), (2, 1, 1, 1, 1), (0, 1, 1, 0, 1), (2, 0, 0, 1, 0), (1, 0, 1, 0, 1)]
)
def test_a_point_equals_one_evaluation(swept: xr.Dataset, index: tuple[int, ...]) -> None:
    point = {k: v[i] for (k, v), i in zip(AXES.items(), index)}
    _agree(swept.isel(dict(zip(AXES, index))), _one(BASE, point))


def test_indivisible_points_have_a_status_and_no_numbers(swept: xr.Dataset) -> None:
    bad = swept.sel({"parallelism.tp": 3})
    assert (bad.status == Status.BAD_PARALLELISM).all()
    assert np.isnan(bad.ttft_s).all()
    assert "does not divide the 32 attention heads" in swept.attrs["problems"][0]
    assert (swept.sel({"parallelism.tp": [1, 2]}).status != Status.BAD_PARALLELISM).all()


@pytest.mark.slow
def test_disaggregated_points_equal_one_evaluation(pooled: mist.Scenario) -> None:
    axes = {
        "prefill.parallelism.replicas": [1, 3],
        "hardware@prefill.hardware": ["h100_sxm", "a100_sxm"],
        "workload.rate": [1.0, 6.0],
        "transfer.bandwidth": ["10 GB/s", "100 GB/s"],
    }
    ds = mist.sweep(pooled, axes)
    assert ds["transfer.bandwidth"].values.tolist() == [1e10, 1e11]
    for index in [(0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 1, 0)]:
        point = {k: v[i] for (k, v), i in zip(axes.items(), index)}
        single = _one(POOLED, point)
        _agree(ds.isel(dict(zip(axes, index))), single)
        assert "prefill_wait_s" in single


@pytest.mark.parametrize("path", sorted(SLOTS))
def test_direct_numbers_agree_with_the_schema(
    path: str, scenario: mist.Scenario, pooled: mist.Scenario
) -> None:
    """Writing a number into its slot gives the deployment that the schema and `build` give."""
    base = pooled if path.startswith(("prefill.", "transfer.")) else scenario
    node: object = base
    for part in path.split("."):
        node = getattr(node, part)
    value = {
        "engine.memory_utilization": 0.7,
        "prefill.engine.memory_utilization": 0.7,
        "engine.draft_tokens": 3.0,
        "prefill.engine.draft_tokens": 3.0,
        "workload.burst_share": 0.3,
        "transfer.overlap": 0.5,
    }.get(
        path,
        0.25 if "hit_rate" in path else np.ceil(1.5 * (float(node) if node else 1e9)),  # type: ignore[arg-type]
    )
    axis = parse_axes(base, {path: [value]})[0]
    slow = build_deployment(mist.with_overrides(base, {path: value}))
    if not is_direct(axis, base):
        pytest.skip("built value by value")
    quick = build_deployment(base)
    layout = Layout(quick)
    columns = Structure(base, ()).columns
    column = next(iter(columns.values()))[:, 0].copy()
    row, scale = layout.rows(path)
    changed = column[row]
    column[row] = value * scale
    expected = np.concatenate([np.ravel(getattr(x, "values", x)) for x in _leaves(slow)])
    np.testing.assert_array_equal(column, expected)
    assert changed != value * scale


def _leaves(tree: object) -> list[np.ndarray]:
    import jax

    return jax.tree.leaves(tree)


def test_numeric_axes_build_nothing(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    from mist_jax import build

    calls = []
    real = build.assemble_system
    monkeypatch.setattr(build, "assemble_system", lambda *a, **k: calls.append(1) or real(*a, **k))
    axes = {
        "hardware.memory.bandwidth": np.linspace(1e12, 9e12, 40),
        "workload.rate": np.linspace(0.1, 4, 50),
    }
    ds = mist.sweep(scenario, {**axes, "model": ["llama3_1_8b", "qwen3_8b"]})
    assert len(calls) == 2
    assert ds.tpot_s.shape == (40, 50, 2)
    # laws: more bandwidth is never slower, more load never quicker
    ok = ds.where(ds.status == Status.OK)
    assert (ok.tpot_s.diff("hardware.memory.bandwidth").fillna(0) <= 1e-12).all()
    assert (ok.tpot_s.diff("workload.rate").fillna(0) >= -1e-12).all()


def test_boxes_of_any_size_give_the_same(scenario: mist.Scenario, swept: xr.Dataset) -> None:
    plan = Plan(scenario, AXES, box_points=10)
    assert np.prod(plan.chunks) <= 10
    assert len(plan.boxes()) > 5
    whole = {n: np.full(plan.shape, np.nan) for n in plan.variables}
    for box in plan.boxes():
        for name, values in plan.evaluate(box).items():
            whole[name][tuple(slice(*b) for b in box)] = values
    for name, values in whole.items():
        np.testing.assert_array_equal(values, swept[name].values, err_msg=name)


def test_unfit_deployments_are_sorted_out_by_the_first_look(
    scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {
        "model": ["llama3_1_8b", "llama3_1_70b"],
        "hardware": ["l4", "h100_sxm", "mi300x"],
        "workload.rate": [0.1, 1],
    }
    full = mist.sweep(scenario, axes)
    monkeypatch.setattr(block, "choose_shape", lambda *_: (4096, 1))
    real = block.PROGRAMS.get
    monkeypatch.setattr(block.PROGRAMS, "get", lambda *a, **k: real(*a, **{**k, "effort": Effort.LEAST}))
    looked = mist.sweep(scenario, axes)
    assert (full.status == Status.OUT_OF_MEMORY).any()
    for name in full.data_vars:
        # two shapes of one program: vectorized loops round the last bit differently
        np.testing.assert_allclose(looked[name].values, full[name].values, rtol=1e-12, err_msg=str(name))


def test_nothing_fits(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million infeasible points cost a look at their memory."""
    monkeypatch.setattr(block.PROGRAMS, "get", _no_solution(block.PROGRAMS.get))
    axes = {
        "model": ["llama3_1_405b"],
        "workload.rate": np.linspace(0.1, 9, 2000),
        "engine.block_size": np.arange(1, 501),
    }
    ds = mist.sweep(scenario, axes)
    assert ds.status.size == 1_000_000
    assert (ds.status == Status.OUT_OF_MEMORY).all()
    assert np.isnan(ds.ttft_s).all()
    assert (ds.kv_budget_bytes < 0).all()
    assert count_status(ds) == {Status.OUT_OF_MEMORY.text: 1_000_000}
    with pytest.raises(ConfigError, match="none of the 1000000 points works: 1000000 does not fit"):
        require_some(ds)


def _no_solution(real: object) -> object:
    def get(*args: object, look: bool = False) -> object:
        assert look, "an unfit deployment was solved"
        return real(*args, look=look)  # type: ignore[operator]

    return get


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"workload.rat": [1]}, r"no key 'rat'.*did you mean 'rate'"),
        ({"workloads.rate": [1]}, r"workloads.rate: unknown axis.*did you mean 'workload'"),
        ({"hardware": ["h100_sx"]}, r"hardware: got 'h100_sx' \(did you mean 'h100_sxm'"),
        ({"hardware.memory": [1]}, r"hardware.memory"),
        ({"workload.rate": []}, "the list of values is empty"),
        ({}, "no axes"),
        ({"workload.rate": 5}, "expected a list"),
        ({"workload.rate": "5"}, "expected a list"),
        ({"workload.rate": [1, -2]}, "workload.rate: got -2; must be at least 0"),
        ({"workload.rate": [1, "2 GB"]}, "is not a frequency"),
        ({"workload.rate": [1, 1.0]}, "occurs twice"),
        ({"workload.rate": [1, float("nan")]}, "(?i)nan"),
        ({"workload": ["chat"], "workload.isl": [0]}, "must be at least 1"),
        ({"workload.arrivals": ["closd"]}, "did you mean 'closed'"),
        ({"hardware@prefill.hardware": ["h100_sxm"]}, "prefill"),
    ],
)
def test_axes_that_cannot_be(scenario: mist.Scenario, axes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_some(mist.sweep(scenario, axes))


def test_unknown_variable(scenario: mist.Scenario) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ttft_s'"):
        mist.sweep(scenario, {"workload.rate": [1]}, variables=["ttft"])


def test_combinations_without_the_section_are_invalid(scenario: mist.Scenario) -> None:
    """A chip without scale-up links has no such bandwidth to vary."""
    axes = {"hardware": ["h100_sxm", "l40s"], "hardware.scale_up.bandwidth": ["100 GB/s", "900 GB/s"]}
    section = mist.load(["hardware=l40s"]).config["hardware"]["scale_up"]
    ds = mist.sweep(scenario, axes)
    expected = Status.INVALID if section is None else Status.OK
    assert (ds.sel(hardware="l40s").status == expected).all()
    assert (ds.sel(hardware="h100_sxm").status == Status.OK).all()


def test_policies_without_steady_state_have_a_status(scenario: mist.Scenario) -> None:
    """Those that the steady state describes are evaluated by the same program; the others are not given its figures."""
    policies = ["vllm", "sarathi", "orca", "static", "mixed", "sglang"]
    ds = mist.sweep(scenario, {"engine.policy": policies, "workload.rate": [0.5, 2.0]})
    for policy in policies:
        at = ds.sel({"engine.policy": policy})
        one = mist.load([*BASE, f"engine.policy={policy}", "workload.rate=2.0"])
        if policy not in build.STEADY_POLICIES:
            with pytest.raises(ConfigError) as refused:
                mist.evaluate(one)
            assert (at.status == Status.INVALID).all()
            assert np.isnan(at.ttft_s).all()
            assert str(refused.value) in ds.attrs["problems"]
            continue
        alone = mist.evaluate(one)
        assert (at.status == Status.OK).all()
        for name in alone.data_vars:
            if name in at:
                np.testing.assert_allclose(
                    at[name].values[1], alone[name].values, rtol=1e-9, err_msg=str(name)
                )


def test_short_names_of_chips(scenario: mist.Scenario) -> None:
    ds = mist.sweep(scenario, {"hardware": ["h100", "mi300x"]}, variables=["chips"])
    assert ds.hardware.values.tolist() == ["h100_sxm", "mi300x"]


def test_slo_is_judged_by_the_means(scenario: mist.Scenario) -> None:
    ds = mist.sweep(scenario, {"slo.tpot": ["1 ms", "1 s"], "workload.rate": [1.0]})
    assert ds.meets_slo.values.ravel().tolist() == [0.0, 1.0]


def test_plans_are_small_to_send(scenario: mist.Scenario) -> None:
    import pickle

    plan = Plan(scenario, AXES)
    assert plan.structure.columns
    again = pickle.loads(pickle.dumps(plan))
    assert "structure" not in again.__dict__
    assert again.fingerprint == plan.fingerprint
    assert dataclasses.asdict(again.axes[0]) == dataclasses.asdict(plan.axes[0])


@pytest.mark.slow
def test_block_shapes_agree(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested blocks give what the flat ones give, to rounding."""
    axes = {
        "hardware": ["h100_sxm", "mi300x"],
        "workload.rate": np.linspace(0.1, 9, 60),
        "workload.isl": [100, 3000],
    }
    results = []
    for shape in block.SHAPES:
        monkeypatch.setattr(block, "choose_shape", lambda *_, shape=shape: shape)
        results.append(mist.sweep(scenario, axes))
    for other in results[1:]:
        for name in results[0].data_vars:
            np.testing.assert_allclose(
                other[name].values, results[0][name].values, rtol=1e-9, err_msg=str(name)
            )


def test_no_warnings(scenario: mist.Scenario) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mist.sweep(scenario, {"workload.isl": [1, 200_000]})


def test_single_precision_keeps_six_digits_less_what_the_queue_amplifies(scenario: mist.Scenario) -> None:
    """float32 against float64 over a random design of chips, lengths, loads and settings; all figures.

    Single precision rounds to 6e-8, and what is computed here keeps some ten of those. The load that balances flow is
    found to that precision too, and latencies go as 1 / (1 - load) near saturation: so does their error. Measured:
    7e-7 / (1 - load) at most; the limit is three times that. Blocks are whole numbers: one may be lost or won.
    """
    rng = np.random.default_rng(5)
    axes = {
        "hardware": ["h100_sxm", "l4", "mi300x"],
        "parallelism": ["tp1", "tp4"],
        "model": ["llama3_1_8b", "qwen3_30b_a3b"],
        "workload.rate": np.sort(np.exp(rng.uniform(np.log(0.05), np.log(40), 8))),
        "workload.isl": np.sort(rng.integers(64, 8192, 5)),
        "workload.osl": np.sort(rng.integers(16, 2048, 4)),
        "engine.max_num_batched_tokens": [512, 8192],
    }
    double = mist.sweep(scenario, axes, progress=False)
    single = mist.sweep(scenario, axes, progress=False, dtype=np.float32)
    same = (double["status"] == single["status"]).values
    near = (np.abs(double["load"] - 1) < 1e-4).values
    assert (same | near).all()
    stable = same & (double["status"] == Status.OK).values
    assert stable.sum() > 1000
    spare = np.maximum(1 - double["load"].values[stable], 1e-3)
    for name in double.data_vars:
        if name in ("status", "meets_slo"):
            continue
        a, b = double[name].values[stable], single[name].values[stable]
        assert single[name].dtype == np.float32
        if name == "kv_blocks":
            assert np.abs(b - a).max() <= 1, name
            continue
        error = np.abs(b - a) / np.maximum(np.abs(a), 1e-6)
        assert (error * spare).max() < 2e-6, (name, (error * spare).max(), error.max())
