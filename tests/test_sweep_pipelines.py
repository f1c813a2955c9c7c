"""Sweeps over pipelines: the numbers of `evaluate` one at a time, whatever the axes, in one program a structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax.errors import ConfigError, Status

PIPELINES = [
    "chat", "rag", "agentic", "cascade", "cross_vendor", "cross_vendor_tpu", "long_context_remote_kv",
    "rag_rerank_guard", "reasoning_best_of_n",
]  # fmt: skip
#: Of these, those with a prefill pool: a large program of their own.
POOLED = ["cross_vendor", "cross_vendor_tpu"]
HOST = ["pipeline=rag", "workload.rate=1"]


def compare(point: xr.Dataset, overrides: list[str]) -> int:
    """Every variable of `evaluate` that a sweep has, at one point; the status."""
    try:
        alone = mist.evaluate(mist.load(overrides))
    except ConfigError:
        alone = None
    if alone is None:
        assert int(point.status) != Status.OK
        assert np.isnan(float(point.e2e_s))
        return int(point.status)
    for name in alone.data_vars:
        if name not in point:
            continue
        mine, other = point[name], alone[name]
        if "stage" in other.dims:
            assert np.isnan(mine.drop_sel(stage=other.stage.values)).all()
            mine = mine.sel(stage=other.stage)
        np.testing.assert_allclose(
            mine.values, other.values, rtol=1e-9, atol=1e-12, err_msg=f"{name} {overrides}"
        )
    return int(point.status)


def check(ds: xr.Dataset, base: list[str], points: int, seed: int = 0) -> set[int]:
    """Random points of a sweep against `evaluate`; the statuses met."""
    rng = np.random.default_rng(seed)
    axes = list(ds.status.dims)
    found = set()
    for _ in range(points):
        at = {d: int(rng.integers(ds.sizes[d])) for d in axes}
        given = [
            f"{'+' if str(d).startswith('pipeline.') else ''}{d}={ds[d].values[i]}" for d, i in at.items()
        ]
        found.add(compare(ds.isel(at), [*base, *given]))
    return found


def swept(pipelines: list[str]) -> xr.Dataset:
    axes = {
        "pipeline": pipelines,
        "hardware": ["h100_sxm", "mi300x"],
        "parallelism": ["tp8", "tp1"],
        "workload.rate": [0.05, 0.7, 4.0, 400.0],
        "workload.isl": [700.0, 2500.0],
    }
    return mist.sweep(mist.load(), axes)


@pytest.fixture(scope="module")
def everything() -> xr.Dataset:
    """All but the pooled pipelines."""
    return swept([p for p in PIPELINES if p not in POOLED])


@pytest.fixture(scope="module")
def with_pooled() -> xr.Dataset:
    """All pipelines."""
    return swept(PIPELINES)


def gives_what_evaluate_gives(ds: xr.Dataset, pipeline: str) -> None:
    met = check(ds.sel(pipeline=pipeline), [f"pipeline={pipeline}"], 4, seed=PIPELINES.index(pipeline))
    assert Status.OK in met or len(met) > 1
    assert "stage" in ds.stage_s.dims
    short = ds.sel(hardware="h100_sxm", parallelism="tp1", pipeline=pipeline)
    assert (short.status == Status.OUT_OF_MEMORY).all()


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", [p for p in PIPELINES if p not in POOLED])
def test_every_pipeline_gives_what_evaluate_gives(everything: xr.Dataset, pipeline: str) -> None:
    gives_what_evaluate_gives(everything, pipeline)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pooled_pipelines_beside_the_others(with_pooled: xr.Dataset, pipeline: str) -> None:
    """With pools the points of a sweep have two programs; nobody's numbers depend on who shares the sweep."""
    gives_what_evaluate_gives(with_pooled, pipeline)


@pytest.mark.slow
def test_overload_is_unstable_and_says_no_more_than_it_knows(everything: xr.Dataset) -> None:
    """The LLM's overload keeps its figures at the limit; that of a service has none."""
    over = everything.sel(
        {"hardware": "h100_sxm", "parallelism": "tp8", "workload.rate": 400.0, "workload.isl": 700.0}
    )
    assert (over.status == Status.UNSTABLE).all()
    assert np.isfinite(over.e2e_s.sel(pipeline="agentic"))
    assert np.isnan(over.e2e_s.sel(pipeline="rag_rerank_guard"))


