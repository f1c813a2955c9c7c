"""80 % intervals on the results of `evaluate`, from residuals of measurements that the fit had not seen.

The factors of `calibrations.interval` hold measured over predicted TTFT and TPOT of closed-loop benchmarks. With
a fixed concurrency they apply as they are. With a given arrival rate an engine that is f times slower serves longer
*and* lets longer queues grow: if all its times are f times the predicted ones,

    TTFT_f(rate) = f TTFT(f rate),    TPOT_f(rate) = f TPOT(f rate)

(a change of the unit of time), so the open loop is evaluated once more at f rate for either end of TPOT's factors. The
end is infinite where the engine would not keep up. Of this and the factor on TTFT itself the wider end counts.

Not in the interval: errors of the workload's description, and that a fleet's engines may differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from mist_jax import calibrations
from mist_jax.errors import Status
from mist_jax.schema import Scenario

LEVEL = 0.8
#: Share of the end-to-end time from which on the TTFT counts as a wait for slots or memory (a regime of residuals).
WAITING_SHARE = 0.2

Ends = dict[str, tuple[float, float]]


def label_of(scenario: Scenario) -> str:
    """How far the calibration reaches this deployment; of two pools the one that it reaches less."""
    parts = [scenario] if scenario.prefill is None else [scenario, scenario.prefill]
    labels = [
        calibrations.calibration_label(scenario.calibration, p.hardware, p.engine, scenario.model)
        for p in parts
    ]
    return max(labels, key=calibrations.LABELS.index)


def factors_of(scenario: Scenario, ttft: float, e2e: float) -> Ends:
    """Factors (low, high) on "ttft" and "tpot" that hold 80 % of held-out measurements; empty if never measured."""
    if scenario.calibration == "none":
        return {}
    mode = "agg" if scenario.prefill is None else "disagg"
    return calibrations.interval(label_of(scenario), mode, scenario.engine.name, ttft > WAITING_SHARE * e2e)


def add_intervals(
    ds: xr.Dataset, scenario: Scenario, at_rate: Callable[[float], tuple[float, float, int]] | None = None
) -> xr.Dataset:
    """Add `x_low` and `x_high` for TTFT, TPOT and E2E, and the attributes `calibration_label` and `interval_level`.

    Args:
        ds: the steady state of one deployment.
        at_rate: for open loops, factor on the arrival rate → (TTFT in s, TPOT in s, status).
    """
    ds.attrs["calibration_label"] = label_of(scenario)
    ttft, tpot, e2e = (float(ds[n]) for n in ("ttft_s", "tpot_s", "e2e_s"))
    factors = factors_of(scenario, ttft, e2e)
    if not factors or not np.isfinite(e2e):
        return ds
    ends: Ends = {"ttft_s": _scaled(ttft, factors["ttft"]), "tpot_s": _scaled(tpot, factors["tpot"])}
    if at_rate is not None:
        slower = [_stretched(at_rate, f) for f in factors["tpot"]]
        for i, name in enumerate(("ttft_s", "tpot_s")):
            (low, high), (first, last) = ends[name], (slower[0][i], slower[1][i])
            ends[name] = (min(low, first), max(high, last))
    decode = e2e - ttft  # moves with TPOT; both ends at once: errors of TTFT and TPOT come from the same chip
    ends["e2e_s"] = tuple(a + decode * b / tpot for a, b in zip(ends["ttft_s"], ends["tpot_s"], strict=True))  # type: ignore[assignment]
    for name, pair in ends.items():
        for side, value in zip(("low", "high"), pair, strict=True):
            text = f"{side} end of the {LEVEL:.0%} interval of {name}".replace("%", " %")
            ds[f"{name}_{side}"] = ((), np.float64(value), {"units": "s", "long_name": text})
    ds.attrs["interval_level"] = LEVEL
    return ds


def _scaled(value: float, factors: tuple[float, float]) -> tuple[float, float]:
    return value * factors[0], value * factors[1]


def _stretched(at_rate: Callable[[float], tuple[float, float, int]], factor: float) -> tuple[float, float]:
    ttft, tpot, status = at_rate(factor)
    if status != Status.OK or not np.isfinite(ttft):
        return np.inf, np.inf
    return factor * ttft, factor * tpot
