"""Write a result and read it back equal: NetCDF, zarr, CSV, Parquet or JSON, by the suffix.

NetCDF, zarr and JSON hold the dataset as it is. CSV and Parquet hold one table: a row a point of the row dimensions
(requests of a playback, axes of a sweep), dimensions that only label parts (`part`, `share`, `stage`) spread over
columns such as `stage_s[queue]`. What a table cannot say (units, which dimensions a variable has) travels with it: in
the first line of the CSV, behind `# mist `, and in the schema of the Parquet file.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import ConfigError, nearest
from mist_jax.io.netcdf import write_netcdf

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Dimensions that name parts of one figure: columns of a table, not rows.
LABEL_DIMENSIONS = ("part", "share", "stage")
_MARK = "# mist "
_KEY = b"mist"


def export(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `ds` in the form that the suffix of `path` says: .nc, .zarr, .csv, .parquet or .json.

    Args:
        ds: a result of `evaluate`, `play` or `sweep`.
        overwrite: replace what is there.

    Raises:
        ConfigError: unknown suffix, something is there already, or the package for the form is missing.
    """
    at = Path(path)
    writer = _form(at)[0]
    if at.exists():
        if not overwrite:
            raise ConfigError(f"{at}: is there already; give another path or overwrite=True")
        shutil.rmtree(at) if at.is_dir() else at.unlink()
    at.parent.mkdir(parents=True, exist_ok=True)
    writer(ds, at)
    return at


def load_export(path: str | Path) -> xr.Dataset:
    """Read what `export` wrote.

    Raises:
        ConfigError: no such file, unknown suffix, or not written by `export`.
    """
    at = Path(path)
    reader = _form(at)[1]
    if not at.exists():
        raise ConfigError(f"{at}: no such file")
    try:
        return reader(at)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{at}: not a result written by mist ({type(exc).__name__}: {exc})") from None


def _read_netcdf(path: Path) -> xr.Dataset:
    import xarray as xr

    with xr.open_dataset(path) as ds:
        return ds.load()


def _write_zarr(ds: xr.Dataset, path: Path) -> None:
    import warnings

    with warnings.catch_warnings():  # zarr 3 says that fixed-length text has no final specification yet
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        ds.to_zarr(path, consolidated=False)


def _read_zarr(path: Path) -> xr.Dataset:
    import warnings

    import xarray as xr

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        with xr.open_zarr(path, consolidated=False) as ds:
            return ds.load()


