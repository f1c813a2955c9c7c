"""`recommend`: the cheapest fleet that meets an objective at a given traffic, the runners-up, and why.

Every candidate fleet (chip, parallelism, replicas, token budget; one pool, or a prefill and a decode pool of possibly
different chips) is evaluated in one sweep; the cheapest whose mean latencies are within the limits is explained:
bottleneck (the resource with the largest elasticity of the tightest latency), headroom in traffic, and which changes
of prices or of the model's error would give another answer. Latencies and headroom have 80 % intervals (see
`mist_jax.intervals`): an engine that is f times slower than predicted is the predicted one under f times the traffic
and limits of 1/f, so the fleet for the slow end of the interval comes from one more sweep. Means are no percentiles:
`check=True` plays the choice, request by request, and moves to the next fleet until the share of good requests is
reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.compose import require_scenario, with_overrides
from mist_jax.errors import ConfigError
from mist_jax.explore.ahead import compile_for_few
from mist_jax.explore.fleets import (
    KEEP,
    Fleet,
    different,
    fleet_scenario,
    one_pool,
    two_pools,
    with_a_prefill_pool,
    within_limits,
)
from mist_jax.explore.sweep import count_status, sweep
from mist_jax.programs import COMPILING
from mist_jax.schema import Scenario

#: Chips that are considered unless others are named: those with a public rental price in wide use.
CHIPS = ("h100_sxm", "h200_sxm", "b200_sxm", "a100_sxm", "l40s", "mi300x")
#: Options of `parallelism`; the last two for mixtures of experts.
PLANS = ("tp1", "tp2", "tp4", "tp8")
EXPERT_PLANS = ("tp8_ep8", "dp8_ep8")
#: Numbers whose elasticity is worked out: what a person can buy more of → dotted paths that scale together.
RESOURCES = {
    "compute": tuple(f"peak.{p}" for p in ("bf16", "fp8", "int8", "fp4")),
    "memory bandwidth": ("memory.bandwidth",),
    "memory capacity": ("memory.capacity",),
    "scale-up links": ("scale_up.bandwidth",),
    "network": ("scale_out.bandwidth",),
}
STEP = 0.05


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The answer and what it rests on."""

    best: Fleet
    runners_up: list[Fleet]
    bottleneck: str  #: resource with the largest elasticity of `tightest`
    tightest: str  #: the figure nearest to its limit ("cost" without limits)
    slack: float  #: limit over value of `tightest`; inf without limits
    elasticities: dict[str, dict[str, float]]  #: resource → figure → d log figure / d log resource
    headroom: float  #: the traffic may grow to so many times the asked one
    intervals: dict[
        str, tuple[float, float]
    ]  #: figure → 80 % interval; also of `headroom`; empty: never measured
    would_change: dict[str, str]  #: change → the fleet that then is cheapest
    good_share: float | None  #: played share of requests within the limits (None: not played)
    candidates: int
    scenario: Scenario = dataclasses.field(repr=False)

    def __str__(self) -> str:
        b = self.best
        lines = [
            f"{b.text}: {b.chips} chips, ${b.usd_per_hour:.2f}/h, ${b.usd_per_million_tokens:.3f} per 1M tokens",
            f"  TTFT {b.ttft_s * 1e3:.0f} ms, TPOT {b.tpot_s * 1e3:.1f} ms, E2E {b.e2e_s:.2f} s, load {b.load:.0%}",
            f"  tightest: {self.tightest} (slack {self.slack:.2f}x); bottleneck: {self.bottleneck}; "
            f"traffic may grow {self.headroom:.2f}x",
        ]
        if self.intervals:
            i = {k: tuple(f"{v:.3g}" for v in pair) for k, pair in self.intervals.items()}
            lines.append(
                f"  80 % intervals: TTFT {i['ttft_s'][0]} to {i['ttft_s'][1]} s, TPOT {i['tpot_s'][0]} to "
                f"{i['tpot_s'][1]} s, growth {i['headroom'][0]} to {i['headroom'][1]}x"
            )
        if self.good_share is not None:
            lines.append(f"  played: {self.good_share:.1%} of requests within the limits")
        lines += [f"  runner-up: {r.text}, {r.chips} chips, ${r.usd_per_hour:.2f}/h" for r in self.runners_up]
        lines += [f"  {change}: {fleet}" for change, fleet in self.would_change.items()]
        return "\n".join([*lines, f"  of {self.candidates} fleets"])


