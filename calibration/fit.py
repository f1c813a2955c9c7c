"""Fit of the engine's step coefficients to the end-to-end measurements: penalized Gauss-Newton, deterministic.

minimize   sum_rows w [ h(r_tpot / 0.06) + h(r_ttft / 0.12) ] / T  +  sum_p (theta_p / sigma_p)^2

with r = log(predicted / measured), the pseudo-Huber loss h(z) = 2 (sqrt(1 + z^2) - 1), a weight that counts a
measurement once and lets a deployment of k measurements weigh as sqrt(k), and a temperature T: neighbouring
measurements share the errors of the model, so they inform less than their number says. The weights of h are
iterated, each step solves the normal equations with a damping that keeps the objective falling.

`python -m calibration.fit` re-runs everything from the data: kernels, step and end to end with its cross-validation,
intervals and README.md, energy. Stages may be named.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.e2e_model import Parameters, Rows, design, offsets, parameters
from calibration.splits import length_class
from mist_jax.step_coefficients import COEFFICIENTS

#: The packaged fit.
CATALOGUE = Path(__file__).resolve().parents[1] / "mist_jax" / "catalog" / "step.json"
#: Residual scales of log TTFT and log TPOT: the noise between two measurements (RESEARCH 10, DATA.md point 8).
NOISE = np.array([0.12, 0.06])
TEMPERATURE = 2.5
STEPS = 20
#: Steps of a fold's fit, which starts from the fit to all rows.
FOLD_STEPS = 7
STAGES = ["kernels", "step", "energy"]
#: Prior scales are multiplied by these, per level; chosen on nested folds (`calibration.end_to_end`).
WIDEN: dict[str, float] = {"generation": 0.5, "system": 0.5, "model": 1.4}


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fitted parameters, and what uncertainty needs."""

    params: Parameters
    theta: np.ndarray
    covariance: np.ndarray  #: of theta, Laplace
    objective: float

    def offsets(self, keys: pd.DataFrame, without: tuple[str, ...] = ()) -> np.ndarray:
        """Offsets [rows, K] of any rows; levels in `without` and keys never seen contribute 0."""
        return offsets(self.index(keys, without), self.theta)

    def index(self, keys: pd.DataFrame, without: tuple[str, ...] = ()) -> np.ndarray:
        """Parameter of each (row, coefficient, level); the last, which is 0, where there is none."""
        keys = keys.copy()
        for level in without:
            keys[level] = "none"
        found = design(keys, self.params)
        return np.where(found < 0, len(self.theta), found)


def row_weights(frame: pd.DataFrame) -> np.ndarray:
    """1 / labels of the measurement, over the square root of the measurements of its deployment; 0: not fitted."""
    measured = frame.ttft_ms.notna() & frame.tpot_ms.notna() & (frame.status != "refused")
    weight = frame.weight.to_numpy() * measured * (frame.suspect == "").to_numpy()
    total = pd.Series(weight).groupby(frame.deployment.to_numpy()).transform("sum").to_numpy()
    weight = weight / np.sqrt(np.maximum(total, 1.0))
    open_mode = ((frame.mtp_fit > 0) & (frame.mtp_fit < 1)).to_numpy()
    return np.where(open_mode, 0.3, 1.0) * weight


def fit(
    rows: Rows,
    train: np.ndarray,
    *,
    widen: dict[str, float] | None = None,
    temperature: float = TEMPERATURE,
    steps: int = STEPS,
    start: Fit | None = None,
) -> Fit:
    """Fit to the rows at positions `train` of `rows`.

    Args:
        widen: level → factor on the prior scales of that level.
        start: fit to start from (parameters by name).
    """
    params = parameters(rows.keys.iloc[train], {**WIDEN, **(widen or {})})
    index = design(rows.keys, params)
    index = np.where(index < 0, len(params.names), index)
    theta = np.zeros(len(params.names))
    if start is not None:
        known = dict(zip(start.params.names, start.theta, strict=True))
        theta = np.array([known.get(name, 0.0) for name in params.names])
    target = np.log(rows.frame[["ttft_ms", "tpot_ms"]].to_numpy() * 1e-3)
    weight = np.zeros(len(rows.frame))
    weight[train] = row_weights(rows.frame.iloc[train]) / temperature
    precision = params.scale**-2

    def residual(theta: np.ndarray) -> np.ndarray:
        r = (rows.predict(offsets(index, theta)) - target) / NOISE
        return np.where(np.isfinite(r) & (weight > 0)[:, None], r, 0.0)

    def objective(theta: np.ndarray, r: np.ndarray) -> float:
        loss = 2.0 * (np.sqrt(1.0 + r**2) - 1.0)
        return float((weight[:, None] * loss).sum() + (precision * theta**2).sum())

    r = residual(theta)
    best = objective(theta, r)
    damping = 1e-2
    hessian = np.diag(precision)
    for _ in range(steps):
        slopes = chain(rows.jacobian(offsets(index, theta)), index, len(theta)) / NOISE[None, :, None]
        slopes = np.where(np.isfinite(slopes), slopes, 0.0)
        robust = (weight[:, None] / np.sqrt(1.0 + r**2)).ravel()
        flat = slopes.reshape(-1, len(theta))
        hessian = flat.T @ (robust[:, None] * flat) + np.diag(precision)
        gradient = flat.T @ (robust * r.ravel()) + precision * theta
        for _ in range(6):
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), -gradient)
            trial = theta + np.clip(step, -1.0, 1.0)
            trial_r = residual(trial)
            value = objective(trial, trial_r)
            if value < best:
                break
            damping *= 8.0
        else:
            break
        gain = best - value
        theta, r, best = trial, trial_r, value
        damping = max(damping / 4.0, 1e-4)
        if gain < 2e-4 * best:
            break
    return Fit(params, theta, np.linalg.inv(hessian), best)


