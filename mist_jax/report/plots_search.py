"""Pictures of curves: hit rate against cache size, convergence of a search."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import find_dim, need, text_of


@styled
def plot_cache_curve(
    ds: xr.Dataset,
    x: str | None = None,
    y: str = "hit_rate",
    *,
    limit: float | None = None,
    width: float = style.WIDTH,
) -> Figure:
    """Hit rate against the size of a cache.

    Args:
        ds: with `hit_rate` (a share) along the sizes, and at most one further dimension, one line a value.
        x: the dimension of the sizes, in bytes if its name or unit says so (default: the only numeric one).
        limit: hit rate of an infinite cache, drawn as a line.
    """
    need(ds, y)
    dims = [str(d) for d in ds[y].dims]
    if x is None:
        numeric = [d for d in dims if d in ds.coords and np.issubdtype(ds[d].dtype, np.number)]
        if not numeric:
            raise ConfigError(f"picture: no axis of sizes among {', '.join(dims) or 'no dimensions'}; give x")
        x = numeric[0]
    x = find_dim(ds, x)
    others = [d for d in dims if d != x]
    if len(others) > 1:
        raise ConfigError(f"picture: select one value of {', '.join(others[1:])} first")
    ds = ds.sortby(x)
    sizes = ds[x].values.astype(float)
    units = ds[x].attrs.get("units", "")
    in_bytes = units in ("byte", "B") or x.endswith("bytes")
    fig, ax = panels(width=width, height=style.HEIGHT)
    series = (
        [(None, ds[y])]
        if not others
        else [(v, ds[y].isel({others[0]: i})) for i, v in enumerate(ds[others[0]].values)]
    )
    for k, (value, line) in enumerate(series):
        label = None if value is None else text_of(others[0], value)
        look = {"color": style.color(k), "linestyle": style.LINES[k % 8], "marker": style.MARKERS[k % 8]}
        ax.plot(sizes, 100 * line.values, markersize=3.5, label=label, **look)
    if limit is not None:
        ax.axhline(
            100 * limit,
            color=style.INK,
            linestyle=":",
            linewidth=1.2,
            label=f"infinite cache: {100 * limit:.1f} %",
        )
    if sizes[sizes > 0].size and sizes.max() > 20 * sizes[sizes > 0].min():
        ax.set_xscale("symlog", linthresh=sizes[sizes > 0].min()) if sizes.min() <= 0 else ax.set_xscale(
            "log"
        )
    ax.xaxis.set_major_formatter(lambda v, _: q.prefixed(v, "B") if in_bytes else q.prefixed(v).strip())
    ax.set_ylim(0, max(5.0, min(105.0, 110 * float(np.nanmax([np.nanmax(ds[y].values), limit or 0.0])))))
    shown = q.title(x).removesuffix(" bytes")
    ax.set_xlabel(
        f"{shown[:1].upper()}{shown[1:]}"
        + (" (bytes)" if in_bytes else f" ({units})" if units not in ("", "1") else "")
    )
    ax.set_ylabel(q.axis_label(y))
    ax.set_title("Cache size and hit rate")
    if others or limit is not None:
        style.legend_below(fig, most=2)
    return fig


@styled
def plot_convergence(
    ds: xr.Dataset, y: str | None = None, *, reference: float | None = None, width: float = style.WIDTH
) -> Figure:
    """Best objective so far against the number of evaluations; of a front of designs, its hypervolume.

    Args:
        ds: with `objective` along `evaluation`; dimension `method` gives a line each, all further dimensions
            (starts, seeds) become a median and the band from the lowest to the highest. The attribute `sense`
            of the variable is "min" (default) or "max"; NaN marks infeasible evaluations.
        y: another variable along `evaluation` (default: `objective`, else `hypervolume`).
        reference: the known optimum, drawn as a line.
    """
    y = y or ("hypervolume" if "hypervolume" in ds else "objective")
    need(ds, y, "evaluation")
    values = ds[y]
    less = values.attrs.get("sense", "min") == "min"
    count = (
        ds["evaluation"].values.astype(float)
        if "evaluation" in ds.coords
        else np.arange(1.0, ds.sizes["evaluation"] + 1)
    )
    fig, ax = panels(width=width, height=style.HEIGHT)
    methods = list(ds["method"].values) if "method" in values.dims else [None]
    for k, method in enumerate(methods):
        part = values if method is None else values.sel(method=method)
        part = part.transpose("evaluation", ...).values.reshape(len(count), -1)
        best = np.fmin.accumulate(part, axis=0) if less else np.fmax.accumulate(part, axis=0)
        begun = np.isfinite(best).any(axis=1)
        if not begun.any():
            continue
        look = {"color": style.color(k), "linestyle": style.LINES[k % 8]}
        ax.step(
            count[begun],
            np.nanmedian(best[begun], axis=1),
            where="post",
            label="best so far" if method is None else str(method),
            **look,
        )
        if part.shape[1] > 1:
            low, high = np.nanmin(best[begun], axis=1), np.nanmax(best[begun], axis=1)
            ax.fill_between(
                count[begun], low, high, step="post", color=style.color(k), alpha=0.18, linewidth=0
            )
    if reference is not None:
        ax.axhline(
            reference, color=style.INK, linestyle=":", linewidth=1.2, label=f"optimum {q.number(reference)}"
        )
    if count.max() > 100 * max(count.min(), 1):
        ax.set_xscale("log")
    finite = values.values[np.isfinite(values.values)]
    if finite.size and finite.min() > 0 and finite.max() > 50 * finite.min():
        ax.set_yscale("log")
    ax.set_xlabel("Evaluations (count)")
    name = y if y in q.SHOWN else str(values.attrs.get("long_name", y))
    if name in q.SHOWN:
        ax.yaxis.set_major_formatter(lambda v, _: q.number(float(q.scaled(name, v))))
    label = q.axis_label(name, values.attrs.get("units", ""))
    ax.set_ylabel(f"{label[:1].upper()}{label[1:]}")
    ax.set_title("Convergence of the search")
    style.legend_below(fig)
    return fig
