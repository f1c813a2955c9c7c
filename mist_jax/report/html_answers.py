"""HTML reports of recommendations, searches, comparisons and calibrations; those of datasets are in `html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.explore.commands import flat
from mist_jax.report import html, tables
from mist_jax.report import quantities as q
from mist_jax.report.html_parts import assumptions, cards, configuration, figure, mark, page, table
from mist_jax.schema import Scenario

if TYPE_CHECKING:
    from mist_jax.calibrate import CalibrationResult
    from mist_jax.explore.recommend import Recommendation
    from mist_jax.explore.search import SearchResult

Sections = list[tuple[str, str]]
ENDLESS = "not kept up"


def recommendation(scenario: Scenario, answer: Recommendation, mapping: Mapping[str, Any] | None) -> str:
    """The report of `mist.recommend`: the fleet, the runners-up, what binds, what would change it."""
    best, chosen = answer.best, answer.scenario
    found = [(n, getattr(best, n)) for n in ("ttft_s", "tpot_s", "e2e_s", "load", "chips")]
    found.append(("cost_per_million_output_tokens_usd", best.usd_per_million_tokens))
    text = f"<p>The cheapest of {answer.candidates:,} fleets: <b>{escape(best.text)}</b>, "
    text += f"{q.dollars(best.usd_per_hour)} an hour.</p>{cards(found)}"
    if answer.good_share is not None:
        text += f"<p>Played, {q.percent(answer.good_share)} of the requests are within the limits, "
        text += f"{q.percent(scenario.slo.target)} are asked for: {mark(answer.good_share >= scenario.slo.target)}.</p>"
    else:
        text += (
            '<p class="soft">Judged by means of the steady state; recommend.check=true plays the choice.</p>'
        )
    text += f"<p>Nearest to its limit: {escape(q.title(answer.tightest))}"
    text += f" ({answer.slack:.2f} times within). " if math.isfinite(answer.slack) else ". "
    text += f"What binds: {escape(answer.bottleneck)}. The traffic may grow {answer.headroom:.2f} times.</p>"
    head = ["Runner-up", "Chips", "$/h", "$/1M tokens", "TTFT", "TPOT", "End to end", "Load"]
    rows = [
        [
            f.text, f"{f.chips}", f"{f.usd_per_hour:.2f}", f"{f.usd_per_million_tokens:.3f}", q.duration(f.ttft_s),
            q.duration(f.tpot_s), q.duration(f.e2e_s), q.percent(f.load),
        ]
        for f in answer.runners_up
    ]  # fmt: skip
    if rows:
        text += "<h3>The cheapest of other chips and plans</h3>" + table(head, rows)
    if answer.would_change:
        text += "<h3>What would change the answer</h3>" + table(
            ["Change", "Then the cheapest is"], [[k, v] for k, v in answer.would_change.items()]
        )
    ds, pictures, rest = _deployment(chosen, mapping)
    sections: Sections = [
        ("Question", _fleet_question(scenario, answer)),
        ("Answer", text),
        ("Uncertainty", html.uncertainty("evaluate", ds, chosen.calibration) + _growth(answer)),
        ("Pictures", pictures),
        ("Breakdown", html.breakdown(ds) + _slopes(answer.elasticities)),
        ("To launch it", _launch(chosen)),
        *rest,
    ]
    first = f"{scenario.model.name}: {best.text}"
    return page(
        first, tables.headline(scenario, ds)[1], sections, "the cheapest fleet for a workload and an SLO"
    )


def _fleet_question(scenario: Scenario, answer: Recommendation) -> str:
    limits = ", ".join(f"{q.title(n)} at most {q.duration(v)}" for n, v in tables.slo_limits(scenario))
    second = tables.headline(scenario, xr.Dataset())[1]
    return (
        f"<p>Which fleet serves {escape(scenario.model.name)} at the lowest rent for {escape(second)}?</p>"
        f"<p>{f'Limits: {escape(limits)}.' if limits else 'No limits are set.'}</p>"
    )


def _growth(answer: Recommendation) -> str:
    if "headroom" not in answer.intervals:
        return ""
    low, high = answer.intervals["headroom"]
    short = "" if low >= 1.0 else " Below 1 the fleet does not carry the asked traffic at the slow end."
    return f"<p>The traffic may grow {low:.2f} to {high:.2f} times over the same interval.{short}</p>"


def _slopes(elasticities: Mapping[str, Mapping[str, float]]) -> str:
    names = [n for n in ("ttft_s", "tpot_s", "e2e_s", "load") if any(n in e for e in elasticities.values())]
    rows = [
        [resource, *(f"{e[n]:+.2f} %" if n in e else q.MISSING for n in names)]
        for resource, e in elasticities.items()
    ]
    return "<h3>What 1 % more of a resource does</h3>" + table(["Resource", *map(q.title, names)], rows)


def _launch(scenario: Scenario) -> str:
    from mist_jax.io.launch import launch_command

    roles: Sequence[str | None] = (None,) if scenario.prefill is None else ("prefill", "decode")
    try:
        texts = [launch_command(scenario, role=r).explained() for r in roles]
    except ConfigError as reason:
        return f"<p>{escape(str(reason))}</p>"
    return "".join(f"<pre>{escape(t)}</pre>" for t in texts)


def _deployment(chosen: Scenario, mapping: Mapping[str, Any] | None) -> tuple[xr.Dataset, str, Sections]:
    """(steady state, pictures, last sections) of the deployment that was found."""
    from mist_jax.evaluate import evaluate
    from mist_jax.report.load_curve import load_curve, load_path
    from mist_jax.report.plots import plot_load

    ds = evaluate(chosen)
    path = load_path(chosen)
    asked = getattr(chosen.workload, path.rsplit(".", 1)[-1])
    curve = load_curve(chosen, [round(asked * f, 9) for f in (0.1, 0.25, 0.5, 0.75, 1.0, 1.1, 1.25, 1.5)])
    drawn = [
        *html.pictures(chosen, "evaluate", ds),
        (
            lambda: plot_load(curve, path, slo=dict(tables.slo_limits(chosen))),
            f"The same deployment at other loads ({q.number(asked)} is asked for); band: interval of the calibration.",
        ),
    ]
    figures = "".join(figure(draw, caption) for draw, caption in drawn)
    rest = [
        ("Assumptions and their sources", assumptions(chosen, ds)),
        ("Configuration", configuration(chosen, mapping)),
    ]
    return ds, f'<div class="figures">{figures}</div>', rest


def search(scenario: Scenario, result: SearchResult, mapping: Mapping[str, Any] | None) -> str:
    """The report of `mist.search`: the design, how the search came to it, and its steady state."""
    from mist_jax.report.plots import plot_convergence

    section = dict((mapping or {}).get("search") or {})
    objective = _objective(section.get("objective"))
    question = f"<p>Which design is best in <i>{escape(objective)}</i>, starting from "
    question += f"{escape(tables.headline(scenario, xr.Dataset())[0])}?</p>"
    for name, intro in (("variables", "Varied"), ("choices", "Chosen among"), ("constraints", "Limits")):
        items = flat(section.get(name) or {})
        if items:
            # limits name figures, the others keys of the configuration
            words = (_limit(k, v) if name == "constraints" else f"{k}: {v}" for k, v in items.items())
            question += f"<p>{intro}: {escape('; '.join(words))}.</p>"
    convergence = figure(
        lambda: plot_convergence(result.history), "Best feasible design so far over the evaluations."
    )
    rows = [[k, q.of_config(k, v)] for k, v in result.best.items()]
    if not result.feasible or result.scenario is None:
        tried = f"{result.evaluations:,} evaluations"
        answer = f'<p class="missed">No design within the bounds meets the limits ({tried}).</p>'
        sections: Sections = [
            ("Question", question),
            ("Answer", answer),
            ("Pictures", f'<div class="figures">{convergence}</div>'),
            ("Configuration", configuration(scenario, mapping)),
        ]
        return page(f"{scenario.model.name}: no design found", objective, sections, "a search over designs")
    name = section.get("objective")
    value = q.show(name, result.objective) if name in q.SHOWN else q.number(result.objective)
    answer = f"<p>{escape(objective)}: <b>{escape(value)}</b> after {result.evaluations:,} evaluations.</p>"
    if result.played:
        mark = ' class="missed"' if result.missed else ""
        answer += f"<p{mark}>{escape(q.played(result.played, result.missed))}.</p>"
    answer += table(["Key", "Value found"], rows)
    answer += "<h3>All figures of the design, steady state</h3>" + table(
        ["Figure", "Value"], [[q.title(n), q.show(n, v)] for n, v in result.figures.items()]
    )
    others = [[", ".join(f"{k} {v}" for k, v in r.items() if k != "objective"), q.number(r["objective"])]
              for r in result.runners_up if "objective" in r]  # fmt: skip
    if others:
        answer += "<h3>Best of the other choices</h3>" + table(["Choice", "Objective"], others)
    ds, pictures, rest = _deployment(result.scenario, mapping)
    sections = [
        ("Question", question),
        ("Answer", answer),
        ("Uncertainty", html.uncertainty("evaluate", ds, scenario.calibration)),
        ("Pictures", pictures.replace('<div class="figures">', f'<div class="figures">{convergence}', 1)),
        ("Breakdown", html.breakdown(ds)),
        *rest,
    ]
    first, second = tables.headline(result.scenario, ds)
    return page(f"Found: {first}", second, sections, "a search over designs")


def _limit(name: str, text: Any) -> str:
    """`ttft_s`, "<= 2.0" → "TTFT <= 2 s"."""
    sign, _, value = str(text).strip().partition(" ")
    try:
        return f"{q.title(name)} {sign} {q.show(name, float(value))}"
    except ValueError:
        return f"{name} {text}"


def _objective(objective: Any) -> str:
    """The name of a figure, or a product of figures, in words."""
    if isinstance(objective, Mapping):
        powers = ((q.title(str(n)), float(w)) for n, w in objective.items())
        return " times ".join(
            n if w == 1 else f"1/{n}" if w == -1 else f"{n} to the power {w:g}" for n, w in powers
        )
    return q.title(str(objective)) if objective else "the objective"


def comparison(scenario: Scenario, ds: xr.Dataset, mapping: Mapping[str, Any] | None) -> str:
    """The report of `mist_jax.compare.compare`: measured, predicted, and what might explain the difference."""
    from mist_jax.compare import comparison_rows
    from mist_jax.report.plots import plot_comparison

    reasons = "".join(f"<li>{escape(t)}</li>" for t in str(ds.attrs["explanations"]).splitlines())
    drawn = figure(lambda: plot_comparison(ds), "Predicted over measured; at 1 they agree.")
    first, second = tables.headline(scenario, ds)
    source = f"{ds.attrs['run']} ({ds.attrs['form']})"
    method = str(ds.attrs["method"])
    how = {"steady": "the steady state", "play": "a playback"}.get(method, method)
    sections: Sections = [
        (
            "Question",
            f"<p>Does {escape(how)} of the description give what was measured in {escape(source)}?</p>",
        ),
        (
            "Answer",
            table(["Quantity", "Measured", "Predicted", "80 % interval", "Ratio"], comparison_rows(ds)),
        ),
        ("What might explain the difference", f"<ul>{reasons}</ul>"),
        ("Pictures", f'<div class="figures">{drawn}</div>'),
        ("Assumptions and their sources", assumptions(scenario, ds)),
        ("Configuration", configuration(scenario, mapping)),
    ]
    return page(f"Measured and predicted: {first}", second, sections, "a benchmark beside the prediction")


def calibration(scenario: Scenario, result: CalibrationResult, mapping: Mapping[str, Any] | None) -> str:
    """The report of `calibrate_from_run`: errors before and after, and the coefficients that moved."""
    from mist_jax.calibrate import moved, shown_rows

    rows = [list(row) for row in shown_rows(result)]
    table_of = table(["Run", "Quantity", "Measured", "Before", "After"], rows)
    factors = table(["Coefficient", "Factor, about"], [[n, f"{f:.2f}"] for n, f in moved(result)])
    before, after = (_mean_error(v, result.measured) for v in (result.before, result.after))
    said = (
        f"<p>The predictions were {q.percent(before)} off in the mean and are {q.percent(after)} off now.</p>"
    )
    names = ", ".join(Path(s).name for s in result.sources)
    sections: Sections = [
        ("Question", f"<p>Which coefficients make the prediction agree with {escape(names)}?</p>"),
        ("Answer", said + table_of + "<h3>Coefficients that moved</h3>" + factors),
        (
            "Uncertainty",
            "<p>The errors after are those of the runs that were fitted to; keep a run apart to see how the "
            "calibration does on what it has not seen.</p>",
        ),
        ("Assumptions and their sources", assumptions(scenario, xr.Dataset())),
        ("Configuration", configuration(scenario, mapping)),
    ]
    first, _ = tables.headline(scenario, xr.Dataset())
    return page(f"Calibrated: {first}", f"From {names}", sections, "coefficients refitted to measured runs")


def _mean_error(predicted: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, float]]) -> float:
    """Mean of |predicted / measured - 1| over what was measured and is shown."""
    from mist_jax.calibrate import NOISE

    errors = [
        abs(p[name] / m[name] - 1.0)
        for p, m in zip(predicted, measured, strict=True)
        for name in (*NOISE, "e2e_mean_s")
        if math.isfinite(m.get(name, math.nan))
    ]
    return sum(errors) / max(len(errors), 1)
