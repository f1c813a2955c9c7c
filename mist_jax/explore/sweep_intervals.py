"""80 % intervals for every point of a sweep: those of `mist_jax.intervals`, on arrays.

The factors on TTFT and TPOT go by how far the calibration reaches a deployment (its chip, engine and model), so there
are few of them, however many the points. A closed loop's ends are products. An open loop that is f times slower is the
predicted one under f times the rate, f times slower: one further sweep for each distinct f.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from mist_jax import calibrations
from mist_jax.compose import set_path
from mist_jax.errors import ConfigError, Status
from mist_jax.explore.axes import Axis
from mist_jax.explore.groups import GROUPS, option_mapping
from mist_jax.intervals import LEVEL, WAITING_SHARE, label_of
from mist_jax.schema import Scenario, parse_scenario

Array = np.ndarray
RATE = "workload.rate"
NEEDED = ("ttft_s", "tpot_s", "e2e_s", "status")
#: (TTFT, TPOT) × (low, high) of a deployment that was never measured
_UNKNOWN = ((np.nan, np.nan), (np.nan, np.nan))


def add_sweep_intervals(
    ds: xr.Dataset,
    scenario: Scenario,
    axes: tuple[Axis, ...],
    config_dir: str | None,
    at_rates: Callable[[Scenario, Mapping[str, Any] | None], xr.Dataset],
) -> xr.Dataset:
    """Add `ttft_s_low`, `ttft_s_high` and so on for TPOT and E2E (s), and `calibration_label`.

    Args:
        ds: the sweep, with TTFT, TPOT, E2E and status.
        scenario: what was swept.
        axes: its axes, in the order of the dimensions.
        config_dir: the folder of one's own options.
        at_rates: the same sweep of another scenario, or with other values of the axis `workload.rate`.

    Raises:
        ConfigError: a variable is missing; workloads with rates of their own on an axis.
    """
    missing = [n for n in NEEDED if n not in ds]
    if missing:
        raise ConfigError(f"sweep: intervals need the variables {', '.join(missing)}")
    listed = [a for a in axes if not a.numeric]
    shape = tuple(ds.sizes[a.name] for a in axes)
    labels, factors, is_open = _by_deployment(scenario, axes, listed, config_dir)
    ttft, tpot, e2e = (ds[n].transpose(*(a.name for a in axes)).values for n in NEEDED[:3])
    waits = (ttft > WAITING_SHARE * e2e).astype(int)
    # [metric, end, *points]: the factors of the regime that each point is in
    of_point = np.where(waits, *(np.broadcast_to(factors[k], (2, 2, *shape)) for k in (1, 0)))
    ends = np.stack([[ttft * f for f in of_point[0]], [tpot * f for f in of_point[1]]])
    is_open = np.broadcast_to(is_open, shape)
    if is_open.any():
        if any(a.name == "workload" for a in axes) and not any(a.name == RATE for a in axes):
            raise ConfigError(
                f"sweep: intervals of open loops scale one rate; beside the axis workload give {RATE}"
            )
        for side, wider in ((0, np.minimum), (1, np.maximum)):
            for f in np.unique(of_point[1, side][is_open & np.isfinite(of_point[1, side])]):
                here = is_open & (of_point[1, side] == f)
                slower = _stretched(scenario, axes, float(f), at_rates)
                for k, value in enumerate(slower):
                    ends[k, side][here] = wider(ends[k, side], value)[here]
    with np.errstate(invalid="ignore"):
        both = ends[0] + (e2e - ttft) * ends[1] / tpot
    for name, pair in zip(NEEDED[:3], (*ends, both), strict=True):
        for side, value in zip(("low", "high"), pair, strict=True):
            text = f"{side} end of the {LEVEL:.0%} interval of {name}".replace("%", " %")
            value = np.where(np.isfinite(ds[name].values), value, np.nan)
            ds[f"{name}_{side}"] = (tuple(a.name for a in axes), value, {"units": "s", "long_name": text})
    ds["calibration_label"] = (tuple(a.name for a in listed), labels)
    ds.attrs["interval_level"] = LEVEL
    return ds


def _by_deployment(
    scenario: Scenario, axes: tuple[Axis, ...], listed: list[Axis], config_dir: str | None
) -> tuple[Array, Array, Array]:
    """Labels [listed axes], factors [regime, metric, end, axes] and whether the loop is open [axes], to broadcast."""
    sizes = [a.size for a in listed]
    labels = np.empty(sizes, dtype=object)
    factors = np.full((2, 2, 2, *sizes), np.nan)
    is_open = np.zeros(sizes, dtype=bool)
    for at in itertools.product(*map(range, sizes)):
        one = _with_options(scenario, dict(zip(listed, at, strict=True)), config_dir)
        if one is None:
            labels[at] = ""
            continue
        labels[at], is_open[at] = label_of(one), one.workload.arrivals != "closed"
        mode = "agg" if one.prefill is None else "disagg"
        for regime in (0, 1):
            found = (
                {}
                if one.calibration == "none"
                else calibrations.interval(labels[at], mode, one.engine.name, bool(regime))
            )
            factors[(regime, slice(None), slice(None), *at)] = (
                (found["ttft"], found["tpot"]) if found else _UNKNOWN
            )
    spread = tuple(a.size if not a.numeric else 1 for a in axes)
    return labels.astype(str), factors.reshape(2, 2, 2, *spread), is_open.reshape(spread)


def _with_options(scenario: Scenario, chosen: dict[Axis, int], config_dir: str | None) -> Scenario | None:
    """The scenario with these values of its listed axes, groups first; None where that cannot be."""
    mapping = copy.deepcopy(scenario.config)
    try:
        for axis, i in sorted(chosen.items(), key=lambda item: (not item[0].group, "." in item[0].name)):
            value = axis.values[i]
            path = GROUPS[axis.name] if axis.group else axis.name
            set_path(
                mapping, path, option_mapping(axis.name, str(value), config_dir) if axis.group else value
            )
        return parse_scenario(mapping)
    except ConfigError:
        return None


def _stretched(
    scenario: Scenario, axes: tuple[Axis, ...], factor: float, at_rates: Any
) -> tuple[Array, Array]:
    """TTFT and TPOT of engines that are `factor` times slower; infinite where they do not keep up."""
    axis = next((a for a in axes if a.name == RATE), None)
    if axis is not None:
        other = at_rates(scenario, {RATE: [v * factor for v in axis.values]})
    else:
        mapping = copy.deepcopy(scenario.config)
        set_path(mapping, RATE, scenario.workload.rate * factor)
        other = at_rates(parse_scenario(mapping), None)
    order = [a.name for a in axes]
    good = (other["status"] == int(Status.OK)) & np.isfinite(other["ttft_s"])
    return tuple(  # type: ignore[return-value]
        np.where(good.transpose(*order).values, factor * other[n].transpose(*order).values, np.inf)
        for n in NEEDED[:2]
    )
