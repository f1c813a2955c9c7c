"""80 % intervals from held-out residuals: split-conformal quantiles by label, mode, wait and engine.

A label says how far a prediction reaches beyond what was measured, and each label has the folds that imitate it:

    calibrated     leave-deployment-out
    extrapolated   leave-model-out
    physics-only   leave-system-out

The factors of a regime are the 10 % and 90 % quantiles of log(measured / predicted), a measurement once, with the
finite-sample correction of split-conformal prediction (V. Vovk et al., "Algorithmic Learning in a Random World", 2005).
Regimes with fewer than `LEAST` measurements fall back to the next coarser one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

LABEL_OF = {"deployment": "calibrated", "model": "extrapolated", "system": "physics-only"}
LEVEL = 0.8
LEAST = 40
TARGETS = ("ttft", "tpot")


def residuals(held: pd.DataFrame) -> pd.DataFrame:
    """Log residuals of held-out predictions with the columns that make a regime."""
    part = held[held.kind.isin(LABEL_OF) & ~held.anchor & (held.suspect == "")].copy()
    for target in TARGETS:
        part[target] = np.log(part[f"{target}_ms"] / part[f"pred_{target}_ms"])
    cycle = part.pred_ttft_ms + part.length_mean * part.osl * part.pred_tpot_ms
    part["regime"] = np.where(part.pred_ttft_ms > 0.2 * cycle, part["mode"] + "|waits", part["mode"])
    part["label"] = part.kind.map(LABEL_OF)
    return part.drop_duplicates(["kind", "measurement_id"])


def keys_of(part: pd.DataFrame) -> list[pd.Series]:
    """Regimes of each row, finest first: those that `mist_jax.calibrations.interval` looks for."""
    return [
        part.label + "|" + part.regime + "|" + part.engine,
        part.label + "|" + part.regime,
        part.label + "|" + part["mode"],
        part.label,
    ]


def quantiles(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Lower and upper quantile that hold `level` of further values, finite-sample corrected."""
    n = len(values)
    tail = 0.5 * (1.0 - level)
    upper = min(np.ceil((n + 1) * (1.0 - tail)) / n, 1.0)
    lower = max(np.floor((n + 1) * tail) / n, 0.0)
    return float(np.quantile(values, lower)), float(np.quantile(values, upper))


def interval_table(part: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """regime → target → [log low, log high]."""
    table: dict[str, dict[str, list[float]]] = {}
    for keys in keys_of(part):
        for key, rows in part.groupby(keys):
            if len(rows) >= LEAST or "|" not in str(key):
                table[str(key)] = {
                    t: [round(q, 4) for q in quantiles(rows[t].dropna().to_numpy())] for t in TARGETS
                }
    return table


def coverage(part: pd.DataFrame) -> pd.DataFrame:
    """Coverage and width of the intervals, each fold with quantiles from the other folds of its kind.

    Columns: label, mode, target, n, coverage (%), width (median of high / low).
    """
    inside = []
    for (kind, fold), test in part.groupby(["kind", "fold"]):
        others = part[(part.kind == kind) & (part.fold != fold)]
        table = interval_table(others)
        finest = keys_of(test)
        for at in range(len(test)):
            entry = next((table[k.iloc[at]] for k in finest if k.iloc[at] in table), None)
            row = test.iloc[at]
            for target in TARGETS:
                low, high = entry[target] if entry else (np.nan, np.nan)
                inside.append(
                    (row.label, row["mode"], target, low <= row[target] <= high, np.exp(high - low))
                )
    frame = pd.DataFrame(inside, columns=["label", "mode", "target", "inside", "width"])
    out = frame.groupby(["label", "mode", "target"]).agg(
        n=("inside", "size"), coverage=("inside", "mean"), width=("width", "median")
    )
    out["coverage"] = 100.0 * out["coverage"]
    return out.reset_index()
