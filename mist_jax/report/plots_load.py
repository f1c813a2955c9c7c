"""Latency against load: means, percentiles and the interval of the calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.ticker import LogLocator

from mist_jax.errors import ConfigError, Status
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import find_dim, need, text_of, usable

Array = np.ndarray

PERCENTILE_LINES = {50: "--", 90: "-.", 95: (0, (3, 1, 1, 1)), 99: ":"}
INTERVAL = "#9a9a9a"
LOAD_DIMENSIONS = ("rate", "concurrency", "rate_scale", "load")


@styled
def plot_load(
    ds: xr.Dataset,
    x: str | None = None,
    *,
    variables: tuple[str, ...] = ("ttft_s", "tpot_s"),
    by: str | None = None,
    slo: Mapping[str, float | None] | None = None,
    width: float = style.WIDTH,
) -> Figure:
    """Latency against load: the mean, and the percentiles and interval that the dataset has.

    Args:
        ds: a sweep along one load axis. Percentiles are variables such as `ttft_p99_s`, the interval of the
            calibration is `ttft_s_low` and `ttft_s_high`.
        x: the load axis (default: `rate`, `concurrency` or `load`, whichever there is).
        variables: one panel each.
        by: a further dimension, one line for each of its values.
        slo: variable → limit in seconds, drawn as a line.
    """
    need(ds, *variables)
    x = load_axis(ds) if x is None else find_dim(ds, x)
    by = None if by is None else find_dim(ds, by)
    rest = [str(d) for d in ds[variables[0]].dims if d not in (x, by)]
    if any(ds.sizes[d] > 1 for d in rest):
        raise ConfigError(
            f"picture: select one value of {', '.join(rest)} first, for example ds.isel({{'{rest[0]}': 0}})"
        )
    ds = ds.isel(dict.fromkeys(rest, 0)).sortby(x)
    at = ds[x].values.astype(float)
    fig, axes = panels(
        len(variables), 1, width=width, height=0.9 + 1.75 * len(variables), sharex=True, squeeze=False
    )
    for ax, name in zip(axes[:, 0], variables, strict=True):
        highest = _load_panel(ax, ds, name, x, by)
        limit = (slo or {}).get(name)
        if limit is not None and limit <= 3 * highest:
            ax.axhline(float(q.scaled(name, limit)), color=style.COLORS[3], linewidth=1.0, label="SLO")
            ax.set_ylim(top=max(ax.get_ylim()[1], 1.08 * float(q.scaled(name, limit))))
        bad = _without_result(ds, x)
        if bad.any() and not bad.all():
            first = int(np.flatnonzero(bad)[0])
            unstable = (ds["status"].isel({x: first}) == int(Status.UNSTABLE)).all()
            label = "over capacity" if unstable else "no result"
            ax.axvspan(at[max(first - 1, 0)], at[-1], color="#eeeeee", zorder=0, linewidth=0, label=label)
        ax.set_ylabel(q.axis_label(name))
        if at.min() > 0 and at.max() / at.min() > 30:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda v, _: q.number(v))
            if len(at) <= 10:
                ax.set_xticks(at)
            ax.minorticks_off()
    axes[-1, 0].set_xlabel(q.axis_label(x, ds[x].attrs.get("units", "")))
    axes[0, 0].set_title("Latency under load")
    handles, names = _all_handles(axes[:, 0])
    style.legend_below(fig, handles, names)
    return fig


def load_axis(ds: xr.Dataset) -> str:
    """The load axis of a sweep; raises ConfigError if there is none."""
    for name in LOAD_DIMENSIONS:
        found = [str(d) for d in ds.dims if str(d).rsplit(".", 1)[-1] == name]
        if found:
            return found[0]
    raise ConfigError(
        f"picture: no load axis ({', '.join(LOAD_DIMENSIONS)}) among {', '.join(map(str, ds.dims))}; give x"
    )


def _load_panel(ax: Any, ds: xr.Dataset, name: str, x: str, by: str | None) -> float:
    """Draw one variable; returns the largest drawn value in SI."""
    base = name.removesuffix("_s")
    good = usable(ds)
    at = ds[x].values.astype(float)
    highest = 0.0
    series = [(None, ds, good)]
    if by is not None:
        series = [
            (v, ds.isel({by: i}), good.isel({by: i}) if by in good.dims else good)
            for i, v in enumerate(ds[by].values)
        ]
    lowest = np.inf
    for k, (value, part, ok) in enumerate(series):
        color, marker = style.color(k), style.MARKERS[k % 8]
        label = "mean" if by is None else text_of(by, value)
        drawn = part[name].where(ok).values
        if not np.isfinite(drawn).any():
            continue
        ax.plot(at, q.scaled(name, drawn), color=color, marker=marker, markersize=3.5, label=label)
        lines = [drawn]
        if f"{name}_low" in part and f"{name}_high" in part:
            low, high = part[f"{name}_low"].where(ok).values, part[f"{name}_high"].where(ok).values
            ax.fill_between(
                at, q.scaled(name, low), q.scaled(name, high), color=color, alpha=0.2, linewidth=0
            )
            ax.fill_between([], [], [], color=INTERVAL, alpha=0.5, linewidth=0, label="interval")
            lines += [low, high]
        for p, dashes in PERCENTILE_LINES.items():
            if f"{base}_p{p}_s" in part and (by is None or p == 99):
                line = part[f"{base}_p{p}_s"].where(ok).values
                ax.plot(at, q.scaled(name, line), color=color, linestyle=dashes, linewidth=1.1)
                ax.plot([], [], color=style.INK, linestyle=dashes, linewidth=1.1, label=f"p{p}")
                lines.append(line)
        highest = max([highest, *(float(np.nanmax(v)) for v in lines if np.isfinite(v).any())])
        lowest = min([lowest, *(float(np.nanmin(v)) for v in lines if np.isfinite(v).any())])
    if 0 < lowest < highest / 20:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda v, _: q.number(v))
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.minorticks_off()
    elif highest > 0:
        ax.set_ylim(0, 1.08 * float(q.scaled(name, highest)))
    return highest


def _without_result(ds: xr.Dataset, x: str) -> Array:
    """Along the load axis, from some load on: no series has a usable point."""
    ok = usable(ds)
    if x not in ok.dims:
        return np.zeros(1, dtype=bool)
    bad = ~ok.any([d for d in ok.dims if d != x]).values
    return np.logical_and.accumulate(bad[::-1])[::-1]


def _all_handles(axes: Any) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