def recommend(
    scenario: Scenario,
    *,
    hardware: Sequence[str] | None = None,
    parallelism: Sequence[str] | None = None,
    tokens: Sequence[float] = (2048, 8192),
    max_chips: float = 64,
    pools: bool = True,
    check: bool = False,
    runners_up: int = 4,
) -> Recommendation:
    """The cheapest fleet for `scenario.workload` under `scenario.slo`.

    Args:
        scenario: model, workload (its `rate`, or `concurrency` if closed), SLO; its hardware and plan are replaced.
        hardware, parallelism: options to consider; default `CHIPS` and `PLANS`.
        tokens: token budgets of an iteration to consider.
        max_chips: of a fleet.
        pools: consider separate prefill and decode pools, of the same or different chips.
        check: play the choice and go on to the next until `slo.target` is met (at most 5 fleets).
        runners_up: how many others to report, of different chips or plans.

    Raises:
        ConfigError: no fleet meets the limits; the message says what comes nearest and why the others fail.

    Range: that of the steady state. Rent only: no power bill, no commitment discounts, no unplanned outages.
    """
    from mist_jax.build import build_model

    require_scenario(scenario)
    chips = list(hardware or CHIPS)
    plans = list(
        parallelism or (*PLANS, *(EXPERT_PLANS if float(build_model(scenario.model).moe_layers) else ()))
    )

    def tables_of(asked: Scenario) -> list[xr.Dataset]:
        one = one_pool(asked, chips, plans, tokens, max_chips)
        two = two_pools(asked, one, max_chips) if pools else None
        return [one] if two is None else [one, two]

    with ThreadPoolExecutor(1) as ahead:
        if pools and not scenario.pipeline.stages:
            # the longer of both programs first: it compiles while the other is traced
            compiling = ahead.submit(compile_for_few, with_a_prefill_pool(scenario))
            compiling.add_done_callback(lambda _: COMPILING.set())
            COMPILING.wait()
        tables = tables_of(scenario)
    fleets = within_limits(tables, max_chips)
    if not fleets:
        raise ConfigError(_why_none(scenario, tables, max_chips))
    share, tried = None, 0
    if check:
        fleets, share, tried = _played(scenario, fleets)
    best = fleets[0]
    chosen = fleet_scenario(scenario, best)
    tightest, slack = _tightest(scenario, best)
    elasticities = _elasticities(chosen)
    intervals = _intervals(chosen)
    key = {"cost": "usd_per_s"}.get(tightest, tightest)
    bottleneck = min(elasticities, key=lambda r: elasticities[r].get(key, 0.0))
    return Recommendation(
        best=best,
        runners_up=different(fleets, runners_up),
        bottleneck=bottleneck
        if elasticities[bottleneck].get(key, 0.0) < -0.01
        else "host and fixed overheads",
        tightest=tightest,
        slack=slack,
        elasticities=elasticities,
        headroom=_headroom(chosen),
        intervals=intervals,
        would_change=_changes(scenario, fleets, tables_of, max_chips, intervals),
        good_share=share,
        candidates=sum(t["status"].size for t in tables) + tried,
        scenario=chosen,
    )


def _tightest(scenario: Scenario, fleet: Fleet) -> tuple[str, float]:
    slack = {
        name: limit / getattr(fleet, name)
        for name, limit in (
            ("ttft_s", scenario.slo.ttft),
            ("tpot_s", scenario.slo.tpot),
            ("e2e_s", scenario.slo.e2e),
        )
        if limit is not None
    }
    slack["load"] = 1.0 / max(fleet.load, 1e-9) if scenario.workload.arrivals != "closed" else np.inf
    name = min(slack, key=lambda n: slack[n])
    return name, float(slack[name])


