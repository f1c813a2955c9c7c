"""Write a dataset as NetCDF without starting Dask's distributed half."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def write_netcdf(ds: xr.Dataset, path: Path | str) -> None:
    """`ds.to_netcdf(path)`, three seconds earlier where Dask is installed.

    xarray asks Dask which scheduler runs, to choose a lock for arrays that are computed while they are written; Dask
    then imports `distributed` to look for a client. Our arrays hold numbers: any scheduler named beforehand will do.
    """
    with _scheduler_named():
        ds.to_netcdf(path)


def _scheduler_named() -> Any:
    if importlib.util.find_spec("dask") is None:
        return contextlib.nullcontext()
    import dask.config

    return dask.config.set(scheduler="threads")
