"""Cross-validation of the end-to-end calibration: by deployment, system, model, engine, prompt length, with anchors.

`python -m calibration.end_to_end` prints the error tables of README.md. The references (roofline, boosted trees) run
on the same splits (`calibration.black_box`).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration import e2e_systems
from calibration.anchors import corrections
from calibration.black_box import table
from calibration.datasets.serving import read_serving
from calibration.e2e_model import Rows
from calibration.fit import Fit, fit
from calibration.splits import Split, make_splits

KINDS = ("deployment", "system", "model", "engine", "isl")


@dataclasses.dataclass(frozen=True)
class Data:
    """The measurements, and their rows as they are fitted and as they are predicted."""

    frame: pd.DataFrame  #: a measurement once a deployment
    fitted: Rows  #: layout and speculation as the measurements tell
    asked: Rows  #: as known without measuring
    other: Rows  #: as asked, but in the other mode of speculation where that is not known

    @staticmethod
    def read(serving: Path | None, kernels: str = "default") -> Data:
        """All rows of a file in the form of serving/train.csv."""
        frame = read_serving(serving)
        blind = read_serving(serving, use_measurements=False)
        kept = ~frame.duplicated(["measurement_id", "deployment"])
        frame, blind = frame[kept].reset_index(drop=True), blind[kept].reset_index(drop=True)
        frame["weight"] = 1.0 / frame.groupby("measurement_id").id.transform("size")
        on = e2e_systems.speculation(blind)
        unknown = ((blind.mtp > 0) & (blind.mtp < 1)).to_numpy()
        return Data(
            frame,
            Rows.of(frame, e2e_systems.speculation(frame, fitted=True), kernels),
            Rows.of(blind, on, kernels),
            Rows.of(blind, on ^ unknown, kernels),
        )


def follow(data: Data, offsets: np.ndarray, known: np.ndarray, test: np.ndarray) -> np.ndarray:
    """log (TTFT, TPOT) of the rows `test` given the measurements of the rows `known`, [len(test), 2].

    Where speculation is not known, a deployment is taken to run the mode whose TPOT is nearer to its known points.
    """
    frame = data.frame
    measured = np.log(frame[["ttft_ms", "tpot_ms"]].to_numpy() * 1e-3)
    predicted, slopes = data.asked.predict(offsets), data.asked.jacobian(offsets)
    flipped = data.other.predict(offsets)
    miss = np.abs(np.stack([predicted, flipped]) - measured)[:, known, 1].T
    nearer = pd.DataFrame(miss).groupby(frame.deployment.to_numpy()[known]).mean()
    flip = frame.deployment.isin(nearer.index[nearer[1] < nearer[0]]).to_numpy()
    if flip.any():
        predicted = np.where(flip[:, None], flipped, predicted)
        slopes = np.where(flip[:, None, None], data.other.jacobian(offsets), slopes)
    octaves = np.log2(frame.concurrency.to_numpy())
    names = frame.deployment.to_numpy()
    return predicted[test] + corrections(names, octaves, slopes, measured - predicted, known, test)


def held_out(
    data: Data, split: Split, start: Fit | None = None, anchored: Split | None = None, **options: Any
) -> list[pd.DataFrame]:
    """Predictions of a fold's test rows by a fit to its training rows, and with the `anchored` points known."""
    frame, test = data.frame, split.test.astype(int)
    result = fit(data.fitted, split.train.astype(int), start=start, **options)
    offsets = result.offsets(data.asked.keys)
    usable = (frame.suspect == "").to_numpy()

    def rows_of(rows: np.ndarray, log: np.ndarray, anchor: bool) -> pd.DataFrame:
        out = frame.loc[rows].copy()
        out["pred_ttft_ms"], out["pred_tpot_ms"] = 1e3 * np.exp(log).T
        return out.assign(kind=split.kind, fold=split.fold, anchor=anchor)

    if split.kind == "random":  # other concurrencies of a deployment are in training
        train = split.train.astype(int)
        tables = [rows_of(test, follow(data, offsets, train[usable[train]], test), False)]
    else:
        tables = [rows_of(test, data.asked.predict(offsets)[test], False)]
    if anchored is not None:
        known, rest = anchored.anchors.astype(int), anchored.test.astype(int)
        tables.append(rows_of(rest, follow(data, offsets, known[usable[known]], rest), True))
    return tables


def cross_validate(
    data: Data,
    kinds: tuple[str, ...] = KINDS,
    anchors: tuple[str, ...] = ("system", "model"),
    start: Fit | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Held-out predictions of every fold of every kind; suspect rows are left out."""
    parts = []
    for kind in kinds:
        known = {s.fold: s for s in make_splits(data.frame, kind, anchored=True)} if kind in anchors else {}
        for split in make_splits(data.frame, kind):
            parts += held_out(data, split, start, known.get(split.fold), **options)
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
    data = Data.read(args.serving)
    start = fit(data.fitted, np.arange(len(data.frame)))
    held = cross_validate(data, tuple(args.kinds), start=start)
    if args.out:
        held.to_csv(args.out, index=False)
    print(table(errors(held)))


if __name__ == "__main__":
    main()
