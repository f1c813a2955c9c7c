"""Fit of the energy coefficients to the ML.ENERGY H100 runs: `python -m calibration.energy_fit`.

Two steps, both bounded and robust: factors on the time of an iteration (`energy_runs.fit_time`), then the
coefficients of `step_energy` to the measured mean power, given the measured time of the mean iteration. Held-out
models are predicted from neither their time nor their power: J/token = P(t) n t / batch with the predicted t.
Writes mist_jax/catalog/energy.json and calibration/ENERGY.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration import energy_runs
from calibration.datasets.serving import data_dir
from calibration.energy_runs import KERNELS, SECONDS, EnergyRuns
from calibration.iterations import MEASURES

ROOT = Path(__file__).resolve().parents[1]
#: coefficient → (low, prior, high, standard deviation of its logarithm). Priors: `default_energy_coefficients`;
#: attention: half of a byte's energy again; unpacked: a handful of 16-bit vector operations an element (ALU
#: operation of about 1 pJ with its instruction: Horowitz, ISSCC 2014, scaled to 4 nm, times tens of instructions);
#: narrow_saving: none to all of it.
COEFFICIENTS = {
    "active_fraction": (0.05, 0.25, 0.6, 0.5),
    "joule_per_flop": (1e-13, 4.5e-13, 3e-12, 0.5),
    "joule_per_byte": (1e-11, 6e-11, 1.5e-10, 0.4),
    "joule_per_sent_byte": (5e-12, 3e-11, 3e-10, 0.5),
    "joule_per_attention_byte": (1e-12, 3e-11, 3e-10, 0.7),
    "joule_per_unpacked": (1e-12, 2e-11, 3e-10, 1.0),
    "limit_sharpness": (1.5, 6.0, 32.0, 0.7),
    "narrow_saving": (0.01, 0.5, 1.0, 1.0),
}
NOISE = 0.05
SHARES = ("idle", "active", "compute", "memory", "network")
#: Models that are one architecture are held out together.
ARCHITECTURE = {"llama3_3_70b": "llama3_1_70b"}


def _shares(values: Any, hardware: Any, work: Any, kernel: Any, seconds: Any) -> Any:
    """Joules by share of each phase, [runs, 2, shares]; work [runs, 2, M], kernel and seconds [runs, 2]."""
    import jax

    from mist_jax.physics.step_energy import EnergyCoefficients, step_energy

    def one(coef: Any, hw: Any, m: Any, kernel: Any, seconds: Any) -> Any:
        at = {name: m[i] for i, name in enumerate(MEASURES)}
        joules = step_energy(
            coef,
            hw,
            (1.0 - coef.narrow_saving) * at["plain_flops"] + coef.narrow_saving * at["flops"],
            at["bytes"],
            at["sent"],
            kernel,
            seconds,
            attention_bytes=at["attention_bytes"],
            unpacked=at["unpacked"],
        )
        return joules

    coef = EnergyCoefficients(**{name: values[i] for i, name in enumerate(COEFFICIENTS)})
    phase = jax.vmap(one, in_axes=(None, None, 0, 0, 0))
    return jax.vmap(phase, in_axes=(None, 0, 0, 0, 0))(coef, hardware, work, kernel, seconds)


@lru_cache(maxsize=1)
def _program() -> Any:
    from mist_jax.programs import compiled

    return compiled(_shares)


def watts(values: np.ndarray, hardware: Any, work: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Watts of one chip by share, [runs, 5], when the mean iteration takes `seconds`.

    Decodes and prompts draw different power and are limited to TDP each on its own; where the measured time differs
    from the predicted, both phases stretch alike and the host's time stays.
    """
    import jax

    own = work[:, :, SECONDS]
    host = own - work[:, :, KERNELS]
    time = own * (seconds / own.sum(1))[:, None]
    kernel = np.clip(time - host, 0.2 * time, time)
    with jax.enable_x64(True):
        joules = np.asarray(_program()(np.asarray(values, float), hardware, work, kernel, time))
    return joules.sum(1) / seconds[:, None]