def _elasticities(scenario: Scenario) -> dict[str, dict[str, float]]:
    """d log figure / d log resource by central differences, both pools' chips scaled together."""
    from mist_jax.explore.jobs import evaluate_many

    variants, names = [], []
    for name, paths in RESOURCES.items():
        for sign in (1.0, -1.0):
            changes: dict[str, float] = {}
            pools = [("hardware", scenario.hardware)]
            if scenario.prefill is not None:
                pools.append(("prefill.hardware", scenario.prefill.hardware))
            for where, chip in pools:
                for path in paths:
                    section, key = path.split(".")
                    value = getattr(getattr(chip, section), key, None)
                    if value:
                        changes[f"{where}.{path}"] = value * (1.0 + sign * STEP)
            if changes:
                variants.append(with_overrides(scenario, changes))
                names.append(name)
    ds = evaluate_many(variants, variables=KEEP)
    figures = ("ttft_s", "tpot_s", "e2e_s", "load")
    width = np.log((1.0 + STEP) / (1.0 - STEP))
    out: dict[str, dict[str, float]] = {}
    for i in range(0, len(names), 2):
        up, down = ds.isel(combination=i), ds.isel(combination=i + 1)
        slopes = {n: float(np.log(up[n] / down[n]) / width) for n in figures}
        out[names[i]] = {n: v for n, v in slopes.items() if np.isfinite(v)}
    return out


def _slower(scenario: Scenario, factor: float) -> Scenario:
    """The scenario in the unit of time of an engine that is `factor` times slower than predicted."""
    slo = {
        f"slo.{name}": limit / factor
        for name, limit in (
            ("ttft", scenario.slo.ttft),
            ("tpot", scenario.slo.tpot),
            ("e2e", scenario.slo.e2e),
        )
        if limit is not None
    }
    rate = (
        {} if scenario.workload.arrivals == "closed" else {"workload.rate": scenario.workload.rate * factor}
    )
    return with_overrides(scenario, {**slo, **rate})


def _headroom(scenario: Scenario, slower: float = 1.0) -> float:
    """How many times the traffic the fleet still takes within the limits, up to 10; 0: not even the asked one."""
    path = "workload.concurrency" if scenario.workload.arrivals == "closed" else "workload.rate"
    scenario = _slower(scenario, slower)
    base = scenario.workload.concurrency if scenario.workload.arrivals == "closed" else scenario.workload.rate
    factors = np.geomspace(0.1, 10.0, 401)
    ds = sweep(scenario, {path: base * factors}, variables=KEEP, progress=False)
    bad = np.flatnonzero(~(ds["meets_slo"].values > 0))
    return float(factors[-1] if not bad.size else factors[bad[0] - 1] if bad[0] else 0.0)


def _intervals(chosen: Scenario) -> dict[str, tuple[float, float]]:
    """80 % intervals of the latencies and of the headroom; empty where the calibration has none."""
    from mist_jax.explore.jobs import evaluate_many
    from mist_jax.intervals import add_intervals, factors_of

    names = ("ttft_s", "tpot_s", "e2e_s")

    def at_rate(factor: float) -> tuple[float, float, int]:
        faster = with_overrides(chosen, {"workload.rate": chosen.workload.rate * factor})
        ds = evaluate_many([faster], variables=names)
        return float(ds["ttft_s"][0]), float(ds["tpot_s"][0]), int(ds["status"][0])

    ds = evaluate_many([chosen], variables=names).isel(combination=0)
    add_intervals(ds, chosen, None if chosen.workload.arrivals == "closed" else at_rate)
    if "ttft_s_low" not in ds:
        return {}
    out = {n: (float(ds[f"{n}_low"]), float(ds[f"{n}_high"])) for n in names}
    low, high = factors_of(chosen, float(ds["ttft_s"]), float(ds["e2e_s"]))["tpot"]
    return {**out, "headroom": (_headroom(chosen, high), _headroom(chosen, low)), "slower": (low, high)}


