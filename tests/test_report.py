"""Tables, numbers for people, the accessor and the HTML report, from small synthetic datasets."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from report_data import evaluation, playback, sweep
from rich.console import Console

import mist_jax as mist
from mist_jax.evaluate import VARIABLES
from mist_jax.report import html, tables
from mist_jax.report import quantities as q
from mist_jax.report.assumptions import NOT_NAMED, hardware_rows


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8", "slo=interactive"])


def printed(draw, *args) -> str:
    out = io.StringIO()
    draw(*args, to=Console(file=out, width=80, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0805, "80.5 ms"), (3.706, "3.71 s"), (9.99e-5, "99.9 us"), (0.99996, "1.00 s"), (0.0, "0 s"),
     (float("nan"), "n/a"), (200.0, "3.33 min"), (7300.0, "2.03 h")],
)  # fmt: skip
def test_durations_read_well(value: float, text: str) -> None:
    assert q.duration(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9, allow_nan=False))
def test_a_number_keeps_three_digits(value: float) -> None:
    """What is shown is within half a unit of the third digit."""
    text = q.prefixed(value, "B")
    amount, unit = text.split(" ")
    factor = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[unit.removesuffix("B")]
    assert float(amount.replace(",", "")) * factor == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [("hardware.memory.bandwidth", 8e12, "8 TB/s"), ("workload.rate", 19.21, "19.2 requests/s"),
     ("hardware.peak.bf16,hardware.peak.fp8", 1.5e15, "1.50 PFLOP/s"), ("hardware.memory.capacity", 4e11, "400 GB"),
     ("transfer.latency", 1e-3, "1 ms"), ("model.architecture.hidden", 4096.0, "4,096"), ("hardware", "l4", "l4")],
)  # fmt: skip
def test_values_of_the_configuration_have_their_units(path: str, value: object, text: str) -> None:
    assert q.of_config(path, value) == text


def test_every_variable_of_an_evaluation_has_a_label_with_its_unit() -> None:
    for name, (units, _) in VARIABLES.items():
        if name == "status":
            continue
        assert name in q.SHOWN, name
        label = q.axis_label(name, units)
        assert units == "1" or label.endswith(")"), label


def test_evaluation_fits_80_columns_and_holds_the_numbers(scenario: mist.Scenario) -> None:
    ds = evaluation()
    text = printed(tables.print_evaluation, scenario, ds)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for expected in (
        "80.5 ms",
        "17.3 ms",
        "3.71 s",
        "1,055 tok/s",
        "$6.21",
        "2.60 J",
        "56.5 GB",
        "feed-forward",
    ):
        assert expected in text
    assert text.count("met") == 2


def test_a_missed_limit_and_a_bad_status_are_said(scenario: mist.Scenario) -> None:
    ds = evaluation()
    ds["ttft_s"][...] = np.nan
    ds["tpot_s"][...] = 0.2
    ds.attrs["status"] = "offered load exceeds capacity"
    text = printed(tables.print_evaluation, scenario, ds)
    assert text.count("missed") == 2
    assert "offered load exceeds capacity" in text


def test_play_table_agrees_with_the_dataset(scenario: mist.Scenario) -> None:
    ds = playback()
    text = printed(tables.print_play, scenario, ds)
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.strip().startswith("TTFT"))
    values = ds.ttft_s.values[np.isfinite(ds.ttft_s.values)]
    expected = [q.duration(values.mean()), *(q.duration(v) for v in np.percentile(values, (50, 90, 95, 99)))]
    assert [" ".join(pair) for pair in zip(row.split()[1::2], row.split()[2::2], strict=True)] == expected
    assert "199 of 200" in text
    assert "1 refused" in text
    assert re.search(r"Preempted +3 +requests", text)


class Page(HTMLParser):
    """Checks that tags close in order, and gathers links, sources and text."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [str(values[k]) for k in ("src", "href", "srcset", "data", "action") if k in values]
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        if tag == "img":
            self.alts.append(str(values.get("alt")))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert all(s.startswith("data:image/svg+xml;base64,") for s in page.sources)
    assert not re.search(r"url\(|@import", text)
    return page


