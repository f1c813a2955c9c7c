"""The HTML report of a front of designs (`search_front`, `pareto`): the trade, the designs, what binds them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.explore.pareto import direction
from mist_jax.report import html, html_sweep, tables
from mist_jax.report import quantities as q
from mist_jax.report.front_points import (
    along,
    common_text,
    design_text,
    evaluated,
    limits_of,
    objectives_of,
    options_of,
    shown,
    varied,
)
from mist_jax.report.html_parts import assumptions, configuration, figure, page, table
from mist_jax.schema import Scenario

#: Designs of the table, and pictures of pairs of objectives.
ROWS, PAIRS = 15, 6


def front(scenario: Scenario, ds: xr.Dataset, mapping: Mapping[str, Any] | None) -> str:
    """The report of a front of designs."""
    names = objectives_of(ds)
    first, second = tables.headline(scenario, xr.Dataset())
    paths = varied(ds)
    options = options_of(ds)
    # how far the calibration reaches the base says nothing of other chips and models
    reach = "" if options else html.reach(scenario, xr.Dataset())
    sections = [
        ("Question", _question(first, ds, names)),
        ("Answer", _answer(ds, names, paths)),
        ("Uncertainty", html.uncertainty("search", ds, scenario.calibration) + reach),
        ("Pictures", _pictures(ds, names)),
        (
            "Assumptions and their sources",
            assumptions(scenario, ds, html_sweep.variants(scenario, options)),
        ),
        ("Configuration", configuration(scenario, mapping)),
    ]
    title = f"Pareto front: {_and([_inner(n) for n in names])}"
    return page(
        title, f"Starting from {first}; {second}", sections, "a Pareto front of designs in steady state"
    )


def _inner(name: str) -> str:
    """The short name of a figure inside a sentence: "TPOT", but "cost per million generated tokens"."""
    text = q.title(name)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _question(first: str, ds: xr.Dataset, names: list[str]) -> str:
    senses = [
        f"{'lower' if sign > 0 else 'higher'} {_inner(n)}"
        for n, sign in zip(names, direction(names), strict=True)
    ]
    text = (
        f"<p>Which designs, starting from {escape(first)}, cannot have {escape(' or '.join(senses))} without "
    )
    text += f"{'giving up the other' if len(names) == 2 else 'giving up another of these'}?</p>"
    bounds = [f"{n}: {shown(str(n), c.attrs['low'])} to {shown(str(n), c.attrs['high'])}"
              for n, c in ds.coords.items() if "low" in c.attrs]  # fmt: skip
    if bounds:
        text += f"<p>Varied: {escape('; '.join(bounds))}.</p>"
    if options := options_of(ds):
        texts = (f"{n}: {', '.join(v)}" for n, v in options.items())
        text += f"<p>Chosen among: {escape('; '.join(texts))}.</p>"
    limits = [f"{q.title(n)} {sign} {q.show(n, limit)}" for n, sign, limit in limits_of(ds)]
    return text + (f"<p>Limits: {escape('; '.join(limits))}.</p>" if limits else "<p>No limits are set.</p>")


def _answer(ds: xr.Dataset, names: list[str], paths: list[str]) -> str:
    count = ds.sizes["point"]
    seen = evaluated(ds, *names)
    of = f" of {ds.attrs['evaluations']:,} evaluated" if "evaluations" in ds.attrs else ""
    within = f", {seen[0].size:,} of which meet all limits" if seen is not None else ""
    text = f"<p><b>{count:,} designs</b>{of}{within}, are on the front: no design found is at least as good in all "
    text += f"objectives and better in one. Hypervolume {q.number(ds.attrs['hypervolume'])} (share, between the best "
    text += "and the worst value of each objective among feasible designs, that the front dominates).</p>"
    if common := common_text(ds):
        text += f"<p>All of them: {escape(common)}.</p>"
    ends = []
    for name, sign in zip(names, direction(names), strict=True):
        i = int(np.argmin(sign * ds[name].values))
        best = f"{'Lowest' if sign > 0 else 'Highest'} {_inner(name)}"
        design = f"{best}: {design_text(ds, i)}" if paths else best
        ends.append([design, *(q.show(n, ds[n].values[i]) for n in names)])
    text += "<h3>The ends of the trade</h3>" + table(["Design", *map(q.title, names)], ends)
    return text + _designs(ds, names, paths)


def _designs(ds: xr.Dataset, names: list[str], paths: list[str]) -> str:
    """The table of designs spread along the front: what was varied, objectives, limits, what binds."""
    count = ds.sizes["point"]
    limits = limits_of(ds)
    # that one request fits in the KV cache is no figure to compare designs by
    others = list(dict.fromkeys(n for n, _, _ in limits if n not in (*names, "memory_need")))
    head = ["Design", *map(q.title, [*paths, *names, *others])]
    if limits:
        head.append("Nearest to its limit")
    if "bottleneck" in ds:
        head.append("Bottleneck")
    rows = []
    for i in along(ds, names[0], names[1], ROWS):
        row = [f"#{i}", *(shown(n, ds[n].values[i]) for n in paths)]
        row += [q.show(n, ds[n].values[i]) for n in (*names, *others)]
        row += [_nearest(ds, i, limits)] if limits else []
        rows.append(row + ([_bound(str(ds["bottleneck"].values[i]))] if "bottleneck" in ds else []))
    which = (
        f"{len(rows)} of {count:,}, spread along the front; # is the place along <code>point</code> in the dataset"
        if len(rows) < count
        else "all"
    )
    text = f"<h3>Designs of the front ({which})</h3>" + table(head, rows)
    if limits:
        text += "<p>All meet all limits; the share says how much of the nearest one is used.</p>"
    if "bottleneck" in ds:
        text += '<p class="soft">Bottleneck: the resource of the chips of which 1 % more shortens the mean end-to-end '
        text += "latency most at the same load.</p>"
    return text


def _bound(text: str) -> str:
    """A value of `bottleneck` in words: "memory bandwidth", with its pool where there are two."""
    pool, colon, resource = text.rpartition(": ")
    return f"{pool}{colon}{q.words(resource)}"


def _nearest(ds: xr.Dataset, point: int, limits: list[tuple[str, str, float]]) -> str:
    """The limit that is used most, and how much of it."""
    used = {name: value / limit if sign == "<=" else limit / value
            for name, sign, limit in limits for value in [float(ds[name].values[point])]}  # fmt: skip
    name = max(used, key=lambda n: used[n])
    return f"{q.title(name)}, {q.percent(used[name])}"


def _pictures(ds: xr.Dataset, names: list[str]) -> str:
    from mist_jax.report.plots import plot_convergence, plot_front

    grey = " Grey: the dominated designs that were evaluated." if evaluated(ds, *names) is not None else ""
    drawn = []
    for x, y in list(itertools.combinations(names, 2))[:PAIRS]:
        caption = f"{q.title(y)} against {q.title(x)} of the designs on the front.{grey}"
        drawn.append(figure(lambda x=x, y=y: plot_front(ds, x, y), caption))
    if "hypervolume" in ds:
        last = ds["hypervolume"].values
        reached = int(np.argmax(last >= 0.99 * last[-1])) + 1
        caption = (
            f"Hypervolume of the front over the evaluations; within 1 % of the last value after {reached:,}."
        )
        drawn.append(figure(lambda: plot_convergence(ds, "hypervolume"), caption))
    return f'<div class="figures">{"".join(drawn)}</div>'
