"""Results of a sweep in a zarr folder, written box by box; an interrupted sweep is completed."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.explore.plan import Box, Plan

if TYPE_CHECKING:
    import xarray as xr

#: `status` of a point that has not been evaluated.
MISSING = -1


class Store:
    """A zarr group with one array a variable, dimensions the axes, one chunk a box.

    `status` is written last: a box is there when its status is. Boxes do not share chunks, so any number of
    writers, in any process, may write different boxes, and writing one twice changes nothing.

    Raises:
        ConfigError: the folder holds something else or another sweep, or cannot be written.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        import zarr

        self.plan, self.path = plan, path
        if path.exists() and any(path.iterdir()) if path.is_dir() else path.exists():
            self.group: Any = self._open()
            return
        with self._writing():
            self.group = zarr.open_group(str(path), mode="w-")
            self._create()

    def _open(self) -> Any:
        import zarr

        try:
            group = zarr.open_group(str(self.path), mode="r+")
        except Exception as exc:
            raise ConfigError(
                f"store: {self.path} exists and is no zarr group; choose another folder"
            ) from exc
        found = group.attrs.get("fingerprint")
        if found != self.plan.fingerprint:
            raise ConfigError(
                f"store: {self.path} holds another sweep (fingerprint {found}, this one {self.plan.fingerprint}: other "
                "axes, scenario, variables or version); choose another folder, nothing was changed"
            )
        return group

    def _create(self) -> None:
        plan = self.plan
        for axis in plan.axes:
            values = axis.coordinate if axis.numeric else axis.coordinate.astype(object)
            dtype = np.dtype(np.float64) if axis.numeric else str  # text of any length
            array = self.group.create_array(
                axis.name, shape=values.shape, dtype=dtype, chunks=values.shape, dimension_names=(axis.name,)
            )
            array[:] = values
            if axis.units:
                array.attrs["units"] = axis.units
        for name in plan.variables:
            dims, tail = plan.dims_of(name), plan.tail_of(name)
            dtype = np.dtype(plan.dtype_of(name))
            array = self.group.create_array(
                name,
                shape=(*plan.shape, *tail),
                chunks=(*plan.chunks, *tail),
                dtype=dtype,
                dimension_names=dims,
                fill_value=MISSING if name == "status" else np.nan,
            )
            array.attrs.update(plan.attrs_of(name))
        for name, labels in plan.coords.items():
            array = self.group.create_array(
                name, shape=(len(labels),), dtype=str, chunks=(max(len(labels), 1),), dimension_names=(name,)
            )
            array[:] = np.asarray(labels, dtype=object)
        self.group.attrs["axes"] = json.dumps([a.name for a in plan.axes])
        # last: a folder without it was interrupted before it was complete
        self.group.attrs["fingerprint"] = plan.fingerprint

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            yield
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space, or move the folder to a larger disk, then " if full else ""
            raise ConfigError(
                f"store: cannot write to {self.path} ({exc.strerror or exc}); what was written before is intact: "
                f"{remedy}run the same sweep again, it continues from there"
            ) from exc

    def _index(self, box: Box) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in box)

    def has(self, box: Box) -> bool:
        """Whether the box has been written."""
        return bool((np.asarray(self.group["status"][self._index(box)]) != MISSING).all())

    def write(self, box: Box, values: dict[str, np.ndarray]) -> None:
        """Write one box."""
        where = self._index(box)
        with self._writing():
            for name in [n for n in values if n != "status"]:
                self.group[name][where] = values[name]
            self.group["status"][where] = values["status"]

    def add(self, variables: Mapping[str, xr.DataArray], attributes: Mapping[str, Any]) -> None:
        """Write what was worked out from the finished sweep; what is there of it is replaced."""
        sizes = dict(zip((a.name for a in self.plan.axes), self.plan.chunks, strict=True))
        with self._writing():
            for name, variable in variables.items():
                text = variable.dtype.kind in "UO"
                array = self.group.create_array(
                    name,
                    shape=variable.shape,
                    chunks=tuple(sizes.get(str(d), n) for d, n in variable.sizes.items()),
                    dtype=str if text else variable.dtype,
                    dimension_names=tuple(map(str, variable.dims)),
                    fill_value="" if text else np.nan,
                    overwrite=True,
                )
                array[...] = variable.values.astype(object) if text else variable.values
                array.attrs.update(variable.attrs)
            self.group.attrs.update(attributes)
            self._consolidate()

    def _consolidate(self) -> None:
        import warnings

        import zarr

        with warnings.catch_warnings():
            # consolidated metadata is an extension to Zarr 3 that xarray looks for first
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(self.path))

    def finish(self) -> dict[str, Any]:
        """The arrays, read as they are used (xarray reads zarr lazily)."""
        import xarray as xr

        self._consolidate()
        with xr.open_zarr(str(self.path), consolidated=False, chunks=None, mask_and_scale=False) as ds:
            return {name: ds[name].variable for name in self.plan.variables}
