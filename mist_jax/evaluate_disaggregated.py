"""`evaluate` for a disaggregated deployment: a prefill pool and a decode pool, possibly of different makers."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import xarray as xr

from mist_jax import build
from mist_jax.intervals import add_intervals
from mist_jax.kept_programs import Kept
from mist_jax.queueing import steady_disaggregated as sd
from mist_jax.schema import Scenario

#: Further variables: name → (units, what it is)
POOL_VARIABLES = {
    "prefill_utilization": ("1", "busy share of the prefill pool"),
    "prefill_wait_s": ("s", "mean wait for a prefill replica"),
    "prefill_s": ("s", "mean prefill"),
    "transfer_s": ("s", "visible part of the KV transfer"),
    "transfer_utilization": ("1", "busy share of the prefill pool's links"),
    "prefill_power_w": ("W", "mean power of one chip of the prefill pool"),
    "prefill_chips": ("1", "chips of the prefill pool"),
}


@lru_cache(maxsize=1)
def _programs() -> dict[str, Any]:
    return {
        "closed": Kept(sd.closed_loop_disaggregated, "closed_loop_disaggregated"),
        "open": Kept(sd.open_loop_disaggregated, "open_loop_disaggregated"),
    }


def evaluate_disaggregated(scenario: Scenario) -> xr.Dataset:
    """Steady state of both pools; chips, cost and energy are those of both.

    Raises:
        ConfigError: as `evaluate`, for either pool.
    """
    from mist_jax.evaluate import latencies, programs, require_fit, to_dataset

    pool = scenario.prefill
    assert pool is not None
    decode = build.build_system(scenario)
    prefill = build.build_system(scenario, pool, "prefill.")
    build.check_context(scenario, decode.model)
    memory = programs()["memory"](decode)
    require_fit(scenario, memory)
    require_fit(scenario, programs()["memory"](prefill), "prefill.")
    closed = scenario.workload.arrivals == "closed"
    transfer, workload = build.build_transfer(scenario), build.build_workload(scenario)

    def outcome_at(rate_factor: float) -> sd.Disaggregated:
        offered = dataclasses.replace(workload, rate=workload.rate * rate_factor)
        args = (decode, prefill, transfer, offered, scenario.parallelism.replicas, pool.parallelism.replicas)
        return jax.tree.map(np.asarray, _programs()["closed" if closed else "open"](*args))

    out, memory = outcome_at(1.0), jax.tree.map(np.asarray, memory)
    ds = to_dataset(scenario, out.decode, memory)
    _add_prefill_pool(ds, scenario, out)
    return add_intervals(ds, scenario, None if closed else lambda f: latencies(outcome_at(f).decode))


def _add_prefill_pool(ds: xr.Dataset, scenario: Scenario, out: sd.Disaggregated) -> None:
    pool = scenario.prefill
    assert pool is not None
    values = pool_figures(
        {str(name): ds[name].values for name in ds.data_vars if ds[name].ndim == 0},
        out,
        chips=build.chips(pool.parallelism) * pool.parallelism.replicas,
        usd_per_s=scenario.hardware.price.usd_per_hour / build.HOUR,
        prefill_usd_per_s=pool.hardware.price.usd_per_hour / build.HOUR,
    )
    for name, value in values.items():
        if name in POOL_VARIABLES:
            units, text = POOL_VARIABLES[name]
            ds[name] = ((), np.asarray(value), {"units": units, "long_name": text})
        else:
            ds[name] = ds[name].copy(data=np.asarray(value))
    describe_prefill(ds, scenario)


def describe_prefill(ds: xr.Dataset, scenario: Scenario) -> None:
    """Attributes that say what the prefill pool is."""
    pool = scenario.prefill
    assert pool is not None
    ds.attrs["prefill_hardware"] = pool.hardware.name
    par = pool.parallelism
    ds.attrs["prefill_parallelism"] = (
        f"tp={par.tp:g} pp={par.pp:g} dp={par.dp:g} ep={par.ep:g} replicas={par.replicas:g}"
    )


def pool_figures(
    values: dict[str, Any], out: sd.Disaggregated, *, chips: Any, usd_per_s: Any, prefill_usd_per_s: Any
) -> dict[str, Any]:
    """The `POOL_VARIABLES`, and those of `values` (the decode pool's) that count both pools.

    Args:
        values: `evaluate.figures` of the decode pool. chips: of the prefill pool. usd_per_s, prefill_usd_per_s:
            rent of one chip of either pool, $/s.
    """
    power = out.prefill_power_share.sum(-1)
    decode_chips, tokens = values["chips"], values["output_tokens_per_s"]
    dollars = usd_per_s * decode_chips + prefill_usd_per_s * chips
    watts = values["power_w"] * decode_chips + power * chips
    return {
        "prefill_utilization": out.prefill_utilization,
        "prefill_wait_s": out.prefill_wait,
        "prefill_s": out.prefill_seconds,
        "transfer_s": out.transfer_seconds,
        "transfer_utilization": out.transfer_utilization,
        "prefill_power_w": power,
        "prefill_chips": chips,
        "chips": decode_chips + chips,
        "output_tokens_per_s_per_chip": tokens / (decode_chips + chips),
        "cost_per_million_output_tokens_usd": dollars / tokens * 1e6,
        "energy_per_output_token_j": watts / tokens,
    }
