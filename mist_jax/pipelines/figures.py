"""Figures of pipelines in steady state: the deployment's own and those of every stage, many points at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from mist_jax import build
from mist_jax.physics.demand import RESOURCES
from mist_jax.physics.energy import DEFAULT_JOULES
from mist_jax.pipelines.batch import Batch, StageTimes
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import JUDGES, critical_path
from mist_jax.pipelines.llm import weighed, whole
from mist_jax.schema import Scenario
from mist_jax.variables import figures, pool_figures

Array = np.ndarray

#: Variables along `stage`: name → (units, what it is)
STAGE_VARIABLES = {
    "stage_s": ("s", "mean time that a stage adds to a request, all its turns"),
    "stage_alone_s": ("s", "the same with nobody else there"),
    "stage_runs": ("1", "mean runs of a stage in a request"),
    "stage_batch": ("1", "requests served together"),
    "stage_load": (
        "1",
        "busiest resource of a stage's client by services, or the load of its LLM pool; none outside",
    ),
    "stage_energy_j": ("J", "energy of a stage per request"),
    "stage_cost_usd": ("USD", "rent that a stage is charged per request"),
    "stage_on_path": ("1", "1: on the longest path through the graph"),
}
#: Further scalars: name → (units, what it is)
REQUEST_VARIABLES = {
    "energy_per_request_j": ("J", "energy of all clients per request"),
    "cost_per_request_usd": ("USD", "rent of all clients per request"),
}


def figures_of(batch: Batch, times: StageTimes, load: Array) -> dict[str, Array]:
    """The variables of `mist_jax.evaluate` and `REQUEST_VARIABLES` [points], `STAGE_VARIABLES` [points, stages].

    TTFT is that of the answer's first token, end to end is over the whole graph, the rate in requests, chips, cost and
    energy are those of all clients; what describes one engine is that of the pool that answers.
    """
    pipeline = batch.pipeline
    answer = pipeline.answer
    name = pipeline.nodes[answer].client
    own, calls = times.calls[name]
    mine, pools = own.index(answer), batch.pools[name]
    state = times.states[name]
    main = whole(state)
    ttft, tpot, e2e = latencies(batch, times)
    osl, rate = calls.output[:, mine], times.rate
    values = figures(main, pools.memory, isl=batch.load["isl"], osl=osl, **_pool_numbers(pools))
    if pools.prefill:
        values |= pool_figures(
            values, state,
            chips=pools.each(lambda p: chips_of_plan(p.scenario.prefill)),
            usd_per_s=pools.each(lambda p: p.scenario.hardware.price.usd_per_hour / build.HOUR),
            prefill_usd_per_s=pools.each(lambda p: _prefill_rent(p.scenario) / chips_of_plan(p.scenario.prefill)),
        )  # fmt: skip
    stage = _by_stage(batch, times)
    joules, dollars = stage["stage_energy_j"].sum(axis=1), rents(batch)
    chips = batch.each(lambda m: chips_of(m.scenario, m.pipeline))
    out_rate = rate * osl
    return {
        **values,
        "ttft_s": ttft,
        "tpot_s": tpot,
        "e2e_s": e2e,
        "request_rate": rate,
        "output_tokens_per_s": out_rate,
        "total_tokens_per_s": rate * (osl + batch.load["isl"]),
        "output_tokens_per_s_per_chip": out_rate / chips,
        "tokens_per_s_per_user": 1.0 / tpot,
        "load": load,
        "chips": chips,
        "energy_per_output_token_j": joules / osl,
        "cost_per_million_output_tokens_usd": dollars / out_rate * 1e6,
        "status": np.max([whole(s).status for s in times.states.values()], axis=0),
        "energy_per_request_j": joules,
        "cost_per_request_usd": dollars / rate,
        **stage,
    }


def latencies(batch: Batch, times: StageTimes) -> tuple[Array, Array, Array]:
    """(TTFT of the answer, its TPOT, end to end) in seconds, [points] each."""
    answer = batch.pipeline.answer
    chance = batch.probability[:, answer] * times.asked.call.probability[:, answer]
    before = batch.pipeline.parents_ended(times.finish.T, batch.nodes[answer])
    return before + weighed(chance, times.first[:, answer]), _answer_tpot(batch, times), batch.ends(times)


def _pool_numbers(pools: Any) -> dict[str, Array]:
    """What `evaluate.figures` counts besides the state."""
    plan = [p.scenario.parallelism for p in pools.pools]
    blocks = [p.scenario.engine.num_gpu_blocks for p in pools.pools]
    given = np.array([np.nan if b is None else b for b in blocks], float)[pools.index]
    return {
        "chips": np.array([build.chips(p) * p.replicas for p in plan])[pools.index],
        "lanes": np.array([p.replicas * p.dp * p.pp for p in plan])[pools.index],
        "usd_per_s": pools.each(lambda p: p.scenario.hardware.price.usd_per_hour / build.HOUR),
        "kv_blocks": np.where(np.isnan(given), pools.memory.kv_blocks, given),
    }


def _answer_tpot(batch: Batch, times: StageTimes) -> Array:
    """Mean TPOT of the call that answers: the answer's stage where it runs, else the LLM stage before it that did."""
    left, total = np.ones(len(times.rate)), np.zeros(len(times.rate))
    for i in range(batch.pipeline.answer, -1, -1):
        node = batch.nodes[i]
        if node.type != "engine" or node.kind in JUDGES:
            continue
        own, calls = times.calls[node.client]
        tpot = times.tpot[node.client] / calls.gain[:, own.index(i)]
        chance = batch.probability[:, i] * times.asked.call.probability[:, i]
        total = total + weighed(np.where(left >= 1e-9, left * chance, 0.0), tpot)
        left = np.where(left >= 1e-9, left * (1.0 - chance), left)
    return total / (1.0 - left)