def fit_power(data: EnergyRuns, work: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Coefficients (order of `COEFFICIENTS`) that fit the mean power of the runs `train` (a mask)."""
    from scipy.optimize import least_squares

    low, prior, high, scale = (np.array(c) for c in zip(*COEFFICIENTS.values(), strict=True))
    measured = data.frame.power_w.to_numpy() / data.frame.n_gpus.to_numpy()
    seconds = data.frame.step_s.to_numpy()
    weight = np.sqrt(data.weight)[train]

    def residual(x: np.ndarray) -> np.ndarray:
        power = watts(np.exp(x), data.runs.system.hardware, work, seconds).sum(1)
        gap = np.log(power / measured)[train] / NOISE
        robust = np.sign(gap) * np.sqrt(np.log1p(gap**2))
        return np.concatenate([weight * robust, (x - np.log(prior)) / scale])

    found = least_squares(residual, np.log(prior), bounds=(np.log(low), np.log(high)), max_nfev=40)
    return np.exp(found.x)


def cross_validate(data: EnergyRuns) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """(table with predictions of held-out models, factors of the time on all, coefficients on all)."""
    frame, hardware = data.frame.copy(), data.runs.system.hardware
    every = np.ones(len(frame), bool)
    theta = energy_runs.fit_time(data, every)
    work, _ = energy_runs.phases(data, theta)
    coefficients = fit_power(data, work, every)
    group = frame.model.replace(ARCHITECTURE)
    frame["group"] = group
    as_packaged, frame["itl_packaged"] = energy_runs.phases(data, np.zeros(len(theta)))
    frame["step_packaged"] = as_packaged[:, :, SECONDS].sum(1)
    for name in ("itl", "step", "power", "power_given_time", "power_packaged"):
        frame[name] = np.nan
    for held in sorted(group.unique()):
        test = (group == held).to_numpy()
        t = energy_runs.fit_time(data, ~test, theta)
        m, itl = energy_runs.phases(data, t)
        values = fit_power(data, m, ~test)
        given = watts(values, hardware, m, frame.step_s.to_numpy()).sum(1)
        own = watts(values, hardware, m, m[:, :, SECONDS].sum(1)).sum(1)
        for name, value in (
            ("itl", itl),
            ("step", m[:, :, SECONDS].sum(1)),
            ("power", own),
            ("power_given_time", given),
            ("power_packaged", watts(values, hardware, as_packaged, frame.step_packaged.to_numpy()).sum(1)),
        ):
            frame.loc[test, name] = value[test]
    n = frame.n_gpus
    frame["e_itl"] = frame.itl * 1e3 / frame.itl_median_ms - 1
    frame["e_step"] = frame.step / frame.step_s - 1
    frame["e_power"] = frame.power * n / frame.power_w - 1
    frame["e_power_given"] = frame.power_given_time * n / frame.power_w - 1
    frame["e_joule"] = frame.power * n * frame.step / frame.batch / frame.energy_j_per_token - 1
    frame["e_joule_given"] = (
        frame.power_given_time * n * frame.step_s / frame.batch / frame.energy_j_per_token - 1
    )
    frame["e_itl_packaged"] = frame.itl_packaged * 1e3 / frame.itl_median_ms - 1
    frame["e_joule_packaged"] = (
        frame.power_packaged * n * frame.step_packaged / frame.batch / frame.energy_j_per_token - 1
    )
    shares = watts(coefficients, hardware, work, work[:, :, SECONDS].sum(1))
    for name, column in zip(SHARES, (shares / shares.sum(1, keepdims=True)).T, strict=True):
        frame[f"share_{name}"] = column
    return frame, theta, coefficients


def provenance() -> dict[str, str]:
    """Digest of the measurements, commit and date of the fit."""
    digest = hashlib.sha256()
    for path in sorted((data_dir() / "energy").glob("ml_energy_*.json")):
        digest.update(path.read_bytes())
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "source": "ML.ENERGY leaderboard v3 (ml-energy/leaderboard-v2), H100 runs, Apache-2.0",
        "data_sha256": digest.hexdigest()[:16],
        "commit": commit,
        "date": date.today().isoformat(),
        "command": "python -m calibration.energy_fit",
    }


def median(values: pd.Series) -> float:
    """Median absolute error in percent."""
    return float(100 * values.abs().median())


ERRORS = {
    "e_itl": "median ITL",
    "e_step": "s / token of the batch",
    "e_power": "mean power",
    "e_power_given": "mean power, time measured",
    "e_joule": "J / token",
    "e_joule_given": "J / token, time measured",
    "e_itl_packaged": "median ITL, packaged time",
    "e_joule_packaged": "J / token, packaged time",
}


def report(frame: pd.DataFrame, theta: np.ndarray, values: np.ndarray) -> str:
    """The Markdown table of `ENERGY.md`."""
    from calibration.energy_report import text

    return text(frame, theta, values, transfer(values))


def transfer(values: np.ndarray) -> list[str]:
    """Markdown: mean power of the Splitwise runs on DGX A100 by coefficients carried over from H100."""
    from calibration import vendors
    from calibration.e2e_systems import hardware_spec
    from mist_jax.energy_catalog import scale_to

    spec = hardware_spec("a100_sxm")
    assert spec is not None
    named = dict(zip(COEFFICIENTS, (float(v) for v in values), strict=True))
    scaled = scale_to(named, spec)
    frame, work, seconds, runs = vendors.splitwise_energy()
    power = watts(np.array([scaled[name] for name in COEFFICIENTS]), runs.system.hardware, work, seconds).sum(
        1
    )
    error = power / spec.power.tdp / frame.average_power.to_numpy() - 1
    lines = [
        "How the coefficients carry over: `mist_jax/energy_catalog.py`. A test on a chip that the fit has not seen: "
        "mean power of the Splitwise runs (DGX A100, one prompt phase and 127 tokens, time measured), as a "
        "share of TDP:",
        "",
        "| model | TP | runs | measured | predicted | median error, % |",
        "|---|---|---|---|---|---|",
    ]
    keep = frame.prompt_tokens.to_numpy() < 8192  # sampled wrongly beyond: 0.17 of TDP at full load
    for (model, tp), part in frame[keep].groupby(["model", "tp"]):
        at = part.index.to_numpy()
        lines.append(
            f"| {model} | {tp} | {len(at)} | {part.average_power.median():.2f} | "
            f"{np.median(power[at]) / spec.power.tdp:.2f} | {100 * np.median(np.abs(error[at])):.1f} |"
        )
    lines.append(f"\nMedian absolute error {100 * np.median(np.abs(error[keep])):.1f} %, label physics-only.")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Fit, cross-validate, write the catalogue and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    frame, theta, values = cross_validate(energy_runs.load())
    print({title: round(median(frame[name]), 1) for name, title in ERRORS.items()})
    print({k: float(f"{v:.4g}") for k, v in zip(COEFFICIENTS, values, strict=True)})
    if options.dry:
        return
    from mist_jax.energy_catalog import REFERENCE

    content = {
        "provenance": provenance(),
        "reference": REFERENCE,
        "error_percent": {name: round(median(frame[name]), 2) for name in ERRORS},
        "coefficients": {k: float(f"{v:.5g}") for k, v in zip(COEFFICIENTS, values, strict=True)},
    }
    path = ROOT / "mist_jax" / "catalog" / "energy.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (ROOT / "calibration" / "ENERGY.md").write_text(report(frame, theta, values), encoding="utf-8")


if __name__ == "__main__":
    main()
