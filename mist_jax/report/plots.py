"""Pictures of one deployment: the iteration's parts, latency CDFs, a played trace over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled

CDF_VARIABLES = ("ttft_s", "tpot_s", "e2e_s")


def save(fig: Any, path: str | Path) -> Path:
    """Write a figure (the suffix says the format) and let go of its memory; returns the path."""
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style.RC):
        fig.savefig(path)
    fig.clear()
    return path


def need(ds: xr.Dataset, *names: str) -> None:
    """Raises ConfigError if the dataset lacks a variable or a coordinate that a picture is made of."""
    for name in names:
        if name not in ds.variables and name not in ds.dims:
            raise ConfigError(
                f"picture: the dataset has no '{name}'; it has {', '.join(map(str, ds.data_vars))}"
            )


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
    shown, total = values[order] * 1e3, values.sum()
    fig, ax = panels(width=width, height=1.0 + 0.24 * max(len(order), 3))
    ax.barh(np.arange(len(order)), shown, color=style.COLORS[0], height=0.68)
    top = float(shown.max()) if len(order) else 1.0
    for i, value in enumerate(shown):
        ax.text(
            value + 0.01 * top,
            i,
            f"{q.number(value)} ms, {q.percent(value / 1e3 / total)}",
            va="center",
            fontsize=7.5,
        )
    ax.set_yticks(np.arange(len(order)), names)
    ax.set_xlim(0, top * 1.32)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Time in the mean iteration (ms)")
    ax.set_title(f"Engine iteration: {q.duration(total)}")
    return fig


@styled
def plot_latency_cdf(
    ds: xr.Dataset, *, slo: dict[str, float] | None = None, width: float = style.WIDTH
) -> Figure:
    """Cumulative distributions of TTFT, TPOT and end-to-end latency over requests, with p50 and p99 marked.

    Args:
        ds: with `ttft_s(request)`, `tpot_s(request)`, `e2e_s(request)`, as `mist_jax.play` gives.
        slo: variable → limit in seconds, drawn as a line.
    """
    names = [n for n in CDF_VARIABLES if n in ds and np.isfinite(ds[n].values).any()]
    if not names:
        raise ConfigError("picture: the dataset has none of ttft_s, tpot_s, e2e_s with a finite value")
    fig, axes = panels(
        1, len(names), width=max(width, 2.3 * len(names)), height=2.6, sharey=True, squeeze=False
    )
    for i, (ax, name) in enumerate(zip(axes[0], names, strict=True)):
        values = np.sort(q.scaled(name, ds[name].values[np.isfinite(ds[name].values)]).ravel())
        share = np.arange(1, values.size + 1) / values.size * 100
        ax.step(
            np.concatenate([values[:1], values]),
            np.concatenate([[0], share]),
            where="post",
            color=style.color(i),
        )
        for p in (50, 99):
            at = float(np.percentile(values, p))
            ax.plot([at], [p], marker="o", color=style.INK, markersize=3.5)
            side = "left" if at < values[0] + 0.6 * (values[-1] - values[0]) else "right"
            offset = (5 if side == "left" else -5, -9)
            ax.annotate(
                f"p{p} {q.number(at)}",
                (at, p),
                xytext=offset,
                textcoords="offset points",
                ha=side,
                fontsize=7.5,
            )
        if slo and slo.get(name) is not None:
            limit = float(q.scaled(name, slo[name]))
            if limit <= 1.5 * values[-1]:
                ax.axvline(limit, color=style.COLORS[1], linestyle="--", linewidth=1.0)
        ax.set_xlabel(q.axis_label(name))
        ax.set_ylim(0, 101)
        ax.locator_params(axis="x", nbins=4)
    axes[0][0].set_ylabel("Requests (%)")
    return fig


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
    dots = {
        "s": 6,
        "alpha": 0.6 if arrival.size < 2000 else 0.25,
        "linewidths": 0,
        "rasterized": arrival.size > 5000,
    }
    top.scatter(arrival, q.scaled("ttft_s", ttft), color=style.COLORS[0], **dots)
    top.set_ylabel("TTFT (ms)")
    top.set_ylim(bottom=0)
    top.set_title("Time to first token by arrival")
    times = np.concatenate([arrival[done], (arrival + e2e)[done]])
    change = np.concatenate([np.ones(done.sum()), -np.ones(done.sum())])
    order = np.argsort(times, kind="stable")
    if times.size:
        bottom.step(
            times[order], np.cumsum(change[order]), where="post", color=style.COLORS[1], linewidth=1.1
        )
    bottom.set_ylabel("Requests in flight")
    bottom.set_xlabel("Time (s)")
    bottom.set_ylim(bottom=0)
    bottom.set_title("Load on the deployment")
    return fig
