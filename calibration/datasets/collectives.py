"""Reader of the public collective profiles (microsoft/vidur, data/profiling/network, MIT licence).

One row a size, number of workers and devices per node on DGX A100 and H100 clusters: NCCL all-reduce and
send/recv through PyTorch, median of repeated runs.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mist_jax.paths import data_dir

SOURCE = "microsoft/vidur data/profiling/network (MIT)"
SYSTEMS = ("a100", "h100")
OPERATIONS = ("all_reduce", "send_recv")


def path(system: str, operation: str) -> Path:
    """Where the profile of `operation` on `system` lies."""
    return data_dir() / "collectives" / f"{system}_dgx_{operation}.csv"


def read(system: str, operation: str) -> pd.DataFrame:
    """Columns `bytes`, `workers`, `per_node`, `seconds` (median of the runs), one row a measured point.

    Raises:
        FileNotFoundError: names the public source.
    """
    file = path(system, operation)
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; it comes from {SOURCE}. Set MIST_DATA_DIR.")
    raw = pd.read_csv(file, index_col=0)
    out = pd.DataFrame(
        {
            "bytes": raw["size"].astype(float),
            "workers": raw["num_workers"].astype(int),
            "per_node": raw["devices_per_node"].astype(int),
            "seconds": raw[f"time_stats.{operation}.median"] * 1e-3,
        }
    )
    return out.groupby(["bytes", "workers", "per_node"], as_index=False)["seconds"].median()
