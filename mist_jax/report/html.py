"""One self-contained HTML report of a run: question, answer, uncertainty, pictures, breakdown, assumptions, config.

The pieces are in `html_parts`, what a sweep says in `html_sweep`, what a pipeline says in `html_pipeline`, the reports
of searches, recommendations and comparisons in `html_answers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.report import quantities as q
from mist_jax.report import tables
from mist_jax.report.front_points import is_front
from mist_jax.report.html_parts import assumptions, bars, cards, configuration, figure, mark, page, table
from mist_jax.schema import Scenario

#: What the cards of an answer show, in order; those that the dataset lacks are left out.
EVALUATION_CARDS = (
    "ttft_s", "tpot_s", "e2e_s", "tokens_per_s_per_user", "output_tokens_per_s", "output_tokens_per_s_per_chip",
    "cost_per_million_output_tokens_usd", "energy_per_output_token_j", "load", "kv_occupancy",
    "flops_utilization", "bandwidth_utilization", "prefill_utilization", "transfer_s",
)  # fmt: skip
PLAY_CARDS = (
    "goodput_share", "goodput_per_s", "output_tokens_per_s", "cost_per_million_output_tokens_usd",
    "energy_per_output_token_j",
)  # fmt: skip


def write_report(
    scenario: Scenario,
    result: Any,
    path: str | Path,
    mapping: Mapping[str, Any] | None = None,
    variants: Sequence[Scenario] | None = None,
) -> Path:
    """Write the HTML report of one run and return its path.

    Args:
        scenario: what was asked.
        result: the dataset of `evaluate`, `play`, `sweep` or `compare`, or what `search`, `recommend` or
            `calibrate_from_run` give.
        path: where to write; the folder is made.
        mapping: the composed configuration to print (default: the one that the scenario came from).
        variants: of a sweep, scenarios that hold its chips, models and engines (default: the options its axes name).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(scenario, result, mapping, variants), encoding="utf-8")
    return path


def render(
    scenario: Scenario,
    result: Any,
    mapping: Mapping[str, Any] | None = None,
    variants: Sequence[Scenario] | None = None,
) -> str:
    """The report as text; see `write_report`."""
    from mist_jax.report import html_answers, html_front, html_pipeline, html_sweep

    if not isinstance(result, xr.Dataset):
        kinds = {
            "Recommendation": "recommendation",
            "SearchResult": "search",
            "CalibrationResult": "calibration",
        }
        return getattr(html_answers, kinds[type(result).__name__])(scenario, result, mapping)
    ds = result
    if "quantity" in ds.dims:
        return html_answers.comparison(scenario, ds, mapping)
    if is_front(ds):
        return html_front.front(scenario, ds, mapping)
    kind = kind_of(ds)
    sweep = kind == "sweep"
    if sweep and variants is None:
        variants = html_sweep.variants(scenario, html_sweep.options_of(ds))
    first, second = html_sweep.headline(scenario, ds) if sweep else tables.headline(scenario, ds)
    if "pipeline" in ds.attrs:
        second = f"pipeline {ds.attrs['pipeline']}; {second}"
    sections = [
        ("Question", html_sweep.question(scenario, ds) if sweep else _question(scenario, kind, ds)),
        ("Answer", html_sweep.answer(scenario, ds) if sweep else _answer(scenario, kind, ds)),
        ("Uncertainty", uncertainty(kind, ds, scenario.calibration) + ("" if sweep else reach(scenario, ds))),
        ("Pictures", _pictures(scenario, kind, ds)),
        ("Stages of the pipeline", html_pipeline.stages(ds)),
        ("Breakdown", breakdown(ds)),
        ("Assumptions and their sources", assumptions(scenario, ds, variants or ())),
        ("Configuration", configuration(scenario, mapping)),
    ]
    return page(first, second, sections, _KINDS[kind])


_KINDS = {
    "evaluate": "steady state of one deployment",
    "play": "requests played one by one",
    "sweep": "steady state of many deployments",
}


