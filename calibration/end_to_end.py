"""Cross-validation of the end-to-end calibration: by deployment, system, model, engine, prompt length, with anchors.

`python -m calibration.end_to_end` prints the error tables of README.md. The references (roofline, boosted trees) run
on the same splits (`calibration.black_box`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration import e2e_systems
from calibration.black_box import table
from calibration.datasets.serving import read_serving
from calibration.e2e_model import Rows
from calibration.fit import Fit, fit
from calibration.splits import Split, make_splits

#: How far a deployment's predictions follow its measured points: shrinkage of the mean log residual of k points,
#: k / (k + this), for TTFT and TPOT. The variance of one measurement over that of the deployment's own error.
ANCHOR_SHRINKAGE = np.array([0.15, 0.08])
KINDS = ("deployment", "system", "model", "engine", "isl")


def prepare(frame: pd.DataFrame, kernels: str = "default") -> tuple[pd.DataFrame, Rows, Rows]:
    """(frame without repeated labels, rows as fitted, rows as predicted).

    A measurement that stands several times in one deployment is kept once; fitted rows speculate as the measurements
    tell, predicted ones as is known without them.
    """
    frame = frame.drop_duplicates(["measurement_id", "deployment"]).reset_index(drop=True)
    frame["weight"] = 1.0 / frame.groupby("measurement_id").id.transform("size")
    fitted = Rows.of(frame, e2e_systems.speculation(frame, fitted=True), kernels)
    asked = Rows.of(frame, e2e_systems.speculation(frame, fitted=False), kernels)
    return frame, fitted, asked


def anchored(frame: pd.DataFrame, log_error: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Corrections of log (TTFT, TPOT) of the rows `asked` from measured points `known` of the same deployment.

    The mean of log(predicted / measured) over the deployment's known points, shrunk; 0 where none is known.
    """
    at_known = pd.DataFrame(log_error[known], columns=[0, 1]).groupby(frame.deployment.to_numpy()[known])
    mean, count = at_known.mean(), at_known.size()
    deployment = frame.deployment.iloc[asked]
    size = deployment.map(count).fillna(0.0).to_numpy()[:, None]
    out = np.stack([deployment.map(mean[t]).fillna(0.0).to_numpy() for t in (0, 1)], axis=1)
    return np.nan_to_num(out) * size / (size + ANCHOR_SHRINKAGE)


def held_out(
    frame: pd.DataFrame, fitted: Rows, asked: Rows, split: Split, start: Fit | None = None, **options: Any
) -> tuple[pd.DataFrame, Fit]:
    """Predictions of a fold's test rows by a fit to its training rows (and anchors)."""
    train = np.concatenate([split.train, split.anchors]).astype(int)
    result = fit(fitted, split.train.astype(int), start=start, **options)
    predicted = asked.predict(result.offsets(asked.keys))
    if len(split.anchors) or split.kind == "random":
        measured = np.log(frame[["ttft_ms", "tpot_ms"]].to_numpy() * 1e-3)
        source = split.anchors.astype(int) if len(split.anchors) else train
        source = source[(frame.suspect.iloc[source] == "").to_numpy()]
        seen = fitted.predict(result.offsets(fitted.keys)) - measured
        test = split.test.astype(int)
        predicted[test] -= anchored(frame, seen, source, test)
    test = split.test.astype(int)
    out = frame.loc[test].copy()
    out["pred_ttft_ms"], out["pred_tpot_ms"] = 1e3 * np.exp(predicted[test]).T
    return out.assign(kind=split.kind, fold=split.fold, anchor=bool(len(split.anchors))), result


def cross_validate(
    frame: pd.DataFrame,
    fitted: Rows,
    asked: Rows,
    kinds: tuple[str, ...] = KINDS,
    anchors: tuple[str, ...] = ("system", "model"),
    start: Fit | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Held-out predictions of every fold of every kind; suspect rows are left out."""
    parts = []
    for kind in kinds:
        for split in make_splits(frame, kind):
            parts.append(held_out(frame, fitted, asked, split, start, **options)[0])
        if kind in anchors:
            for split in make_splits(frame, kind, anchored=True):
                parts.append(held_out(frame, fitted, asked, split, start, **options)[0])
    return pd.concat(parts)


def errors(held: pd.DataFrame, by: tuple[str, ...] = ("mode",)) -> pd.DataFrame:
    """Median, mean and signed errors in %, a distinct measurement once."""
    rows = []
    held = held[held.suspect == ""]
    for key, part in held.groupby(["kind", "anchor", *by]):
        kind, anchor, *rest = key
        for target in ("ttft_ms", "tpot_ms"):
            relative = part[f"pred_{target}"] / part[target] - 1.0
            size = relative.abs().groupby(part.measurement_id).mean()
            signed = relative.groupby(part.measurement_id).mean()
            rows.append(
                {
                    "split": kind + ("+anchor" if anchor else ""),
                    **dict(zip(by, rest, strict=True)),
                    "predictor": "physics",
                    "target": target.removesuffix("_ms"),
                    "n": len(size),
                    "median": 100 * size.median(),
                    "mean": 100 * size.mean(),
                    "signed": 100 * signed.median(),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serving", type=Path, default=None)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--out", type=Path, default=None, help="write the held-out predictions (CSV)")
    args = parser.parse_args()
    from mist_jax.application import start_jax

    start_jax()
    frame, fitted, asked = prepare(read_serving(args.serving))
    start = fit(fitted, np.arange(len(frame)))
    held = cross_validate(frame, fitted, asked, tuple(args.kinds), start=start)
    if args.out:
        held.to_csv(args.out, index=False)
    print(table(errors(held)))


if __name__ == "__main__":
    main()
