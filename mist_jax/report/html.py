"""One self-contained HTML report of a run: question, answer, uncertainty, pictures, breakdown, assumptions, config.

No scripts, no fonts, no external resources: pictures are embedded SVG.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mist_jax import __version__
from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style, tables
from mist_jax.report.assumptions import assumption_rows
from mist_jax.report.html_style import CSS
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
    scenario: Scenario, ds: xr.Dataset, path: str | Path, mapping: Mapping[str, Any] | None = None
) -> Path:
    """Write the HTML report of one run and return its path.

    Args:
        scenario: what was asked.
        ds: the result of `evaluate`, `play` or `sweep`.
        path: where to write; the folder is made.
        mapping: the composed configuration to print (default: the one that the scenario came from).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(scenario, ds, mapping), encoding="utf-8")
    return path


def render(scenario: Scenario, ds: xr.Dataset, mapping: Mapping[str, Any] | None = None) -> str:
    """The report as text; see `write_report`."""
    kind = kind_of(ds)
    first, second = tables.headline(scenario, ds)
    sections = [
        ("Question", _question(scenario, kind, ds)),
        ("Answer", _answer(scenario, kind, ds)),
        ("Uncertainty", uncertainty(kind, ds, scenario.calibration)),
        ("Pictures", _pictures(scenario, kind, ds)),
        ("Breakdown", _breakdown(ds)),
        ("Assumptions and their sources", _assumptions(scenario, ds)),
        ("Configuration", _configuration(scenario, mapping)),
    ]
    body = "\n".join(f"<section><h2>{escape(t)}</h2>\n{c}\n</section>" for t, c in sections if c)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(first)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escape(first)}</h1>\n<p class="soft">{escape(second)}</p></header>\n{body}\n'
        f'<footer class="soft">MIST-JAX {escape(__version__)}; {_KINDS[kind]}.</footer>\n</main>\n</body>\n</html>\n'
    )


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
        "sweep": f"Which deployment is best, starting from {serves},",
    }[kind]
    lengths = f"mean lengths {q.number(work.isl)} tokens in and {q.number(work.osl)} out"
    limits = ", ".join(f"{q.title(n)} at most {q.duration(v)}" for n, v in tables.slo_limits(scenario))
    slo = (
        f"Service level objective <i>{escape(scenario.slo.name)}</i>: {limits}."
        if limits
        else "No service level objective is set."
    )
    varied = ""
    if kind == "sweep":
        axes = ", ".join(
            f"{escape(str(d))} ({n} values)"
            for d, n in ds.sizes.items()
            if d not in ("part", "share") and n > 1
        )
        varied = f"<p>Varied: {axes}.</p>"
    asked = traffic if kind == "play" else f"{traffic}, {lengths}"
    return f"<p>{what} for {asked}?</p><p>{slo}</p>{varied}"


def _answer(scenario: Scenario, kind: str, ds: xr.Dataset) -> str:
    if kind == "sweep":
        return _best_points(ds)
    if kind == "evaluate":
        found = [(n, ds[n].item()) for n in EVALUATION_CARDS if n in ds and ds[n].ndim == 0]
        status = ds.attrs.get("status", "ok")
        trouble = "" if status == "ok" else f'<p class="missed">{escape(str(status))}</p>'
        return trouble + _cards(found) + "".join(_verdicts(scenario, ds))
    found = [(n, ds.attrs[n]) for n in PLAY_CARDS if n in ds.attrs]
    total, served = int(ds.attrs.get("requests", ds.sizes["request"])), int(ds.attrs.get("served", 0))
    text = f"<p>{served:,} of {total:,} requests were served, {total - served:,} refused, "
    text += f"{int(ds.attrs.get('preempted_requests', 0)):,} preempted.</p>"
    share, target = float(ds.attrs.get("goodput_share", np.nan)), scenario.slo.target
    if tables.slo_limits(scenario) and np.isfinite(share):
        text += f"<p>{q.percent(share)} of the requests are within the objective, "
        text += f"{q.percent(target)} are asked for: {_mark(share >= target)}.</p>"
    latencies = tables.percentile_rows(ds)
    names = ("mean", *(f"p{p}" for p in tables.PERCENTILES))
    rows = [[name, *(q.duration(values[i]) for _, values in latencies)] for i, name in enumerate(names)]
    return _cards(found) + text + table(["Latency", *(q.title(n) for n, _ in latencies)], rows)


def _verdicts(scenario: Scenario, ds: xr.Dataset) -> Iterable[str]:
    for name, limit in tables.slo_limits(scenario):
        if name in ds and ds[name].ndim == 0:
            value = float(ds[name])
            yield (
                f"<p>Mean {q.title(name)} is {q.duration(value)}, the limit {q.duration(limit)}: "
                f"{_mark(value <= limit)}.</p>"
            )
    yield '<p class="soft">Means of the steady state; mode=play gives the share of requests within the objective.</p>'


