"""80 % intervals from held-out residuals: quantiles by label, mode and wait, checked fold by fold.

A label says how far a prediction reaches beyond what was measured, and each label has the folds that imitate it:

    calibrated     leave-deployment-out
    extrapolated   leave-model-out
    physics-only   leave-system-out

The factors of a regime are quantiles of log(measured / predicted), a measurement once, with the finite-sample
correction of split-conformal prediction (V. Vovk et al., "Algorithmic Learning in a Random World", 2005). Residuals of
one system or model go together, so quantiles of the systems seen hold too few measurements of a further one: the tail
that is cut off is chosen, per label, mode and target, as the largest whose quantiles from the other folds hold 80 % of
each fold left out in turn (cf. R. Dunn et al., "Distribution-free prediction sets for two-layer hierarchical models",
JASA 2022). A fold of n measurements weighs as sqrt(n): neither one large system nor many small ones decide alone.
Regimes with few measurements or folds fall back to the next coarser one. Quantiles by engine as well were tried: on
folds left out they are wider for the same coverage.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

LABEL_OF = {"deployment": "calibrated", "model": "extrapolated", "system": "physics-only"}
LEVEL = 0.8
#: Measurements, and folds with a tenth of these, that a regime needs for quantiles of its own.
LEAST, LEAST_FOLDS = 60, 3
TARGETS = ("ttft", "tpot")
#: Levels of the quantiles that may be needed to hold `LEVEL` of an unseen fold.
LEVELS = np.round(np.arange(0.7, 0.981, 0.01), 2)


def residuals(held: pd.DataFrame) -> pd.DataFrame:
    """Log residuals of held-out predictions with the columns that make a regime."""
    part = held.reset_index(drop=True)
    part = part[part.kind.isin(LABEL_OF) & ~part.anchor & (part.suspect == "")].copy()
    part = with_regime(part.assign(label=part.kind.map(LABEL_OF))).drop_duplicates(["kind", "measurement_id"])
    # one model has most of the disaggregated measurements: what is left without it tells nothing
    for _, rows in part.groupby(["kind", "mode"]):
        if rows.fold.value_counts(normalize=True).iloc[0] > 0.5:
            part.loc[rows.index, "fold"] = rows.fold + "|" + rows.system
    return part


def with_regime(part: pd.DataFrame) -> pd.DataFrame:
    """Add log(measured / predicted) and the regime to rows with a label."""
    part = part.copy()
    for target in TARGETS:
        part[target] = np.log(part[f"{target}_ms"] / part[f"pred_{target}_ms"])
    cycle = part.pred_ttft_ms + part.length_mean * part.osl * part.pred_tpot_ms
    part["regime"] = np.where(part.pred_ttft_ms > 0.2 * cycle, part["mode"] + "|waits", part["mode"])
    return part


def keys_of(part: pd.DataFrame) -> list[pd.Series]:
    """Regimes of each row, finest first: those that `mist_jax.calibrations.interval` looks for."""
    return [
        part.label + "|" + part.regime,
        part.label + "|" + part["mode"],
        part.label,
    ]


def quantiles(values: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Lower and upper weighted quantile that hold `level` of further values, finite-sample corrected."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) - 0.5 * weights[order]
    share = share / weights.sum()
    effective = weights.sum() ** 2 / (weights**2).sum()
    tail = 0.5 * (1.0 - level)
    tail = max(tail - (1.0 - tail) / effective, 0.0)
    low, high = np.interp([tail, 1.0 - tail], share, values[order])
    return float(low), float(high)


def regimes(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """regime → its rows, for regimes that have enough of them; a label and its modes always."""
    out = {}
    part = part.assign(weight=part.groupby("fold").fold.transform("size") ** -0.5)
    for depth, keys in enumerate(keys_of(part)):
        for key, rows in part.groupby(keys):
            folds = (rows.groupby("fold").size() >= LEAST // 10).sum()
            if depth >= 1 or (len(rows) >= LEAST and folds >= LEAST_FOLDS):
                out[str(key)] = rows
    return out


def factors(rows_of: dict[str, pd.DataFrame], target: str, level: float) -> dict[str, tuple[float, float]]:
    """regime → (log low, log high)."""
    return {
        key: quantiles(rows[target].to_numpy(), rows.weight.to_numpy(), level)
        for key, rows in rows_of.items()
    }


def lookup(part: pd.DataFrame, table: dict[str, tuple[float, float]]) -> np.ndarray:
    """(log low, log high) of each row, [rows, 2]: the finest regime in the table."""
    out = np.full((len(part), 2), np.nan)
    for keys in keys_of(part):
        found = np.array([table.get(k, (np.nan, np.nan)) for k in keys])
        out = np.where(np.isfinite(out), out, found)
    return out


def held_by(part: pd.DataFrame, target: str, level: float) -> pd.DataFrame:
    """Whether quantiles at `level` from the other folds hold each row (`inside`), and their `width` high / low."""
    out = []
    for fold, test in part.groupby("fold"):
        low, high = lookup(test, factors(regimes(part[part.fold != fold]), target, level)).T
        value = test[target].to_numpy()
        out.append(
            pd.DataFrame(
                {"inside": (low <= value) & (value <= high), "width": np.exp(high - low)}, index=test.index
            )
        )
    return pd.concat(out)


def needed_levels(part: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """(label, mode, target) → the least level of quantiles that holds `LEVEL` of folds left out in turn."""
    out = {}
    for (label, mode), rows in part.groupby(["label", "mode"]):
        for target in TARGETS:
            low, high = 0, len(LEVELS) - 1  # bisection: coverage rises with the level
            while low < high:
                middle = (low + high) // 2
                if held_by(rows, target, LEVELS[middle]).inside.mean() >= LEVEL:
                    high = middle
                else:
                    low = middle + 1
            out[label, mode, target] = float(LEVELS[low])
    return out


def interval_table(
    part: pd.DataFrame, levels: dict[tuple[str, str, str], float]
) -> dict[str, dict[str, list[float]]]:
    """regime → target → [log low, log high]."""
    table: dict[str, dict[str, list[float]]] = {}
    for key, rows in regimes(part).items():
        label, *rest = key.split("|")
        for target in TARGETS:
            # a label without a mode: the wider of the modes' levels
            level = max(
                v for (a, m, t), v in levels.items() if a == label and t == target and m in (rest[:1] or [m])
            )
            low, high = quantiles(rows[target].to_numpy(), rows.weight.to_numpy(), level)
            table.setdefault(key, {})[target] = [round(low, 4), round(high, 4)]
    return table


def coverage(part: pd.DataFrame, levels: dict[tuple[str, str, str], float]) -> pd.DataFrame:
    """Coverage and width of the intervals, each fold with quantiles from the other folds of its kind.

    Columns: label, mode, target, n, level (of the quantiles), coverage (%), width (median of high / low).
    """
    out = []
    for (label, mode), rows in part.groupby(["label", "mode"]):
        for target in TARGETS:
            level = levels[label, mode, target]
            held = held_by(rows, target, level)
            out.append(
                (label, mode, target, len(rows), level, 100.0 * held.inside.mean(), held.width.median())
            )
    return pd.DataFrame(out, columns=["label", "mode", "target", "n", "level", "coverage", "width"])