def chips_of_plan(pool: Any) -> float:
    """Chips of a pool with a plan."""
    return build.chips(pool.parallelism) * pool.parallelism.replicas


def chips_of(scenario: Scenario, pipeline: Any) -> float:
    """Accelerator chips and CPU sockets of all clients, the prefill pool's included."""
    total = sum(c.chips * c.machines for c in pipeline.clients.values())
    return total + (0.0 if scenario.prefill is None else chips_of_plan(scenario.prefill))


def rent_of(scenario: Scenario, pipeline: Any) -> float:
    """Dollars per second of all clients."""
    return sum(c.usd_per_s for c in pipeline.clients.values()) + _prefill_rent(scenario)


def rents(batch: Batch) -> Array:
    """Dollars per second of all clients, [points]."""
    return batch.each(lambda m: rent_of(m.scenario, m.pipeline))


def _prefill_rent(scenario: Scenario) -> float:
    pool = scenario.prefill
    return 0.0 if pool is None else pool.hardware.price.usd_per_hour * chips_of_plan(pool) / 3600.0


def _by_stage(batch: Batch, times: StageTimes) -> dict[str, Array]:
    """`STAGE_VARIABLES`, nodes of a stage added up."""
    names, nodes = batch.pipeline.stages, batch.nodes
    sums = np.array([[n.stage == s for s in names] for n in nodes], float)
    engine = np.array([n.type == "engine" for n in nodes])
    joules, dollars = _charged(batch, times)
    ran = batch.probability * np.where(engine, times.asked.call.probability, 1.0)
    runs = ran @ sums
    first = [next(i for i, n in enumerate(nodes) if n.stage == s) for s in names]
    return {
        "stage_s": times.expected @ sums,
        "stage_alone_s": batch.expected(times.alone, times.asked) @ sums,
        "stage_runs": runs,
        "stage_batch": (ran * times.batch) @ sums / np.maximum(runs, 1e-300),
        "stage_load": np.stack([_node_load(batch, times, i) for i in first], axis=1),
        "stage_energy_j": joules @ sums,
        "stage_cost_usd": dollars @ sums,
        "stage_on_path": np.minimum(critical_path(batch.pipeline, times.finish) @ sums, 1.0),
    }


