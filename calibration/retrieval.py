"""Fit the per-core rates of FAISS IVF-PQ search to public results, and show the error.

    python -m calibration.retrieval [FILE.csv]

Three numbers are fitted (time per query, latency of a hop, rate of the scan); the rest is set in
`mist_jax.stages.vector_search`. Runs of one index differ by 10 to 18 % between the three submissions of the
baseline in the table: no model of the index alone can do better than half of that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.datasets import retrieval

#: Dimensions of the data sets of the track (big-ann-benchmarks.com, NeurIPS 2021, "Benchmark datasets").
DIMENSIONS = {
    "bigann-1B": 128.0,
    "deep-1B": 96.0,
    "msturing-1B": 100.0,
    "msspacev-1B": 100.0,
    "text2image-1B": 200.0,
    "ssnpp-1B": 256.0,
}
#: Bytes that the index keeps per vector besides its code: identifier (8), quantizer and slack. From the
# baseline,
#: whose codes are known to have 32 bytes.
NOT_CODE = 13.2


def predict(rows: pd.DataFrame, measured_distances: bool = True, **changes: Any) -> np.ndarray:
    """Seconds per query of the whole machine, by the stage's own formula; `changes` override its
    parameters."""
    from mist_jax.stages.vector_search import VectorSearch, core_seconds

    code = np.round((rows["bytes_per_vector"] - NOT_CODE) / 16.0) * 16.0
    ideal = rows["nprobe"] * retrieval.VECTORS / retrieval.LISTS
    skew = rows["distances"] / ideal if measured_distances else VectorSearch().skew
    params = VectorSearch(
        dim=rows["dataset"].map(DIMENSIONS).to_numpy(),
        nprobe=rows["nprobe"].to_numpy(float),
        ef=rows["ef"].to_numpy(float),
        code_bytes=code.to_numpy(float),
        skew=np.asarray(skew),
        **changes,
    )
    return np.asarray(core_seconds(params)) / retrieval.CORES


def fit(rows: pd.DataFrame) -> dict[str, float]:
    """base_s, random_s and scan_rate by robust least squares on logarithms."""
    from scipy.optimize import least_squares

    names, start = ("base_s", "random_s", "scan_rate"), np.array([10e-6, 30e-9, 2.4e9])

    def residual(theta: np.ndarray) -> np.ndarray:
        values = dict(zip(names, np.exp(theta)))
        return np.log(predict(rows, **values)) - np.log(rows["seconds"].to_numpy())

    out = least_squares(residual, np.log(start), loss="soft_l1", f_scale=0.05)
    return {name: float(value) for name, value in zip(names, np.exp(out.x))}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors of the packaged defaults by data set, algorithm and index, with and without the measured
    counts."""
    out = []
    for measured in (True, False):
        rows = rows.assign(error=predict(rows, measured) / rows["seconds"].to_numpy() - 1)
        for key, part in [("all", rows), *rows.groupby(["dataset", "algorithm", "index"])]:
            out.append(
                {
                    "index": key if isinstance(key, str) else " ".join(str(k) for k in key),
                    "distances": "measured" if measured else "nprobe * N / lists * skew",
                    "rows": len(part),
                    "median |error| %": 100 * part["error"].abs().median(),
                    "median error %": 100 * part["error"].median(),
                    "mean |error| %": 100 * part["error"].abs().mean(),
                }
            )
    return pd.DataFrame(out)


def main() -> None:
    """Command line."""
    import jax

    jax.config.update("jax_enable_x64", True)
    rows = retrieval.read(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    baseline = rows[rows["algorithm"] == "faiss-t1"]
    print("fit:", {name: f"{value:.4g}" for name, value in fit(baseline).items()})
    print("packaged defaults:")
    print(table(rows).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
