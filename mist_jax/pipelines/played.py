"""`play` for a pipeline: every stage of every request as an entry of its own in the exact playback.

A user request becomes one entry per node of the graph (one per branch of a sampled LLM call), with edges between them.
LLM calls run on the engines of their pool. A service or transfer is a station: with u the share of a machine that one
job takes on its dominant resource and t its busy time, c = floor(1 / u) jobs run side by side for c u t each, so that
c / (c u t) is the machine's capacity and t a job's time alone; what is left of t, the fixed latency and delays pass
before the queue. Stations of one client do not see each other, so that each is slowed by the factor that
`pipelines.sharing` gives at the mean load; the result's attributes say so.

A stage that does not run for a request (probability, a cache that has nothing) passes in no time. Lengths of a
reasoning chain and times of tools are drawn from their log-normals; the seed is the scenario's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.pipelines.batch import StageTimes
from mist_jax.pipelines.dag import JUDGES, Pipeline, shards_of
from mist_jax.pipelines.llm import scenario_beside
from mist_jax.pipelines.queue import side_by_side
from mist_jax.pipelines.rows import Rows, loop_edges, stage_edges
from mist_jax.pipelines.steady import Model, require_stable
from mist_jax.pipelines.walk import Timed, shape_of, start_work, walk_many_program
from mist_jax.queueing.clients import Engine, Link, Station
from mist_jax.queueing.speculation import tokens_per_step
from mist_jax.queueing.trace import Trace
from mist_jax.schema import Scenario

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is played, and how to read the result; rows are entries of the trace."""

    trace: Trace
    clients: list[Engine | Station]
    links: list[Link]
    request: Array  #: [rows] user request
    node: Array  #: [rows]
    before_s: Array  #: [rows] time of the stage that passes before the entry queues
    answered: Array  #: [requests] tokens of the answer
    answered_by: (
        Array  #: [requests] node that gave it: the answer's, or the last LLM stage before it that ran
    )
    slowdown: dict[str, float]  #: stage → factor by the other stages of its client
    left: dict[str, float]  #: LLM pool → least share of its chips that services leave to iterations


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What chance decides; [requests, nodes]."""

    ran: Array
    hit: Array
    delay: Array


def draw(pipeline: Pipeline, requests: int, seed: int) -> Drawn:
    """Which stages run, which prefixes are found (disjoint between tiers), how long tools take (standard normal)."""
    rng = np.random.default_rng([seed, 0x9197])
    n = len(pipeline.nodes)
    u = rng.random((requests, n))
    ran = u < np.array([node.spec.probability for node in pipeline.nodes])
    hit = np.zeros((requests, n))
    missed = np.ones((requests, n))
    for i, node in enumerate(pipeline.nodes):
        left = np.min(missed[:, list(node.parents)], axis=1) if node.parents else np.ones(requests)
        left = np.ones(requests) if node.type == "engine" else left
        if node.kind == "kv_load":
            rate = float(node.params.hit_rate)
            earlier = _rate_before(pipeline, i)
            chance = min(rate / max(1.0 - earlier, 1e-12), 1.0)
            hit[:, i] = (rng.random(requests) < chance) * left * ran[:, i]
            left = left * (1.0 - hit[:, i])
        missed[:, i] = left
    return Drawn(ran=ran.astype(float), hit=hit, delay=rng.standard_normal((requests, n)))


def _rate_before(pipeline: Pipeline, node: int) -> float:
    """Hit rates of the tiers that were asked before `node` in the same walk."""
    total, at = 0.0, list(pipeline.nodes[node].parents)
    seen: set[int] = set()
    while at:
        i = at.pop()
        if i in seen or pipeline.nodes[i].type == "engine":
            continue
        seen.add(i)
        if pipeline.nodes[i].kind == "kv_load":
            total += float(pipeline.nodes[i].params.hit_rate)
        at += pipeline.nodes[i].parents
    return total


def timed(scenario: Scenario, model: Model, trace: Trace, drawn: Drawn, batch: Array) -> Timed:
    """What each request asks of each node, services alone on their machine; leaves [requests, nodes]."""
    pipeline = model.pipeline
    index = [model.names.index(n.client) if n.client else 0 for n in pipeline.nodes]
    rates = np.array([model.machines[i].rate for i in index])
    params = tuple(
        jax.tree.map(lambda x: np.asarray(x, dtype=np.float64), tuple(n.params for n in pipeline.nodes))
    )
    start = start_work(scenario, pipeline, trace.prompt_tokens, trace.output_tokens)
    program = walk_many_program(shape_of(pipeline))
    out = program(params, drawn.hit, start, drawn.ran, batch, model.serving, rates)
    return jax.tree.map(np.asarray, out)


def plan(scenario: Scenario, model: Model, trace: Trace) -> Plan:
    """Lay a trace of user requests out for the playback.

    Raises:
        ConfigError: a client cannot keep up, or does not fit.
    """
    pipeline, nodes = model.pipeline, model.pipeline.nodes
    n, m = trace.size, len(nodes)
    drawn = draw(pipeline, n, scenario.seed)
    one = timed(scenario, model, trace, drawn, np.ones(m))
    limit = np.array([float(node.spec.max_batch) for node in nodes])
    many = timed(scenario, model, trace, drawn, limit) if (limit > 1).any() else one
    times = mean_load(model, trace)
    factor = times.factor
    number = {node: i + len(model.pools) + 1 for i, node in enumerate(range(m))}
    pools = {name: i for i, name in enumerate(model.pools)}  # the main pool is model 0
    pause = len(model.pools)
    rng = np.random.default_rng([scenario.seed, 0x4242])
    rows = Rows()
    stations: list[Engine | Station] = [
        Station(model=pause, service_s=(0.0, 0.0, 1.0), servers=1 << 30, name="pause")
    ]
    answered = np.asarray(trace.output_tokens, float).copy()
    answered_by = np.full(n, pipeline.answer)
    for i, node in enumerate(nodes):
        ran = drawn.ran[:, i] > 0
        if node.type == "engine":
            call = jax.tree.map(lambda x, i=i: x[:, i], one.call)
            made = ran & (rng.random(n) < call.probability)
            answers = _add_calls(rows, i, node, call, made, pools[node.client], model, pause, rng)
            if i <= pipeline.answer and (node.kind not in JUDGES or i == pipeline.answer):
                answered = np.where(made, answers, answered)
                answered_by = np.where(made, i, answered_by)
            continue
        if node.type == "delay":
            wait = one.median_s[:, i] * np.exp(one.sigma[:, i] * drawn.delay[:, i])
            rows.add(i, np.arange(n), pause, work=np.where(ran, wait, 0.0))
            continue
        if node.kind == "kv_load":
            ran = ran & (drawn.hit[:, i] > 0)
        station, before, work = _station(model, i, number[i], one, many, limit[i], factor[i], ran)
        stations.append(station)
        there = np.flatnonzero(ran)
        rows.add(i, there, number[i], work=work[there], before=before[there])
        rows.add(i, np.flatnonzero(~ran), pause)
    engines, links = _engines(model, pools, rows, times)
    return _laid_out(pipeline, trace, rows, [*engines, *stations], links, answered, answered_by, {
        nodes[i].stage: float(factor[i]) for i in range(m) if factor[i] > 1.0 + 1e-6
    }, {k: min(v.values()) for k, v in times.left.items() if min(v.values()) < 1.0 - 1e-6})  # fmt: skip


def mean_load(model: Model, trace: Trace) -> StageTimes:
    """The steady state at the trace's mean rate: what stages of one client take from each other.

    Raises:
        ConfigError: a client cannot keep up with the mean rate.
    """
    spec = model.scenario.workload
    if trace.closed_loop:
        times = model.solve()[0]
    else:
        span = float(np.ptp(trace.arrival_s))
        times = model.at(trace.size / span if span > 0 else spec.rate)
    require_stable(model, times)
    return times


def _station(
    model: Model, i: int, number: int, one: Timed, many: Timed, batch: float, factor: float, ran: Array
) -> tuple[Station, Array, Array]:
    """(station, [requests] seconds before its queue, [requests] work) of a service or transfer."""
    node = model.nodes[i]
    client = model.pipeline.clients[node.client]
    fixed, alone = one.fixed_s[:, i], one.busy_s[:, i] * factor
    groups = max(int(client.machines // shards_of(node.params)), 1)
    share = float(one.share[ran, i].mean()) if ran.any() else 0.0
    servers = side_by_side(share)
    name = f"{node.client}/{node.stage}"
    if batch <= 1:
        held = alone * min(servers * share, 1.0) if share > 0 else alone
        station = Station(number, (0.0, 0.0, 1.0), servers, count=groups, name=name)
        return station, fixed + alone - held, held
    # a batch of b takes busy(1) + (b - 1) marginal: the work of a request is its marginal time
    marginal = np.maximum(many.busy_s[:, i] * factor - alone, 0.0) / (batch - 1.0)
    base = float(np.maximum(alone - marginal, 0.0)[ran].mean()) if ran.any() else 0.0
    width = servers if share <= 0.5 else 1
    station = Station(number, (base, 0.0, 1.0), width, int(batch), float(node.spec.window), groups, name)
    return station, fixed, marginal


def _add_calls(
    rows: Rows, i: int, node: Any, call: Any, made: Array, pool: int, model: Model, pause: int, rng: Any
) -> Array:
    """Entries of an LLM stage: one per round and branch; returns tokens of the answer."""
    there = np.flatnonzero(made)
    rows.add(i, np.flatnonzero(~made), pause)
    branches = max(round(float(np.mean(call.branches[made]))) if made.any() else 1, 1)
    rounds = max(round(float(np.mean(call.rounds[made]))) if made.any() else 1, 1)
    prompt = np.maximum(np.rint(call.new_tokens + call.past_tokens), 1)[there]
    past = np.rint(call.past_tokens)[there]
    outside = model.pools[node.client].outside_s(prompt)
    # of the stage's own draft, and of the engine's
    gain = call.tokens_per_step[there] * tokens_per_step(model.pools[node.client].system)
    longest = np.zeros(made.size)
    for k in range(rounds):
        for b in range(branches):
            tokens = _lengths(node, call.output_tokens[there], rng)
            steps = np.maximum(np.rint((tokens - 1.0) / gain), 0.0) + 1.0
            # the prompt is prefilled once; the other branches find it in the cache
            cached = past if b == 0 else prompt - 1
            rows.add(i, there, pool, prompt=prompt, output=steps, cached=cached, before=outside, step=k)
            longest[there] = np.maximum(longest[there], tokens)
    return longest


def _lengths(node: Any, mean: Array, rng: Any) -> Array:
    """Tokens of one branch: drawn for a reasoning chain, else as the trace says."""
    if node.kind != "reason":
        return np.maximum(np.rint(mean), 1.0)
    p = node.params
    sigma = np.sqrt(2.0 * np.log(max(float(p.mean_tokens) / float(p.median_tokens), 1.0)))
    drawn = float(p.median_tokens) * np.exp(sigma * rng.standard_normal(mean.size))
    return np.clip(np.rint(drawn), 1.0, float(p.max_tokens))


def _engines(
    model: Model, pools: dict[str, int], rows: Rows, times: StageTimes
) -> tuple[list[Engine], list[Link]]:
    from mist_jax.play import build_clients

    engines: list[Engine] = []
    links: list[Link] = []
    which, prompt, output = rows.column("model"), rows.column("prompt"), rows.column("output")
    for name, pool in pools.items():
        here = which == pool
        if not here.any():
            continue
        sample = Trace(np.zeros(here.sum()), prompt[here].astype(np.int64), output[here].astype(np.int64))
        llm = model.pipeline.clients[name].llm
        assert llm is not None
        built, more, *_ = build_clients(scenario_beside(llm, times.left[name]), sample)
        engines += [dataclasses.replace(e, model=pool, link=e.link and f"{name} {e.link}") for e in built]
        links += [dataclasses.replace(link, name=f"{name} {link.name}") for link in more]
    if not engines:
        raise ConfigError("pipeline: no request makes an LLM call; raise a probability")
    return engines, links


def _laid_out(
    pipeline: Pipeline,
    trace: Trace,
    rows: Rows,
    clients: list,
    links: list,
    answered: Array,
    answered_by: Array,
    slowdown: dict,
    left: dict,
) -> Plan:
    """Sort the entries by request and node, and join them with edges."""
    request, node, step = (rows.column(c).astype(np.int64) for c in ("request", "node", "step"))
    order = np.lexsort((step, node, request))
    column = {name: rows.column(name)[order] for name in rows.columns}
    request, node, step = request[order], node[order], step[order]
    edges = [stage_edges(pipeline, request, node, step)]
    arrival = np.asarray(trace.arrival_s, float)
    roots = np.array([not x.parents for x in pipeline.nodes])
    if trace.closed_loop:
        edges.append(loop_edges(pipeline, request, node, step, trace.closed_loop))
    before = column["before"]
    return Plan(
        trace=Trace(
            arrival_s=arrival[request] + np.where(roots[node], before, 0.0),
            prompt_tokens=column["prompt"].astype(np.int64),
            output_tokens=column["output"].astype(np.int64),
            model=column["model"].astype(np.int64),
            work=column["work"],
            cached=column["cached"].astype(np.int64),
            delay_s=before,
            edges=np.concatenate(edges),
            session=None if trace.session is None else np.asarray(trace.session)[request],
            priority=None if trace.priority is None else np.asarray(trace.priority)[request],
            name=trace.name,
        ),
        clients=clients,
        links=links,
        request=request,
        node=node,
        before_s=before,
        answered=answered,
        answered_by=answered_by,
        slowdown=slowdown,
        left=left,
    )
