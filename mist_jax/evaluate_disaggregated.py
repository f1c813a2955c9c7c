"""`evaluate` for a disaggregated deployment: a prefill pool and a decode pool, possibly of different makers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import xarray as xr

from mist_jax import build
from mist_jax.elasticity import add_elasticity
from mist_jax.intervals import add_intervals
from mist_jax.kept_programs import Kept
from mist_jax.queueing import steady_disaggregated as sd
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System
from mist_jax.variables import POOL_VARIABLES, pool_figures


@lru_cache(maxsize=1)
def _programs() -> dict[str, Any]:
    return {
        "closed": Kept(sd.closed_loop_disaggregated, "closed_loop_disaggregated"),
        "open": Kept(sd.open_loop_disaggregated, "open_loop_disaggregated"),
    }


def evaluate_disaggregated(scenario: Scenario, *, elasticities: bool = True) -> xr.Dataset:
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

    systems = {"prefill": prefill, "decode": decode}

    def outcome_at(rate_factor: float, on: Mapping[str, System] = systems) -> sd.Disaggregated:
        offered = dataclasses.replace(workload, rate=workload.rate * rate_factor)
        replicas = (scenario.parallelism.replicas, pool.parallelism.replicas)
        args = (on["decode"], on["prefill"], transfer, offered, *replicas)
        return jax.tree.map(np.asarray, _programs()["closed" if closed else "open"](*args))

    out, memory = outcome_at(1.0), jax.tree.map(np.asarray, memory)
    ds = to_dataset(scenario, out.decode, memory)
    _add_prefill_pool(ds, scenario, out)
    if elasticities:
        ds = add_elasticity(ds, systems, lambda s: outcome_at(1.0, s).decode, closed)
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
