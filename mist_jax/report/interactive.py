"""Interactive variants of the pictures with plotly (extra `notebooks`); hovering says where a point is."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.plots_load import load_axis
from mist_jax.report.sweep_points import (
    describe_point,
    find_dim,
    flatten,
    need,
    pareto_front,
    text_of,
    usable,
)

_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"size": 13},
    "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
    "legend": {"orientation": "h", "y": -0.22},
}


def _graph_objects() -> Any:
    try:
        return importlib.import_module("plotly.graph_objects")
    except ImportError:
        raise ConfigError("interactive pictures need plotly: pip install 'mist-jax[notebooks]'") from None


class Interactive:
    """Plotly figures of one dataset, as `ds.mist.interactive`."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._ds = dataset

    def pareto(
        self,
        x: str = "tokens_per_s_per_user",
        y: str = "output_tokens_per_s_per_chip",
        *,
        by: str | None = None,
    ) -> Any:
        """Points of a sweep and their front; see `plots.plot_pareto`."""
        go, ds = _graph_objects(), self._ds
        flat, front = flatten(ds, x, y), pareto_front(ds, x, y)
        groups: list[tuple[str, np.ndarray]] = [("points", np.ones(flat.sizes["point"], dtype=bool))]
        if by is not None:
            by = find_dim(ds, by)
            groups = [(text_of(by, v), flat[by].values == v) for v in ds[by].values]
        fig = go.Figure()
        for k, (name, at) in enumerate(groups):
            part = flat.isel(point=np.flatnonzero(at))
            fig.add_scatter(
                x=q.scaled(x, part[x]), y=q.scaled(y, part[y]), mode="markers", name=name,
                text=[describe_point(ds, part.isel(point=i)) for i in range(part.sizes["point"])],
                marker={"color": style.color(k), "opacity": 0.6},
            )  # fmt: skip
        fig.add_scatter(
            x=q.scaled(x, front[x]), y=q.scaled(y, front[y]), mode="lines+markers", name="Pareto front",
            text=[describe_point(ds, front.isel(point=i)) for i in range(front.sizes["point"])],
            line={"color": style.INK},
        )  # fmt: skip
        return self._finish(fig, x, y)

    def load(self, x: str | None = None, variable: str = "ttft_s", *, by: str | None = None) -> Any:
        """One latency against load, with percentiles; see `plots.plot_load`."""
        go = _graph_objects()
        need(self._ds, variable)
        x = load_axis(self._ds) if x is None else find_dim(self._ds, x)
        by = None if by is None else find_dim(self._ds, by)
        rest = [d for d in self._ds[variable].dims if d not in (x, by) and self._ds.sizes[d] > 1]
        if rest:
            raise ConfigError(f"picture: select one value of {', '.join(map(str, rest))} first")
        ds = self._ds.sortby(x)
        base = variable.removesuffix("_s")
        names = [variable, *(n for p in (50, 90, 95, 99) if (n := f"{base}_p{p}_s") in ds)]
        fig = go.Figure()
        values = [None] if by is None else list(ds[by].values)
        for k, value in enumerate(values):
            part = ds if value is None else ds.sel({by: value})
            for n, name in enumerate(names if by is None else names[:1]):
                label = (
                    ("mean" if n == 0 else name.split("_")[-2]) if value is None else text_of(str(by), value)
                )
                line = part[name].where(usable(part)).squeeze().values
                dash = ("solid", "dash", "dashdot", "longdash", "dot")[n]
                look = {"color": style.color(k), "dash": dash}
                fig.add_scatter(x=part[x].values, y=q.scaled(variable, line), name=label, line=look)
        return self._finish(fig, x, variable)

    def heatmap(
        self, variable: str = "output_tokens_per_s_per_chip", x: str | None = None, y: str | None = None
    ) -> Any:
        """One variable over two axes; see `plots.plot_heatmap`."""
        go, ds = _graph_objects(), self._ds
        need(ds, variable)
        dims = [str(d) for d in ds[variable].dims if ds.sizes[d] > 1]
        across = find_dim(ds, x) if x else (dims or [""])[-1]
        upwards = find_dim(ds, y) if y else next((d for d in reversed(dims) if d != across), "")
        if not across or not upwards or set(dims) - {across, upwards}:
            raise ConfigError(
                f"picture: '{variable}' must vary along two axes, has {', '.join(dims) or 'none'}"
            )
        part = ds.isel({d: 0 for d in ds.dims if d not in (across, upwards)})
        values = q.scaled(variable, part[variable].where(usable(part)).transpose(upwards, across))
        label = {"title": q.axis_label(variable, ds[variable].attrs.get("units", ""))}
        ticks = [[text_of(d, v) for v in part[d].values] for d in (across, upwards)]
        fig = go.Figure(go.Heatmap(x=ticks[0], y=ticks[1], z=values, colorscale="Viridis", colorbar=label))
        return self._finish(fig, across, upwards)

    def timeline(self) -> Any:
        """TTFT of each request over its arrival; see `plots.plot_timeline`."""
        go, ds = _graph_objects(), self._ds
        need(ds, "arrival_s", "ttft_s")
        kind = go.Scattergl if ds.sizes["request"] > 5000 else go.Scatter
        hover = [f"request {r}" for r in ds["request"].values]
        y = q.scaled("ttft_s", ds["ttft_s"])
        fig = go.Figure(kind(x=ds["arrival_s"].values, y=y, mode="markers", text=hover, marker={"size": 4}))
        fig.update_layout(**_LAYOUT, xaxis_title="Arrival (s)", yaxis_title="TTFT (ms)")
        return fig

    def _finish(self, fig: Any, x: str, y: str) -> Any:
        def label(name: str) -> str:
            return q.axis_label(name, self._ds[name].attrs.get("units", ""))

        fig.update_layout(**_LAYOUT, xaxis_title=label(x), yaxis_title=label(y))
        return fig
