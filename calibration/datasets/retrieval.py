"""Reader of the public vector-search results (harsha-simhadri/big-ann-benchmarks, track 1, MIT licence).

Queries/s of a whole Azure F32s_v2 (32 vCPU = 16 cores, 64 GB) with all threads busy, 10 neighbours a query.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mist_jax.paths import data_dir

SOURCE = "harsha-simhadri/big-ann-benchmarks track 1 results (MIT)"
CORES = 16  # physical cores of an Azure F32s_v2 (32 vCPU, two threads a core)
LISTS = 2**20  # inverted lists of the baseline indexes (IVF1048576_HNSW32, the track's README)
VECTORS = 1e9


def path() -> Path:
    """Where the table lies."""
    return data_dir() / "retrieval" / "bigann_t1_faiss.csv"


def read(file: Path | None = None) -> pd.DataFrame:
    """FAISS IVF rows: `algorithm`, `dataset`, `nprobe`, `ef`, `distances`, `bytes_per_vector`, `seconds`,
    `recall`.

    `seconds` is the whole machine's time per query, 1/qps. `bytes_per_vector` is the size of the index over
    the
    number of vectors: codes, identifiers and the share of the coarse quantizer.

    Raises:
        FileNotFoundError: names the public source.
    """
    file = file or path()
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; it comes from {SOURCE}. Set MIST_DATA_DIR.")
    raw = pd.read_csv(file)
    pattern = re.compile(r"FaissIVFPQ\(nprobe=(\d+),\s*(?:quantizer_)?efSearch=(\d+)\)")
    found = raw["parameters"].str.extract(pattern)
    keep = found[0].notna()
    out = pd.DataFrame(
        {
            "algorithm": raw["algorithm"],
            "dataset": raw["dataset"],
            "nprobe": pd.to_numeric(found[0]),
            "ef": pd.to_numeric(found[1]),
            "distances": raw["distcomps"].astype(float),
            "bytes_per_vector": raw["indexsize"] * 1024.0 / VECTORS,
            "seconds": 1.0 / raw["qps"],
            "recall": raw["recall/ap"],
            "index": raw["indexsize"],
        }
    )
    return out[keep].reset_index(drop=True)
