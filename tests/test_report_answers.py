"""Reports of recommendations, searches, comparisons and calibrations; load curves; the timeline of a played result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from report_data import evaluation, playback
from test_report import read

import mist_jax as mist
from mist_jax.report import html, style


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8", "slo=interactive"])


def fleet(**fields: object) -> object:
    from mist_jax.explore.recommend import Fleet

    known = {
        "design": {"hardware": "h100_sxm", "parallelism": "tp8", "parallelism.replicas": 1.0,
                   "engine.max_num_batched_tokens": 8192.0},
        "usd_per_hour": 23.6, "chips": 8, "ttft_s": 0.0805, "tpot_s": 0.0173, "e2e_s": 3.71, "load": 0.35,
        "usd_per_million_tokens": 6.21,
    }  # fmt: skip
    return Fleet(**{**known, **fields})  # type: ignore[arg-type]


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steady state is a given dataset, whatever is asked."""
    from mist_jax.report import html_answers

    def fixed(chosen: mist.Scenario, mapping: object) -> tuple[xr.Dataset, str, list[tuple[str, str]]]:
        return evaluation(), '<div class="figures"></div>', [("Assumptions", "all")]

    monkeypatch.setattr(html_answers, "_deployment", fixed)


@pytest.mark.usefixtures("no_engine")
def test_report_of_a_recommendation(scenario: mist.Scenario, tmp_path: Path) -> None:
    from mist_jax.explore.recommend import Recommendation

    answer = Recommendation(
        best=fleet(), runners_up=[fleet(chips=4, usd_per_hour=31.5)], bottleneck="memory bandwidth", tightest="ttft_s",
        slack=1.4, elasticities={"compute": {"ttft_s": -0.8}, "network": {"tpot_s": 0.0}}, headroom=1.31,
        intervals={"headroom": (0.8, 1.5)}, would_change={"if engines are slower": "9 x b200_sxm tp1"},
        good_share=0.87, candidates=1234, scenario=scenario,
    )  # fmt: skip
    page = read(html.write_report(scenario, answer, tmp_path / "r.html").read_text(encoding="utf-8"))
    words = [
        "1 x h100_sxm tp8, 8192 tokens",
        "1,234 fleets",
        "$23.60",
        "31.50",
        "memory bandwidth",
        "1.31 times",
    ]
    words += ["0.80 to 1.50", "does not carry", "9 x b200_sxm tp1", "-0.80 %", "vllm serve", "87 %", "missed"]
    for expected in words:
        assert expected in page.text, expected


@pytest.mark.usefixtures("no_engine")
def test_report_of_a_search(scenario: mist.Scenario) -> None:
    from mist_jax.explore.search import SearchResult

    history = xr.Dataset({"objective": ("evaluation", [np.nan, 8.0, 6.21])})
    found = SearchResult(
        best={"workload.rate": 4.5}, objective=6.21, feasible=True, figures={"ttft_s": 0.0805}, evaluations=77,
        history=history, runners_up=[{"hardware": "mi300x", "objective": 7.5}], scenario=scenario,
    )  # fmt: skip
    asked = {
        "search": {
            "objective": "cost",
            "variables": {"workload": {"rate": [1, 9]}},
            "constraints": {"ttft_s": "<= 2"},
        }
    }
    page = read(html.render(scenario, found, asked))
    for expected in (
        "workload.rate: [1, 9]",
        "TTFT <= 2 s",
        "77 evaluations",
        "4.50",
        "6.21",
        "80.5 ms",
        "mi300x",
        "7.50",
    ):
        assert expected in page.text, expected
    assert page.alts == ["Best feasible design so far over the evaluations."]
    failed = dataclasses.replace(found, feasible=False, scenario=None, best={})
    assert "No design within the bounds" in read(html.render(scenario, failed, asked)).text