def _mark(good: bool) -> str:
    return '<span class="met">met</span>' if good else '<span class="missed">missed</span>'


def _cards(found: Sequence[tuple[str, Any]]) -> str:
    cards = (
        f'<div class="card"><b>{escape(q.show(n, v))}</b><span>{escape(q.title(n))}</span></div>'
        for n, v in found
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _best_points(ds: xr.Dataset) -> str:
    from mist_jax.report.plots_sweep import describe_point, flatten, pareto_front, usable

    good = xr.broadcast(usable(ds), ds["tpot_s"])[0]
    text = (
        f"<p>{int(good.sum()):,} of {good.size:,} deployments are possible; the rest carry a status code.</p>"
    )
    names = ("tokens_per_s_per_user", "output_tokens_per_s_per_chip")
    extra = [n for n in ("ttft_s", "tpot_s", "cost_per_million_output_tokens_usd") if n in ds]
    if not set(names) <= set(ds.data_vars):
        return text
    try:
        front = pareto_front(ds, *names)
    except ConfigError:
        return text
    everything = flatten(ds, *names, *extra)
    axes = [d for d in front.coords if d in ds.dims]
    rows = []
    for i in range(0, front.sizes["point"], max(front.sizes["point"] // 15, 1)):
        point = front.isel(point=i)
        same = (
            np.all([everything[d].values == point[d].item() for d in axes], axis=0)
            if axes
            else np.array([True])
        )
        at = everything.isel(point=int(np.flatnonzero(same)[0]))
        rows.append([describe_point(ds, point), *(q.show(n, at[n].item()) for n in (*names, *extra))])
    head = ["Deployment on the Pareto front", *(q.title(n) for n in (*names, *extra))]
    return text + table(head, rows)


def uncertainty(kind: str, ds: xr.Dataset, calibration: str = "unknown") -> str:
    """The intervals that the dataset carries (`x_low`, `x_high`), or a plain statement that there are none."""
    name = escape(str(ds.attrs.get("calibration", calibration)))
    label = escape(str(ds.attrs.get("calibration_label", "")))
    text = f"<p>Calibration: <i>{name}</i>{f' ({label})' if label else ''}.</p>"
    pairs = [str(n) for n in ds.data_vars if f"{n}_low" in ds and f"{n}_high" in ds and ds[n].ndim == 0]
    if pairs:
        level = ds.attrs.get("interval_level")
        head = ["Quantity", "low", "estimate", "high"]
        rows = [[q.title(n), *(q.show(n, ds[m].item()) for m in (f"{n}_low", n, f"{n}_high"))] for n in pairs]
        of = f" of {q.percent(level)} coverage" if level is not None else ""
        return (
            text
            + f"<p>Intervals{of} from the calibration's errors on measurements that it was not fitted to.</p>"
            + table(head, rows)
        )
    if kind == "sweep" and any(str(n).endswith("_low") for n in ds.data_vars):
        return text + "<p>The dataset has an interval for each point; the pictures show it as a band.</p>"
    text += "<p><b>No interval.</b> This is a point estimate: the dataset carries no calibrated interval for it.</p>"
    if kind == "play":
        text += "<p>The percentiles describe how requests differ from each other, not how far the model may be off.</p>"
    return text


def _pictures(scenario: Scenario, kind: str, ds: xr.Dataset) -> str:
    figures = [figure(draw, caption) for draw, caption in pictures(scenario, kind, ds)]
    return f'<div class="figures">{"".join(f for f in figures if f)}</div>'


def pictures(scenario: Scenario, kind: str, ds: xr.Dataset) -> list[tuple[Any, str]]:
    """(function that draws, caption) of the pictures of one kind of run."""
    from mist_jax.report import plots

    slo = dict(tables.slo_limits(scenario))
    if kind == "play":
        return [
            (lambda: plots.plot_latency_cdf(ds, slo=slo), "Share of requests that are at least so quick."),
            (lambda: plots.plot_timeline(ds), "Each dot is a request; below, how many are in the system."),
            (
                lambda: plots.plot_stages(ds),
                "Mean time in each stage: all requests, the quicker half, the slowest tenth.",
            ),
            (lambda: plots.plot_gantt(ds), "The first requests, stage by stage."),
        ]
    if kind == "evaluate":
        return [
            (lambda: plots.plot_breakdown(ds), "What the mean engine iteration is spent on."),
            (
                lambda: plots.plot_roofline(scenario, ds),
                "How close each operator comes to the limits of the chip.",
            ),
        ]
    return _sweep_pictures(ds, slo)


def _sweep_pictures(ds: xr.Dataset, slo: dict[str, float]) -> list[tuple[Any, str]]:
    """Pareto front of all points; load and heat map through the point of the highest throughput per chip."""
    from mist_jax.report import plots
    from mist_jax.report.plots_sweep import text_of

    axes = [str(d) for d in ds["tpot_s"].dims if ds.sizes[d] > 1]
    named = [d for d in axes if ds[d].dtype.kind in "UO" and ds.sizes[d] <= len(style.COLORS)]
    by = named[0] if named else None
    out: list[tuple[Any, str]] = [
        (
            lambda: plots.plot_pareto(ds, by=by),
            "Speed of one user against throughput of one chip, all deployments.",
        )
    ]
    try:
        best = plots.pareto_front(ds).isel(point=0)
    except ConfigError:
        return out

    def through(*kept: str) -> tuple[xr.Dataset, str]:
        """The slice of the sweep through the best point along the axes that are kept, and what was fixed."""
        fixed = {d: best[d].item() for d in axes if d not in kept}
        return ds.sel(fixed), ", ".join(text_of(d, v) for d, v in fixed.items())

    try:
        load = plots.load_axis(ds)
        part, fixed = through(load)
        caption = f"Latency under load{f' ({fixed})' if fixed else ''}."
        out.append((lambda: plots.plot_load(part, load, slo=slo), caption))
    except ConfigError:
        pass
    if len(axes) >= 2:
        slab, rest = through(*axes[-2:])
        caption = f"Throughput over two axes{f' ({rest})' if rest else ''}; hatched: not possible."
        out.append((lambda: plots.plot_heatmap(slab, x=axes[-1], y=axes[-2]), caption))
    return out


def figure(draw: Any, caption: str) -> str:
    """A picture as embedded SVG with its caption; nothing if the dataset cannot give it."""
    try:
        fig = draw()
    except ConfigError:
        return ""
    data = base64.b64encode(style.svg(fig)).decode()
    width, height = (round(96 * x) for x in fig.get_size_inches())
    fig.clear()
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(caption, quote=True)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _breakdown(ds: xr.Dataset) -> str:
    parts = []
    if "breakdown_s" in ds and ds["breakdown_s"].ndim == 1:
        parts.append(
            "<h3>Mean engine iteration by operator</h3>" + _bars(ds["breakdown_s"], "part", "s", sort=True)
        )
    if "stage_s" in ds and "request" in ds["stage_s"].dims:
        mean = ds["stage_s"].mean("request", skipna=True)
        parts.append("<h3>Mean time of a request by stage</h3>" + _bars(mean, "stage", "s", sort=False))
    if "power_share_w" in ds and ds["power_share_w"].ndim == 1:
        parts.append(
            "<h3>Power of one chip by cause</h3>" + _bars(ds["power_share_w"], "share", "W", sort=True)
        )
    return "".join(parts)


def _bars(values: xr.DataArray, dim: str, unit: str, sort: bool) -> str:
    numbers = np.nan_to_num(values.values.astype(float))
    total = numbers.sum()
    order = np.argsort(-numbers, kind="stable") if sort else range(numbers.size)
    rows = []
    for i in order:
        if numbers[i] <= 0:
            continue
        amount = q.duration(numbers[i]) if unit == "s" else f"{q.number(numbers[i])} {unit}"
        name, share = escape(q.words(str(values[dim].values[i]))), numbers[i] / total
        bar = f'<span class="bar" style="width:{100 * share:.1f}%"></span>'
        rows.append(
            f'<tr><td>{name}</td><td class="n">{amount}</td><td class="n">{q.percent(share)}</td>'
            f'<td class="b">{bar}</td></tr>'
        )
    return f"<table class=bars><tbody>{''.join(rows)}</tbody></table>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose other columns are numbers; many columns are stacked on a phone."""

    titles = "".join(f"<th{' class=n' if i else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    body = ""
    for row in rows:
        cells = (
            f'<td class="n" data-label="{escape(h, quote=True)}">{escape(c)}</td>'
            for h, c in zip(head[1:], row[1:])
        )
        body += f"<tr><td>{escape(row[0])}</td>{''.join(cells)}</tr>"
    kind = ' class="stack"' if len(head) > 4 else ""
    return f"<div class=wide><table{kind}><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _assumptions(scenario: Scenario, ds: xr.Dataset) -> str:
    rows = "".join(
        f'<tr><td class="k">{escape(a)}</td><td>{escape(b)}</td><td class="soft">{escape(c)}</td></tr>'
        for a, b, c in assumption_rows(scenario, ds)
    )
    return (
        '<table class="sources"><thead><tr><th>What</th><th>Taken as</th><th>Source</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _configuration(scenario: Scenario, mapping: Mapping[str, Any] | None) -> str:
    from omegaconf import OmegaConf

    config = dict(mapping or scenario.config)
    text = OmegaConf.to_yaml(OmegaConf.create(config)) if config else "(not recorded)"
    return (
        "<p>The composed configuration, which gives this result again.</p>"
        f"<details open><summary>Show or hide</summary><pre>{escape(text)}</pre></details>"
    )