def kind_of(ds: xr.Dataset) -> str:
    """`play` if the dataset has requests, `sweep` if its latencies have dimensions, else `evaluate`."""
    if "request" in ds.dims:
        return "play"
    return "sweep" if any(ds[n].ndim for n in ("ttft_s", "tpot_s", "e2e_s") if n in ds) else "evaluate"


def _question(scenario: Scenario, kind: str, ds: xr.Dataset) -> str:
    work = scenario.workload
    serves = f"{escape(scenario.model.name)} on {escape(tables.pool_line(scenario.hardware, scenario.parallelism))}"
    if scenario.prefill is not None:
        pool = tables.pool_line(scenario.prefill.hardware, scenario.prefill.parallelism)
        serves += f" (decode) and {escape(pool)} (prefill)"
    traffic = {
        "closed": f"{work.concurrency:g} requests always in flight",
        "trace": f"the trace {escape(str(work.trace))}",
    }.get(work.arrivals, f"{q.number(work.rate)} requests/s ({work.arrivals} arrivals)")
    if kind == "play" and "trace" in ds.attrs:
        traffic = escape(str(ds.attrs["trace"]))
    what = {
        "evaluate": f"What latency, throughput and cost does {serves} have in the steady state",
        "play": f"How does {serves} serve each request",
    }[kind]
    if "pipeline" in ds.attrs:
        what += f", as the engine of the pipeline <i>{escape(ds.attrs['pipeline'])}</i>,"
    lengths = f"mean lengths {q.number(work.isl)} tokens in and {q.number(work.osl)} out"
    asked = traffic if kind == "play" else f"{traffic}, {lengths}"
    return f"<p>{what} for {asked}?</p>{objective(scenario)}"


def objective(scenario: Scenario) -> str:
    """The limits of the SLO as a sentence."""
    limits = ", ".join(f"{q.title(n)} at most {q.duration(v)}" for n, v in tables.slo_limits(scenario))
    if not limits:
        return "<p>No service level objective is set.</p>"
    return f"<p>Service level objective <i>{escape(scenario.slo.name)}</i>: {limits}.</p>"


def _answer(scenario: Scenario, kind: str, ds: xr.Dataset) -> str:
    if kind == "evaluate":
        found = [(n, ds[n].item()) for n in EVALUATION_CARDS if n in ds and ds[n].ndim == 0]
        status = ds.attrs.get("status", "ok")
        trouble = "" if status == "ok" else f'<p class="missed">{escape(str(status))}</p>'
        return trouble + cards(found) + "".join(_verdicts(scenario, ds))
    found = [(n, ds.attrs[n]) for n in PLAY_CARDS if n in ds.attrs]
    total, served = int(ds.attrs.get("requests", ds.sizes["request"])), int(ds.attrs.get("served", 0))
    text = f"<p>{served:,} of {total:,} requests were served, {total - served:,} refused, "
    text += f"{int(ds.attrs.get('preempted_requests', 0)):,} preempted.</p>"
    share, target = float(ds.attrs.get("goodput_share", np.nan)), scenario.slo.target
    if tables.slo_limits(scenario) and np.isfinite(share):
        text += f"<p>{q.percent(share)} of the requests are within the objective, "
        text += f"{q.percent(target)} are asked for: {mark(share >= target)}.</p>"
    latencies = tables.percentile_rows(ds)
    names = ("mean", *(f"p{p}" for p in tables.PERCENTILES))
    rows = [[name, *(q.duration(values[i]) for _, values in latencies)] for i, name in enumerate(names)]
    return cards(found) + text + table(["Latency", *(q.title(n) for n, _ in latencies)], rows)


def _verdicts(scenario: Scenario, ds: xr.Dataset) -> Iterable[str]:
    for name, limit in tables.slo_limits(scenario):
        if name in ds and ds[name].ndim == 0:
            value = float(ds[name])
            yield (
                f"<p>Mean {q.title(name)} is {q.duration(value)}, the limit {q.duration(limit)}: "
                f"{mark(value <= limit)}.</p>"
            )
    yield '<p class="soft">Means of the steady state; mode=play gives the share of requests within the objective.</p>'


