"""Pipelines in steady state, many at once: mean times of every stage.

    lambda given (open), or lambda E2E(lambda) = concurrency (`pipelines.closed`)
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

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mist_jax.pipelines import sharing
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.closed import closed_loop
from mist_jax.pipelines.dag import shards_of
from mist_jax.pipelines.llm import (
    Calls,
    Pools,
    call_alone,
    call_seconds,
    call_times,
    left_of,
    mix_of,
    weighed,
    whole,
)
from mist_jax.pipelines.member import Member
from mist_jax.pipelines.points import rows, stacked
from mist_jax.pipelines.queue import Queue
from mist_jax.pipelines.slower import Slower
from mist_jax.pipelines.walk import Asked, Serving, mean_params, shape_of, walk_program
from mist_jax.stages.protocol import Work

Array = np.ndarray
_ROUNDS = 8  # of the batch sizes' fixed point
_GROWING = 0.9  # load that a batching stage counts for among the others of its client

#: Numbers of the workload that may differ between points of one member.
LOAD = ("isl", "osl", "osl_cv", "rate", "concurrency")


@dataclasses.dataclass(frozen=True)
class StageTimes:
    """Means of every node, [points, nodes] each, at one rate of requests a point; `point` leaves the points out."""

    rate: Any  #: requests/s
    seconds: Array  #: of a run of the node, waiting included
    alone: Array  #: of a run with nobody else there
    expected: Array  #: probability times seconds: what it adds to its path
    finish: Array  #: longest path to its end
    batch: Array
    arrivals: Array  #: jobs/s that a machine gets
    factor: Array  #: by which other stages of its client slow a service or transfer
    shared: dict[str, Array]  #: of `sharing.apart`
    calls: dict[str, tuple[list[int], Calls]]  #: pool → nodes and their calls
    states: dict[str, Any]  #: pool → steady state
    tpot: dict[
        str, Array
    ]  #: pool → seconds between a sequence's tokens; of `states`, at the end of `Batch.slower`
    left: dict[str, dict[str, Array]]  #: pool → shares of its chips that services leave to iterations
    first: Array  #: seconds to the first token, of LLM nodes
    asked: Asked

    def point(self, k: int) -> StageTimes:
        """The means of one point."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        calls = {
            name: (nodes, Calls(**{f.name: getattr(c, f.name)[k] for f in dataclasses.fields(c)}))
            for name, (nodes, c) in own.pop("calls").items()
        }
        return StageTimes(calls=calls, **{name: rows(value, k) for name, value in own.items()})