def _plain(value: Any) -> Any:
    """JSON values; NaN and infinities as text, so that the file is JSON to the letter."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def _back(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["number"]) if set(value) == {"number"} else {k: _back(v) for k, v in value.items()}
    return [_back(v) for v in value] if isinstance(value, list) else value


def _write_json(ds: xr.Dataset, path: Path) -> None:
    content = {
        "attrs": ds.attrs,
        "variables": {
            str(k): {
                "dims": list(v.dims),
                "dtype": str(v.dtype),
                "attrs": v.attrs,
                "coord": k in ds.coords,
                "data": v.values,
            }
            for k, v in ds.variables.items()
        },
    }
    path.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> xr.Dataset:
    import xarray as xr

    content = _back(json.loads(path.read_text(encoding="utf-8")))
    found: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for name, v in content["variables"].items():
        found[v["coord"]][name] = (v["dims"], np.asarray(v["data"], dtype=v["dtype"]), v["attrs"])
    return xr.Dataset(found[False], coords=found[True], attrs=content["attrs"])


def row_dimensions(ds: xr.Dataset) -> list[str]:
    """Dimensions that become rows of a table."""
    return [str(d) for d in ds.dims if d not in LABEL_DIMENSIONS]


def to_table(ds: xr.Dataset) -> pd.DataFrame:
    """One table of the dataset: coordinates of the row dimensions, then one column a variable (and label)."""
    import pandas as pd

    rows = row_dimensions(ds)
    shape = tuple(ds.sizes[d] for d in rows)
    columns: dict[str, np.ndarray] = {}

    def flat(array: xr.DataArray) -> np.ndarray:
        missing = {d: ds.sizes[d] for d in rows if d not in array.dims}
        full = array.expand_dims(missing).transpose(*rows) if missing or array.dims else array
        return np.broadcast_to(full.values, shape).reshape(-1)

    for name in rows:
        index = ds[name] if name in ds.coords else ds[name].copy(data=np.arange(ds.sizes[name]))
        columns[name] = flat(index)
    for name, var in [*_further_coordinates(ds), *ds.data_vars.items()]:
        labels = [str(d) for d in var.dims if d in LABEL_DIMENSIONS]
        if len(labels) > 1:
            raise ConfigError(
                f"export: {name} has two label dimensions ({', '.join(labels)}); use .nc, .zarr or .json"
            )
        if not labels:
            columns[str(name)] = flat(var)
        else:
            for i, text in enumerate(ds[labels[0]].values):
                columns[f"{name}[{text}]"] = flat(var.isel({labels[0]: i}, drop=True))
    return pd.DataFrame(columns)


def _further_coordinates(ds: xr.Dataset) -> list[tuple[Any, Any]]:
    return [(k, v) for k, v in ds.coords.items() if k not in ds.dims]


def _describe(ds: xr.Dataset) -> dict[str, Any]:
    """What a table does not say."""
    variables = {
        str(k): {
            "dims": list(v.dims),
            "dtype": str(v.dtype),
            "attrs": _plain(v.attrs),
            "coord": k in ds.coords,
        }
        for k, v in ds.variables.items()
    }
    labels = {str(d): _plain(ds[d].values) for d in ds.dims if d in LABEL_DIMENSIONS}
    sizes = {d: int(ds.sizes[d]) for d in row_dimensions(ds)}
    return {"variables": variables, "labels": labels, "sizes": sizes, "attrs": _plain(ds.attrs)}


def _from_table(table: pd.DataFrame, about: dict[str, Any]) -> xr.Dataset:
    import xarray as xr

    sizes, labels = about["sizes"], about["labels"]
    rows = list(sizes)
    shape = tuple(sizes.values())

    def values(column: str, dims: list[str], dtype: str) -> np.ndarray:
        block = table[column].to_numpy().reshape(shape)
        pick = tuple(slice(None) if d in dims else 0 for d in rows)
        out = np.asarray(block[pick]).astype(dtype)
        kept = [d for d in rows if d in dims]
        return out.transpose([kept.index(d) for d in dims if d in kept])

    found: dict[str, dict[str, Any]] = {"coords": {}, "data": {}}
    for name, v in about["variables"].items():
        dims, dtype = v["dims"], v["dtype"]
        label = next((d for d in dims if d in labels), None)
        if name == label:
            data = np.asarray(labels[name], dtype=dtype)
        elif label is None:
            data = values(name, dims, dtype)
        else:
            rest = [d for d in dims if d != label]
            parts = [values(f"{name}[{text}]", rest, dtype) for text in labels[label]]
            data = np.moveaxis(np.stack(parts), 0, dims.index(label))
        found["coords" if v["coord"] else "data"][name] = (dims, data, _back(v["attrs"]))
    return xr.Dataset(found["data"], coords=found["coords"], attrs=_back(about["attrs"]))


def _write_csv(ds: xr.Dataset, path: Path) -> None:
    table = to_table(ds)
    with open(path, "w", encoding="utf-8", newline="") as out:
        out.write(_MARK + json.dumps(_describe(ds)) + "\n")
        table.to_csv(out, index=False)


def _read_csv(path: Path) -> xr.Dataset:
    import pandas as pd

    first, _, body = path.read_text(encoding="utf-8").partition("\n")
    if not first.startswith(_MARK):
        raise ConfigError(f"{path}: has no line '{_MARK}...' at its head; it was not written by mist")
    about = json.loads(first.removeprefix(_MARK))
    # everything as text: Python's own conversion to float is exact in every version of pandas
    table = pd.read_csv(io.StringIO(body), dtype=str, keep_default_na=False)
    for name in table.columns:
        dtype = about["variables"][name.partition("[")[0] if name not in about["variables"] else name][
            "dtype"
        ]
        if dtype == "bool":
            table[name] = table[name] == "True"
        elif dtype.startswith("float"):
            table[name] = [float(x) if x else math.nan for x in table[name]]
    return _from_table(table, about)


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet

        return pyarrow
    except ImportError:
        raise ConfigError("export: Parquet needs pyarrow; install mist-jax[calibration]") from None


def _write_parquet(ds: xr.Dataset, path: Path) -> None:
    arrow = _arrow()
    table = arrow.Table.from_pandas(to_table(ds), preserve_index=False)
    about = json.dumps(_describe(ds)).encode()
    arrow.parquet.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: about}), path
    )


def _read_parquet(path: Path) -> xr.Dataset:
    arrow = _arrow()
    table = arrow.parquet.read_table(path)
    about = (table.schema.metadata or {}).get(_KEY)
    if about is None:
        raise ConfigError(f"{path}: its schema has no entry 'mist'; it was not written by mist")
    return _from_table(table.to_pandas(), json.loads(about))


FORMS: dict[str, tuple[Callable[[Any, Path], None], Callable[[Path], Any]]] = {
    ".nc": (write_netcdf, _read_netcdf),
    ".zarr": (_write_zarr, _read_zarr),
    ".csv": (_write_csv, _read_csv),
    ".parquet": (_write_parquet, _read_parquet),
    ".json": (_write_json, _read_json),
}


def _form(path: Path) -> tuple[Callable[[Any, Path], None], Callable[[Path], Any]]:
    if path.suffix not in FORMS:
        raise ConfigError(
            f"{path}: unknown suffix '{path.suffix}'{nearest(path.suffix, FORMS)}; allowed: {', '.join(FORMS)}"
        )
    return FORMS[path.suffix]