def test_report_of_a_comparison(scenario: mist.Scenario) -> None:
    ds = xr.Dataset(
        {
            "measured": ("quantity", [0.1, 0.02, np.nan]),
            "predicted": ("quantity", [0.2, 0.02, 4.0]),
            "ratio": ("quantity", [2.0, 1.0, np.nan]),
            "low": ("quantity", [0.15, np.nan, np.nan]),
            "high": ("quantity", [0.25, np.nan, np.nan]),
        },
        coords={"quantity": ["ttft_mean_s", "tpot_mean_s", "request_rate"]},
        attrs={
            "run": "run.json",
            "form": "vllm",
            "method": "steady",
            "explanations": "the file <says>\nif so",
        },
    )
    page = read(html.render(scenario, ds))
    for expected in ("100 ms", "200 ms", "150 ms to 250 ms", "2.00", "the file <says>", "if so", "run.json"):
        assert expected in page.text, expected
    assert len(page.sources) == 1
    fig = ds.mist.comparison()
    assert style.overlapping_texts(fig) == []
    shown = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert shown == ["TPOT, mean", "TTFT, mean"]


def test_report_of_a_calibration(scenario: mist.Scenario) -> None:
    from mist_jax.calibrate import CalibrationResult

    values = [{"ttft_mean_s": v} for v in (0.15, 0.11, 0.1)]
    result = CalibrationResult(
        {"host_s": 0.6931, "layer_s": 0.001}, [values[0]], [values[1]], [values[2]], ["a/run.json"]
    )
    text = read(html.render(scenario, result)).text
    for expected in (
        "run.json",
        "TTFT, mean",
        "100 ms",
        "150 ms (+50.0 %)",
        "110 ms (+10.0 %)",
        "host_s",
        "2.00",
        "were 50 % off in the mean",
        "Peak rates, dense",
    ):
        assert expected in text, expected
    assert "layer_s" not in text


def test_pictures_of_an_evaluation_are_drawn(scenario: mist.Scenario) -> None:
    draw, caption = html.pictures(scenario, "evaluate", evaluation())[0]
    assert style.overlapping_texts(draw()) == []
    assert "iteration" in caption


def test_an_endless_interval_is_said_in_words() -> None:
    ds = evaluation()
    ds["ttft_s_low"], ds["ttft_s_high"] = ds.ttft_s * 0.8, ds.ttft_s * np.inf
    ds.attrs |= {"warning": "the KV cache binds"}
    text = html.uncertainty("evaluate", ds)
    assert "does not keep up" in text
    assert "the KV cache binds" in text
    assert "inf" not in text


@pytest.mark.slow
def test_load_curve_has_intervals_and_percentiles() -> None:
    from mist_jax.report.load_curve import load_curve

    start = mist.load(["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=chat"])
    curve = load_curve(start, [1.0, 4.0, 400.0], played=True, requests=60)
    assert curve.ttft_s.dims == ("workload.rate",)
    assert (curve.ttft_s_low < curve.ttft_s)[:2].all()
    assert (curve.ttft_s_high > curve.ttft_s)[:2].all()
    assert (curve.ttft_p99_s > curve.ttft_p50_s)[:2].all()
    assert int(curve.status[2]) != 0
    assert np.isnan(curve.ttft_p99_s[2])
    assert curve["workload.rate"].attrs["units"] == "1/s"
    labels = {t.get_text() for t in curve.mist.load().legends[0].get_texts()}
    assert {"mean", "interval", "p50", "p99", "over capacity"} <= labels


def test_timeline_of_a_played_result(tmp_path: Path) -> None:
    from mist_jax.io.perfetto import request_timeline, write_request_timeline

    ds = playback()
    write_request_timeline(ds, tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    for i in (0, 17):
        mine = [e for e in spans if e["tid"] == int(ds.request[i]) + 1]
        assert sum(e["dur"] for e in mine) == pytest.approx(1e6 * float(ds.stage_s[i].sum()))
        assert min(e["ts"] for e in mine) == pytest.approx(1e6 * float(ds.arrival_s[i]))
    counts = [e["args"]["n"] for e in events if e["ph"] == "C"]
    assert counts[-1] == 0
    assert max(counts) > 0
    with pytest.raises(mist.ConfigError, match="no arrival_s, stage_s"):
        request_timeline(evaluation())
