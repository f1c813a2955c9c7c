"""What the HTML report says of a sweep: its question, the best points, the pictures through them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError, Status
from mist_jax.report import quantities as q
from mist_jax.report import style, tables
from mist_jax.report.html_parts import cards, table
from mist_jax.report.sweep_points import describe_point, flatten, pareto_front, text_of, tick_text, usable
from mist_jax.schema import Scenario, parse_scenario

#: Values of an axis up to which all are named, and rows of the front.
NAMED, ROWS = 8, 15
#: Groups whose options have sources.
CATALOGUE = ("hardware", "model", "engine", "prefill")
FRONT = ("tokens_per_s_per_user", "output_tokens_per_s_per_chip")
BESIDE = ("ttft_s", "tpot_s", "cost_per_million_output_tokens_usd")


def axes_of(ds: xr.Dataset) -> list[str]:
    """The dimensions of the sweep that vary."""
    return [str(d) for d in ds["tpot_s"].dims if ds.sizes[d] > 1]


def headline(scenario: Scenario, ds: xr.Dataset) -> tuple[str, str]:
    """How many deployments, and what they start from."""
    names = ", ".join(q.words(d.rsplit(".", 1)[-1]) for d in axes_of(ds))
    first, second = tables.headline(scenario, ds)
    return f"{ds['tpot_s'].size:,} deployments: {names}", f"Starting from {first}; {second}"


def question(scenario: Scenario, ds: xr.Dataset) -> str:
    """What was varied, in words; the base."""
    axes = axes_of(ds)
    varied = "; ".join(f"{escape(d)}: {_values(ds, d)}" for d in axes)
    work = scenario.workload
    asked = f", {q.number(work.isl)} tokens in and {q.number(work.osl)} out" if "workload" not in axes else ""
    from mist_jax.report.html import objective

    return (
        f"<p>Which deployment of {escape(scenario.model.name) if 'model' not in axes else 'these models'} is best for "
        f"the workload <i>{escape(work.name)}</i>{asked}?</p><p>Varied: {varied}.</p>{objective(scenario)}"
    )


def _values(ds: xr.Dataset, axis: str) -> str:
    values = ds[axis].values
    if len(values) <= NAMED:
        return escape(", ".join(tick_text(v) for v in values))
    return escape(f"{len(values)} values from {tick_text(values[0])} to {tick_text(values[-1])}")


def answer(scenario: Scenario, ds: xr.Dataset) -> str:
    """How many work, the best within the objective, and the Pareto front."""
    good = xr.broadcast(usable(ds), ds["tpot_s"])[0]
    text = f"<p>{int(good.sum()):,} of {good.size:,} deployments are possible{_failures(ds)}.</p>"
    if not set(FRONT) <= set(ds.data_vars):
        return text
    extra = [n for n in BESIDE if n in ds]
    try:
        front = pareto_front(ds, *FRONT)
        points = flatten(ds, *FRONT, *extra)
    except ConfigError:
        return text
    text += _best(scenario, ds, points)
    axes = [d for d in front.coords if d in ds.dims]
    rows = []
    for i in range(0, front.sizes["point"], max(front.sizes["point"] // ROWS, 1)):
        point = front.isel(point=i)
        same = np.ones(points.sizes["point"], dtype=bool)
        for d in axes:
            same &= points[d].values == point[d].item()
        at = points.isel(point=int(np.flatnonzero(same)[0]))
        rows.append([describe_point(ds, point), *(q.show(n, at[n].item()) for n in (*FRONT, *extra))])
    head = ["Deployment on the Pareto front", *(q.title(n) for n in (*FRONT, *extra))]
    return text + table(head, rows)


def _failures(ds: xr.Dataset) -> str:
    if "status" not in ds:
        return ""
    codes, counts = np.unique(ds["status"].values, return_counts=True)
    found = [
        f"{n:,}: {Status(int(c)).text}" for c, n in zip(codes, counts, strict=True) if int(c) != Status.OK
    ]
    return f" ({escape('; '.join(found))})" if found else ""


def _best(scenario: Scenario, ds: xr.Dataset, points: xr.Dataset) -> str:
    """The cheapest point whose means are within the objective; without prices, that of the most tokens of a chip."""
    limits = [(n, v) for n, v in tables.slo_limits(scenario) if n in points]
    within = np.ones(points.sizes["point"], dtype=bool)
    for name, limit in limits:
        within &= points[name].values <= limit
    if not within.any():
        return '<p class="missed">No deployment has means within the objective.</p>'
    priced = BESIDE[-1] in points
    score = points[BESIDE[-1]].values if priced else -points[FRONT[1]].values
    best = points.isel(point=int(np.argmin(np.where(within, score, np.inf))))
    what = "The cheapest token" if priced else "The highest throughput of a chip"
    means = " with means within the objective" if limits else ""
    found = [(n, best[n].item()) for n in (*BESIDE, *FRONT) if n in best]
    return f"<p>{what}{means}: <b>{escape(describe_point(ds, best))}</b>.</p>{cards(found)}"


def options_of(ds: xr.Dataset) -> dict[str, list[str]]:
    """The axes of a sweep that are groups of the catalogue, with their options."""
    from mist_jax.explore.groups import folder_of

    groups = [str(d) for d in ds["tpot_s"].dims if folder_of(str(d)) in CATALOGUE]
    if "pipeline" in ds["tpot_s"].dims:  # the scenario's own pipeline may not have such a client
        groups = [d for d in groups if ".clients." not in d]
    return {d: [str(v) for v in ds[d].values] for d in groups}


def variants(scenario: Scenario, chosen_among: Mapping[str, Sequence[str]]) -> list[Scenario]:
    """The first option of every axis that is a group of the catalogue, and one scenario with each further option."""
    from mist_jax.compose import set_path
    from mist_jax.explore.axes import set_pipeline_path
    from mist_jax.explore.groups import folder_of, option_mapping, section_of

    options = {a: names for a, names in chosen_among.items() if folder_of(a) in CATALOGUE}
    # a pool to set the chips of, where there is one
    chosen = {axis: max(names, key=lambda n: n != "none") for axis, names in options.items()}
    choices = [chosen, *(chosen | {axis: name} for axis, names in options.items() for name in names)]
    out = []
    for choice in choices:
        mapping = copy.deepcopy(scenario.config)
        try:
            for axis in sorted(choice, key=lambda a: a.count(".")):
                write = set_pipeline_path if ".clients." in axis else set_path
                write(mapping, str(section_of(axis)), option_mapping(axis, choice[axis]))
            out.append(parse_scenario(mapping))
        except ConfigError:  # an option from a folder of one's own, or chips of a pool that is not there
            continue
    return out


def pictures(ds: xr.Dataset, slo: dict[str, float]) -> list[tuple[Any, str]]:
    """Pareto front of all points; load and heat map through the point of the highest throughput per chip."""
    from mist_jax.report import plots

    axes = axes_of(ds)
    named = [d for d in axes if ds[d].dtype.kind in "UO" and ds.sizes[d] <= len(style.COLORS)]
    by = named[0] if named else None
    caption = "Speed of one user against throughput of one chip, all deployments."
    out: list[tuple[Any, str]] = []
    try:
        front = pareto_front(ds)
    except ConfigError:
        return [(lambda: plots.plot_pareto(ds, by=by), caption)]
    best, last = front.isel(point=0), front.isel(point=-1)
    caption += (
        f" Most of a chip: {describe_point(ds, best)}, {_of(best, FRONT[1])}; quickest for a user: "
        f"{describe_point(ds, last)}, {_of(last, FRONT[0])}."
    )
    out.append((lambda: plots.plot_pareto(ds, by=by), caption))

    def through(*kept: str) -> tuple[xr.Dataset, str]:
        """The slice of the sweep through the best point along the axes that are kept, and what was fixed."""
        fixed = {d: best[d].item() for d in axes if d not in kept}
        return ds.sel(fixed), ", ".join(text_of(d, v) for d, v in fixed.items())

    try:
        load = plots.load_axis(ds)
        part, fixed = through(load)
        caption = f"Latency under load{f' ({fixed})' if fixed else ''}, means."
        out.append((lambda: plots.plot_load(part, load, slo=slo), caption))
    except ConfigError:
        pass
    if len(axes) >= 2:
        slab, rest = through(*axes[-2:])
        caption = f"Throughput over two axes{f' ({rest})' if rest else ''}; hatched: not possible."
        out.append((lambda: plots.plot_heatmap(slab, x=axes[-1], y=axes[-2]), caption))
    return out


def _of(point: xr.Dataset, name: str) -> str:
    return q.show(name, point[name].item())