class Batch:
    """Points of pipelines alike in structure, ready to be evaluated at any rates."""

    def __init__(
        self,
        members: Sequence[Member],
        load: Mapping[str, Any] | None = None,
        dtype: Any = np.float64,
        lots: bool = False,
    ) -> None:
        """`members`: that of every point; the same object where it is the same. `load`: of `LOAD`, [points] each,
        instead of the members' own. `dtype`, `lots`: of `Pools`."""
        self.distinct = list(dict.fromkeys(members))
        numbers = {id(m): k for k, m in enumerate(self.distinct)}
        #: which of `distinct` each point is
        self.which = np.array([numbers[id(m)] for m in members])
        first = members[0].pipeline
        self.pipeline, self.nodes, self.shape = first, first.nodes, shape_of(first)
        self.closed = members[0].scenario.workload.arrivals == "closed"
        self.names = list(first.clients)
        self.jobs = [
            [i for i, n in enumerate(self.nodes) if n.client == c and n.type in ("service", "transfer")]
            for c in self.names
        ]
        self.load = {
            name: np.asarray(
                (load or {}).get(name, self.each(lambda m, n=name: getattr(m.scenario.workload, n))), float
            )
            for name in LOAD
        }
        self.pools = {name: Pools([m.pools[name] for m in members], dtype, lots) for name in members[0].pools}
        self.probability = self.of_nodes(lambda n: n.spec.probability)
        self.limit = self.of_nodes(lambda n: n.spec.max_batch)
        self.window = self.of_nodes(lambda n: n.spec.window)
        self.machine_rate = self.each(lambda m: [x.rate for x in m.machines])
        self.interference = self.each(lambda m: [x.interference + 0.0 * x.rate for x in m.machines])
        shards = self.of_nodes(lambda n: shards_of(n.params))
        count = self.each(
            lambda m: [m.pipeline.clients[n.client].machines if n.client else 1.0 for n in m.pipeline.nodes]
        )
        self.shards = shards
        #: share of a node's runs that reaches one machine of its client
        self.per_machine = shards / count
        self.groups = np.maximum(count // shards, 1.0)
        self.params = rows(stacked([mean_params(m.pipeline) for m in self.distinct]), self.which)
        #: pool → factors on the times of its calls, at one end of an interval
        self.slower: dict[str, Slower] = {}
        self.start = self._start()
        self.serving = self._serving()

    def each(self, value: Any) -> Array:
        """A number, or numbers, of the member at every point."""
        return np.array([value(m) for m in self.distinct], dtype=np.float64)[self.which]

    def of_nodes(self, value: Any) -> Array:
        """A number of every node at every point, [points, nodes]."""
        return self.each(lambda m: [float(value(n)) for n in m.pipeline.nodes])

    def take(self, at: Array) -> Batch:
        """The points `at`."""
        other = copy.copy(self)
        other.which = self.which[at]
        other.pools = {name: pools.take(at) for name, pools in self.pools.items()}
        other.slower = {name: slower.take(at) for name, slower in self.slower.items()}
        for name in (
            "load", "probability", "limit", "window", "machine_rate", "interference", "shards", "per_machine", "groups",
            "params", "start", "serving",
        ):  # fmt: skip
            setattr(other, name, rows(getattr(self, name), at))
        return other

    def _start(self) -> Work:
        """The request as it arrives: mean lengths."""
        isl, zeros = self.load["isl"], np.zeros(len(self.which))
        given = self.each(lambda m: m.scenario.pipeline.query_tokens or np.nan)
        return Work(
            batch=1.0 + zeros, query_tokens=np.where(np.isnan(given), isl, np.minimum(given, isl)), prompt_tokens=isl,
            cached_tokens=isl * self.each(lambda m: m.scenario.engine.prefix_hit_rate),
            output_tokens=self.load["osl"], documents=zeros, document_tokens=zeros,
            images=self.each(lambda m: m.pipeline.images), kv_bytes_per_token=zeros, kv_layers=1.0 + zeros,
            prefill_s=zeros,
        )  # fmt: skip

    def _serving(self) -> Serving:
        """KV size and prefill time of the LLM that stands behind each node: its own pool, else the main one."""
        names = [n.client if n.client in self.pools else MAIN for n in self.nodes]
        kv = {
            name: [pools.each(lambda p, k=k: p.kv[k]) for k in (0, 1)] for name, pools in self.pools.items()
        }
        points = len(self.which)
        tokens = np.broadcast_to([16.0, 32.0], (points, 2))
        curves = {name: np.zeros((points, 2)) for name in self.pools}
        if any(n.type == "transfer" for n in self.nodes):
            grids = {name: pools.prefill_grid() for name, pools in self.pools.items()}
            tokens = grids[MAIN][0]
            curves = {
                name: np.stack([np.interp(t, *own) for t, *own in zip(tokens, *grid, strict=True)])
                for name, grid in grids.items()
            }
        return Serving(
            kv_bytes_per_token=np.stack([kv[n][0] for n in names], axis=1),
            kv_layers=np.stack([kv[n][1] for n in names], axis=1),
            prefill_tokens=tokens,
            prefill_s=np.stack([curves[n] for n in names], axis=1),
        )

    def walk(self, batch: Array) -> Asked:
        """What a mean request asks of each node."""
        args = (self.params, self.start, self.probability, batch, self.serving)
        return walk_program(self.shape)(len(self.which), lambda at: rows(args, at))

    def others(self, asked: Asked, arrivals: Array) -> Array:
        """Factor by which the other stages of its client slow each node: its time in company over that with its own
        kind alone (both from `sharing`; the queue of its own kind is the station's)."""
        out = np.ones(arrivals.shape)
        for k, own in enumerate(self.jobs):
            stages = list(dict.fromkeys(self.nodes[i].stage for i in own))
            if len(stages) < 2:
                continue
            kind = np.array([stages.index(self.nodes[i].stage) for i in own])
            # all of them, then each kind of stage by itself
            loads = np.concatenate([np.ones((1, len(own))), np.arange(len(stages))[:, None] == kind])
            found = sharing.together(
                self.machine_rate[:, k], self.interference[:, k], asked, own, arrivals[:, None, own] * loads
            )
            alone = found[:, 1 + kind, np.arange(len(own))]
            there = alone > 0
            out[:, own] = np.where(there, np.maximum(found[:, 0] / np.where(there, alone, 1.0), 1.0), 1.0)
        return out

    def _services(self, rate: Array) -> tuple[Asked, dict[str, Array], Array, Array, Array]:
        """(what is asked, shared times, factor, batch, arrivals) where the batch sizes settle."""
        come = rate[:, None] * self.probability
        batch = np.ones(come.shape)
        arrivals = come * self.per_machine
        asked, shared, factor = None, {}, batch
        done = np.zeros(len(rate), dtype=bool)
        for _ in range(_ROUNDS):
            asked = self.walk(batch)
            shared = _kept(done, shared, sharing.apart(self.machine_rate, self.jobs, asked, arrivals))
            factor = np.where(done[:, None], factor, self.others(asked, arrivals))
            held = shared["alone"] * factor
            better = np.clip(come * self.per_machine * np.maximum(held, self.window), 1.0, self.limit)
            settled = (np.abs(better - batch) <= 1e-3 * batch + 1e-8).all(axis=1)
            now = come * self.per_machine / better
            # batches that still grow keep their machine busy without being more than it can take
            grows = (self.limit > 1) & (better < 0.999 * self.limit)
            now = np.where(grows, np.minimum(now, _GROWING / np.maximum(held, 1e-12)), now)
            arrivals = np.where(done[:, None], arrivals, now)
            done = done | settled
            if done.all():
                break
            batch = np.where(done[:, None], batch, better)
        assert asked is not None
        return asked, shared, factor, batch, arrivals

    def at(self, rate: Array, alone: bool = True) -> StageTimes:
        """Means at `rate` [points] requests/s; without `alone`, what LLM calls take with nobody else there is zero (a
        steady state less of every pool)."""
        times = self.offered(self._without_calls(rate))
        if alone:
            for name, (own, calls) in times.calls.items():
                times.alone[:, own] = call_alone(self.pools[name], mix_of(calls), calls)
        return times

    def _without_calls(self, rate: Array) -> StageTimes:
        """Means of services, transfers and delays, and what LLM pools are asked for."""
        nodes = self.nodes
        asked, shared, factor, batch, arrivals = self._services(rate)
        come = rate[:, None] * self.probability
        alone, seconds = shared["alone"].copy(), np.zeros(come.shape)
        median, sigma = np.asarray(asked.median_s), np.asarray(asked.sigma)
        for i, n in enumerate(nodes):
            if n.type in ("service", "transfer"):
                speed = self.machine_rate[:, self.names.index(n.client)]
                queue = Queue(self.groups[:, i], self.limit[:, i], self.window[:, i], speed)
                seconds[:, i] = queue.seconds(asked, shared, i, factor[:, i], batch[:, i], come[:, i])
            elif n.type == "delay":
                seconds[:, i] = alone[:, i] = median[:, i] * np.exp(0.5 * sigma[:, i] ** 2)
        calls, left = {}, {}
        for name in self.pools:
            own = [i for i, n in enumerate(nodes) if n.type == "engine" and n.client == name]
            if own:
                calls[name] = own, self._calls(own, asked, rate)
                left[name] = left_of(shared["utilization"][:, self.names.index(name)])
        return StageTimes(
            rate=rate, seconds=seconds, alone=alone, expected=seconds, finish=seconds, batch=batch, arrivals=arrivals,
            factor=factor, shared=shared, calls=calls, states={}, tpot={}, left=left, first=np.zeros(come.shape),
            asked=asked,
        )  # fmt: skip

    def offered(self, times: StageTimes) -> StageTimes:
        """`times` with the LLM pools under the rates that their stages offer; states that it has are those."""
        found = {}
        for name, (_, calls) in times.calls.items():
            left = times.left[name]
            state = times.states.get(name)
            if state is None:
                state = self.pools[name].run("open", mix_of(calls), scale=left)
            # a closed loop's own pool holds what it holds, however slow it is
            rated = not (self.closed and name == MAIN)
            found[name] = state, self._call_times(name, state, calls, left if rated else None)
        return self._with_calls(times, found)

    def holding(self, times: StageTimes, sequences: Array) -> StageTimes:
        """`times` where the main pool holds so many sequences [points] instead of being offered the rate."""
        _, calls = times.calls[MAIN]
        state = self.pools[MAIN].run("closed", mix_of(calls), sequences, scale=times.left[MAIN])
        return self._with_calls(times, {MAIN: (state, self._call_times(MAIN, state, calls))})

    def scaled(self, times: StageTimes) -> StageTimes:
        """`times` with the factors of `slower` on the times of LLM calls, under the same load."""
        states = times.states
        found = {
            n: (states[n], self._call_times(n, states[n], calls)) for n, (_, calls) in times.calls.items()
        }
        return self._with_calls(times, found)

    def _call_times(
        self, name: str, state: Any, calls: Calls, left: dict[str, Array] | None = None
    ) -> tuple[Array, Array]:
        """`llm.call_times` of a pool, slower if the batch is; with the shares `left` to it, under an offered rate."""
        pools, mix = self.pools[name], mix_of(calls)
        times = call_times(pools, state, mix, calls)
        return self.slower[name].of(times, pools, mix, calls, left) if name in self.slower else times

    def _with_calls(self, times: StageTimes, found: dict[str, tuple[Any, tuple[Array, Array]]]) -> StageTimes:
        """`times` with these states, and times (of `call_times`), of LLM pools, and what follows for the request."""
        seconds, first = times.seconds.copy(), times.first.copy()
        for name, (_, (one, tpot)) in found.items():
            own, calls = times.calls[name]
            seconds[:, own], first[:, own] = call_seconds(calls, one, tpot)
        states = times.states | {name: state for name, (state, _) in found.items()}
        tpots = times.tpot | {name: tpot for name, (_, (_, tpot)) in found.items()}
        return self._ended(
            dataclasses.replace(times, seconds=seconds, first=first, states=states, tpot=tpots)
        )

    def _ended(self, times: StageTimes) -> StageTimes:
        """`times` with what follows from the nodes' seconds: what each adds, and the longest path to its end."""
        expected = self.expected(times.seconds, times.asked)
        finish = np.zeros(expected.shape)
        for i, node in enumerate(self.nodes):
            finish[:, i] = self.pipeline.parents_ended(finish.T, node) + expected[:, i]
        return dataclasses.replace(times, expected=expected, finish=finish)

    def expected(self, seconds: Array, asked: Asked) -> Array:
        """Mean time that each node adds: probability of running times its time."""
        made = np.array([n.type == "engine" for n in self.nodes])
        return weighed(self.probability * np.where(made, np.asarray(asked.call.probability), 1.0), seconds)

    def _calls(self, own: list[int], asked: Asked, rate: Array) -> Calls:
        call = jax.tree.map(lambda x: np.asarray(x)[:, own], asked.call)
        come = rate[:, None] * self.probability[:, own]
        grow = np.stack([self._spread(i) for i in own], axis=1)
        return Calls(
            rate=np.maximum(come * call.probability * call.rounds, 1e-300),
            new=call.new_tokens, past=call.past_tokens, output=call.output_tokens, longest=call.longest_output,
            branches=call.branches, shared=call.shared_prefix, rounds=call.rounds, gain=call.tokens_per_step,
            spread=0.5 * call.output_tokens * grow,
        )  # fmt: skip

    def _spread(self, node: int) -> Array:
        """1 + cv^2 of the lengths of a node's answers: the workload's, or those of a reasoning chain."""
        if self.nodes[node].kind == "reason":
            params = self.params[node]
            return np.maximum(params.mean_tokens / params.median_tokens, 1.0) ** 2
        return 1.0 + self.load["osl_cv"] ** 2

    def ends(self, times: StageTimes) -> Array:
        """End-to-end seconds: the longest path over what the request waits for."""
        return times.finish[:, [i for i, n in enumerate(self.nodes) if n.spec.wait]].max(axis=1)

    def solve(self) -> tuple[StageTimes, Array]:
        """(the operating points, load): at the offered rates, or where the closed loops settle."""
        if self.closed:
            return closed_loop(self, self.load["concurrency"]), np.ones(len(self.which))
        times = self.at(self.load["rate"])
        loads = [np.asarray(whole(s).load) for s in times.states.values()]
        busiest = times.shared["utilization"].max(axis=(1, 2), initial=0.0)
        return times, np.max([*loads, busiest], axis=0)


def _kept(done: Array, before: dict[str, Array], now: dict[str, Array]) -> dict[str, Array]:
    """`now`, at points that are done what was there before."""
    if not done.any():
        return now
    return {k: np.where(done.reshape(-1, *(1,) * (v.ndim - 1)), before[k], v) for k, v in now.items()}
