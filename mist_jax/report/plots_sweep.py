"""Pictures of a sweep: Pareto front and heat map. Dimensions are dotted paths of the config."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.figures import LESS
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import (
    describe_point,
    find_dim,
    flatten,
    need,
    pareto_front,
    spread,
    text_of,
    tick_text,
    usable,
)

#: points from which on a picture holds them as pixels: vectors would make megabytes
MANY = 3000
#: tick labels beside an axis of a heat map at most
MOST_TICKS = 12


@styled
def plot_pareto(
    ds: xr.Dataset,
    x: str = "tokens_per_s_per_user",
    y: str = "output_tokens_per_s_per_chip",
    *,
    by: str | None = None,
    labels: int = 5,
    width: float = style.WIDTH,
) -> Figure:
    """All points of a sweep in two variables, their Pareto front, and what stands behind points of the front.

    Args:
        ds: a sweep: any dimensions; points with a status other than 0 or NaN are left out.
        x, y: variables (default: speed of one user, throughput of one chip).
        by: dimension whose values get a colour and a marker of their own.
        labels: points of the front, spread along it, that are numbered and explained below the picture.
    """
    need(ds, x, y)
    flat, front = flatten(ds, x, y), pareto_front(ds, x, y)
    rows = min(labels, front.sizes["point"])
    many = flat.sizes["point"] > MANY
    fig, ax = panels(width=width, height=3.3 + 0.15 * rows)
    dots: dict[str, Any] = {"linewidths": 0, "alpha": 0.25 if many else 0.6, "rasterized": many}
    if by is None:
        ax.scatter(
            q.scaled(x, flat[x]), q.scaled(y, flat[y]), s=4 if many else 9, color=style.COLORS[7], **dots
        )
    else:
        by = find_dim(ds, by)
        for k, value in enumerate(ds[by].values):
            at = flat[by].values == value
            dots |= {"color": style.color(k), "marker": style.MARKERS[k % 8], "s": 5 if many else 14}
            ax.scatter(q.scaled(x, flat[x][at]), q.scaled(y, flat[y][at]), label=text_of(by, value), **dots)
    fx, fy = q.scaled(x, front[x]), q.scaled(y, front[y])
    ax.plot(fx, fy, color=style.INK, linewidth=1.3, marker="o", markersize=3, label="Pareto front", zorder=3)
    ax.set_xlim(left=0)
    ax.set_ylim(0, float(q.scaled(y, flat[y]).max()) * 1.14)
    ax.set_xlabel(q.axis_label(x, ds[x].attrs.get("units", "")))
    ax.set_ylabel(q.axis_label(y, ds[y].attrs.get("units", "")))
    ax.set_title("What is possible")
    lines = []
    for n, i in enumerate(spread(fx, fy, rows), start=1):
        ax.annotate(
            str(n), (fx[i], fy[i]), xytext=(4, 4), textcoords="offset points", fontsize=8, fontweight="bold"
        )
        lines.append(f"{n}: {describe_point(ds, front.isel(point=int(i)))}")
    style.legend_below(fig, note="\n".join(lines))
    return fig


@styled
def plot_heatmap(
    ds: xr.Dataset,
    variable: str = "output_tokens_per_s_per_chip",
    x: str | None = None,
    y: str | None = None,
    *,
    width: float = style.WIDTH,
) -> Figure:
    """One variable over two axes of a sweep; points that failed are hatched, the best one is framed.

    Args:
        ds: a sweep; dimensions of `variable` other than the two must have one value.
        x, y: the axes (default: the last dimension across, the one before it upwards).
    """
    need(ds, variable)
    dims = [str(d) for d in ds[variable].dims if ds.sizes[d] > 1]
    x = find_dim(ds, x) if x else (dims or [""])[-1]
    y = find_dim(ds, y) if y else next((d for d in reversed(dims) if d != x), "")
    if not x or not y or set(dims) - {x, y}:
        raise ConfigError(f"picture: '{variable}' must vary along two axes, has {', '.join(dims) or 'none'}")
    part = ds.isel({d: 0 for d in ds.dims if d not in (x, y)})
    values = part[variable].where(usable(part)).transpose(y, x).values
    shown = q.scaled(variable, values)
    rows, columns = shown.shape
    fig, ax = panels(width=width, height=min(1.6 + 0.34 * rows, 5.0))
    low, high = _colour_range(shown)
    mesh = ax.pcolormesh(
        np.arange(columns + 1),
        np.arange(rows + 1),
        np.ma.masked_invalid(shown),
        cmap=style.SEQUENTIAL,
        vmin=low,
        vmax=high,
    )
    ax.patch.set(hatch="////", edgecolor="#bbbbbb", facecolor="white")
    ax.grid(visible=False)
    across, up = slice(None, None, -(-columns // MOST_TICKS)), slice(None, None, -(-rows // MOST_TICKS))
    texts = [tick_text(v) for v in part[x].values[across]]
    ax.set_xticks((np.arange(columns) + 0.5)[across], texts)
    ax.set_yticks((np.arange(rows) + 0.5)[up], [tick_text(v) for v in part[y].values[up]])
    if sum(len(t) + 2 for t in texts) > 9 * width:
        if len(texts) > 5:
            ax.tick_params(axis="x", labelrotation=90)
        else:
            ax.tick_params(axis="x", labelrotation=40)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    if columns <= 8 and rows <= 14:
        for i, j in zip(*np.nonzero(np.isfinite(shown)), strict=True):
            tone = style.text_on(mesh.cmap(mesh.norm(shown[i, j])))
            ax.text(j + 0.5, i + 0.5, q.number(shown[i, j]), ha="center", va="center", fontsize=8, color=tone)
    if np.isfinite(shown).any():
        from matplotlib.patches import Rectangle

        best = np.nanargmin(shown) if variable in LESS else np.nanargmax(shown)
        i, j = np.unravel_index(best, shown.shape)
        ax.set_title(f"Framed: the {'lowest' if variable in LESS else 'highest'}", fontsize=8)
        ax.add_patch(
            Rectangle((float(j), float(i)), 1, 1, fill=False, edgecolor=style.COLORS[1], linewidth=2.2)
        )
    ax.set_xlabel(q.axis_label(x, ds[x].attrs.get("units", "")))
    ax.set_ylabel(q.axis_label(y, ds[y].attrs.get("units", "")))
    fig.colorbar(mesh, ax=ax, label=q.axis_label(variable, ds[variable].attrs.get("units", "")))
    return fig


def _colour_range(shown: np.ndarray) -> tuple[float | None, float | None]:
    """At least a tenth of the largest value wide, so that equal values do not look like the ends of a scale."""
    if not np.isfinite(shown).any():
        return None, None
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    short = 0.1 * max(abs(low), abs(high)) - (high - low)
    return (low - short, high) if short > 0 else (low, high)