def _changes(
    scenario: Scenario,
    fleets: list[Fleet],
    tables_of: Callable[[Scenario], list[xr.Dataset]],
    max_chips: float,
    intervals: dict[str, tuple[float, float]],
) -> dict[str, str]:
    """Changes of the model's error and of prices that give another answer than the first of `fleets`."""
    out, best = {}, fleets[0]
    factors = intervals.get("slower", (0.9, 1.3))
    for factor, what in zip(
        sorted({*factors, 1.1}),
        ("at the quick end of the interval", "", "at the slow end of the interval"),
        strict=False,
    ):
        if abs(factor - 1.0) < 0.02:
            continue
        slower = within_limits(tables_of(_slower(scenario, factor)), max_chips)
        other = slower[0].text if slower else "no fleet meets the limits"
        if other != best.text:
            note = f", {what}" if what and "slower" in intervals else ""
            out[f"if engines take {factor:.2f} times as long as predicted{note}"] = other
    for other in different(fleets, 20):
        mine = {str(v) for k, v in best.design.items() if k.startswith("hardware")}
        theirs = {str(v) for k, v in other.design.items() if k.startswith("hardware")}
        drop = 1.0 - best.usd_per_hour / other.usd_per_hour
        if not theirs & mine and drop < 0.4:
            out.setdefault(
                f"if {' and '.join(sorted(theirs))} cost {max(drop, 0.0):.0%} less"[:80], other.text
            )
    return dict(list(out.items())[:6])


def _played(scenario: Scenario, fleets: list[Fleet]) -> tuple[list[Fleet], float, int]:
    """Move to the first fleet whose played share of good requests reaches the target; at most 5 are played."""
    from mist_jax.play import play

    slo, share, best_share, best_at = scenario.slo, 0.0, -1.0, 0
    order = [0]
    for at in range(1, len(fleets)):
        if fleets[at].usd_per_hour > fleets[order[-1]].usd_per_hour * 1.02 and len(order) < 5:
            order.append(at)
    for at in order:
        ds = play(fleet_scenario(scenario, fleets[at]))
        good = ds["status"].values == 0
        for name, limit in (("ttft_s", slo.ttft), ("tpot_s", slo.tpot), ("e2e_s", slo.e2e)):
            if limit is not None:
                good = good & ~(ds[name].values > limit)
        share = float(good.mean())
        if share > best_share:
            best_share, best_at = share, at
        if share >= slo.target:
            break
    return fleets[best_at:], best_share, 0


def _why_none(scenario: Scenario, tables: list[xr.Dataset], max_chips: float) -> str:
    counts: dict[str, int] = {}
    nearest_text = ""
    best = np.inf
    for ds in tables:
        for text, n in count_status(ds).items():
            counts[text] = counts.get(text, 0) + n
        ratio = np.zeros(ds["status"].shape)
        for name, limit in (
            ("ttft_s", scenario.slo.ttft),
            ("tpot_s", scenario.slo.tpot),
            ("e2e_s", scenario.slo.e2e),
        ):
            if limit is not None:
                ratio = np.maximum(ratio, ds[name].values / limit)
        ratio = np.where((ds["status"].values == 0) & (ds["chips"].values <= max_chips), ratio, np.inf)
        if np.isfinite(ratio).any() and np.nanmin(ratio) < best:
            best = float(np.nanmin(ratio))
            nearest_text = f"; the nearest misses a limit by {100 * (best - 1):.0f} %"
    why = ", ".join(f"{n} {text}" for text, n in counts.items())
    return f"recommend: no fleet of up to {max_chips:g} chips meets the limits ({why}){nearest_text}"


def settings(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The `recommend` section of the config as arguments.

    Raises:
        ConfigError: an unknown key.
    """
    from mist_jax.errors import nearest

    allowed = ("hardware", "parallelism", "tokens", "max_chips", "pools", "check", "runners_up")
    section = dict(mapping.get("recommend") or {})
    for key in section:
        if key not in allowed:
            raise ConfigError(
                f"recommend.{key}: unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
            )
    return {k: v for k, v in section.items() if v is not None}
