"""Intervals on `evaluate`: ends around the estimate, the queue's own leverage, labels by reach."""

import math

import numpy as np
import pytest

import mist_jax as mist
from mist_jax import calibrations
from mist_jax.intervals import add_intervals, label_of

TABLE = {"ttft": (0.8, 1.5), "tpot": (0.9, 1.2)}
BASE = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1"]


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(calibrations, "interval", lambda *_: TABLE)


def ends(ds, name):
    return float(ds[f"{name}_low"]), float(ds[name]), float(ds[f"{name}_high"])


def test_closed_loop_takes_the_factors_as_they_are(known):
    ds = mist.evaluate(mist.load([*BASE, "workload=closed_1k_1k", "workload.concurrency=8"]))
    for name, target in (("ttft_s", "ttft"), ("tpot_s", "tpot")):
        low, middle, high = ends(ds, name)
        assert (low / middle, high / middle) == pytest.approx(TABLE[target])
    low, middle, high = ends(ds, "e2e_s")
    decode = middle - float(ds["ttft_s"])
    assert high == pytest.approx(1.5 * float(ds["ttft_s"]) + 1.2 * decode)
    assert low < middle < high
    assert ds.attrs["interval_level"] == 0.8
    assert ds.ttft_s_low.attrs["units"] == "s"


def test_open_loop_stretches_time(known):
    """An engine 1.2 times slower at rate r is the same engine at rate 1.2 r in a unit of time 1.2 times as long."""
    scenario = mist.load([*BASE, "workload.rate=10"])
    ds = mist.evaluate(scenario)
    faster = mist.evaluate(mist.load([*BASE, "workload.rate=12"]))
    assert ends(ds, "tpot_s")[2] == pytest.approx(
        max(1.2 * float(ds["tpot_s"]), 1.2 * float(faster["tpot_s"])), rel=1e-9
    )
    assert ends(ds, "ttft_s")[2] >= 1.5 * float(ds["ttft_s"]) - 1e-12


def test_near_saturation_the_upper_end_is_over_capacity(known):
    rate = 10.0
    load = float(mist.evaluate(mist.load([*BASE, f"workload.rate={rate}"]))["load"])
    ds = mist.evaluate(mist.load([*BASE, f"workload.rate={0.95 * rate / load}"]))
    assert ds.attrs["status"] == "ok"
    assert math.isinf(ends(ds, "ttft_s")[2])
    assert np.isfinite(ends(ds, "ttft_s")[0])


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["hardware=tpu_v5p"], "physics-only"),
        (["calibration=none"], "physics-only"),
        (["model=mixtral_8x7b", "hardware=h100_sxm"], "extrapolated"),
        (["model=llama3_1_70b", "hardware=h200_sxm"], "calibrated"),
    ],
)
def test_labels(overrides, label):
    assert label_of(mist.load(["parallelism=tp8", *overrides])) == label


def test_two_pools_have_the_label_of_the_less_known():
    scenario = mist.load(["prefill=pool", "hardware@prefill.hardware=tpu_v5p", "hardware=h100_sxm"])
    assert label_of(scenario) == "physics-only"


def test_no_interval_without_calibration():
    ds = mist.evaluate(mist.load([*BASE, "calibration=none"]))
    assert "ttft_s_low" not in ds
    assert ds.attrs["calibration_label"] == "physics-only"


def test_an_unstable_result_keeps_its_label(known):
    ds = mist.evaluate(mist.load([*BASE, "workload.rate=10"]))
    ds["e2e_s"] = ds.e2e_s.copy(data=np.inf)
    plain = ds.drop_vars([n for n in ds.data_vars if n.endswith(("_low", "_high"))])
    out = add_intervals(plain, mist.load(BASE))
    assert "ttft_s_low" not in out
