"""Each picture from a synthetic dataset: labelled axes with units, no overlap, the numbers of the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from report_data import cache_curve, evaluation, playback, search_history, sweep, under_load

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.report import plots, style

SLO = {"ttft_s": 0.2, "tpot_s": 0.1, "e2e_s": None}
OPERATOR_POINTS = {
    "prefill": {"attention_in": (2e-3, 1e12, 2e9), "attention_prefill": (1e-3, 3e11, 1e8),
                "ffn_dense": (6e-3, 4e12, 6e9),
                "elementwise": (1e-3, 0.0, 2e9), "lm_head": (2e-4, 1e9, 5e8)},
    "decode": {"attention_in": (1e-3, 2e10, 1.5e9), "attention_decode": (1e-3, 1e9, 2e8),
               "ffn_dense": (4e-3, 8e10, 5e9),
               "all_reduce": (2e-3, 0.0, 0.0)},
}  # fmt: skip


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8"])


def handed_over() -> xr.Dataset:
    """A played result of two pools: the name of a stage is long."""
    ds = playback()
    stages = xr.concat([ds.stage_s, ds.stage_s.isel(stage=[1])], dim="stage")
    ds = ds.drop_dims("stage").assign(stage_s=(("request", "stage"), stages.values))
    return ds.assign_coords(stage=["request", "queue", "prefill", "decode", "handover"])


PICTURES: dict[str, Callable[[], Figure]] = {
    "breakdown": lambda: plots.plot_breakdown(evaluation()),
    "cdf": lambda: plots.plot_latency_cdf(playback(), slo=SLO),
    "timeline": lambda: plots.plot_timeline(playback()),
    "timeline of many": lambda: plots.plot_timeline(playback(4000)),
    "stages": lambda: plots.plot_stages(playback()),
    "stages of few": lambda: plots.plot_stages(playback(6)),
    "gantt": lambda: plots.plot_gantt(playback(), requests=[3, 5, 8]),
    "stages of two pools": lambda: plots.plot_stages(handed_over()),
    "gantt of two pools": lambda: plots.plot_gantt(handed_over()),
    "gantt of 30": lambda: plots.plot_gantt(playback(), requests=30, start=20),
    "pareto": lambda: plots.plot_pareto(sweep()),
    "pareto by hardware": lambda: plots.plot_pareto(sweep(), by="hardware"),
    "pareto of cost": lambda: plots.plot_pareto(sweep(), "ttft_s", "cost_per_million_output_tokens_usd"),
    "load": lambda: plots.plot_load(under_load(), slo=SLO),
    "load by tp": lambda: plots.plot_load(sweep().isel(hardware=0), by="tp"),
    "heat map": lambda: plots.plot_heatmap(sweep().isel(hardware=1)),
    "heat map of names": lambda: plots.plot_heatmap(
        sweep().isel(concurrency=5), "tpot_s", x="hardware", y="tp"
    ),
    "cache": lambda: plots.plot_cache_curve(cache_curve(), limit=0.64),
    "convergence": lambda: plots.plot_convergence(search_history(), reference=1.0),
}


def check(fig: Figure) -> None:
    assert isinstance(fig, style.Figure)
    assert style.overlapping_texts(fig) == []
    labels = [label for ax in fig.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
    assert labels
    with_unit = re.compile(
        r"\((s|ms|%|tok/s|requests|requests/s|tokens|FLOP/byte|FLOP/s per chip|bytes|count|USD|log scale)\)"
    )
    countable = (
        "Request",
        "Requests in flight",
        "Tensor parallelism",
        "Hardware",
        "Latency (log scale), thin lines: SLO",
    )
    for label in labels:
        assert with_unit.search(label) or label in countable, label


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_labelled_and_nothing_overlaps(name: str) -> None:
    check(PICTURES[name]())


def test_overlaps_and_cut_texts_are_found() -> None:
    fig, ax = style.panels()
    ax.text(0.5, 0.5, "one")
    assert style.overlapping_texts(fig) == []
    ax.text(0.5, 0.5, "other")
    fig.text(0.99, 0.5, "leaves the figure")
    assert ("one", "other") in style.overlapping_texts(fig)
    assert ("leaves the figure", "figure edge") in style.overlapping_texts(fig)


def test_roofline_is_labelled_and_bounded(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mist_jax.report.plots_roofline.operator_points", lambda *_: OPERATOR_POINTS)
    fig = plots.plot_roofline(scenario, evaluation())
    check(fig)
    # 8 of 10.2 ms of the prefill have FLOPs, 6 of 8 ms of the decode
    title = fig.legends[0].get_title().get_text()
    assert "90 % of the prefill" in title
    assert "75 % of the decode" in title


def test_large_sweeps_stay_small_and_legible() -> None:
    """Points become pixels and ticks are thinned, however many there are."""
    rng = np.random.default_rng(1)
    dims = ("workload.rate", "workload.isl")
    shape = (150, 120)
    ds = xr.Dataset(
        {
            n: (dims, rng.random(shape) * 100)
            for n in ("tokens_per_s_per_user", "output_tokens_per_s_per_chip")
        },
        coords={d: np.linspace(1000, 99999, n) for d, n in zip(dims, shape, strict=True)},
    )
    fig = plots.plot_pareto(ds)
    check(fig)
    assert len(style.svg(fig)) < 500_000
    check(plots.plot_heatmap(ds))


def test_operators_stay_under_the_roof(scenario: mist.Scenario) -> None:
    """No operator is quicker than the chip's peak rate at the precision of the model (bf16)."""
    from mist_jax.report.plots_roofline import operator_points

    points = operator_points(scenario, seqs=32, context=1200, chunk=1155)
    assert {"prefill", "decode"} == set(points)
    for operators in points.values():
        assert "ffn_dense" in operators
        for seconds, flops, _ in operators.values():
            assert flops / seconds <= scenario.hardware.peak.bf16


