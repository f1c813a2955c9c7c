"""`evaluate`: one deployment in steady state, as a labelled dataset."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import xarray as xr

from mist_jax import build
from mist_jax.compose import require_scenario
from mist_jax.elasticity import add_elasticity
from mist_jax.errors import ConfigError, Status
from mist_jax.intervals import add_intervals
from mist_jax.kept_programs import Kept
from mist_jax.physics.memory import MemoryUse, memory_use
from mist_jax.physics.step import STEP_PARTS
from mist_jax.physics.step_energy import ENERGY_SHARES
from mist_jax.queueing import steady
from mist_jax.queueing.bridge_error import add_bridge_error
from mist_jax.report import accessor as accessor  # registers `Dataset.mist`
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System
from mist_jax.variables import VARIABLES, figures


@lru_cache(maxsize=1)
def programs() -> dict[str, Any]:
    """The compiled steady-state programs; one serves every model and chip."""
    return {
        "closed": Kept(steady.closed_loop, "closed_loop"),
        "open": Kept(steady.open_loop, "open_loop"),
        "memory": Kept(memory_use, "memory_use"),
    }


def evaluate(scenario: Scenario, *, elasticities: bool = True) -> xr.Dataset:
    """Steady state of one deployment.

    Args:
        scenario: what to evaluate.
        elasticities: work out what more of each resource would give (ten further runs of the compiled program, some
            40 ms; a pipeline always has it).

    Returns:
        Dataset of scalars (`VARIABLES`, each with `units` and `long_name`), `breakdown_s(part)` of the mean
        iteration and `power_share_w(share)`; `ttft_s_low`, `ttft_s_high` and so on are the ends of 80 % intervals
        where the calibration has them; an open loop has `ttft_bridge_error` and so on (the closed form's error against
        playbacks at its load) and `kv_bound`, with an attribute `warning` if that is set;
        `elasticity(figure, client, resource)` and the attribute `bottleneck`; attributes name what was evaluated and
        how far it was measured.

    Raises:
        ConfigError: the description cannot be, or the model does not fit (the message says by how much).
    """
    require_scenario(scenario)
    if scenario.pipeline.stages:
        from mist_jax.pipelines.evaluated import evaluate_pipeline

        return evaluate_pipeline(scenario)
    with jax.enable_x64(True):
        if scenario.prefill is not None:
            from mist_jax.evaluate_disaggregated import evaluate_disaggregated

            return evaluate_disaggregated(scenario, elasticities=elasticities)
        system = build.build_system(scenario)
        build.check_context(scenario, system.model)
        memory = programs()["memory"](system)
        require_fit(scenario, memory)
        closed = scenario.workload.arrivals == "closed"
        workload = build.build_workload(scenario)

        def state_at(rate_factor: float, on: System = system) -> steady.SteadyState:
            offered = dataclasses.replace(workload, rate=workload.rate * rate_factor)
            state = programs()["closed" if closed else "open"](on, offered, scenario.parallelism.replicas)
            return jax.tree.map(np.asarray, state)

        memory = jax.tree.map(np.asarray, memory)
        ds = to_dataset(scenario, state_at(1.0), memory)
        if not closed:
            spec, work = scenario.engine, scenario.workload
            ds = add_bridge_error(ds, max_num_seqs=spec.max_num_seqs, held=work.isl + work.osl)
        if elasticities:
            ds = add_elasticity(ds, {"engine": system}, lambda s: state_at(1.0, s["engine"]), closed)
        return add_intervals(ds, scenario, None if closed else lambda f: latencies(state_at(f)))


def latencies(state: steady.SteadyState) -> tuple[float, float, int]:
    """(TTFT in s, TPOT in s, status) of one evaluated deployment."""
    return float(state.ttft), float(state.tpot), int(state.status)


def require_fit(scenario: Scenario, memory: MemoryUse, where: str = "") -> None:
    """Raises ConfigError if the weights and reserves leave no room for the KV cache of one request."""
    budget = float(memory.kv_budget)
    part = scenario.prefill if where else scenario
    assert part is not None
    capacity = part.hardware.memory.capacity
    if budget <= 0:
        raise ConfigError(
            f"{where}model {scenario.model.name} does not fit on {part.hardware.name}: short of "
            f"{build.human_bytes(-budget)} per chip (weights {build.human_bytes(float(memory.weights))}, activations "
            f"{build.human_bytes(float(memory.activations))}, reserve {build.human_bytes(float(memory.reserve))}, of "
            f"{part.engine.memory_utilization:g} x {build.human_bytes(capacity)}); use more chips (parallelism.tp), "
            "a narrower model.precision.weights or a smaller engine.max_num_batched_tokens"
        )
    need = scenario.workload.isl + scenario.workload.osl
    if float(memory.kv_tokens) < need:
        raise ConfigError(
            f"{where}the KV cache holds {float(memory.kv_tokens):.0f} tokens, fewer than one request of "
            f"{need:g} (workload.isl + workload.osl); use more chips or a shorter workload"
        )


def to_dataset(scenario: Scenario, state: steady.SteadyState, memory: MemoryUse) -> xr.Dataset:
    """The labelled result of one pool."""
    spec, par = scenario.workload, scenario.parallelism
    values = figures(
        state,
        memory,
        isl=spec.isl,
        osl=spec.osl,
        chips=build.chips(par) * par.replicas,
        lanes=par.replicas * par.dp * par.pp,
        usd_per_s=scenario.hardware.price.usd_per_hour / build.HOUR,
        kv_blocks=scenario.engine.num_gpu_blocks,
    )
    ds = labelled(values)
    ds["breakdown_s"] = (
        "part",
        np.asarray(state.breakdown),
        {"units": "s", "long_name": "mean iteration by operator"},
    )
    ds["power_share_w"] = (
        "share",
        np.asarray(state.power),
        {"units": "W", "long_name": "power of a chip by cause"},
    )
    ds = ds.assign_coords(part=list(STEP_PARTS), share=list(ENERGY_SHARES))
    ds.attrs.update(describe(scenario), status=Status(int(state.status)).text)
    return ds


def labelled(values: dict[str, Any]) -> xr.Dataset:
    """Scalars as a dataset with `units` and `long_name` from `VARIABLES`."""
    return xr.Dataset(
        {
            k: ((), np.asarray(v), {"units": VARIABLES[k][0], "long_name": VARIABLES[k][1]})
            for k, v in values.items()
        }
    )


def describe(scenario: Scenario) -> dict[str, str]:
    """Attributes that say what was evaluated."""
    par = scenario.parallelism
    return {
        "hardware": scenario.hardware.name,
        "model": scenario.model.name,
        "engine": scenario.engine.name,
        "parallelism": f"tp={par.tp:g} pp={par.pp:g} dp={par.dp:g} ep={par.ep:g} replicas={par.replicas:g}",
        "workload": scenario.workload.name,
        "arrivals": scenario.workload.arrivals,
        "calibration": scenario.calibration,
        "conventions": "CF-1.11 attributes; SI units",
    }