def chain(jacobian: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """Slopes with the parameters, [rows, 2, P], from those with the coefficients, [rows, 2, K]."""
    rows, _, k = jacobian.shape
    out = np.zeros((rows, 2, size + 1))
    at = np.arange(rows)
    for i in range(k):
        for level in range(index.shape[2]):
            out[at, :, index[:, i, level]] += jacobian[:, :, i]
    return out[:, :, :size]


def to_catalogue(result: Fit) -> dict[str, Any]:
    """coefficient → level → key → offset."""
    out: dict[str, Any] = {c.name: {} for c in COEFFICIENTS}
    for (name, level, key), value in zip(result.params.names, result.theta, strict=True):
        out[name].setdefault(level, {})[key] = round(float(value), 5)
    return out


def provenance(path: Path | None) -> dict[str, Any]:
    """Where the numbers come from: digest of the data, commit, date."""
    import datetime
    import hashlib
    import subprocess

    from calibration.datasets.serving import data_dir

    source = path or data_dir() / "serving" / "train.csv"
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return {
        "source": "https://github.com/ai-dynamo/aiconfigurator (silicon_sample.csv, InferenceX-style runs)",
        "data_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
        "command": "python -m calibration.fit",
    }


def fit_step(serving: Path | None, out: Path) -> pd.DataFrame:
    """Fit to all rows, cross-validate, write the catalogue with its intervals; returns the held-out predictions."""
    from calibration import uncertainty
    from calibration.end_to_end import KINDS, Data, cross_validate, errors

    data = Data.read(serving)
    frame = data.frame
    result = fit(data.fitted, np.arange(len(frame)))
    held = cross_validate(data, KINDS, start=result, steps=FOLD_STEPS)
    residuals = uncertainty.residuals(held)
    levels = uncertainty.needed_levels(residuals)
    used = frame[row_weights(frame) > 0]
    content = {
        "provenance": provenance(serving),
        "parameters": len(result.theta),
        "measured": {k: sorted(used[k].unique()) for k in ("system", "engine", "model")}
        | {"length": sorted(used.isl.map(length_class).unique(), key=int)},
        "errors": [
            {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
            for row in errors(held).to_dict("records")
        ],
        "coverage": uncertainty.coverage(residuals, levels).round(3).to_dict("records"),
        "intervals": uncertainty.interval_table(residuals, levels),
        "offsets": to_catalogue(result),
    }
    out.write_text(json.dumps(content, indent=1, sort_keys=True, default=float) + "\n")
    print(f"{len(result.theta)} parameters, objective {result.objective:.1f}; written to {out}")
    return held


def main() -> None:
    """Command line: every stage from the data, or those named."""
    from calibration import readme
    from mist_jax.application import start_jax

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], help="default: all, in this order")
    parser.add_argument("--serving", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=CATALOGUE)
    args = parser.parse_args()
    start_jax()
    stages = args.stages or STAGES
    if "kernels" in stages:
        from calibration import kernels

        kernels.main([])
    if "step" in stages:
        held = fit_step(args.serving, args.out)
        if args.out == CATALOGUE:
            readme.write(held, args.serving)
    if "energy" in stages:
        from calibration import energy_fit

        energy_fit.main([])


if __name__ == "__main__":
    main()
