"""Predictions of measured deployments with the packaged calibration, and their errors.

python -m calibration.evaluate --serving FILE.csv --out PRED.csv
    rows in the form of serving/train.csv (measured columns may be absent) → id, pred_ttft_ms, pred_tpot_ms, status
    and, after those, an 80 % interval of each and the label of the prediction
python -m calibration.evaluate --engine-run DIR --system NAME --model NAME --out PRED.csv
    plays the requests of such a folder → request_id, pred_ttft_ms, pred_tpot_ms, pred_e2e_ms
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from calibration import e2e_systems
from calibration.datasets.serving import read_serving
from calibration.e2e_model import Rows, level_columns
from calibration.splits import length_class
from mist_jax import calibrations

GROUPS = (["mode"], ["mode", "system"], ["mode", "engine"], ["mode", "model"], ["mode", "concurrency"])


def predict_serving(path: Path | None, calibration: str = "default") -> pd.DataFrame:
    """One row a row of the file, in its order: canonical columns, predictions, intervals, label, status.

    The measured columns, if there are any, play no part in the predictions.
    """
    frame = read_serving(path, use_measurements=False).reset_index(drop=True)
    rows = Rows.of(frame, e2e_systems.speculation(frame), "none" if calibration == "none" else "default")
    fitted = {} if calibration == "none" else calibrations.packaged_step().get("offsets", {})
    predicted = rows.predict(packaged_offsets(rows, fitted))
    out = frame.copy()
    out["pred_ttft_ms"], out["pred_tpot_ms"] = 1e3 * np.exp(predicted).T
    finite = np.isfinite(predicted).all(axis=1)
    out["prediction_status"] = np.where(
        rows.reason != "", rows.reason.astype(str), np.where(finite, "ok", "no finite prediction")
    )
    _add_intervals(out)
    return out


def packaged_offsets(rows: Rows, fitted: dict) -> np.ndarray:
    """Offsets of the packaged fit for each row, [rows, K]."""
    keys = rows.keys[level_columns()]
    unique = keys.drop_duplicates()
    table = {
        tuple(k): calibrations.step_offsets(fitted, dict(zip(keys.columns, k))) for k in unique.to_numpy()
    }
    return np.array([table[tuple(k)] for k in keys.to_numpy()])


def label_of(row: object, measured: dict) -> str:
    """How far the calibration reaches a row."""
    if row.system not in measured.get("system", ()):  # type: ignore[attr-defined]
        return "physics-only"
    seen = row.engine in measured["engine"] and row.model in measured["model"]  # type: ignore[attr-defined]
    seen = seen and length_class(row.isl) in measured.get("length", ())  # type: ignore[attr-defined]
    return "calibrated" if seen else "extrapolated"


def _add_intervals(out: pd.DataFrame) -> None:
    measured = calibrations.packaged_step().get("measured", {})
    out["label"] = [label_of(row, measured) for row in out.itertuples()]
    for target in ("ttft", "tpot"):
        factors = np.array(
            [
                calibrations.interval(r.label, r.mode, r.engine, waits(r)).get(target, (np.nan, np.nan))
                for r in out.itertuples()
            ]
        ).reshape(-1, 2)
        out[f"{target}_low_ms"] = out[f"pred_{target}_ms"] * factors[:, 0]
        out[f"{target}_high_ms"] = out[f"pred_{target}_ms"] * factors[:, 1]


def waits(row: object) -> bool:
    """Whether the predicted TTFT is a long wait for slots or memory: over a fifth of the cycle."""
    cycle = row.pred_ttft_ms + row.length_mean * row.osl * row.pred_tpot_ms  # type: ignore[attr-defined]
    return bool(row.pred_ttft_ms > 0.2 * cycle)  # type: ignore[attr-defined]


def error_table(out: pd.DataFrame, by: list[str]) -> str:
    """Markdown: median, mean and signed errors in %; a measurement under several labels counts once."""
    shown = out[out.ttft_ms.notna() & out.tpot_ms.notna() & (out.suspect == "")]
    lines = [
        f"| {' | '.join(by)} | n | TTFT median / mean / signed, % | TPOT median / mean / signed, % |",
        "|" + "---|" * (len(by) + 3),
    ]
    for key, part in shown.groupby(by):
        cells = []
        for target in ("ttft", "tpot"):
            relative = part[f"pred_{target}_ms"] / part[f"{target}_ms"] - 1.0
            size = relative.abs().groupby(part.measurement_id).mean()
            cells.append(
                f"{100 * size.median():.1f} / {100 * size.mean():.1f} / {100 * relative.median():+.1f}"
            )
        names = " | ".join(f"{k:g}" if isinstance(k, float) else str(k) for k in key)
        lines.append(f"| {names} | {part.measurement_id.nunique()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_serving(out: pd.DataFrame, path: Path) -> None:
    """The fixed columns first, then intervals and label."""
    extra = ["ttft_low_ms", "ttft_high_ms", "tpot_low_ms", "tpot_high_ms", "label"]
    columns = ["id", "pred_ttft_ms", "pred_tpot_ms", "prediction_status", *extra]
    out[columns].rename(columns={"prediction_status": "status"}).to_csv(path, index=False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serving", type=Path)
    parser.add_argument("--engine-run", type=Path)
    parser.add_argument("--system")
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", default="default", help="default or none")
    args = parser.parse_args()
    from mist_jax.application import start_jax

    start_jax()
    if args.engine_run is not None:
        from calibration.engine_run import write_engine_run

        if not (args.system and args.model):
            parser.error("--engine-run needs --system and --model")
        write_engine_run(args.engine_run, args.system, args.model, args.out)
        return
    if args.serving is None:
        parser.error("give --serving FILE.csv or --engine-run DIR")
    out = predict_serving(args.serving, args.calibration)
    write_serving(out, args.out)
    print(f"{len(out)} rows, {(out.prediction_status == 'ok').sum()} predicted; written to {args.out}")
    if out.ttft_ms.notna().any():
        for by in GROUPS:
            print("\n" + error_table(out, by))


if __name__ == "__main__":
    main()
