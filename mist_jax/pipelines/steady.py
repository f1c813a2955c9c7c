"""`evaluate` for a pipeline: mean time, energy and cost of every stage, and what bounds the whole.

    lambda given (open), or lambda E2E(lambda) = concurrency (closed)
    services, transfers   `pipelines.sharing`: max-min shares among all stages of a client at their arrival rates
    LLM calls             `pipelines.llm`: the pool's steady state under the mix of its stages
    delays                mean of the log-normal
    E2E                   longest path through the graph of mean times, each times its probability

Services and transfers queue first come first served on their machines, as in the playback (`pipelines.queue`); the
other stages of a client slow them by the factor of `sharing`.

Services placed on an LLM pool take their mean share of its chips away from the iterations, and are not slowed by them.

Not modelled: the mean of a maximum over parallel branches exceeds the maximum of the means; bursts. Play the pipeline
for distributions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.physics.demand import RESOURCES
from mist_jax.pipelines import sharing
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import Node, Pipeline, shards_of
from mist_jax.pipelines.llm import Calls, Pool, left_of, mix_of, whole
from mist_jax.pipelines.queue import Queue
from mist_jax.pipelines.walk import Asked, Serving, walk_program
from mist_jax.pytree import replace
from mist_jax.schema import Scenario
from mist_jax.stages.protocol import Work

Array = np.ndarray
_ROUNDS = 8  # of the batch sizes' fixed point
_GROWING = 0.9  # load that a batching stage counts for among the others of its client
_HALVINGS = 40  # of the closed loop's rate


@dataclasses.dataclass(frozen=True)
class StageTimes:
    """Means of every node, [nodes] each, at one rate of requests."""

    rate: float  #: requests/s
    seconds: Array  #: of a run of the node, waiting included
    alone: Array  #: of a run with nobody else there
    expected: Array  #: probability times seconds: what it adds to its path
    finish: Array  #: longest path to its end
    batch: Array
    arrivals: Array  #: jobs/s that a machine gets
    factor: Array  #: by which other stages of its client slow a service or transfer
    shared: dict[str, Array]  #: of `sharing.share`
    calls: dict[str, tuple[list[int], Calls]]  #: pool → nodes and their calls
    states: dict[str, Any]  #: pool → steady state
    left: dict[str, dict[str, float]]  #: pool → shares of its chips that services leave to iterations
    first: Array  #: seconds to the first token, of LLM nodes
    asked: Asked


class Model:
    """A pipeline ready to be evaluated at any rate."""

    def __init__(self, scenario: Scenario, pipeline: Pipeline) -> None:
        self.scenario, self.pipeline = scenario, pipeline
        self.nodes = pipeline.nodes
        self.pools = {c.name: Pool(c.llm) for c in pipeline.clients.values() if c.llm is not None}
        self.names = list(pipeline.clients)
        self.machines = [pipeline.clients[c].machine() for c in self.names]
        self.probability = np.array([n.spec.probability for n in self.nodes])
        self.params = mean_params(pipeline)
        self.serving = serving_of(pipeline, self.pools)
        self.jobs = [
            [i for i, n in enumerate(self.nodes) if n.client == c and n.type in ("service", "transfer")]
            for c in self.names
        ]
        count = np.array([pipeline.clients[n.client].machines if n.client else 1.0 for n in self.nodes])
        #: share of a node's runs that reaches one machine of its client
        self.per_machine = np.array([shards_of(n.params) for n in self.nodes]) / count

        #: node → its queue
        self.stations = {
            i: Queue(
                groups=max(pipeline.clients[n.client].machines // shards_of(n.params), 1.0),
                max_batch=n.spec.max_batch,
                window=n.spec.window,
                rate=self.machines[self.names.index(n.client)].rate,
            )
            for i, n in enumerate(self.nodes)
            if n.type in ("service", "transfer")
        }

    def others(self, shared: dict[str, Array], asked: Asked, arrivals: Array) -> Array:
        """Factor by which the other stages of its client slow each node: its time in company over that with its own
        kind alone (both from `sharing`; the queue of its own kind is the station's)."""
        out = np.ones(len(self.nodes))
        for stage in {n.stage for i, n in enumerate(self.nodes) if i in self.stations}:
            own = [i for i, n in enumerate(self.nodes) if n.stage == stage]
            jobs = self.jobs[self.names.index(self.nodes[own[0]].client)]
            if len(jobs) == len(own):
                continue
            only = np.where(np.isin(np.arange(len(out)), own), arrivals, 0.0)
            apart = sharing.share(self.machines, self.jobs, asked, only)["seconds"]
            for i in own:
                out[i] = max(shared["seconds"][i] / apart[i], 1.0) if apart[i] > 0 else 1.0
        return out

    def walk(self, batch: Array) -> Asked:
        """What a mean request asks of each node."""
        program = walk_program(shape_of(self.pipeline))
        asked = program(
            self.params, start_work(self.scenario, self.pipeline), self.probability, batch, self.serving
        )
        return jax.tree.map(np.asarray, asked)

    def at(self, rate: float, closed: float | None = None, slopes: bool = False) -> StageTimes:
        """Means at `rate` requests/s; with `closed`, the main pool holds that many sequences instead."""
        nodes = self.nodes
        come = rate * self.probability
        limit = np.array([n.spec.max_batch for n in nodes])
        window = np.array([n.spec.window for n in nodes])
        batch = np.ones(len(nodes))
        arrivals = come * self.per_machine
        for _ in range(_ROUNDS):
            asked = self.walk(batch)
            shared = sharing.share(self.machines, self.jobs, asked, arrivals)
            factor = self.others(shared, asked, arrivals)
            held = shared["alone"] * factor
            better = np.clip(come * self.per_machine * np.maximum(held, window), 1.0, limit)
            settled = np.allclose(better, batch, rtol=1e-3)
            arrivals = come * self.per_machine / better
            # batches that still grow keep their machine busy without being more than it can take
            grows = (limit > 1) & (better < 0.999 * limit)
            arrivals = np.where(grows, np.minimum(arrivals, _GROWING / np.maximum(held, 1e-12)), arrivals)
            if settled:
                break
            batch = better
        alone = shared["alone"].copy()
        seconds = np.array(
            [
                self.stations[i].seconds(asked, shared, i, factor[i], batch[i], come[i])
                if i in self.stations
                else 0.0
                for i in range(len(nodes))
            ]
        )
        delays = np.array([n.type == "delay" for n in nodes])
        mean = np.asarray(asked.median_s) * np.exp(0.5 * np.asarray(asked.sigma) ** 2)
        seconds, alone = np.where(delays, mean, seconds), np.where(delays, mean, alone)
        first = np.zeros(len(nodes))
        calls, states, left = {}, {}, {}
        for name, pool in self.pools.items():
            own = [i for i, n in enumerate(nodes) if n.type == "engine" and n.client == name]
            if not own:
                continue
            calls[name] = own, self._calls(own, asked, rate)
            kind = "closed" if closed is not None and name == MAIN else "open"
            left[name] = left_of(shared["utilization"][self.names.index(name)])
            out = pool.beside(left[name]).run(kind, mix_of(calls[name][1]), closed or 1.0)
            states[name] = out
            seconds[own], alone[own], first[own] = _call_seconds(pool, out, calls[name][1])
        expected = self.expected(seconds, asked)
        finish = np.zeros(len(nodes))
        for i, node in enumerate(nodes):
            finish[i] = self.pipeline.parents_ended(finish, node) + expected[i]
        return StageTimes(
            rate=rate, seconds=seconds, alone=alone, expected=expected, finish=finish, batch=batch, arrivals=arrivals,
            factor=factor, shared=shared,
            calls=calls, states=states, left=left, first=first, asked=asked,
        )  # fmt: skip

    def expected(self, seconds: Array, asked: Asked) -> Array:
        """Mean time that each node adds: probability of running times its time."""
        made = np.array([n.type == "engine" for n in self.nodes])
        return self.probability * np.where(made, np.asarray(asked.call.probability), 1.0) * seconds

    def _calls(self, own: list[int], asked: Asked, rate: float) -> Calls:
        call = jax.tree.map(lambda x: np.asarray(x)[own], asked.call)
        spec = self.scenario.workload
        grow = np.array([_spread(self.nodes[i], spec.osl_cv) for i in own])
        return Calls(
            rate=np.maximum(rate * self.probability[own] * call.probability * call.rounds, 1e-300),
            new=call.new_tokens, past=call.past_tokens, output=call.output_tokens, longest=call.longest_output,
            branches=call.branches, shared=call.shared_prefix, rounds=call.rounds, gain=call.tokens_per_step,
            spread=0.5 * call.output_tokens * grow,
        )  # fmt: skip

    def ends(self, times: StageTimes) -> float:
        """End-to-end seconds: the longest path over what the request waits for."""
        return float(max(t for t, n in zip(times.finish, self.nodes, strict=True) if n.spec.wait))

    def solve(self) -> tuple[StageTimes, float]:
        """(the operating point, load): at the offered rate, or where the closed loop settles."""
        spec = self.scenario.workload
        if spec.arrivals != "closed":
            times = self.at(spec.rate)
            return times, max([float(whole(s).load) for s in times.states.values()] + [_busiest(times)])
        times = self._closed(spec.concurrency)
        return times, 1.0

    def _closed(self, concurrency: float) -> StageTimes:
        """Where lambda = rate of the main pool with the requests that are not elsewhere (Little's law)."""
        low, high = 0.0, concurrency / max(self.ends(self.at(1e-9)), 1e-9)
        times = self.at(high * 0.5, closed=concurrency)
        for _ in range(_HALVINGS):
            rate = 0.5 * (low + high)
            times = self._closed_at(rate, concurrency)
            if self._main_rate(times) > rate:
                low = rate
            else:
                high = rate
            if high - low < 1e-6 * high:
                break
        return times

    def _closed_at(self, rate: float, concurrency: float) -> StageTimes:
        outer = self.at(rate)
        mine = [i for i, n in enumerate(self.nodes) if n.type == "engine" and n.client == MAIN]
        on_path = critical_path(self.pipeline, outer)
        elsewhere = sum(outer.expected[i] for i in on_path if i not in mine)
        own, calls = outer.calls[MAIN]
        spent = calls.rate * outer.seconds[own] / calls.rounds
        branches = float((spent * calls.branches).sum() / max(spent.sum(), 1e-300))
        inside = max(concurrency - rate * elsewhere, 1e-6) * branches
        return self.at(rate, closed=inside)

    def _main_rate(self, times: StageTimes) -> float:
        """Requests/s that the main pool completes with the sequences it holds."""
        _, calls = times.calls[MAIN]
        per_request = float((calls.rate * calls.branches).sum()) / times.rate
        return float(whole(times.states[MAIN]).rate) / per_request


def _busiest(times: StageTimes) -> float:
    return float(times.shared["utilization"].max(initial=0.0))


def _spread(node: Node, cv: float) -> float:
    """1 + cv^2 of the lengths of a node's answers: the workload's, or those of a reasoning chain."""
    if node.kind == "reason":
        return max(float(node.params.mean_tokens) / float(node.params.median_tokens), 1.0) ** 2
    return 1.0 + cv**2


def _call_seconds(pool: Pool, out: Any, calls: Calls) -> tuple[Array, Array, Array]:
    """(seconds, seconds alone, seconds to the first token) of each stage's calls on one pool."""
    state, mix = whole(out), mix_of(calls)
    base = pool.alone(mix.isl * (1.0 - mix.hit), mix.isl * mix.hit)
    own = np.array([pool.alone(float(n), float(p)) for n, p in zip(calls.new, calls.past, strict=True)])
    steps = np.maximum(calls.longest - 1.0, 0.0) / calls.gain
    first = np.maximum(float(state.ttft) + own - base, own)
    idle = whole(pool.run("open", dataclasses.replace(mix, rate=1e-9)))
    return (
        calls.rounds * (first + steps * float(state.tpot)),
        calls.rounds * (own + steps * float(idle.tpot)),
        (calls.rounds - 1.0) * (first + steps * float(state.tpot)) + first,
    )


def critical_path(pipeline: Pipeline, times: StageTimes) -> list[int]:
    """Nodes on the longest path to the request's end, first to last."""
    ends = [i for i, n in enumerate(pipeline.nodes) if n.spec.wait]
    at: int | None = max(ends, key=lambda i: times.finish[i])
    path: list[int] = []
    while at is not None:
        path.append(at)
        parents = pipeline.nodes[at].parents
        at = max(parents, key=lambda i: times.finish[i]) if parents else None
    return path[::-1]


def shape_of(pipeline: Pipeline) -> tuple:
    """The static part of the graph: (kind, type, parents) of each node."""
    return tuple((n.kind, n.type, n.parents) for n in pipeline.nodes)


def start_work(scenario: Scenario, pipeline: Pipeline, prompt: Any = None, output: Any = None) -> Work:
    """The request as it arrives: mean lengths, or those given."""
    spec = scenario.workload
    prompt = spec.isl if prompt is None else prompt
    zeros = np.zeros(np.shape(prompt))
    return Work(
        batch=1.0 + zeros,
        query_tokens=np.minimum(pipeline.query_tokens, prompt),
        prompt_tokens=np.asarray(prompt, float),
        cached_tokens=np.asarray(prompt, float) * scenario.engine.prefix_hit_rate,
        output_tokens=np.asarray(spec.osl if output is None else output, float) + zeros,
        documents=zeros, document_tokens=zeros, images=pipeline.images + zeros, kv_bytes_per_token=zeros,
        kv_layers=1.0 + zeros, prefill_s=zeros,
    )  # fmt: skip


def mean_params(pipeline: Pipeline) -> tuple:
    """Parameters with the hit rate of each tier given those before it: disjoint rates h_k become h_k / (1 - sum)."""
    missed: list[float] = []
    out = []
    for node in pipeline.nodes:
        left = min((missed[p] for p in node.parents), default=1.0)
        left = 1.0 if node.type == "engine" else left
        params = node.params
        if node.kind == "kv_load":
            rate = float(params.hit_rate)
            params = replace(params, hit_rate=min(rate / left, 1.0) if left > 0 else 0.0)
            left = max(left - rate, 0.0)
        missed.append(left)
        out.append(params)
    return tuple(jax.tree.map(lambda x: np.asarray(x, dtype=np.float64), tuple(out)))


def serving_of(pipeline: Pipeline, pools: dict[str, Pool]) -> Serving:
    """KV size and prefill time of the LLM that stands behind each node: its own pool, else the main one."""
    wants = any(n.type == "transfer" for n in pipeline.nodes)
    kv = {name: pool.kv() for name, pool in pools.items()}
    tokens, curves = np.array([16.0, 32.0]), {name: np.zeros(2) for name in pools}
    if wants:
        grids = {name: pool.prefill_grid() for name, pool in pools.items()}
        tokens = grids[MAIN][0]
        curves = {name: np.interp(tokens, *grid) for name, grid in grids.items()}
    names = [n.client if n.client in pools else MAIN for n in pipeline.nodes]
    return Serving(
        kv_bytes_per_token=np.array([kv[n][0] for n in names]),
        kv_layers=np.array([kv[n][1] for n in names]),
        prefill_tokens=tokens,
        prefill_s=np.array([curves[n] for n in names]),
    )


def bounding_resource(model: Model, times: StageTimes, node: int) -> str:
    """What bounds a node's own time: a resource, fixed latency, or the outside."""
    kind = model.nodes[node].type
    if kind == "delay":
        return "outside"
    if kind == "engine":
        from mist_jax.physics.step import STEP_PARTS

        state = whole(times.states[model.nodes[node].client])
        return STEP_PARTS[int(np.argmax(state.breakdown))]
    fixed = float(np.sum(times.asked.fixed_s[node]))
    bound = times.shared["by_resource"][node]
    return "latency" if fixed >= bound.sum() else RESOURCES[int(np.argmax(bound))]


def require_stable(model: Model, times: StageTimes) -> None:
    """Raises ConfigError where a client cannot keep up with the offered rate."""
    for name, stable, use in zip(
        model.names, times.shared["stable"], times.shared["utilization"], strict=True
    ):
        if not stable:
            worst = RESOURCES[int(np.argmax(use))]
            raise ConfigError(
                f"pipeline.clients.{name}: {times.rate:g} requests/s need {use.max():.0%} of its {worst}; "
                f"raise pipeline.clients.{name}.count or lower workload.rate"
            )