@pytest.fixture(scope="module")
def pages(scenario: mist.Scenario, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    folder = tmp_path_factory.mktemp("report")
    data = {"play": playback(), "sweep": sweep()}
    return {
        kind: read(html.write_report(scenario, ds, folder / kind / "report.html").read_text(encoding="utf-8"))
        for kind, ds in data.items()
    }


def test_report_of_an_evaluation(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "pictures", lambda *_: [(lambda: evaluation().mist.breakdown(), "parts")])
    page = read(html.render(scenario, evaluation(), {"mode": "evaluate", "note": "<b>&"}))
    for expected in ("80.5 ms", "17.3 ms", "$6.21", "No interval.", "<b>&", "bf16 989 TFLOP/s", "2026-05"):
        assert expected in page.text
    assert page.alts == ["parts"]
    for row in hardware_rows(scenario.hardware):
        assert row[2] != NOT_NAMED
        assert row[2] in page.text


def test_report_of_a_play(pages: dict[str, Page]) -> None:
    page = pages["play"]
    ds = playback()
    assert len(page.sources) == 4
    assert q.duration(float(np.nanpercentile(ds.ttft_s, 99))) in page.text
    assert "199 of 200 requests were served" in page.text
    assert "No interval." in page.text


def test_report_of_a_sweep_shows_the_front_and_what_failed(pages: dict[str, Page]) -> None:
    page = pages["sweep"]
    ds = sweep()
    assert f"{int((ds.status == 0).sum())} of {ds.status.size} deployments are possible" in page.text
    assert len(page.sources) == 3
    best = float(ds.output_tokens_per_s_per_chip.max())
    assert f"{q.number(best)} tok/s" in page.text


def test_report_of_a_sweep_says_what_is_cheapest_within_the_objective(
    scenario: mist.Scenario, pages: dict[str, Page]
) -> None:
    ds = sweep()
    cost = ds.cost_per_million_output_tokens_usd.where((ds.ttft_s <= 2.0) & (ds.tpot_s <= 0.1))
    i, j, k = np.unravel_index(int(np.nanargmin(cost.values)), cost.shape)
    name = f"{ds.hardware.values[i]}, tp {ds.tp.values[j]}, concurrency {ds.concurrency.values[k]}"
    assert f"The cheapest token with means within the objective: {name}" in " ".join(
        pages["sweep"].text.split()
    )
    strict = mist.load(["slo=interactive", "slo.tpot=1us"])
    assert "No deployment has means within" in read(html.render(strict, ds)).text
    assert "72 deployments" in pages["sweep"].text


def test_report_of_a_sweep_lists_every_chip_and_model_with_sources(scenario: mist.Scenario) -> None:
    ds = sweep().isel(hardware=[0, 1], tp=[0, 1]).rename(tp="model")
    ds = ds.assign_coords(hardware=["h100_sxm", "mi300x"], model=["llama3_1_8b", "qwen3_32b"])
    page = read(html.render(scenario, ds))
    for name in ("h100_sxm", "mi300x"):
        chip = mist.load([f"hardware={name}"]).hardware
        for what, value, source in hardware_rows(chip):
            assert f"{chip.name}: {what}" in page.text
            assert value in page.text
            assert source in page.text
    for name in ("llama3_1_8b", "qwen3_32b"):
        assert str(mist.load([f"model={name}"]).model.source) in page.text
    # the base's own model is not among the swept ones
    assert str(scenario.model.source) not in page.text.split("Configuration")[0]
    pools = mist.load(["prefill=pool"])
    ds = ds.rename({"model": "hardware@prefill.hardware"})
    ds = ds.assign_coords({"hardware@prefill.hardware": ["h200_sxm", "l40s"]})
    text = read(html.render(pools, ds)).text
    for chip in (
        "NVIDIA H100 SXM5 80 GB",
        "AMD Instinct MI300X 192 GB",
        "NVIDIA H200 SXM5 141 GB",
        "NVIDIA L40S",
    ):
        assert f"{chip}" in text, chip


def test_report_of_a_pipeline_lists_stages_and_the_chips_of_its_clients() -> None:
    from test_fitting import pipeline, played_pipeline

    rag = mist.load(["pipeline=rag_rerank_guard"])
    ds = evaluation().merge(pipeline()).assign_attrs(evaluation().attrs | pipeline().attrs)
    text = read(html.render(rag, ds)).text
    for expected in (
        "Stages of the pipeline",
        "check_question",
        "guard",
        "feed-forward",
        "tokenize > generate",
    ):
        assert expected in text, expected
    for client in ("encoder", "guard", "retrieval", "host"):
        assert f"{client}: Device memory" in text
    assert "guard: Model" in text
    assert "The pipeline's engine is calibrated" in text
    played = playback().drop_dims("stage").merge(played_pipeline().isel(request=0).expand_dims(request=200))
    played = played.assign_attrs(playback().attrs | played_pipeline().attrs)
    assert "no shared client" in read(html.render(rag, played)).text


def test_captions_say_what_one_sees(scenario: mist.Scenario) -> None:
    ds = playback()
    captions = " ".join(caption for _, caption in html.pictures(scenario, "play", ds))
    p50, p99 = (q.duration(np.nanpercentile(ds.ttft_s.where(np.isfinite(ds.ttft_s)), p)) for p in (50, 99))
    assert f"TTFT {p50} and {p99}" in captions
    share = float(ds.stage_s.sum("request").sel(stage="decode") / ds.stage_s.sum())
    assert f"decode, {q.percent(share)}" in captions
    # in flight: one more with each arrival, one less with each end
    done = np.isfinite(ds.e2e_s.values)
    begin, end = ds.arrival_s.values[done], (ds.arrival_s + ds.e2e_s).values[done]
    most = max(int((begin <= t).sum() - (end <= t).sum()) for t in begin)
    assert f"{most} at most" in captions


def test_report_states_intervals_if_there_are_any(scenario: mist.Scenario) -> None:
    ds = evaluation()
    ds["ttft_s_low"], ds["ttft_s_high"] = ds.ttft_s * 0.8, ds.ttft_s * 1.3
    ds.attrs["interval_level"] = 0.9
    text = html.uncertainty("evaluate", ds)
    assert "No interval" not in text
    assert "90 %" in text
    assert q.duration(float(ds.ttft_s_high)) in text


def test_report_is_written_by_the_application(scenario: mist.Scenario, tmp_path: Path) -> None:
    from mist_jax.application import write_report_if_asked

    write_report_if_asked(scenario, playback(), tmp_path, {"report": False})
    assert not (tmp_path / "report.html").exists()
    write_report_if_asked(scenario, playback(), tmp_path, {"report": True})
    assert "<title>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_accessor_has_the_pictures() -> None:
    fig = sweep().mist.pareto(by="hardware")
    assert fig._repr_png_().startswith(b"\x89PNG")
    front = sweep().mist.front()
    assert (np.diff(front.output_tokens_per_s_per_chip) < 0).all()
    assert (np.diff(front.tokens_per_s_per_user) > 0).all()


def test_tables_need_no_matplotlib_and_no_pyplot() -> None:
    """Pictures are drawn without pyplot's global state; tables do not import matplotlib at all."""
    import subprocess
    import sys

    code = (
        "import sys, json; import mist_jax.report.tables; a = 'matplotlib' in sys.modules;"
        "import mist_jax.report.plots; print(json.dumps([a, 'matplotlib.pyplot' in sys.modules, 'jax' in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [False, False, False]


def test_interactive_pictures() -> None:
    pytest.importorskip("plotly", reason="plotly is in the extra `notebooks`")
    ds = sweep()
    fig = ds.mist.interactive.pareto(by="hardware")
    assert [t.name for t in fig.data] == [*ds.hardware.values, "Pareto front"]
    assert fig.layout.xaxis.title.text == "Speed per user (tok/s)"
    assert len(ds.isel(hardware=1, tp=2).mist.interactive.load().data) == 4
    assert ds.isel(hardware=1).mist.interactive.heatmap().data[0].z.shape == (
        ds.sizes["tp"],
        ds.sizes["concurrency"],
    )
    assert len(playback().mist.interactive.timeline().data[0].x) == 200


def test_interactive_pictures_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(mist.ConfigError, match=r"notebooks"):
        xr.Dataset().mist.interactive.timeline()
