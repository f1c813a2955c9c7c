"""A front of designs (`search_front`, `pareto`) in words: objectives, what was varied, limits. Needs no Matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report.sweep_points import spread, tick_text


def is_front(ds: xr.Dataset) -> bool:
    """Whether a dataset is a front of designs."""
    return "point" in ds.dims and "objectives" in ds.attrs


def objectives_of(ds: xr.Dataset) -> list[str]:
    """The figures that the front trades.

    Raises:
        ConfigError: the dataset is no front.
    """
    if not is_front(ds):
        raise ConfigError(
            "picture: the dataset is no front of designs; mist.search_front and mist.pareto give one"
        )
    return str(ds.attrs["objectives"]).split()


def paths_of(ds: xr.Dataset) -> list[str]:
    """Dotted paths of the choices and variables of the search."""
    return [str(n) for n, c in ds.coords.items() if c.dims == ("point",) and n != "point"]


def varied(ds: xr.Dataset) -> list[str]:
    """Of `paths_of`, those in which the designs of the front differ."""
    return [n for n in paths_of(ds) if np.unique(ds[n].values.astype(str)).size > 1]


def choices_of(ds: xr.Dataset) -> list[str]:
    """Of `paths_of`, those that are names: a chip, a plan."""
    return [n for n in paths_of(ds) if ds[n].dtype.kind in "UO"]


def design_text(ds: xr.Dataset, point: int) -> str:
    """What tells one design from the others, in a few words: `h100_sxm, rate 8.02 requests/s`."""
    return _text(ds, varied(ds), point)


def common_text(ds: xr.Dataset) -> str:
    """What all designs of the front share of what was searched: `mi300x`; empty if nothing."""
    return _text(ds, [n for n in paths_of(ds) if n not in varied(ds)], 0)


def options_of(ds: xr.Dataset) -> dict[str, list[str]]:
    """The options of each choice; where the dataset does not say them, those that are on the front."""
    out = {n: str(ds[n].attrs["options"]).split(", ") for n in paths_of(ds) if "options" in ds[n].attrs}
    return {n: sorted(set(ds[n].values.tolist())) for n in choices_of(ds)} | out


def _text(ds: xr.Dataset, paths: list[str], point: int) -> str:
    parts = []
    for path in paths:
        name, value = q.words(path.rsplit(".", 1)[-1]), shown(path, ds[path].values[point])
        if ds[path].dtype.kind in "UO":
            parts.append(value)
        else:  # "max num batched tokens 2,048", not "... 2,048 tokens"
            parts.append(f"{name} {value.removesuffix(' tokens') if name.endswith('tokens') else value}")
    return ", ".join(parts)


def shown(name: str, value: Any) -> str:
    """A value of a variable or choice with its unit."""
    value = np.asarray(value).item()
    return q.of_config(name, value) if isinstance(value, float) else tick_text(value)


def along(ds: xr.Dataset, x: str, y: str, count: int) -> list[int]:
    """Places of up to `count` designs spread along the front, as the eye sees it: in logarithms where it spans much."""
    at = np.argsort(ds[x].values, kind="stable")
    scaled = [np.log(v) if spans_decades(v) else v for v in (ds[x].values[at], ds[y].values[at])]
    return [int(at[i]) for i in spread(scaled[0], scaled[1], count)]


def spans_decades(values: np.ndarray) -> bool:
    """Whether a logarithmic axis shows positive values better: the largest is more than 20 times the smallest."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > 20 * finite.min())


def limits_of(ds: xr.Dataset) -> list[tuple[str, str, float]]:
    """(figure, "<=" or ">=", limit) of every limit that the search kept to."""
    keys = {"upper_limit": "<=", "lower_limit": ">="}
    return [(str(n), sign, float(v.attrs[key])) for n, v in ds.data_vars.items() for key, sign in keys.items()
            if key in v.attrs and v.dims == ("point",)]  # fmt: skip


def evaluated(ds: xr.Dataset, *names: str) -> list[np.ndarray] | None:
    """The feasible designs that were evaluated, one array an objective; None if the dataset does not have them."""
    if any(f"evaluated_{n}" not in ds for n in names):
        return None
    values = np.stack([ds[f"evaluated_{n}"].values for n in names])
    return list(values[:, np.isfinite(values).all(axis=0)])