def _node_load(batch: Batch, times: StageTimes, i: int) -> Array:
    node = batch.nodes[i]
    if node.type == "engine":
        return np.asarray(whole(times.states[node.client]).load)
    if node.type == "delay":
        return np.full(len(times.rate), np.nan)
    return times.shared["utilization"][:, batch.names.index(node.client)].max(axis=-1)


def _charged(batch: Batch, times: StageTimes) -> tuple[Array, Array]:
    """(joules, dollars) per request of every node; together all that the clients draw and cost.

    Services and transfers: dynamic energy of what they move and compute; a client's idle power and rent are split by
    the busy time on its machines. On an LLM pool rent and the engine's power are split among its calls by their time
    on it (prefill, and decode over the sequences that step together).
    """
    joules, dollars = np.zeros(times.seconds.shape), np.zeros(times.seconds.shape)
    per_unit = np.array([DEFAULT_JOULES[r] for r in RESOURCES])
    rate = times.rate[:, None]
    idle = batch.each(lambda m: [c.idle_w * c.machines for c in m.pipeline.clients.values()])
    rent = batch.each(lambda m: [c.usd_per_s for c in m.pipeline.clients.values()])
    chips = batch.each(lambda m: [c.chips * c.machines for c in m.pipeline.clients.values()])
    for k, (jobs, name) in enumerate(zip(batch.jobs, batch.names, strict=True)):
        if not jobs:
            continue
        runs = batch.probability[:, jobs]
        spread = batch.shards[:, jobs] / times.batch[:, jobs]
        joules[:, jobs] += runs * spread * (times.asked.amount[:, jobs].sum(axis=2) @ per_unit)
        if name in batch.pools:
            continue
        busy = runs * spread * times.shared["alone"][:, jobs]
        total = busy.sum(axis=1, keepdims=True)
        share = np.where(total > 0, busy / np.where(total > 0, total, 1.0), 1.0 / len(jobs))
        joules[:, jobs] += share * idle[:, k : k + 1] / rate
        dollars[:, jobs] += share * rent[:, k : k + 1] / rate
    for name, (own, calls) in times.calls.items():
        k, pools, state = batch.names.index(name), batch.pools[name], times.states[name]
        decode = whole(state)
        watts, dollar = np.asarray(decode.power).sum(axis=-1) * chips[:, k], rent[:, k]
        if name == MAIN and pools.prefill:
            watts = watts + np.asarray(state.prefill_power_share).sum(axis=-1) * pools.each(
                lambda p: chips_of_plan(p.scenario.prefill)
            )
            dollar = dollar + pools.each(lambda p: _prefill_rent(p.scenario))
        steps = np.maximum(calls.output - 1.0, 0.0) / calls.gain
        together = np.maximum(decode.running, 1.0)[:, None]
        decoding = calls.branches * steps * np.asarray(decode.tpot)[:, None] / together
        held = calls.rate * (pools.alone(calls.new, calls.past) + decoding)
        share = held / held.sum(axis=1, keepdims=True)
        joules[:, own] += share * watts[:, None] / rate
        dollars[:, own] += share * dollar[:, None] / rate
    return joules, dollars


def pool_parts(batch: Batch, times: StageTimes) -> dict[str, Array]:
    """`breakdown_s` and `power_share_w` of `mist_jax.evaluate` for every client's own LLM pool (of two, the one that
    decodes), [points, clients, parts]; NaN where a client is none or is asked for nothing."""
    out = {}
    for name, field in (("breakdown_s", "breakdown"), ("power_share_w", "power")):
        found = {c: np.asarray(getattr(whole(s), field)) for c, s in times.states.items()}
        size = next(iter(found.values())).shape
        out[name] = np.stack([found.get(c, np.full(size, np.nan)) for c in batch.names], axis=1)
    return out


def unstable_clients(batch: Batch, times: StageTimes) -> Array:
    """Where a client or the queue of one of its stages cannot keep up: no mean exists, [points]."""
    return np.asarray(~times.shared["stable"].all(axis=1) | ~np.isfinite(times.seconds).all(axis=1))