@pytest.mark.slow
def test_figures_per_request_compare_pipelines_with_plain_chat(everything: xr.Dataset) -> None:
    at = everything.sel(
        {"hardware": "h100_sxm", "parallelism": "tp8", "workload.rate": 0.7, "workload.isl": 700.0}
    )
    chat, rag = at.sel(pipeline="chat"), at.sel(pipeline="rag")
    assert float(chat.cost_per_request_usd) == pytest.approx(
        float(chat.cost_per_million_output_tokens_usd) * mist.load().workload.osl * 1e-6
    )
    assert rag.cost_per_request_usd > chat.cost_per_request_usd
    assert np.isnan(chat.stage_s).all()


@pytest.mark.parametrize(
    "pipeline",
    ["rag", *(pytest.param(p, marks=pytest.mark.slow) for p in ("agentic", "cross_vendor", "cascade"))],
)
def test_closed_loops(pipeline: str) -> None:
    base = [f"pipeline={pipeline}", "workload.arrivals=closed"]
    ds = mist.sweep(
        mist.load(base), {"workload.concurrency": [1.0, 6.0, 40.0], "workload.osl": [50.0, 300.0]}
    )
    assert check(ds, base, 4) == {Status.OK}


def test_closed_loops_settle_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is where the requests in the pool and elsewhere are all that there are; halving took 20 rounds."""
    from mist_jax.pipelines import closed
    from mist_jax.pipelines.batch import Batch

    rounds, ends = [], []
    at, held = Batch.at, closed._held
    monkeypatch.setattr(
        Batch, "at", lambda self, *args, **more: (rounds.append(1), at(self, *args, **more))[1]
    )
    monkeypatch.setattr(closed, "_held", lambda *args: (ends.append(args), held(*args))[1])
    base = mist.load(["pipeline=rag", "workload.arrivals=closed"])
    ds = mist.sweep(base, {"workload.concurrency": [1.0, 6.0, 40.0], "workload.osl": [50.0, 300.0]})
    assert len(rounds) <= 7
    batch, offered, inside = ends[-1]
    everyone = np.repeat([1.0, 6.0, 40.0], 2)
    np.testing.assert_array_equal(inside, everyone - offered.rate * closed._elsewhere(batch, offered))
    found = closed._excess(batch, offered, everyone, np.ones(6))
    np.testing.assert_allclose((found / offered.rate)[2:], 0.0, atol=1e-7)
    assert (found[:2] >= 0).all()  # one request is never sooner back than with nobody else there
    np.testing.assert_array_equal(ds.request_rate.values.ravel(), offered.rate)


@pytest.mark.parametrize(
    ("function", "root"),
    [
        (lambda x: 2.0 - x, 2.0),
        (lambda x: np.minimum(50.0, 400.0 - 50.0 * x) - x, 400.0 / 51.0),  # a pool that is full, then a cliff
        (
            lambda x: 3.0 - x - 0.1 / np.maximum(1.0 - x, 1e-4),
            2.0 - np.sqrt(1.1),
        ),  # a queue's pole, then its limit
        (lambda x: np.where(x < 0.7, 5.0, -5.0) - x, 0.7),  # jumps across zero
        (lambda x: np.where(x < 0.7, 1.0 - x, np.nan), 0.7),  # nothing beyond
    ],
)
def test_the_root_of_a_closed_loop(function: Any, root: float) -> None:
    from mist_jax.pipelines.closed import falling_root

    calls = []
    high, guesses = np.full(4, 20.0), np.array([0.01, 0.8 * root, 3.0, 30.0])
    found = falling_root(
        lambda _, x: (calls.append(1), function(x))[1], np.full(4, float(function(0.0))), guesses, high
    )
    np.testing.assert_allclose(found, root, rtol=1e-6)
    assert len(calls) < 40
    if root == 0.7:
        assert (found < root).all()  # the side on which the services keep up


def test_settings_of_stages_clients_engine_and_plan() -> None:
    """A setting that the pipeline leaves to its default is an axis too."""
    axes = {
        "pipeline.stages.search.nprobe": [16, 128],
        "pipeline.stages.embed.max_batch": [1, 32],
        "pipeline.clients.host.count": [1, 2],
        "parallelism": ["tp4", "tp8"],
        "engine.max_num_batched_tokens": [512, 8192],
        "hardware.memory.bandwidth": [2e12, 4e12],
        "workload.rate": [0.5, 3.0],
    }
    ds = mist.sweep(mist.load(HOST), axes)
    rng = np.random.default_rng(3)
    for _ in range(4):
        at = {d: int(rng.integers(ds.sizes[d])) for d in axes}
        given = [f"{'++' if d.startswith('pipeline.') else ''}{d}={ds[d].values[i]}" for d, i in at.items()]
        assert compare(ds.isel(at), [*HOST, *given]) in (Status.OK, Status.UNSTABLE)
    more = ds.stage_s.sel(stage="search")
    assert (
        more.isel({"pipeline.stages.search.nprobe": 1}) > more.isel({"pipeline.stages.search.nprobe": 0})
    ).all()


def test_whole_clients() -> None:
    """Options of a client, and what is inside it after them: what `load` makes of them."""
    axes = {"pipeline.clients.encoder": ["small_gpu", "cpu_server", "guard_llm"], "workload.rate": [0.5, 2.0]}
    ds = mist.sweep(mist.load(HOST), axes)
    for option in axes["pipeline.clients.encoder"]:
        given = [f"client@pipeline.clients.encoder={option}", "workload.rate=2"]
        found = compare(ds.sel({"pipeline.clients.encoder": option, "workload.rate": 2.0}), [*HOST, *given])
        assert (found == Status.OK) == (option != "cpu_server")  # which has no accelerator
    assert "'embed' cannot run on client 'encoder'" in ds.attrs["problems"][0]
    both = {
        "pipeline.clients.encoder.hardware": ["l40s"],
        "client@pipeline.clients.encoder": ["small_gpu", "cpu_server"],
    }
    ds = mist.sweep(mist.load([*HOST, "workload.rate=2"]), both)
    for option in both["client@pipeline.clients.encoder"]:
        given = [f"client@pipeline.clients.encoder={option}", "workload.rate=2"]
        given.append("hardware@pipeline.clients.encoder.hardware=l40s")
        point = ds.sel({"client@pipeline.clients.encoder": option}).squeeze()
        assert compare(point, [*HOST, *given]) == Status.OK


def test_options_inside_clients() -> None:
    """A chip, model, plan and engine of a client, by place or as Hydra writes them: what `load` makes of them."""
    base = ["pipeline=cascade", "workload.rate=0.5"]
    axes = {
        "pipeline.clients.small.hardware": ["l40s", "h100"],
        "model@pipeline.clients.small.model": ["llama3_1_8b", "qwen2_5_7b"],
        "pipeline.clients.small.parallelism": ["tp1", "tp8"],
        "pipeline.clients.small.engine": ["vllm", "sglang"],
        "pipeline.clients.small.hardware.memory.bandwidth": ["1 TB/s", 2e12],
    }
    ds = mist.sweep(mist.load(base), axes)
    assert ds["pipeline.clients.small.hardware"].values.tolist() == ["l40s", "h100_sxm"]
    assert ds["pipeline.clients.small.hardware.memory.bandwidth"].attrs["units"] == "byte/s"
    fails = ds.status != Status.OK
    assert fails.sum() == 8  # 28 heads
    assert fails.sel(
        {"model@pipeline.clients.small.model": "qwen2_5_7b", "pipeline.clients.small.parallelism": "tp8"}
    ).all()
    rng = np.random.default_rng(1)
    for _ in range(2):
        at = {d: int(rng.integers(ds.sizes[d])) for d in axes}
        names = [d if "@" in d or d.endswith("width") else f"{d.split('.')[-1]}@{d}" for d in at]
        given = [f"{n}={ds[d].values[i]}" for n, (d, i) in zip(names, at.items(), strict=True)]
        compare(ds.isel(at), [*base, *given])
    with pytest.raises(ConfigError, match=r"write hardware@pipeline\.clients\.small\.hardware=l4"):
        mist.evaluate(mist.load([*base, "pipeline.clients.small.hardware=l4"]))


def test_a_chip_on_which_a_stage_cannot_run_is_a_point_that_cannot_be() -> None:
    ds = mist.sweep(mist.load(HOST), {"pipeline.clients.encoder.hardware": ["l4", "xeon_8480"]})
    assert ds.status.values.tolist() == [Status.OK, Status.INVALID]
    assert "pipeline.stages.embed" in ds.attrs["problems"][0]


def test_what_cannot_be_has_a_status_and_a_reason() -> None:
    axes = {
        "engine.policy": ["vllm", "static"],
        "parallelism": ["tp4", "tp8"],
        "model": ["llama3_1_8b", "qwen2_5_7b"],
    }
    ds = mist.sweep(mist.load(HOST), axes)
    assert (ds.status.sel({"engine.policy": "static"}).values[0] == Status.INVALID).all()
    assert (
        int(ds.status.sel({"engine.policy": "vllm", "parallelism": "tp8", "model": "llama3_1_8b"}))
        == Status.OK
    )
    assert np.isnan(ds.e2e_s.where(ds.status != Status.OK)).all()
    divides = ds.status.sel({"engine.policy": "vllm", "model": "qwen2_5_7b"})
    assert divides.values.tolist() == [Status.OK, Status.BAD_PARALLELISM]  # 28 heads
    assert any("mode=play" in text for text in ds.attrs["problems"])


def test_a_setting_that_only_some_pipelines_have() -> None:
    axes = {"pipeline": ["rag", "chat"], "pipeline.stages.search.nprobe": [16, 64]}
    ds = mist.sweep(mist.load(["workload.rate=1"]), axes)
    assert (ds.status.sel(pipeline="rag") == Status.OK).all()
    assert (ds.status.sel(pipeline="chat") == Status.INVALID).all()


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"pipeline": ["rga"]}, "did you mean 'rag'"),
        ({"pipeline.stages.serch.nprobe": [1]}, "did you mean 'search'"),
        ({"pipeline.stages.search.nprob": [1]}, "did you mean 'nprobe'"),
        ({"pipeline.stages.search.nprobe": []}, "empty"),
        ({"pipeline.stages.search.nprobe": [-1]}, "nprobe"),
        ({"pipeline.stages": [1]}, "section"),
        (
            {"pipeline.clients.encodr.hardware": ["l4"]},
            r"no client 'encodr' \(did you mean 'encoder'\?\); there are: host,",
        ),
        (
            {"pipeline.clients.encoder.hardware": ["l5"]},
            r"encoder.hardware: got 'l5' \(did you mean 'l4'\?\); allowed: a10,",
        ),
        ({"pipeline.clients.engine.hardware": ["l4"]}, "the scenario's own pool; its axis is hardware"),
        (
            {"engine@pipeline.clients.encoder": ["vllm"]},
            "no axis; a client is pipeline.clients.encoder, the groups inside it are hardware, model,",
        ),
        ({"pipeline.clients.encoder.count": [1, 0]}, "count: got 0; must be at least 1"),
        (
            {"pipeline.clients.host.hardware": ["l4"], "hardware@pipeline.clients.host.hardware": ["l4"]},
            "is the axis pipeline.clients.host.hardware again",
        ),
    ],
)
def test_wrong_axes_are_refused_before_anything_runs(axes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        mist.sweep(mist.load(HOST), axes)


def test_a_pipeline_brings_its_workload_unless_an_axis_says_otherwise() -> None:
    ds = mist.sweep(mist.load(), {"pipeline": ["agentic", "rag"], "workload": ["chat", "agentic"]})
    for pipeline in ("agentic", "rag"):
        for workload in ("chat", "agentic"):
            at = ds.sel(pipeline=pipeline, workload=workload)
            compare(at, [f"pipeline={pipeline}", f"workload={workload}"])
    compare(mist.sweep(mist.load(), {"pipeline": ["agentic"]}).isel(pipeline=0), ["pipeline=agentic"])


def test_one_program_serves_all_numbers_of_a_structure() -> None:
    """A second sweep of the same pipelines with other numbers, chips and models compiles nothing."""
    compiled: list[str] = []

    def heard(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def run(scale: float, hardware: str, model: str) -> None:
        axes = {"pipeline": ["rag", "agentic"], "workload.rate": np.linspace(0.1, 2.0, 30) * scale}
        mist.sweep(mist.load([f"hardware={hardware}", f"model={model}"]), axes)

    run(1.0, "h100_sxm", "llama3_1_70b")
    jax.monitoring.register_event_duration_secs_listener(heard)
    run(0.7, "mi300x", "qwen3_32b")
    assert not compiled


def test_an_interrupted_sweep_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mist_jax.explore import pipeline_plan
    from mist_jax.explore.pipeline_plan import PipelinePlan

    monkeypatch.setattr(pipeline_plan.PipelinePlan.__init__, "__kwdefaults__", {
        **PipelinePlan.__init__.__kwdefaults__, "box_points": 6,
    })  # fmt: skip
    axes = {"pipeline": ["rag", "chat"], "workload.rate": [0.2, 0.4, 0.8], "workload.isl": [500.0, 900.0]}
    whole = mist.sweep(mist.load(), axes)
    real, count = PipelinePlan.evaluate, []

    def fails(plan: PipelinePlan, box: Any) -> Any:
        count.append(box)
        if len(count) == 2:
            raise KeyboardInterrupt
        return real(plan, box)

    monkeypatch.setattr(PipelinePlan, "evaluate", fails)
    monkeypatch.setattr("mist_jax.explore.sweep.WORKERS", 1)
    with pytest.raises(KeyboardInterrupt):
        mist.sweep(mist.load(), axes, store=tmp_path / "s")
    done = len(count) - 1
    again = mist.sweep(mist.load(), axes, store=tmp_path / "s")
    assert done >= 1
    xr.testing.assert_identical(again.load().drop_attrs(), whole.drop_attrs())
    stored = xr.open_zarr(tmp_path / "s", consolidated=False, chunks=None)
    assert stored.stage.values.tolist() == whole.stage.values.tolist()


@pytest.mark.slow
def test_single_precision() -> None:
    """Steady states of LLM pools in float32 carry its 1.2e-7 on, by 1 / (1 - load) in waits; all else is float64."""
    axes = {
        "pipeline": ["rag", "cascade"],
        "workload.rate": [0.05, 0.7, 2.0, 400.0],
        "workload.isl": [700.0, 900.0, 1800.0, 2500.0],
    }
    double, single = (mist.sweep(mist.load(), axes, dtype=d) for d in (np.float64, np.float32))
    assert (double.status == single.status).all()
    free = (1.0 - double["load"]).where(double.status == Status.OK)
    for name in double.data_vars:
        if name == "status":
            continue
        assert single[name].dtype == np.float32
        assert (np.isnan(single[name]) == np.isnan(double[name])).all()
        # busy shares of a pool at rest are differences of two numbers that are nearly equal
        small = 1e-6 if "utilization" in str(name) else 0.0
        error = (abs(single[name] - double[name]) - small) * free / abs(double[name])
        assert float(error.where(double[name] != 0).max()) < 1e-6, name


@pytest.mark.parametrize("lengths", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_elasticities_along_client_and_resource(lengths: int) -> None:
    """Those of `evaluate`, where they are asked for; slopes of single-precision points are taken in double."""
    axes = {
        "pipeline": ["rag", "cascade", "chat"],
        "workload.rate": [0.7, 2.0],
        "workload.isl": np.linspace(700.0, 2500.0, lengths),
    }
    named = ["elasticity", "utilization"]
    ds = mist.sweep(mist.load(), axes, variables=named)
    assert ds.client.values.tolist() == ["engine", "host", "encoder", "retrieval", "small"]
    assert ds.elasticity.attrs["units"] == "1"
    assert np.isnan(ds.elasticity.sel(pipeline="chat")).all()
    if lengths > 2:
        single = mist.sweep(mist.load(), axes, variables=named, dtype=np.float32)
        np.testing.assert_allclose(single.elasticity, ds.elasticity, atol=1e-5)
    for pipeline, rate, isl in (("rag", 2.0, 700.0), ("cascade", 0.7, 2500.0)):
        alone = mist.evaluate(
            mist.load([f"pipeline={pipeline}", f"workload.rate={rate}", f"workload.isl={isl}"])
        )
        at = ds.sel({"pipeline": pipeline, "workload.rate": rate, "workload.isl": isl})
        for name in named:
            np.testing.assert_allclose(at[name].sel(client=alone.client), alone[name], atol=1e-9)
        assert np.isnan(at.elasticity.drop_sel(client=alone.client.values)).all()
    assert "elasticity" not in mist.sweep(mist.load(HOST), {"workload.rate": [1.0]})


def test_iterations_and_power_of_every_pool() -> None:
    """Where they are asked for, along `client`: those that `evaluate` gives for the pool that answers."""
    axes = {"pipeline": ["cascade", "rag", "chat"], "workload.rate": [0.5, 2.0]}
    ds = mist.sweep(mist.load(), axes, variables=["breakdown_s", "power_share_w"])
    assert ds.breakdown_s.dims == ("pipeline", "workload.rate", "client", "part")
    assert ds.power_share_w.dims == ("pipeline", "workload.rate", "client", "share")
    assert ds.power_share_w.attrs["units"] == "W"
    for pipeline in axes["pipeline"]:
        alone = mist.evaluate(mist.load([f"pipeline={pipeline}", "workload.rate=2"]))
        at = ds.sel({"pipeline": pipeline, "workload.rate": 2.0})
        for name in ("breakdown_s", "power_share_w"):
            np.testing.assert_allclose(at[name].sel(client="engine"), alone[name], rtol=1e-9)
            others = at[name].drop_sel(client=["engine", "small"] if pipeline == "cascade" else "engine")
            assert np.isnan(others).all()
    small = ds.sel({"pipeline": "cascade", "client": "small"})
    assert (small.breakdown_s.sum("part") > 0).all()
    assert float(small.power_share_w.sum("share")[0]) < 350.0  # one L40S
