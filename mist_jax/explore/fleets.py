"""The candidate fleets of a recommendation: swept, sorted by rent, and as scenarios."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.compose import with_overrides
from mist_jax.explore.groups import GROUPS, option_mapping
from mist_jax.explore.plan import Plan
from mist_jax.explore.sweep import _InMemory, labelled, run_boxes, sweep
from mist_jax.programs import Effort
from mist_jax.schema import Scenario

COST = "cost_per_million_output_tokens_usd"
KEEP = ("ttft_s", "tpot_s", "e2e_s", "load", "chips", "output_tokens_per_s", COST, "meets_slo")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """One candidate."""

    design: dict[str, Any]  #: axis → value, as for `sweep`
    usd_per_hour: float
    chips: int
    ttft_s: float
    tpot_s: float
    e2e_s: float
    load: float
    usd_per_million_tokens: float  #: generated tokens

    @property
    def text(self) -> str:
        """The fleet in words."""
        d = self.design
        decode = f"{d['parallelism.replicas']:g} x {d['hardware']} {d['parallelism']}"
        if "hardware@prefill.hardware" not in d:
            return f"{decode}, {d['engine.max_num_batched_tokens']:g} tokens"
        prefill = f"{d['prefill.parallelism.replicas']:g} x {d['hardware@prefill.hardware']}"
        return f"prefill {prefill} {d['parallelism@prefill.parallelism']} + decode {decode}"


def _counts(limit: float) -> list[float]:
    """Numbers of replicas to consider: all small ones, then ever wider apart."""
    some = {*range(1, 13), 14, 16, 18, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256}
    return [float(n) for n in sorted(some) if n <= limit]


def one_pool(
    scenario: Scenario, chips: list[str], plans: list[str], tokens: Any, max_chips: float
) -> xr.Dataset:
    """Replicas of one pool: every chip, plan, number and token budget."""
    base = with_overrides(scenario, {"prefill": None}) if scenario.prefill is not None else scenario
    axes = {
        "hardware": chips,
        "parallelism": plans,
        "parallelism.replicas": _counts(max_chips),
        "engine.max_num_batched_tokens": list(tokens),
    }
    return _swept(base, axes)


def two_pools(scenario: Scenario, one: xr.Dataset, max_chips: float) -> xr.Dataset | None:
    """Pools of the chips and plans that give the most tokens per dollar alone."""
    worth = one["cost_per_million_output_tokens_usd"].where(one["status"] == 0)
    per_chip = worth.min([d for d in worth.dims if d != "hardware"]).to_series().dropna().sort_values()
    per_plan = worth.min([d for d in worth.dims if d != "parallelism"]).to_series().dropna().sort_values()
    if per_chip.empty:
        return None
    counts = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0]
    axes = {
        "hardware@prefill.hardware": list(per_chip.index[:4]),
        "parallelism@prefill.parallelism": list(per_plan.index[:3]),
        "prefill.parallelism.replicas": [c for c in counts if c <= max_chips],
        "hardware": list(per_chip.index[:4]),
        "parallelism": list(per_plan.index[:3]),
        "parallelism.replicas": [c for c in counts if c <= max_chips],
    }
    return _swept(with_a_prefill_pool(scenario), axes)


class _Question(Plan):
    """The plan of a sweep that is made once or a few times: what is compiled for it should be there soon."""

    def _effort(self) -> Effort:
        return Effort.LEAST


def _swept(scenario: Scenario, axes: dict[str, Any]) -> xr.Dataset:
    if scenario.pipeline.stages:
        return sweep(scenario, axes, variables=KEEP, progress=False)
    plan = _Question(scenario, axes, variables=KEEP)
    target = _InMemory(plan)
    run_boxes(plan, plan.boxes(), target, "threads", lambda _: None)
    return labelled(plan, target.finish())


def with_a_prefill_pool(scenario: Scenario) -> Scenario:
    """The scenario with a pool for prefill that is like its own."""
    alike = {k: copy.deepcopy(scenario.config[k]) for k in ("hardware", "parallelism", "engine")}
    return with_overrides(scenario, {"prefill": alike})


def rent(ds: xr.Dataset) -> np.ndarray:
    """$ an hour of every point."""
    return (ds["cost_per_million_output_tokens_usd"] * ds["output_tokens_per_s"] * 3600.0 / 1e6).values


def within_limits(tables: list[xr.Dataset], max_chips: float) -> list[Fleet]:
    """Fleets that meet the limits, the cheapest first; of equal rent the quicker one."""
    out = []
    for ds in tables:
        rents = rent(ds)
        good = (ds["status"].values == 0) & (ds["chips"].values <= max_chips) & (ds["meets_slo"].values > 0)
        good &= rents > 0  # a chip without a price is not free
        places = np.argwhere(good)
        cheapest = np.argsort(rents[good], kind="stable")[:400]
        coordinates = {str(d): ds[d].values for d in ds["status"].dims}
        figures = {n: ds[n].values for n in ("ttft_s", "tpot_s", "e2e_s", "load", "chips", COST)}
        for place in map(tuple, places[cheapest]):
            numbers = {n: float(values[place]) for n, values in figures.items()}
            out.append(
                Fleet(
                    design={d: v[i].item() for (d, v), i in zip(coordinates.items(), place, strict=True)},
                    usd_per_hour=float(rents[place]),
                    chips=round(numbers.pop("chips")),
                    usd_per_million_tokens=numbers.pop(COST),
                    **numbers,
                )
            )
    return sorted(out, key=lambda f: (round(f.usd_per_hour, 6), f.e2e_s))


def different(fleets: list[Fleet], count: int) -> list[Fleet]:
    """The cheapest of each other combination of chips and plans."""

    def key(f: Fleet) -> tuple[Any, ...]:
        return tuple(v for k, v in f.design.items() if k in GROUPS)

    seen, out = {key(fleets[0])}, []
    for fleet in fleets[1:]:
        if key(fleet) not in seen:
            seen.add(key(fleet))
            out.append(fleet)
    return out[:count]


def fleet_scenario(scenario: Scenario, fleet: Fleet) -> Scenario:
    """The scenario of a fleet: ready for `evaluate` and `play`."""
    changes: dict[str, Any] = {}
    pooled = "hardware@prefill.hardware" in fleet.design
    if pooled:
        changes["prefill"] = {
            k: copy.deepcopy(scenario.config[k]) for k in ("hardware", "parallelism", "engine")
        }
    elif scenario.prefill is not None:
        changes["prefill"] = None
    groups = {k: v for k, v in fleet.design.items() if k in GROUPS}
    changes |= {GROUPS[k]: option_mapping(k, str(v)) for k, v in groups.items()}
    changes |= {k: v for k, v in fleet.design.items() if k not in GROUPS}
    return with_overrides(scenario, changes)
