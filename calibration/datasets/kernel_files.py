"""Files of the kernel database: which systems it has, its digest, and the rows of one family of kernels."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pandas as pd

from calibration.datasets import DataMissing, data_dir

SOURCE = "https://github.com/ai-dynamo/aiconfigurator (src/aiconfigurator/systems/data)"


def systems() -> list[str]:
    """Names of the systems in the database."""
    root = data_dir() / "kernels"
    if not root.is_dir():
        raise DataMissing(root, SOURCE)
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def digest() -> str:
    """SHA-256 over names, sizes and contents of all kernel and collective files."""
    return _digest(str(data_dir()))


@functools.cache
def _digest(folder: str) -> str:
    total = hashlib.sha256()
    root = Path(folder)
    for path in sorted([*root.glob("kernels/*/*.parquet"), *root.glob("collectives/*.csv")]):
        total.update(str(path.relative_to(root)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def read_family(family: str) -> pd.DataFrame:
    """All rows of the files `*_FAMILY_perf.parquet`, with `system`, `engine` and `seconds`."""
    parts = []
    for system in systems():
        for path in sorted((data_dir() / "kernels" / system).glob(f"*_{family}_perf.parquet")):
            engine = path.name.split("_")[0]
            parts.append(pd.read_parquet(path).assign(system=system, engine=engine))
    if not parts:
        raise DataMissing(data_dir() / "kernels", SOURCE)
    rows = pd.concat(parts, ignore_index=True)
    rows["seconds"] = rows.pop("latency") * 1e-3
    return rows[rows.seconds > 0].reset_index(drop=True)
