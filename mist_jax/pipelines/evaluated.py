"""The labelled result of a pipeline in steady state: the deployment's figures, and a table by stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import xarray as xr

from mist_jax import build
from mist_jax.errors import Status
from mist_jax.physics.demand import RESOURCES
from mist_jax.physics.energy import DEFAULT_JOULES
from mist_jax.pipelines import sharing
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import JUDGES, parse_pipeline, shards_of
from mist_jax.pipelines.llm import Pool, mix_of, whole
from mist_jax.pipelines.steady import (
    Model,
    StageTimes,
    bounding_resource,
    critical_path,
    require_stable,
)
from mist_jax.schema import Scenario

Array = np.ndarray

#: Variables along `stage`: name → (units, what it is)
STAGE_VARIABLES = {
    "stage_s": ("s", "mean time that a stage adds to a request, all its turns"),
    "stage_alone_s": ("s", "the same with nobody else there"),
    "stage_runs": ("1", "mean runs of a stage in a request"),
    "stage_batch": ("1", "requests served together"),
    "stage_energy_j": ("J", "energy of a stage per request"),
    "stage_cost_usd": ("USD", "rent that a stage is charged per request"),
    "stage_on_path": ("1", "1: on the longest path through the graph"),
}


def evaluate_pipeline(scenario: Scenario) -> xr.Dataset:
    """Steady state of a pipeline.

    Returns:
        the dataset of `mist_jax.evaluate` (TTFT to the answer's first token, end to end over the whole graph, rate in
        requests, cost and energy of all clients) with `STAGE_VARIABLES` along `stage`,
        `elasticity(client, resource)` = d ln E2E / d ln resource at the same rate, and what bounds each stage.

    Raises:
        ConfigError: see `pipelines.dag.parse_pipeline`; a client that cannot keep up.
    """
    with jax.enable_x64(True):
        pipeline = parse_pipeline(scenario)
        model = Model(scenario, pipeline)
        times, load = model.solve()
        require_stable(model, times)
        path = critical_path(pipeline, times)
        weights = np.zeros(len(pipeline.nodes))
        weights[path] = model.probability[path]
        slope = _machine_slopes(model, times, weights)
        llm = _llm_elasticities(model, times, weights)
    return _dataset(model, times, load, path, slope, llm)


def _machine_slopes(model: Model, times: StageTimes, weights: Array) -> Array:
    """d E2E / d ln(rate) of the machines' resources, [clients, RESOURCES], services and transfers."""
    own = np.array([n.type in ("service", "transfer") for n in model.nodes])
    # a queue's waits have the elasticity of the shared times
    shared = times.shared["seconds"]
    scale = np.where(own & (shared > 0), times.seconds / np.where(shared > 0, shared, 1.0), 0.0)
    out = sharing.share(model.machines, model.jobs, times.asked, times.arrivals, weights * scale)
    return out["slope"]


#: Field of `Hardware` → resource of the demand's axis; what an LLM's iteration depends on.
_LLM_FIELDS = {
    "peak_flops": "accelerator",
    "memory_bandwidth": "device_memory",
    "scale_up_bandwidth": "scale_up",
    "scale_out_bandwidth": "network",
}


def _llm_elasticities(model: Model, times: StageTimes, weights: Array) -> dict[str, dict[str, float]]:
    """d E2E / d ln(resource) of each LLM pool, seconds; the pool's mix and rate stay as they are.

    Central differences of the pool's own compiled program over +-1 %, so that nothing further is compiled;
    tests compare them with the derivative. For two pools the decode pool's resources.
    """
    out: dict[str, dict[str, float]] = {}
    for name, (own, calls) in times.calls.items():
        pool, mix = model.pools[name].beside(times.left[name]), mix_of(calls)
        weight = weights[own] * times.asked.call.probability[own] * calls.rounds
        steps = np.maximum(calls.longest - 1.0, 0.0) / calls.gain

        def total(pool: Pool, mix: Any = mix, weight: Array = weight, steps: Array = steps) -> float:
            state = whole(pool.run("open", mix))
            return float((weight * (float(state.ttft) + steps * float(state.tpot))).sum())

        out[name] = {}
        for field, resource in _LLM_FIELDS.items():
            up, down = (total(_scaled(pool, field, f)) for f in (1.01, 0.99))
            out[name][resource] = (up - down) / np.log(1.01 / 0.99)
    return out


def _scaled(pool: Pool, field: str, factor: float) -> Pool:
    import copy

    from mist_jax.pytree import replace

    other = copy.copy(pool)
    hw = pool.system.hardware
    other.system = replace(pool.system, hardware=replace(hw, **{field: getattr(hw, field) * factor}))
    return other


