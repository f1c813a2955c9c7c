"""Fronts of designs: their report, their pictures, their table; the hypervolume over the evaluations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr
from report_data import sweep
from rich.console import Console
from test_report import read

import mist_jax as mist
from mist_jax.report import html, style
from mist_jax.report.front_points import evaluated, limits_of, objectives_of, options_of, varied
from mist_jax.report.plots import plot_front

TPOT, COST = "tpot_s", "cost_per_million_output_tokens_usd"


def front_of(names: list[str], chips: tuple[str, ...] = ("h100_sxm", "l40s")) -> xr.Dataset:
    """As `search_front` returns it: 300 designs evaluated, a third of which miss a limit."""
    from mist_jax.explore.evolution import _hypervolumes
    from mist_jax.explore.pareto import direction

    rng = np.random.default_rng(5)
    rate, noise = rng.uniform(0.5, 60, 300), rng.uniform(1.0, 1.6, 300)
    chip = np.array(chips)[np.arange(300) % len(chips)]
    figures = {
        TPOT: noise * (0.006 + 0.0005 * rate),
        COST: noise * (0.08 + 2 / rate) * np.where(chip == "l40s", 0.9, 1.0),
        "output_tokens_per_s": 200 * rate / noise,
        "ttft_s": 0.02 + 0.01 * rate,
    }
    units = {TPOT: "s", COST: "USD", "output_tokens_per_s": "1/s", "ttft_s": "s"}
    good = np.arange(300) % 3 > 0
    ds = xr.Dataset(
        {n: ("point", v[good], {"units": units[n]}) for n, v in figures.items()}
        | {"status": ("point", np.zeros(good.sum(), np.int8))},
        coords={"point": np.flatnonzero(good)},
    )
    ds["ttft_s"].attrs["upper_limit"] = 0.8
    front = mist.pareto(ds, names)
    at = front["point"].values
    values = np.stack([figures[n] for n in names], axis=1)
    for name, column in zip(names, values.T, strict=True):
        front[f"evaluated_{name}"] = ("evaluation", np.where(good, column, np.nan))
    volumes = _hypervolumes(values * direction(names), good, np.arange(50, 301, 50))
    front["hypervolume"] = ("evaluation", volumes, {"units": "1", "sense": "max"})
    front["bottleneck"] = ("point", np.full(at.size, "device_memory"))
    coords = {
        "hardware": ("point", chip[at], {"options": ", ".join(chips)}),
        "workload.rate": ("point", rate[at], {"units": "1/s", "low": 0.5, "high": 60.0}),
    }
    front = front.drop_vars(["status", "point"]).assign_coords(coords)
    return front.assign_attrs(evaluations=300).assign_coords(evaluation=np.arange(1, 301))


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["model=llama3_1_8b", "parallelism=tp1"])


def test_a_report_tells_the_trade_its_designs_and_what_binds_them(scenario: mist.Scenario) -> None:
    ds = front_of([TPOT, COST])
    page = read(html.render(scenario, ds, {"mode": "search"}))
    for expected in (
        "Pareto front: TPOT and cost per million generated tokens",
        "lower TPOT or lower cost per million generated tokens",
        "workload.rate: 0.500 requests/s to 60 requests/s",
        "hardware: h100_sxm, l40s",
        "TTFT <= 800 ms",
        f"{ds.sizes['point']:,} designs",
        "of 300 evaluated, 200 of which meet all limits",
        "Nearest to its limit",
        "memory bandwidth",
        "No interval.",
        "NVIDIA L40S",
        "bf16 989 TFLOP/s",
    ):
        assert expected in page.text, expected
    first = ds.isel(point=0)
    assert f"{1e3 * float(first[TPOT]):.2f} ms" in page.text
    assert len(page.alts) == 2
    assert "Grey: the dominated designs" in page.alts[0]
    assert page.alts[1].startswith("Hypervolume")


@pytest.fixture
def captions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not drawn."""
    monkeypatch.setattr("mist_jax.report.html_front.figure", lambda _, caption: f"<p>{caption}</p>")


@pytest.mark.usefixtures("captions_alone")
def test_three_objectives_have_a_picture_for_each_pair(scenario: mist.Scenario) -> None:
    ds = front_of([TPOT, COST, "output_tokens_per_s"])
    page = read(html.render(scenario, ds))
    for pair in ("Cost per million generated tokens against TPOT", "Generated tokens against TPOT",
                 "Generated tokens against Cost per million generated tokens"):  # fmt: skip
        assert pair in page.text
    assert "higher generated tokens without giving up another of these" in page.text


def test_a_front_is_drawn_in_one_call() -> None:
    ds = front_of([TPOT, COST])
    fig = ds.mist.pareto()
    assert style.overlapping_texts(fig) == []
    ax = fig.axes[0]
    assert (ax.get_xlabel(), ax.get_xscale()) == ("TPOT (ms)", "linear")
    assert (ax.get_ylabel().replace("\n", " "), ax.get_yscale()) == (
        "Cost per million generated tokens (USD)",
        "log",
    )
    grey = next(c for c in ax.collections if "evaluated" in str(c.get_label()))
    assert len(grey.get_offsets()) == 200
    shown = sum(len(c.get_offsets()) for c in ax.collections if str(c.get_label()).startswith("front, "))
    assert shown == ds.sizes["point"]
    # the edge never rises where less of both is better
    assert (np.diff(np.asarray(ax.lines[0].get_ydata())) <= 0).all()
    coloured = front_of([TPOT, COST, "output_tokens_per_s"]).mist.pareto(y="output_tokens_per_s", by=COST)
    assert [a.get_ylabel().replace("\n", " ") for a in coloured.axes] == [
        "Generated tokens (tok/s)", "Cost per million generated tokens (USD)",
    ]  # fmt: skip
    assert style.overlapping_texts(ds.mist.convergence()) == []


def test_a_front_of_a_sweep_has_no_dominated_designs_to_draw() -> None:
    ds = mist.pareto(sweep(), ["tokens_per_s_per_user", "output_tokens_per_s_per_chip"])
    fig = ds.mist.pareto()
    assert style.overlapping_texts(fig) == []
    assert objectives_of(ds) == ["tokens_per_s_per_user", "output_tokens_per_s_per_chip"]
    assert evaluated(ds, *objectives_of(ds)) is None
    assert limits_of(ds) == []
    with pytest.raises(mist.ConfigError, match="no front of designs"):
        plot_front(sweep())


@pytest.mark.usefixtures("captions_alone")
def test_what_all_designs_share_is_said(scenario: mist.Scenario) -> None:
    from mist_jax.report.sweep_tables import print_front

    ds = front_of([TPOT, COST], chips=("l40s",))
    assert varied(ds) == ["workload.rate"]
    assert options_of(ds) == {"hardware": ["l40s"]}
    out = io.StringIO()
    print_front(ds, [TPOT, COST], to=Console(file=out, width=80, highlight=False))
    assert "all designs: l40s" in out.getvalue()
    assert "All of them: l40s." in read(html.render(scenario, ds)).text


def test_the_hypervolume_grows_to_that_of_the_front() -> None:
    ds = front_of([TPOT, COST, "output_tokens_per_s"])
    volume = ds.hypervolume.values
    assert np.isnan(volume[:49]).all()
    assert (np.diff(volume[49:]) >= -1e-12).all()
    assert volume[-1] == pytest.approx(ds.attrs["hypervolume"], rel=1e-12)
