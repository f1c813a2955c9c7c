"""Points of a sweep: those that work, those that no other beats, and what they are called. Needs no Matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError, Status
from mist_jax.figures import LESS
from mist_jax.report import quantities as q

Array = np.ndarray


def find_dim(ds: xr.Dataset, name: str) -> str:
    """The dimension of that name, or the only one whose dotted path ends in it.

    Raises:
        ConfigError: none, or more than one.
    """
    if name in ds.dims:
        return name
    found = [str(d) for d in ds.dims if str(d).rsplit(".", 1)[-1] == name]
    if len(found) != 1:
        raise ConfigError(
            f"picture: no dimension '{name}'; the dataset has {', '.join(map(str, ds.dims)) or 'none'}"
        )
    return found[0]


def usable(ds: xr.Dataset) -> xr.DataArray:
    """True where the point was evaluated without trouble (`status` is 0, or there is no `status`)."""
    return (ds["status"] == int(Status.OK)) if "status" in ds else xr.DataArray(True)


def pareto_front(
    ds: xr.Dataset, x: str = "tokens_per_s_per_user", y: str = "output_tokens_per_s_per_chip"
) -> xr.Dataset:
    """The points of a sweep that no other point beats in both variables, along `point`, ordered by `x`.

    More is better, except for latencies, cost, energy, power and chips. Coordinates say where each point was.

    Raises:
        ConfigError: no usable point.
    """
    need(ds, x, y)
    flat = flatten(ds, x, y)
    import moocore

    values = np.stack([flat[x].values, flat[y].values], axis=1)
    better = moocore.is_nondominated(values, maximise=[v not in LESS for v in (x, y)])
    return flat.isel(point=np.flatnonzero(better)).sortby(x)


def flatten(ds: xr.Dataset, *names: str) -> xr.Dataset:
    """The usable points of some variables along one dimension `point`; the axes become coordinates of it."""
    arrays = xr.broadcast(usable(ds), *(ds[n] for n in names))
    ok = arrays[0].values.ravel().astype(bool)
    for array in arrays[1:]:
        ok &= np.isfinite(array.values.ravel().astype(float))
    if not ok.any():
        raise ConfigError(f"picture: no usable point with finite {' and '.join(names)}")
    dims = arrays[0].dims
    places = np.unravel_index(np.flatnonzero(ok), arrays[0].shape)
    coords = {str(d): ("point", ds[d].values[i]) for d, i in zip(dims, places, strict=True)}
    data = {n: ("point", a.values.ravel()[ok], ds[n].attrs) for n, a in zip(names, arrays[1:], strict=True)}
    return xr.Dataset(data, coords=coords)


def need(ds: xr.Dataset, *names: str) -> None:
    """Raises ConfigError if the dataset lacks a variable or dimension that a picture is made of."""
    for name in names:
        if name not in ds.variables and name not in ds.dims:
            there = ", ".join(map(str, [*ds.data_vars, *ds.dims]))
            raise ConfigError(f"picture: the dataset has no '{name}'; it has {there}")


def spread(x: Array, y: Array, count: int) -> list[int]:
    """Positions of up to `count` points spread evenly along a front; those too close are dropped."""
    if count < 1:
        return []
    span = [max(float(np.ptp(v)), 1e-30) for v in (x, y)]
    steps = np.hypot(np.diff(x) / span[0], np.diff(y) / span[1])
    way = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, way[-1], count)
    chosen = sorted({int(np.argmin(np.abs(way - w))) for w in wanted})
    kept = chosen[:1]
    for i in chosen[1:]:
        if np.hypot((x[i] - x[kept[-1]]) / span[0], (y[i] - y[kept[-1]]) / span[1]) > 0.07:
            kept.append(i)
    return kept


def describe_point(ds: xr.Dataset, point: xr.Dataset) -> str:
    """Where a point of a sweep stands: `tp 8, concurrency 64`; axes of one value are left out."""
    names = [str(d) for d in ds.dims if ds.sizes[d] > 1 and str(d) in point.coords]
    return ", ".join(text_of(n, point[n].item()) for n in names) or "the only point"


def text_of(dim: str, value: Any) -> str:
    """A value of an axis in words: names stand alone, numbers follow the name of the axis."""
    if isinstance(value, str | np.str_):
        return str(value)
    return f"{dim.rsplit('.', 1)[-1].replace('_', ' ')} {q.number(value)}"


def tick_text(value: Any) -> str:
    """A value of an axis beside the axis."""
    return str(value) if isinstance(value, str | np.str_) else q.number(value)