def _dataset(
    model: Model,
    times: StageTimes,
    load: float,
    path: list[int],
    slope: Array,
    llm: dict[str, dict[str, float]],
) -> xr.Dataset:
    from mist_jax.evaluate import to_dataset

    scenario, pipeline = model.scenario, model.pipeline
    answer = pipeline.answer
    pool = model.pools[pipeline.nodes[answer].client]
    own, calls = times.calls[pool_name(pipeline, answer)]
    state = times.states[pool_name(pipeline, answer)]
    main = whole(state)
    mine = own.index(answer)
    tpot = _answer_tpot(model, times)
    chance = float(model.probability[answer] * times.asked.call.probability[answer])
    ttft = float(pipeline.parents_ended(times.finish, pipeline.nodes[answer]) + chance * times.first[answer])
    end = model.ends(times)
    rate = times.rate
    osl = float(calls.output[mine])
    base = dataclasses.replace(
        pool.scenario, workload=dataclasses.replace(pool.scenario.workload, isl=mix_of(calls).isl, osl=osl)
    )
    ds = to_dataset(base, main, pool.memory)
    if pool.prefill is not None:
        from mist_jax.evaluate_disaggregated import _add_prefill_pool

        _add_prefill_pool(ds, base, state)
    stage = _by_stage(model, times, path)
    joules, dollars = stage["stage_energy_j"].sum(), rent_of(model)
    chips = chips_of(model)
    out_rate = rate * osl
    override = {
        "ttft_s": ttft,
        "tpot_s": tpot,
        "e2e_s": end,
        "request_rate": rate,
        "output_tokens_per_s": out_rate,
        "total_tokens_per_s": rate * (osl + scenario.workload.isl),
        "output_tokens_per_s_per_chip": out_rate / chips,
        "tokens_per_s_per_user": 1.0 / tpot,
        "load": load,
        "chips": chips,
        "energy_per_output_token_j": joules / osl,
        "cost_per_million_output_tokens_usd": dollars / out_rate * 1e6,
    }
    for name, value in override.items():
        ds[name] = ds[name].copy(data=np.asarray(float(value)))
    ds["energy_per_request_j"] = (
        (),
        joules,
        {"units": "J", "long_name": "energy of all clients per request"},
    )
    ds["cost_per_request_usd"] = (
        (),
        dollars / rate,
        {"units": "USD", "long_name": "rent of all clients per request"},
    )
    for name, values in stage.items():
        units, text = STAGE_VARIABLES[name]
        ds[name] = ("stage", values, {"units": units, "long_name": text})
    ds = ds.assign_coords(stage=pipeline.stages, client=model.names, resource=list(RESOURCES))
    table = slope.copy()
    for name, values in llm.items():
        for resource, seconds in values.items():
            table[model.names.index(name), RESOURCES.index(resource)] += seconds
    ds["elasticity"] = (
        ("client", "resource"),
        table / end,
        {"units": "1", "long_name": "d ln(end-to-end latency) / d ln(resource) at the same rate of requests"},
    )
    ds["utilization"] = (
        ("client", "resource"),
        times.shared["utilization"],
        {"units": "1", "long_name": "busy share by services and transfers"},
    )
    _describe(ds, model, times, path)
    return ds


def _answer_tpot(model: Model, times: StageTimes) -> float:
    """Mean TPOT of the call that answers: the answer's stage where it runs, else the LLM stage before it that did."""
    left, total = 1.0, 0.0
    for i in range(model.pipeline.answer, -1, -1):
        node = model.nodes[i]
        if node.type != "engine" or node.kind in JUDGES:
            continue
        own, calls = times.calls[node.client]
        tpot = float(whole(times.states[node.client]).tpot) / float(calls.gain[own.index(i)])
        chance = float(model.probability[i] * times.asked.call.probability[i])
        total += left * chance * tpot
        left *= 1.0 - chance
        if left < 1e-9:
            break
    return total / (1.0 - left)


def pool_name(pipeline: Any, node: int) -> str:
    """The pool that an LLM node runs on."""
    return pipeline.nodes[node].client


def chips_of(model: Model) -> float:
    """Accelerator chips and CPU sockets of all clients, the prefill pool's included."""
    total = sum(c.chips * c.machines for c in model.pipeline.clients.values())
    if model.scenario.prefill is not None:
        par = model.scenario.prefill.parallelism
        total += build.chips(par) * par.replicas
    return total


def rent_of(model: Model) -> float:
    """Dollars per second of all clients."""
    total = sum(c.usd_per_s for c in model.pipeline.clients.values())
    return total + _prefill_rent(model.scenario)


def _prefill_rent(scenario: Scenario) -> float:
    pool = scenario.prefill
    if pool is None:
        return 0.0
    par = pool.parallelism
    return pool.hardware.price.usd_per_hour * build.chips(par) * par.replicas / 3600.0


