"""Intervals of pipelines: all LLM pools at one end of their factors, the other stages at their means."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax import calibrations

TABLE = {"ttft": (0.8, 1.5), "tpot": (0.9, 1.2)}
BASE = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1"]
ALONE = "+pipeline.stages.generate.client=engine"
#: What the answer is for, 3 s.
TOOL = [ALONE, "+pipeline.stages.tool.median_s=3", "+pipeline.stages.tool.sigma=0"]
NAMES = ("ttft_s", "tpot_s", "e2e_s")
ENDS = [f"{name}_{side}" for name in NAMES for side in ("low", "high")]


def evaluated(*overrides: str) -> xr.Dataset:
    return mist.evaluate(mist.load([*BASE, *overrides]))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "interval", lambda *_: TABLE)


@pytest.mark.parametrize(
    "load", [["workload.rate=8"], ["workload.arrivals=closed", "workload.concurrency=24"]]
)
def test_one_llm_stage_alone_has_the_ends_of_the_engine(load: list[str]) -> None:
    engine, pipeline = evaluated(*load), evaluated(*load, ALONE)
    for name in ENDS:
        assert float(pipeline[name]) == pytest.approx(float(engine[name]), rel=1e-12), name
        assert pipeline[name].attrs == engine[name].attrs
    for key in ("calibration_label", "interval_level"):
        assert pipeline.attrs[key] == engine.attrs[key]
    assert pipeline.attrs["interval_held"] == ""


@pytest.mark.usefixtures("known")
def test_an_end_adds_the_stages_at_that_end_to_those_at_their_means() -> None:
    """With nobody else there: e2e = tool + TTFT's factor x TTFT + TPOT's factor x the rest, in two turns."""
    ds = evaluated(
        "workload.rate=1e-6",
        *TOOL,
        "+pipeline.stages.generate.repeat=2",
    )
    seconds = float(ds.e2e_s) - 3.0
    decode = 2 * float(ds.tpot_s) * (mist.load(BASE).workload.osl - 1)
    for k, side in enumerate(("low", "high")):
        expected = 3.0 + TABLE["ttft"][k] * (seconds - decode) + TABLE["tpot"][k] * decode
        assert float(ds[f"e2e_s_{side}"]) == pytest.approx(expected, rel=1e-6)
    assert ds.attrs["interval_held"] == "tool"


@pytest.mark.usefixtures("known")
def test_a_slower_pool_that_does_not_keep_up_has_no_upper_end() -> None:
    load = float(evaluated("workload.rate=10")["load"])
    ds = evaluated(f"workload.rate={9.5 / load}", *TOOL)
    assert ds.attrs["status"] == "ok"
    for name in NAMES:
        assert np.isinf(ds[f"{name}_high"])
        assert 0 < float(ds[f"{name}_low"]) < float(ds[name])


@pytest.mark.usefixtures("known")
def test_a_closed_loop_settles_anew_at_its_ends() -> None:
    """Slower engines hold more of the requests, since fewer wait for the tool: wider than the factors alone."""
    ds = evaluated("workload.arrivals=closed", "workload.concurrency=200", *TOOL)
    for name in NAMES:
        assert float(ds[f"{name}_low"]) < float(ds[name]) < float(ds[f"{name}_high"]) < np.inf
    assert float(ds.tpot_s_high / ds.tpot_s) > 1.2
    assert float(ds.tpot_s_low / ds.tpot_s) < 0.9
    ends = {}
    for side, factor in (("low", 0.9), ("high", 1.2)):
        # requests in the pool at the end: those that are not with the tool at the rate C / E2E
        inside = 200 - 200 / float(ds[f"e2e_s_{side}"]) * 3.0
        alone = evaluated("workload.arrivals=closed", f"workload.concurrency={inside}")
        ends[side] = factor * float(alone.tpot_s)
        assert float(ds[f"tpot_s_{side}"]) == pytest.approx(ends[side], rel=0.02)


def test_the_label_is_that_of_the_pool_that_is_known_least() -> None:
    ds = mist.evaluate(mist.load(["pipeline=cascade", "workload.arrivals=closed", "workload.concurrency=4"]))
    assert mist.evaluate(mist.load()).attrs["calibration_label"] == "calibrated"
    assert ds.attrs["calibration_label"] == "physics-only"  # the small model's chip
    assert float(ds.e2e_s_low) < float(ds.e2e_s) < float(ds.e2e_s_high)


def test_a_result_says_in_words_what_its_intervals_leave_out() -> None:
    from mist_jax.report import html, tables

    ds = evaluated(*TOOL)
    lines = [line.plain for line in tables.interval_lines(ds)]
    assert lines[0].startswith("80 % intervals: TTFT")
    assert lines[-1] == "intervals hold these stages at their means: tool"
    assert "The intervals hold these stages at their means: tool." in html.uncertainty("evaluate", ds)


def test_no_interval_without_calibration() -> None:
    ds = evaluated("calibration=none", *TOOL)
    assert not set(ENDS) & set(ds.data_vars)
    assert ds.attrs["calibration_label"] == "physics-only"
    assert "interval_held" not in ds.attrs
