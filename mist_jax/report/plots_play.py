"""Pictures of one deployment: iteration, latency CDFs, stages, Gantt, a played trace over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import need

CDF_VARIABLES = ("ttft_s", "tpot_s", "e2e_s")


@styled
def plot_breakdown(ds: xr.Dataset, *, width: float = style.WIDTH) -> Figure:
    """Time of the mean iteration by operator, longest first; parts of no length are left out.

    Args:
        ds: with `breakdown_s(part)`, as `mist_jax.evaluate` gives.
    """
    need(ds, "breakdown_s")
    values = np.nan_to_num(ds["breakdown_s"].values.astype(float))
    if values.ndim != 1:
        raise ConfigError(
            "picture: breakdown_s has other dimensions than `part`; select one deployment first"
        )
    order = [i for i in np.argsort(values, kind="stable") if values[i] > 0]
    names = [q.words(str(ds["part"].values[i])) for i in order]
    shown, total = values[order] * 1e3, float(values.sum())
    fig, ax = panels(width=width, height=1.0 + 0.24 * max(len(order), 3))
    ax.barh(np.arange(len(order)), shown, color=style.COLORS[0], height=0.68)
    top = float(shown.max()) if len(order) else 1.0
    for i, value in enumerate(shown):
        label = f"{q.number(value)} ms, {q.percent(value / 1e3 / total)}"
        ax.text(value + 0.015 * top, i, label, va="center", fontsize=8)
    ax.set_yticks(np.arange(len(order)), names)
    ax.set_xlim(0, top * 1.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Time in the mean iteration (ms)")
    ax.set_title(f"Engine iteration: {q.duration(total)}")
    return fig


@styled
def plot_latency_cdf(
    ds: xr.Dataset, *, slo: Mapping[str, float | None] | None = None, width: float = style.WIDTH
) -> Figure:
    """Cumulative distributions of TTFT, TPOT and end-to-end latency over requests; p50 and p99 in the legend.

    Args:
        ds: with `ttft_s(request)`, `tpot_s(request)`, `e2e_s(request)`, as `mist_jax.play` gives.
        slo: variable → limit in seconds, marked on its curve.
    """
    names = [n for n in CDF_VARIABLES if n in ds and np.isfinite(ds[n].values).any()]
    if not names:
        raise ConfigError("picture: the dataset has none of ttft_s, tpot_s, e2e_s with a finite value")
    fig, ax = panels(width=width, height=style.HEIGHT)
    for i, name in enumerate(names):
        values = np.sort(ds[name].values[np.isfinite(ds[name].values)].astype(float).ravel())
        share = np.arange(1, values.size + 1) / values.size * 100
        p50, p99 = np.percentile(values, (50, 99))
        label = f"{_SHORT[name]}: p50 {q.duration(p50)}, p99 {q.duration(p99)}"
        x, y = np.concatenate([values[:1], values]), np.concatenate([[0], share])
        ax.step(x, y, where="post", color=style.color(i), linestyle=style.LINES[i], label=label)
        ax.plot([p50, p99], [50, 99], marker=style.MARKERS[i], linestyle="none", color=style.color(i))
        limit = (slo or {}).get(name)
        if limit is not None:
            met = 100 * float(np.mean(values <= limit))
            ax.axvline(limit, color=style.color(i), linewidth=0.9, linestyle=style.LINES[i], alpha=0.6)
            ax.plot([limit], [met], marker="|", color=style.color(i), markersize=11, markeredgewidth=2)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, _: q.duration(x))
    ax.set_ylim(0, 102)
    ax.set_xlabel("Latency (log scale)" + (", thin lines: SLO" if slo and any(slo.values()) else ""))
    ax.set_ylabel("Requests (%)")
    ax.set_title("Latency of the requests", pad=8)
    style.legend_below(fig, most=1)
    return fig


_SHORT = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "End to end"}


@styled
def plot_timeline(ds: xr.Dataset, *, width: float = style.WIDTH) -> Figure:
    """TTFT of each request over its arrival, and the requests in flight over time.

    Args:
        ds: with `arrival_s`, `ttft_s`, `e2e_s` along `request`, as `mist_jax.play` gives.
    """
    need(ds, "arrival_s", "ttft_s", "e2e_s")
    arrival, ttft, e2e = (ds[n].values.astype(float) for n in ("arrival_s", "ttft_s", "e2e_s"))
    done = np.isfinite(e2e)
    fig, (top, bottom) = panels(2, 1, width=width, height=3.6, sharex=True)
    many = arrival.size > 2000
    dots: dict[str, Any] = {"s": 3 if many else 6, "alpha": 0.25 if many else 0.6, "linewidths": 0}
    top.scatter(arrival, q.scaled("ttft_s", ttft), color=style.COLORS[0], rasterized=many, **dots)
    top.set_ylabel("TTFT (ms)")
    top.set_ylim(bottom=0)
    top.set_title("Time to first token by arrival")
    times = np.concatenate([arrival[done], (arrival + e2e)[done]])
    change = np.concatenate([np.ones(done.sum()), -np.ones(done.sum())])
    order = np.argsort(times, kind="stable")
    if times.size:
        flight = {"where": "post", "color": style.COLORS[1], "linewidth": 1.1, "rasterized": many}
        bottom.step(times[order], np.cumsum(change[order]), **flight)
    bottom.set_ylabel("Requests in flight")
    bottom.set_xlabel("Time (s)")
    bottom.set_ylim(bottom=0)
    bottom.set_title("Load on the deployment")
    return fig


@styled
def plot_stages(ds: xr.Dataset, *, along: str | None = None, width: float = style.WIDTH) -> Figure:
    """Mean time of a request by stage as stacked bars.

    One bar for all requests, one for the quicker half and one for the slowest tenth (by end-to-end latency);
    with `along`, one bar for each value of that dimension.

    Args:
        ds: with `stage_s(..., stage)`, as `mist_jax.play` gives, or `breakdown_s(..., part)` of a sweep.
        along: dimension whose values become bars; the rest is averaged over requests.
    """
    name, dim = ("stage_s", "stage") if "stage_s" in ds else ("breakdown_s", "part")
    need(ds, name)
    times = ds[name].transpose(..., dim)
    if along is None and "request" not in times.dims and times.ndim == 2:
        along = str(times.dims[0])
    if along is not None:
        need(ds, along)
        rest = [d for d in times.dims if d not in (along, dim)]
        if set(rest) - {"request"}:
            raise ConfigError(f"picture: select one value of {', '.join(map(str, rest))} first")
        table = times.mean(rest, skipna=True).transpose(along, dim).values
        bars = [_value_text(v) for v in ds[along].values]
    else:
        table, bars = _groups(times.values.reshape(-1, times.sizes[dim]), ds)
    table = np.nan_to_num(table)
    used = [i for i in range(table.shape[1]) if table[:, i].max() > 0]
    unit, factor = ("ms", 1e3) if table.sum(axis=1).max() < 1.0 else ("s", 1.0)
    fig, ax = panels(width=width, height=1.7 + 0.32 * len(bars))
    left = np.zeros(len(bars))
    for k, i in enumerate(used):
        look = {"color": style.color(k), "hatch": style.HATCHES[k % len(style.HATCHES)], "edgecolor": "white"}
        label = q.words(str(ds[dim].values[i]))
        ax.barh(
            np.arange(len(bars)),
            table[:, i] * factor,
            left=left,
            height=0.62,
            linewidth=0.4,
            label=label,
            **look,
        )
        left = left + table[:, i] * factor
    for row, total in enumerate(left):
        ax.text(total + 0.012 * left.max(), row, f"{q.number(total)} {unit}", va="center", fontsize=8)
    ax.set_yticks(np.arange(len(bars)), bars)
    ax.invert_yaxis()
    ax.set_xlim(0, left.max() * 1.2 if left.max() > 0 else 1)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"Mean time ({unit})")
    if along is not None:
        ax.set_ylabel(q.axis_label(along, ds[along].attrs.get("units", "")))
    ax.set_title("Where the time goes")
    style.legend_below(fig)
    return fig


def _groups(stages: np.ndarray, ds: xr.Dataset) -> tuple[np.ndarray, list[str]]:
    """Mean stages of all requests, of the quicker half and of the slowest tenth."""
    total = np.nansum(stages, axis=1) if "e2e_s" not in ds else ds["e2e_s"].values.astype(float)
    done = np.isfinite(total) & np.isfinite(stages).all(axis=1)
    if not done.any():
        raise ConfigError("picture: no request was served")
    stages, total = stages[done], total[done]
    if total.size < 10:
        return stages.mean(axis=0)[None], ["all requests"]
    half, tenth = np.percentile(total, (50, 90))
    parts = [stages.mean(axis=0), stages[total <= half].mean(axis=0), stages[total >= tenth].mean(axis=0)]
    return np.stack(parts), ["all requests", "quicker half", "slowest tenth"]


def _value_text(value: Any) -> str:
    return str(value) if isinstance(value, str | np.str_ | bytes) else q.number(value)


@styled
def plot_gantt(
    ds: xr.Dataset, *, requests: int | Sequence[Any] = 12, start: int = 0, width: float = style.WIDTH
) -> Figure:
    """The stages of a few requests over time, one bar a request, one after another from its arrival.

    Args:
        ds: with `arrival_s(request)` and `stage_s(request, stage)`; `stage_start_s(request, stage)` (s since
            the start of the trace) says where stages begin if they are not one after another.
        requests: how many requests from the position `start` on, or the ids of those to show.
    """
    need(ds, "arrival_s", "stage_s")
    ds = ds.sortby("arrival_s")
    part = (
        ds.isel(request=slice(start, start + requests))
        if isinstance(requests, int)
        else ds.sel(request=list(requests))
    )
    if not part.sizes["request"]:
        raise ConfigError(
            f"picture: no request from position {start} on; the dataset has {ds.sizes['request']}"
        )
    arrival = part["arrival_s"].values.astype(float)
    length = np.nan_to_num(part["stage_s"].transpose("request", "stage").values.astype(float))
    begin = arrival[:, None] + np.cumsum(length, axis=1) - length
    if "stage_start_s" in part:
        begin = part["stage_start_s"].transpose("request", "stage").values.astype(float)
    origin = float(arrival.min())
    rows = np.arange(arrival.size)
    fig, ax = panels(width=width, height=1.5 + 0.17 * arrival.size)
    used = [i for i in range(length.shape[1]) if length[:, i].max() > 0]
    for k, i in enumerate(used):
        look = {"color": style.color(k), "hatch": style.HATCHES[k % len(style.HATCHES)], "edgecolor": "white"}
        label = q.words(str(part["stage"].values[i]))
        ax.barh(rows, length[:, i], left=begin[:, i] - origin, height=0.7, linewidth=0.3, label=label, **look)
    ax.plot(
        arrival - origin, rows, marker="|", linestyle="none", color=style.INK, markersize=7, label="arrival"
    )
    ax.set_yticks(rows, [str(r) for r in part["request"].values])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Time since the first of these arrivals (s)")
    ax.set_ylabel("Request")
    ax.set_title("Requests by stage")
    style.legend_below(fig)
    return fig