def _by_stage(model: Model, times: StageTimes, path: list[int]) -> dict[str, Array]:
    """`STAGE_VARIABLES`, nodes of a stage added up."""
    names, nodes = model.pipeline.stages, model.nodes
    at = np.array([names.index(n.stage) for n in nodes])
    joules, dollars = _charged(model, times)
    ran = model.probability * np.where([n.type == "engine" for n in nodes], times.asked.call.probability, 1.0)
    on_path = np.isin(np.arange(len(nodes)), path).astype(float)
    runs = np.bincount(at, ran, len(names))

    def total(values: Array) -> Array:
        return np.bincount(at, values, len(names))

    return {
        "stage_s": total(times.expected),
        "stage_alone_s": total(model.expected(times.alone, times.asked)),
        "stage_runs": runs,
        "stage_batch": total(ran * times.batch) / np.maximum(runs, 1e-300),
        "stage_energy_j": total(joules),
        "stage_cost_usd": total(dollars),
        "stage_on_path": np.minimum(total(on_path), 1.0),
    }


def _charged(model: Model, times: StageTimes) -> tuple[Array, Array]:
    """(joules, dollars) per request of every node; together all that the clients draw and cost.

    Services and transfers: dynamic energy of what they move and compute; a client's idle power and rent are split by
    the busy time on its machines. On an LLM pool rent and the engine's power are split among its calls by their time
    on it (prefill, and decode over the sequences that step together).
    """
    count = len(model.nodes)
    joules, dollars = np.zeros(count), np.zeros(count)
    per_unit = np.array([DEFAULT_JOULES[r] for r in RESOURCES])
    for jobs, name in zip(model.jobs, model.names, strict=True):
        client = model.pipeline.clients[name]
        runs = model.probability[jobs]
        spread = np.array([shards_of(model.nodes[i].params) for i in jobs]) / times.batch[jobs]
        dynamic = (
            np.array([times.asked.amount[i].sum(axis=0) @ per_unit for i in jobs]) if jobs else np.zeros(0)
        )
        joules[jobs] += runs * spread * dynamic
        if client.llm is not None:
            continue
        busy = runs * spread * np.array([times.shared["alone"][i] for i in jobs])
        share = busy / busy.sum() if jobs and busy.sum() > 0 else np.ones(len(jobs)) / max(len(jobs), 1)
        joules[jobs] += share * client.idle_w * client.machines / times.rate
        dollars[jobs] += share * client.usd_per_s / times.rate
    for name, (own, calls) in times.calls.items():
        client, state = model.pipeline.clients[name], times.states[name]
        decode = whole(state)
        watts = float(decode.power.sum()) * client.chips * client.machines
        dollar = client.usd_per_s
        if name == MAIN and model.scenario.prefill is not None:
            par = model.scenario.prefill.parallelism
            watts += float(state.prefill_power_share.sum()) * build.chips(par) * par.replicas
            dollar += _prefill_rent(model.scenario)
        pool = model.pools[name]
        steps = np.maximum(calls.output - 1.0, 0.0) / calls.gain
        prefill = np.array(
            [pool.alone(float(n), float(p)) for n, p in zip(calls.new, calls.past, strict=True)]
        )
        together = max(float(decode.running), 1.0)
        held = calls.rate * (prefill + calls.branches * steps * float(decode.tpot) / together)
        share = held / held.sum()
        joules[own] += share * watts / times.rate
        dollars[own] += share * dollar / times.rate
    return joules, dollars


def _describe(ds: xr.Dataset, model: Model, times: StageTimes, path: list[int]) -> None:
    scenario, pipeline, nodes = model.scenario, model.pipeline, model.nodes
    first: dict[str, int] = {}
    for i, node in enumerate(nodes):
        first.setdefault(node.stage, i)
    bound = {s: bounding_resource(model, times, i) for s, i in first.items()}
    ds["stage_client"] = ("stage", [nodes[first[s]].client or "outside" for s in pipeline.stages])
    ds["stage_kind"] = ("stage", [nodes[first[s]].kind for s in pipeline.stages])
    ds["stage_bound"] = ("stage", [bound[s] for s in pipeline.stages])
    slowest = max(path, key=lambda i: times.expected[i])
    unstable = [n for n, s in times.states.items() if int(whole(s).status) != Status.OK]
    status = Status(max(int(whole(times.states[n]).status) for n in times.states))
    ds["status"] = ds["status"].copy(data=np.asarray(int(status)))
    ds.attrs.update(
        pipeline=pipeline.name,
        critical_path=" > ".join(dict.fromkeys(nodes[i].stage for i in path)),
        bottleneck=f"{nodes[slowest].stage}: {bound[nodes[slowest].stage]}",
        hardware=scenario.hardware.name,
        model=scenario.model.name,
        workload=scenario.workload.name,
        status=status.text + (f" ({', '.join(unstable)})" if unstable else ""),
        not_modelled="mean of a maximum over parallel stages; playing the pipeline gives distributions",
    )