def uncertainty(kind: str, ds: xr.Dataset, calibration: str = "unknown") -> str:
    """The intervals that the dataset carries (`x_low`, `x_high`), or a plain statement that there are none."""
    name = escape(str(ds.attrs.get("calibration", calibration)))
    label = escape(str(ds.attrs.get("calibration_label", "")))
    text = f"<p>Calibration: <i>{name}</i>{f' ({label})' if label else ''}.</p>"
    pairs = [str(n) for n in ds.data_vars if f"{n}_low" in ds and f"{n}_high" in ds and ds[n].ndim == 0]
    if pairs:
        level = ds.attrs.get("interval_level")
        head = ["Quantity", "low", "estimate", "high"]
        ends = {n: [ds[m].item() for m in (f"{n}_low", n, f"{n}_high")] for n in pairs}
        rows = [[q.title(n), *(_end(n, v) for v in values)] for n, values in ends.items()]
        of = f" of {q.percent(level)} coverage" if level is not None else ""
        text += (
            f"<p>Intervals{of} from the calibration's errors on measurements that it was not fitted to.</p>"
        )
        text += table(head, rows)
        if tables.held_line(ds):
            text += f"<p>The {escape(tables.held_line(ds))}.</p>"
        if any(v[2] == np.inf for v in ends.values()):
            text += "<p>At the slow end of the interval the deployment does not keep up with the load.</p>"
        return text + _closed_form(ds)
    if kind == "sweep" and any(str(n).endswith("_low") for n in ds.data_vars):
        return text + "<p>The dataset has an interval for each point; the pictures show it as a band.</p>"
    text += "<p><b>No interval.</b> This is a point estimate: the dataset carries no calibrated interval for it.</p>"
    if kind == "play":
        text += "<p>The percentiles describe how requests differ from each other, not how far the model may be off.</p>"
    return text


def reach(scenario: Scenario, ds: xr.Dataset) -> str:
    """How far the calibration reaches a result that carries no label, and its errors on what it had not seen."""
    if "calibration_label" in ds.attrs:
        return ""
    from mist_jax.intervals import LEVEL, factors_of, label_of

    label = label_of(scenario)
    whose = "The pipeline's engine" if "pipeline" in ds.attrs else "The deployment"
    text = f"<p>{whose} is {label}: {tables.REACH.get(label, '')}.</p>"
    means = [float(np.nanmean(ds[n])) if n in ds else np.nan for n in ("ttft_s", "e2e_s")]
    factors = factors_of(scenario, *means)
    if not factors or not np.isfinite(means).all():
        return text
    ends = " and ".join(
        f"{a:.2f} to {b:.2f} times the predicted {n.upper()}" for n, (a, b) in factors.items()
    )
    return (
        f"{text}<p>Of benchmarks at a fixed concurrency that the calibration had not seen, {q.percent(LEVEL)} "
        f"measured {ends} (means).</p>"
    )


def _end(name: str, value: float) -> str:
    return "does not keep up" if value == np.inf else q.show(name, value)


def _closed_form(ds: xr.Dataset) -> str:
    """What the steady state's closed form misses beside a playback, and its warning."""
    text = ""
    if "ttft_bridge_error" in ds:
        line = tables.bridge_line(ds)
        text = f"<p>{escape(line[:1].upper() + line[1:])}.</p>"
    if "warning" in ds.attrs:
        text += f'<p class="missed">{escape(str(ds.attrs["warning"]))}</p>'
    return text


def _pictures(scenario: Scenario, kind: str, ds: xr.Dataset) -> str:
    figures = [figure(draw, caption) for draw, caption in pictures(scenario, kind, ds)]
    return f'<div class="figures">{"".join(f for f in figures if f)}</div>'


