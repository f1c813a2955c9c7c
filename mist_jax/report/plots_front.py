"""Picture of a front of designs: two of its figures, all designs that were evaluated, what the designs are."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import LogLocator, NullFormatter

from mist_jax.errors import ConfigError
from mist_jax.figures import LESS
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.front_points import (
    along,
    choices_of,
    common_text,
    design_text,
    evaluated,
    objectives_of,
    spans_decades,
)
from mist_jax.report.plots_sweep import MANY
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import need, text_of

#: Characters of a line beside an upright axis.
WRAP = 32


@styled
def plot_front(
    ds: xr.Dataset,
    x: str | None = None,
    y: str | None = None,
    *,
    by: str | None = None,
    labels: int = 5,
    width: float = style.WIDTH,
) -> Figure:
    """The Pareto front of a search in two figures, with the dominated designs that were evaluated in grey.

    Args:
        ds: the result of `mist.search_front` or `mist.pareto`.
        x, y: figures (default: the first two objectives). Dominated designs are known in objectives only.
        by: what colours the designs of the front: a choice (a colour and marker a value) or a figure (a scale).
            Default: the third objective, else the first choice of more than one value.
        labels: designs, spread along the front, that are described below the picture by their place along `point`.

    Axes are logarithmic where what is shown spans a factor of more than 20.

    Raises:
        ConfigError: no front, or no such figure.
    """
    names = objectives_of(ds)
    x = x or names[0]
    y = y or next(n for n in names if n != x)
    need(ds, x, y)
    third = [n for n in names if n not in (x, y)]
    by = by or next(iter([*third, *choices_of(ds)]), None)
    rows = along(ds, x, y, labels)
    fig, ax = panels(width=width, height=3.3 + 0.15 * len(rows))
    fx, fy = q.scaled(x, ds[x].values), q.scaled(y, ds[y].values)
    seen = evaluated(ds, x, y)
    if seen is not None:
        label = f"designs evaluated within the limits ({seen[0].size:,})"
        many = seen[0].size > MANY
        ax.scatter(q.scaled(x, seen[0]), q.scaled(y, seen[1]), s=6, color=style.FAINT, linewidths=0, alpha=0.45,
                   rasterized=many, label=label, zorder=1)  # fmt: skip
    if len(names) == 2 and set(names) == {x, y}:
        # between two designs nothing is known: the line is the edge of what they dominate, in steps
        order, where = np.argsort(fx, kind="stable"), "post" if x in LESS else "pre"
        ax.step(fx[order], fy[order], where=where, color=style.INK, linewidth=0.9, zorder=2)
    _designs(fig, ax, ds, fx, fy, by)
    for side, name, values in (("x", x, fx), ("y", y, fy)):
        _scale(
            ax, side, values if seen is None else np.concatenate([values, q.scaled(name, seen[name == y])])
        )
        label = q.axis_label(name, ds[name].attrs.get("units", ""))
        ax.set(**{f"{side}label": textwrap.fill(label, WRAP) if side == "y" else label})
    ax.set_title("Pareto front" if len(names) == 2 else f"Pareto front of {len(names)} objectives")
    common = common_text(ds)
    lines = [f"all: {common}"] if common else []
    for i in rows:
        ax.annotate(str(i), (fx[i], fy[i]), xytext=(4, 4), textcoords="offset points", fontsize=8, fontweight="bold",
                    zorder=5)  # fmt: skip
        lines.append(f"{i}: {design_text(ds, i) or 'the only design'}")
    style.legend_below(fig, most=2, note="\n".join(lines))
    return fig


def _designs(fig: Figure, ax: Any, ds: xr.Dataset, fx: np.ndarray, fy: np.ndarray, by: str | None) -> None:
    """The designs of the front, coloured by a choice or a figure."""
    dots: dict[str, Any] = {"s": 13, "linewidths": 0, "zorder": 3}
    if by is None:
        ax.scatter(fx, fy, color=style.COLORS[0], label=f"Pareto front ({fx.size:,} designs)", **dots)
        return
    need(ds, by)
    values = ds[by].values
    if values.dtype.kind in "UO":
        options = list(dict.fromkeys(values.tolist()))
        if len(options) > len(style.COLORS):
            raise ConfigError(
                f"picture: '{by}' has {len(options)} values; at most {len(style.COLORS)} can be told apart"
            )
        for k, option in enumerate(options):
            at = values == option
            look = {"color": style.color(k), "marker": style.MARKERS[k]}
            ax.scatter(fx[at], fy[at], label=f"front, {text_of(by, option)} ({at.sum():,})", **look, **dots)
        return
    colours = q.scaled(by, values.astype(float))
    norm = LogNorm() if spans_decades(colours) else Normalize()
    drawn = ax.scatter(fx, fy, c=colours, cmap=style.SEQUENTIAL, norm=norm, label="Pareto front", **dots)
    label = textwrap.fill(q.axis_label(by, ds[by].attrs.get("units", "")), WRAP)
    bar = fig.colorbar(drawn, ax=ax, label=label)
    _scale(bar.ax, "y", colours)


def _scale(ax: Any, side: str, values: np.ndarray) -> None:
    """A logarithmic axis where the values span much; plain numbers beside it."""
    axis = getattr(ax, f"{side}axis")
    if spans_decades(values):
        ax.set(**{f"{side}scale": "log"})
        decades = np.log10(values.max() / values.min())
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda v, _: f"{v:,g}" if 1e-3 <= abs(v) < 1e5 else q.number(v))
