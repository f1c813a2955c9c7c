"""Intervals of a sweep are those of `evaluate`, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.report.plots import plot_load

OPEN = ["model=llama3_1_8b", "parallelism=tp1"]
AXES = {"hardware": ["h100_sxm", "l4"], "workload.rate": [0.5, 6.0], "engine.max_num_seqs": [64, 256]}
ENDS = [f"{n}_{side}" for n in ("ttft_s", "tpot_s", "e2e_s") for side in ("low", "high")]


def same_as_evaluate(ds, base, at):
    """Every end of the point `at` is that of `evaluate`."""
    overrides = [f"{k}={v}" for k, v in at.items()]
    one = mist.evaluate(mist.load([*base, *overrides]))
    point = ds.sel(at)
    assert set(ENDS) <= set(one.data_vars)
    for name in ENDS:
        np.testing.assert_allclose(float(point[name]), float(one[name]), rtol=1e-6, err_msg=f"{at} {name}")
    assert str(ds.calibration_label.sel(hardware=at["hardware"]).values) == one.attrs["calibration_label"]


@pytest.fixture(scope="module")
def swept():
    return mist.sweep(mist.load(OPEN), AXES, intervals=True)


@pytest.mark.parametrize("hardware", AXES["hardware"])
@pytest.mark.parametrize("rate", AXES["workload.rate"])
def test_open_loops_have_the_ends_of_evaluate(swept, hardware, rate):
    point = {"hardware": hardware, "workload.rate": rate, "engine.max_num_seqs": 64}
    if int(swept.status.sel(point)) != mist.Status.OK:
        assert hardware == "l4"  # does not keep up with 6 requests/s
        return
    same_as_evaluate(swept, OPEN, point)


def test_closed_loops_have_the_ends_of_evaluate():
    base = ["model=llama3_1_8b", "parallelism=tp1", "workload.arrivals=closed"]
    axes = {"workload.concurrency": [4, 128], "hardware": ["h100_sxm", "mi300x"]}
    ds = mist.sweep(mist.load(base), axes, intervals=True)
    assert ds.ttft_s_low.dims == ("workload.concurrency", "hardware")
    for concurrency in axes["workload.concurrency"]:
        for hardware in axes["hardware"]:
            same_as_evaluate(ds, base, {"workload.concurrency": concurrency, "hardware": hardware})


def test_the_rate_of_the_scenario_is_scaled_where_it_is_no_axis():
    ds = mist.sweep(mist.load([*OPEN, "workload.rate=3"]), {"hardware": ["h100_sxm"]}, intervals=True)
    same_as_evaluate(ds, [*OPEN, "workload.rate=3"], {"hardware": "h100_sxm"})


def test_laws(swept):
    good = swept.where(swept.status == mist.Status.OK)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert (good[f"{name}_low"] <= good[name]).where(good[name].notnull(), True).all()
        assert (good[f"{name}_high"] >= good[name]).where(good[name].notnull(), True).all()
    assert swept.ttft_s_low.isnull().sum() == swept.ttft_s.isnull().sum()
    line = swept.isel({"hardware": 0, "engine.max_num_seqs": 0}, drop=True)
    labels = {t.get_text() for t in plot_load(line).legends[0].get_texts()}
    assert "interval" in labels


def test_a_store_keeps_the_ends_and_how_far_the_calibration_reaches(swept, tmp_path):
    for _ in range(2):  # the second one finds all of it there
        mist.sweep(mist.load(OPEN), AXES, intervals=True, store=tmp_path / "s.zarr")
        stored = xr.open_zarr(tmp_path / "s.zarr", chunks=None)
        assert stored.attrs["interval_level"] == 0.8
        for name in (*ENDS, "ttft_s", "calibration_label"):
            assert stored[name].dims == swept[name].dims
            assert stored[name].attrs == swept[name].attrs
            np.testing.assert_array_equal(stored[name].values, swept[name].values)


def test_off_by_default_and_refusals():
    ds = mist.sweep(mist.load(OPEN), {"workload.rate": [1.0]})
    assert not set(ENDS) & set(ds.data_vars)
    with pytest.raises(ConfigError, match="need the variables e2e_s"):
        mist.sweep(
            mist.load(OPEN),
            {"workload.rate": [1.0]},
            variables=("ttft_s", "tpot_s", "status"),
            intervals=True,
        )


def test_pipelines_have_the_ends_of_evaluate_plain_chat_included():
    axes = {
        "pipeline": ["agentic", "chat"],
        "hardware": ["h100_sxm", "tpu_v5p"],
        "workload.rate": [0.3, 2.0, 400.0],
    }
    ds = mist.sweep(mist.load(), axes, intervals=True)
    assert ds.calibration_label.dims == ("pipeline", "hardware")
    assert ds.attrs["interval_level"] == 0.8
    for pipeline, hardware, rate in (
        ("agentic", "h100_sxm", 2.0),
        ("agentic", "tpu_v5p", 0.3),
        ("chat", "h100_sxm", 2.0),
        ("chat", "h100_sxm", 400.0),
    ):
        at = {"pipeline": pipeline, "hardware": hardware, "workload.rate": rate}
        one = mist.evaluate(mist.load([f"{k}={v}" for k, v in at.items()]))
        for name in ENDS:
            assert float(ds[name].sel(at)) == pytest.approx(float(one[name]), rel=1e-9), (at, name)
        label = ds.calibration_label.sel(pipeline=pipeline, hardware=hardware)
        assert str(label.values) == one.attrs["calibration_label"]
    assert (ds.e2e_s_low.isnull() == ds.e2e_s.isnull()).all()


def test_closed_loops_of_pipelines_have_the_ends_of_evaluate():
    base = ["pipeline=agentic", "workload.arrivals=closed"]
    axes = {"workload.concurrency": [2.0, 20.0]}
    ds = mist.sweep(mist.load(base), axes, intervals=True, variables="e2e_s")
    assert set(ds.data_vars) == {"e2e_s", "status", "calibration_label", *ENDS}
    one = mist.evaluate(mist.load([*base, "workload.concurrency=20"]))
    for name in ENDS:
        assert float(ds[name][1]) == pytest.approx(float(one[name]), rel=1e-6)
    assert not set(ENDS) & set(mist.sweep(mist.load(base), axes).data_vars)
