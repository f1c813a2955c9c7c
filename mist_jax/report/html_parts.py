"""Pieces of the HTML report: the page, tables, bars, pictures, assumptions, configuration.

No scripts, no fonts, no external resources: pictures are embedded SVG.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from mist_jax import __version__
from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.assumptions import assumption_rows
from mist_jax.report.html_style import CSS
from mist_jax.schema import Scenario


def page(title: str, subtitle: str, sections: Iterable[tuple[str, str]], footer: str) -> str:
    """A whole document; sections without content are left out."""
    body = "\n".join(f"<section><h2>{escape(t)}</h2>\n{c}\n</section>" for t, c in sections if c)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escape(title)}</h1>\n<p class="soft">{escape(subtitle)}</p></header>\n{body}\n'
        f'<footer class="soft">MIST-JAX {escape(__version__)}; {escape(footer)}.</footer>\n</main>\n</body>\n</html>\n'
    )


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


def bars(values: xr.DataArray, dim: str, unit: str, sort: bool) -> str:
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


def assumptions(scenario: Scenario, ds: xr.Dataset, variants: Sequence[Scenario] = ()) -> str:
    rows = "".join(
        f'<tr><td class="k">{escape(a)}</td><td>{escape(b)}</td><td class="soft">{escape(c)}</td></tr>'
        for a, b, c in assumption_rows(scenario, ds, variants)
    )
    return (
        '<table class="sources"><thead><tr><th>What</th><th>Taken as</th><th>Source</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def configuration(scenario: Scenario, mapping: Mapping[str, Any] | None) -> str:
    from omegaconf import OmegaConf

    config = dict(mapping or scenario.config)
    text = OmegaConf.to_yaml(OmegaConf.create(config)) if config else "(not recorded)"
    return (
        "<p>The composed configuration, which gives this result again.</p>"
        f"<details open><summary>Show or hide</summary><pre>{escape(text)}</pre></details>"
    )


def mark(good: bool) -> str:
    return '<span class="met">met</span>' if good else '<span class="missed">missed</span>'


def cards(found: Sequence[tuple[str, Any]]) -> str:
    cards = (
        f'<div class="card"><b>{escape(q.show(n, v))}</b><span>{escape(q.title(n))}</span></div>'
        for n, v in found
    )
    return f'<div class="cards">{"".join(cards)}</div>'
