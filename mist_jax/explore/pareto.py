"""Pareto fronts: the points of a sweep that no other point beats in everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError, Status, nearest
from mist_jax.figures import LESS


def direction(objectives: Sequence[str]) -> np.ndarray:
    """Factors [objectives] after which less is better of each."""
    return np.where([name in LESS for name in objectives], 1.0, -1.0)


def pareto(ds: xr.Dataset, objectives: Sequence[str], *, feasible: bool = True) -> xr.Dataset:
    """The non-dominated points of a sweep along `point`, ordered by the first objective.

    Args:
        ds: a sweep.
        objectives: two or more variables; less of latencies, cost, energy, power and chips is better, more of the rest.
        feasible: only points with status 0.

    Returns:
        All scalars of `ds` at these points; the axes are coordinates of `point`. The attribute `hypervolume` is the
        share of the box between the best and the worst value of each objective that the front dominates; `objectives`
        are their names, separated by spaces.

    Raises:
        ConfigError: an unknown variable, fewer than two objectives, or no usable point.
    """
    import moocore

    for name in objectives:
        if name not in ds.data_vars:
            raise ConfigError(f"objectives: no '{name}'{nearest(name, map(str, ds.data_vars))}")
    if len(objectives) < 2:
        raise ConfigError("objectives: a front needs two or more")
    dims = ds["status"].dims
    values = np.stack([ds[n].values.ravel().astype(float) for n in objectives], axis=1)
    usable = np.isfinite(values).all(axis=1)
    if feasible:
        usable &= ds["status"].values.ravel() == Status.OK
    at = np.flatnonzero(usable)
    if not at.size:
        raise ConfigError("pareto: no usable point with finite objectives")
    values = values[at] * direction(objectives)
    front = np.asarray(moocore.is_nondominated(values))
    low, high = values.min(axis=0), values.max(axis=0)
    unit = (values[front] - low) / np.where(high > low, high - low, 1.0)
    volume = float(moocore.hypervolume(unit, ref=np.ones(len(objectives))))
    at = at[front]
    at = at[np.argsort(ds[objectives[0]].values.ravel()[at], kind="stable")]
    places = np.unravel_index(at, ds["status"].shape)
    coords = {str(d): ("point", ds[d].values[i], ds[d].attrs) for d, i in zip(dims, places, strict=True)}
    data = {
        str(n): ("point", v.values.ravel()[at], v.attrs) for n, v in ds.data_vars.items() if v.dims == dims
    }
    attrs = {**ds.attrs, "hypervolume": volume, "objectives": " ".join(objectives)}
    return xr.Dataset(data, coords=coords, attrs=attrs)