def test_save_writes_each_format_and_leaves_no_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = plots.save(plots.plot_breakdown(evaluation()), tmp_path / "new" / f"parts.{suffix}")
        assert path.read_bytes().startswith(start)
    assert dict(matplotlib.rcParams) == before


def test_same_picture_same_bytes() -> None:
    assert style.svg(plots.plot_pareto(sweep())) == style.svg(plots.plot_pareto(sweep()))


def test_front_is_what_brute_force_finds() -> None:
    ds = sweep()
    x, y = ds.tokens_per_s_per_user.values.ravel(), ds.output_tokens_per_s_per_chip.values.ravel()
    good = np.isfinite(x) & (ds.status.values.ravel() == 0)
    points = np.stack([x, y], axis=1)[good]
    beaten = [((points >= p).all(axis=1) & (points > p).any(axis=1)).any() for p in points]
    front = plots.pareto_front(ds)
    assert front.sizes["point"] == len(points) - sum(beaten)
    for i in range(front.sizes["point"]):
        at = {d: front[d].values[i] for d in ds.dims}
        assert float(ds.output_tokens_per_s_per_chip.sel(at)) == float(front.output_tokens_per_s_per_chip[i])


def test_points_that_failed_are_not_drawn() -> None:
    ds = sweep()
    ds["output_tokens_per_s_per_chip"][0, 0, 0] = 1e9  # status says that it does not fit
    ds["tokens_per_s_per_user"][0, 0, 0] = 1e9
    assert float(plots.pareto_front(ds).output_tokens_per_s_per_chip.max()) < 1e6


def test_cdf_passes_through_the_percentiles() -> None:
    ds = playback()
    fig = plots.plot_latency_cdf(ds)
    curve = fig.axes[0].get_lines()[0]
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    p90 = np.nanpercentile(ds.ttft_s, 90)
    assert np.interp(p90, x[1:], y[1:]) == pytest.approx(90, abs=1)


def test_timeline_returns_to_zero_in_flight() -> None:
    line = plots.plot_timeline(playback()).axes[1].get_lines()[0]
    flight = np.asarray(line.get_ydata())
    assert flight[-1] == 0
    assert flight.min() >= 0


def test_gantt_bars_end_with_the_request() -> None:
    ds = playback()
    ax = plots.plot_gantt(ds, requests=5).axes[0]
    ends = np.zeros(5)
    for bar in ax.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends[row], bar.get_x() + bar.get_width())
    origin = float(ds.arrival_s[0])
    assert ends == pytest.approx((ds.arrival_s + ds.e2e_s).values[:5] - origin)


def test_convergence_never_rises() -> None:
    for line in plots.plot_convergence(search_history()).axes[0].get_lines():
        assert (np.diff(np.asarray(line.get_ydata())) <= 0).all()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.plot_breakdown(playback()), "breakdown_s"),
        (lambda: plots.plot_timeline(evaluation()), "arrival_s"),
        (lambda: plots.plot_latency_cdf(xr.Dataset()), "ttft_s"),
        (lambda: plots.plot_load(sweep()), "select one value of hardware, tp"),
        (lambda: plots.plot_load(evaluation()), "no load axis"),
        (lambda: plots.plot_heatmap(sweep()), "two axes"),
        (lambda: plots.plot_pareto(sweep(), by="colour"), "no dimension 'colour'"),
        (lambda: plots.plot_gantt(playback(), start=500), "position 500"),
        (lambda: plots.pareto_front(sweep().isel(hardware=[0], tp=[0])), "no usable point"),
        (lambda: plots.plot_cache_curve(cache_curve().drop_vars("cache_bytes")), "give x"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw()


def test_the_top_of_a_curve_and_the_slo_are_in_view() -> None:
    ds = under_load()
    for slo in (None, {"tpot_s": 0.05}):
        fig = plots.plot_load(ds, slo=slo)
        for ax, name in zip(fig.axes, ("ttft_s", "tpot_s"), strict=True):
            highest = float(ds[name].max()) * 1e3
            assert ax.get_ylim()[1] > 1.02 * highest
    assert fig.axes[1].get_ylim()[1] > 50  # ms
    assert "SLO" in {t.get_text() for t in fig.legends[0].get_texts()}


def test_equal_values_of_a_heat_map_share_a_colour() -> None:
    ds = sweep().isel(hardware=1)
    ds["output_tokens_per_s_per_chip"] = xr.full_like(ds.tpot_s, 422.0) + 1e-3 * (ds.tp / 8)
    mesh = plots.plot_heatmap(ds).axes[0].collections[0]
    low, high = mesh.get_clim()
    assert high - low == pytest.approx(42.2, rel=1e-3)
    assert high == pytest.approx(422.001)
