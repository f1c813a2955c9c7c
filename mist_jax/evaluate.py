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

#: variable → (units, what it is)
VARIABLES = {
    "ttft_s": ("s", "mean time to first token"),
    "tpot_s": ("s", "mean time per output token after the first"),
    "e2e_s": ("s", "mean end-to-end latency"),
    "request_rate": ("1/s", "completed requests per second"),
    "output_tokens_per_s": ("1/s", "generated tokens per second"),
    "total_tokens_per_s": ("1/s", "prompt and generated tokens per second"),
    "output_tokens_per_s_per_chip": ("1/s", "generated tokens per second and chip"),
    "tokens_per_s_per_user": ("1/s", "speed one user sees: 1 / TPOT"),
    "running": ("1", "sequences decoding at once, whole deployment"),
    "waiting": ("1", "requests without their first token, whole deployment"),
    "step_s": ("s", "mean engine iteration"),
    "prefill_share": ("1", "share of iterations that hold prefill"),
    "load": ("1", "offered rate over the rate at saturation"),
    "kv_occupancy": ("1", "share of the KV budget in use"),
    "flops_utilization": ("1", "achieved over peak bf16 FLOP/s"),
    "bandwidth_utilization": ("1", "achieved over peak memory bandwidth"),
    "power_w": ("W", "mean power of one chip"),
    "energy_per_output_token_j": ("J", "energy of all chips per generated token"),
    "cost_per_million_output_tokens_usd": ("USD", "rent of all chips per million generated tokens"),
    "chips": ("1", "chips of the whole deployment"),
    "weights_bytes": ("byte", "weights on the fullest chip"),
    "kv_budget_bytes": ("byte", "memory left for the KV cache on a chip; negative: short of so much"),
    "kv_blocks": ("1", "KV blocks of one attention-DP rank"),
    "kv_tokens": ("1", "tokens that the KV cache of one attention-DP rank holds"),
    "status": ("1", "0: ok; see mist_jax.Status"),
}


@lru_cache(maxsize=1)
def programs() -> dict[str, Any]:
    """The compiled steady-state programs; one serves every model and chip."""
    return {
        "closed": Kept(steady.closed_loop, "closed_loop"),
        "open": Kept(steady.open_loop, "open_loop"),
        "memory": Kept(memory_use, "memory_use"),
    }


def evaluate(scenario: Scenario) -> xr.Dataset:
    """Steady state of one deployment.

    Returns:
        Dataset of scalars (`VARIABLES`, each with `units` and `long_name`), `breakdown_s(part)` of the mean
        iteration and `power_share_w(share)`; `ttft_s_low`, `ttft_s_high` and so on are the ends of 80 % intervals
        where the calibration has them; an open loop has `ttft_bridge_error` and so on (the closed form's error against
        playbacks at its load) and `kv_bound`, with an attribute `warning` if that is set; attributes name what was
        evaluated and how far it was measured.

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

            return evaluate_disaggregated(scenario)
        system = build.build_system(scenario)
        build.check_context(scenario, system.model)
        memory = programs()["memory"](system)
        require_fit(scenario, memory)
        closed = scenario.workload.arrivals == "closed"
        workload = build.build_workload(scenario)

        def state_at(rate_factor: float) -> steady.SteadyState:
            offered = dataclasses.replace(workload, rate=workload.rate * rate_factor)
            state = programs()["closed" if closed else "open"](system, offered, scenario.parallelism.replicas)
            return jax.tree.map(np.asarray, state)

        memory = jax.tree.map(np.asarray, memory)
        ds = to_dataset(scenario, state_at(1.0), memory)
        if not closed:
            spec, work = scenario.engine, scenario.workload
            ds = add_bridge_error(ds, max_num_seqs=spec.max_num_seqs, held=work.isl + work.osl)
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


def figures(
    state: steady.SteadyState,
    memory: MemoryUse,
    *,
    isl: Any,
    osl: Any,
    chips: Any,
    lanes: Any,
    usd_per_s: Any,
    kv_blocks: Any = None,
) -> dict[str, Any]:
    """The `VARIABLES` of one pool from its steady state, any shape; plain arithmetic, so that sweeps trace the same.

    Args:
        isl, osl: mean tokens. chips, lanes: of the whole deployment. usd_per_s: rent of one chip, $/s.
        kv_blocks: number of KV blocks where the description gives it, else those that memory leaves.
    """
    out_rate = state.rate * osl
    power = state.power.sum(-1)
    return {
        "ttft_s": state.ttft,
        "tpot_s": state.tpot,
        "e2e_s": state.e2e,
        "request_rate": state.rate,
        "output_tokens_per_s": out_rate,
        "total_tokens_per_s": state.rate * (osl + isl),
        "output_tokens_per_s_per_chip": out_rate / chips,
        "tokens_per_s_per_user": 1.0 / state.tpot,
        "running": state.running * lanes,
        "waiting": state.waiting * lanes,
        "step_s": state.step,
        "prefill_share": state.prefill_share,
        "load": state.load,
        "kv_occupancy": state.kv_occupancy,
        "flops_utilization": state.flops_utilization,
        "bandwidth_utilization": state.bandwidth_utilization,
        "power_w": power,
        "energy_per_output_token_j": power * chips / out_rate,
        "cost_per_million_output_tokens_usd": usd_per_s * chips / out_rate * 1e6,
        "chips": chips,
        "weights_bytes": memory.weights,
        "kv_budget_bytes": memory.kv_budget,
        "kv_blocks": memory.kv_blocks if kv_blocks is None else kv_blocks,
        "kv_tokens": memory.kv_tokens,
        "status": state.status,
    }


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