def pictures(scenario: Scenario, kind: str, ds: xr.Dataset) -> list[tuple[Any, str]]:
    """(function that draws, caption) of the pictures of one kind of run; the captions say what one sees."""
    from mist_jax.report import html_sweep, plots

    slo = dict(tables.slo_limits(scenario))
    if kind == "play":
        return [
            (lambda: plots.plot_latency_cdf(ds, slo=slo), _latency_caption(ds)),
            (lambda: plots.plot_timeline(ds), _flight_caption(ds)),
            (
                lambda: plots.plot_stages(ds),
                "Mean time in each stage: all requests, the quicker half, the slowest tenth."
                + _largest(ds, "stage_s", "stage", "The longest stage of all requests"),
            ),
            (lambda: plots.plot_gantt(ds), "The first requests, stage by stage."),
        ]
    if kind == "evaluate":
        return [
            (
                lambda: plots.plot_breakdown(ds),
                "What the mean engine iteration is spent on."
                + _largest(ds, "breakdown_s", "part", "Most of it"),
            ),
            (
                lambda: plots.plot_roofline(scenario, ds),
                "How close each operator comes to the limits of the chip: on the line it is as fast as memory or "
                "arithmetic allow.",
            ),
        ]
    return html_sweep.pictures(ds, slo)


def _latency_caption(ds: xr.Dataset) -> str:
    """Medians and 99th percentiles in words."""
    texts = []
    for name, values in tables.percentile_rows(ds):
        p50, p99 = (q.duration(values[1 + tables.PERCENTILES.index(p)]) for p in (50, 99))
        texts.append(f"{q.title(name)} {p50} and {p99}")
    return f"Half of the requests, and 99 % of them, are within: {'; '.join(texts)}."


def _flight_caption(ds: xr.Dataset) -> str:
    """How many requests were in flight (Little's law gives the mean)."""
    begin, long = ds["arrival_s"].values.astype(float), ds["e2e_s"].values.astype(float)
    served = np.isfinite(long)
    if not served.any():
        return "Each dot is a request."
    begin, long = begin[served], long[served]
    end = begin + long
    change = np.concatenate([np.ones(begin.size), -np.ones(end.size)])
    most = np.cumsum(change[np.argsort(np.concatenate([begin, end]), kind="stable")]).max()
    mean = long.sum() / max(float(end.max() - begin.min()), 1e-30)
    return f"Each dot is a request. Below, those in the system: {q.number(mean)} in the mean, {most:.0f} at most."


def _largest(ds: xr.Dataset, name: str, dim: str, words: str) -> str:
    """The longest part and its share, as a sentence."""
    if name not in ds:
        return ""
    values = ds[name].mean([d for d in ds[name].dims if d != dim], skipna=True).fillna(0.0)
    total = float(values.sum())
    if not total > 0:
        return ""
    i = int(np.argmax(values.values))
    return f" {words}: {q.words(str(values[dim].values[i]))}, {q.percent(float(values[i]) / total)}."


def breakdown(ds: xr.Dataset) -> str:
    """Iteration by operator, request by stage, power by cause: what the dataset has."""
    parts = []
    if "breakdown_s" in ds and ds["breakdown_s"].ndim == 1:
        parts.append(
            "<h3>Mean engine iteration by operator</h3>" + bars(ds["breakdown_s"], "part", "s", sort=True)
        )
    if "figure" in ds.dims:
        rows = [[name, *(f"{100.0 * x:+.1f} %" for x in changes)] for name, changes in tables.more_rows(ds)]
        heads = ["Resource", *(q.title(str(n)) for n in ds.figure.values)]
        parts.append("<h3>What 10 % more of a resource would change</h3>" + table(heads, rows))
        parts.append(f"<p>Bottleneck: {escape(tables.bottleneck(ds))}.</p>")
    if "stage_s" in ds and "request" in ds["stage_s"].dims:
        mean = ds["stage_s"].mean("request", skipna=True)
        parts.append("<h3>Mean time of a request by stage</h3>" + bars(mean, "stage", "s", sort=False))
    if "power_share_w" in ds and ds["power_share_w"].ndim == 1:
        parts.append(
            "<h3>Power of one chip by cause</h3>" + bars(ds["power_share_w"], "share", "W", sort=True)
        )
    return "".join(parts)
