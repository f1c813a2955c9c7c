"""One request's way through the graph: what reaches each stage, and what it asks for there.

`Work` flows along the edges. A stage changes it (`update`); one that runs with probability p changes it by p times
as much in the mean, or wholly or not at all where a trace says which. A stage behind several others gets the largest
of each quantity. Nothing here takes time: the demands go to `pipelines.sharing`, the calls to the LLM's own model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.demand import RESOURCES, Demand, amounts, phase_terms
from mist_jax.physics.extremes import largest
from mist_jax.pipelines.dag import Pipeline
from mist_jax.pipelines.points import OverPoints
from mist_jax.programs import Effort, compiled
from mist_jax.pytree import pytree, replace
from mist_jax.schema import Scenario
from mist_jax.stages.protocol import EngineCall, Work
from mist_jax.stages.registry import get_stage

Array = Any

#: Phases of a demand that are kept apart (RAGO's tree search has six).
PHASES = 8


@pytree
class Asked:
    """What each node asks for; leading axis [nodes]."""

    amount: Array  #: [nodes, PHASES, RESOURCES] of services and transfers
    cap: Array  #: [nodes, PHASES, RESOURCES]
    fixed_s: Array  #: [nodes, PHASES]
    call: EngineCall  #: leaves [nodes], of engine stages
    median_s: Array  #: [nodes] of delays
    sigma: Array  #: [nodes]
    prompt: Array  #: [nodes] tokens that reach the node
    documents: Array  #: [nodes]


@pytree
class Timed:
    """The same with services timed alone on their machine; leading axis [nodes]."""

    fixed_s: Array
    busy_s: Array  #: s on the machine's resources, alone
    share: Array  #: of the machine that it takes meanwhile, its dominant resource
    call: EngineCall
    median_s: Array
    sigma: Array


@pytree
class Serving:
    """What stages need to know of the LLM that serves the request; per node."""

    kv_bytes_per_token: Array  #: [nodes]
    kv_layers: Array  #: [nodes]
    prefill_tokens: Array  #: [points] grid of prompt lengths
    prefill_s: Array  #: [nodes, points] prefill alone at them


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


def joined(works: list[Work]) -> Work:
    """What reaches a stage behind several others: the largest of each quantity."""
    if len(works) == 1:
        return works[0]
    return jax.tree.map(lambda *x: jnp.max(jnp.stack([jnp.asarray(v, float) for v in x]), axis=0), *works)


def _passed(kind: str, params: Any, work: Work, ran: Array) -> Work:
    update = get_stage(kind).update
    if update is None:
        return work
    after = update(params, work)
    return jax.tree.map(lambda a, b: a + ran * (b - a), _floats(work), _floats(after))


def _floats(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, float), tree)


def no_call() -> EngineCall:
    """A call of nothing."""
    zero = jnp.zeros(())
    return EngineCall(
        new_tokens=zero, past_tokens=zero, output_tokens=zero, longest_output=zero, branches=zero,
        shared_prefix=zero, rounds=zero, tokens_per_step=jnp.ones(()), probability=zero,
    )  # fmt: skip


def _padded(work: Demand) -> Demand:
    extra = PHASES - work.fixed_s.shape[0]
    if extra < 0:
        raise ValueError(f"a demand of {work.fixed_s.shape[0]} phases; at most {PHASES} are kept apart")
    return Demand(
        amount=jnp.pad(work.amount, ((0, extra), (0, 0))),
        cap=jnp.pad(work.cap, ((0, extra), (0, 0)), constant_values=jnp.inf),
        fixed_s=jnp.pad(work.fixed_s, (0, extra)),
    )


def walk(shape: tuple, params: tuple, start: Work, ran: Array, batch: Array, serving: Serving) -> Asked:
    """What one request asks of each node.

    Args:
        shape: (kind, type, parents) of each node; static.
        params: the kinds' parameters.
        start: the work that arrives.
        ran: [nodes] probability, or 0 or 1, that the node runs.
        batch: [nodes] requests that a service serves together; its demand is that of the batch.
    """
    after: list[Work] = []
    demands, calls, medians, sigmas, prompts, documents = [], [], [], [], [], []
    for i, (kind, type_, parents) in enumerate(shape):
        work = joined([after[p] for p in parents]) if parents else _floats(start)
        here = replace(
            work,
            batch=batch[i],
            kv_bytes_per_token=serving.kv_bytes_per_token[i],
            kv_layers=serving.kv_layers[i],
            prefill_s=jnp.interp(
                work.prompt_tokens - work.cached_tokens, serving.prefill_tokens, serving.prefill_s[i]
            ),
        )
        asked = get_stage(kind).function(params[i], here)
        timed = type_ in ("service", "transfer")
        nothing = Demand(
            amount=jnp.zeros((1, len(RESOURCES))),
            cap=jnp.full((1, len(RESOURCES)), jnp.inf),
            fixed_s=jnp.zeros(1),
        )
        demands.append(_padded(asked if timed else nothing))
        calls.append(_floats(asked if type_ == "engine" else no_call()))
        medians.append(jnp.asarray(asked.median_s if type_ == "delay" else 0.0, float))
        sigmas.append(jnp.asarray(asked.sigma if type_ == "delay" else 0.0, float))
        prompts.append(jnp.asarray(work.prompt_tokens, float))
        documents.append(jnp.asarray(work.documents, float))
        after.append(_passed(kind, params[i], here, ran[i]))
    one = jax.tree.map(lambda *x: jnp.stack(x), *demands)
    return Asked(
        amount=one.amount,
        cap=one.cap,
        fixed_s=one.fixed_s,
        call=jax.tree.map(lambda *x: jnp.stack([jnp.asarray(v, float) for v in x]), *calls),
        median_s=jnp.stack(medians),
        sigma=jnp.stack(sigmas),
        prompt=jnp.stack(prompts),
        documents=jnp.stack(documents),
    )


def walk_timed(
    shape: tuple, params: tuple, start: Work, ran: Array, batch: Array, serving: Serving, rates: Array
) -> Timed:
    """`walk` with each node timed alone on its machine, `rates` [nodes, RESOURCES]; for many requests at once."""
    asked = walk(shape, params, start, ran, batch, serving)

    def one(amount: Array, cap: Array, fixed: Array, rate: Array) -> tuple[Array, Array, Array]:
        work = Demand(amount=amount, cap=cap, fixed_s=fixed)
        busy = jnp.sum(largest(phase_terms(work, rate)))
        whole = jnp.max(jnp.where(rate > 0, amounts(work) / jnp.where(rate > 0, rate, 1.0), 0.0))
        return jnp.sum(fixed), busy, jnp.where(busy > 0, whole / jnp.where(busy > 0, busy, 1.0), 0.0)

    fixed, busy, share = jax.vmap(one)(asked.amount, asked.cap, asked.fixed_s, rates)
    return Timed(
        fixed_s=fixed, busy_s=busy, share=share, call=asked.call, median_s=asked.median_s, sigma=asked.sigma
    )


@lru_cache(maxsize=64)
def walk_program(shape: tuple) -> OverPoints:
    """`walk` compiled for one graph, over points."""

    def one(*args: Any) -> Asked:
        return walk(shape, *args)

    return OverPoints(compiled(one), compiled(jax.vmap(one), effort=Effort.LEAST))


@lru_cache(maxsize=64)
def walk_many_program(shape: tuple) -> Any:
    """`walk_timed` for arrays of requests: `start` [requests] leaves, `ran` [requests, nodes], params whose leaves may
    have a leading axis [requests] as `axes` says."""

    def many(
        params: tuple, axes_params: Any, start: Work, ran: Array, batch: Array, serving: Serving, rates: Array
    ):
        def one(varying: Any, s: Work, r: Array) -> Timed:
            merged = tuple(
                replace(p, hit_rate=varying[i]) if hasattr(p, "hit_rate") else p for i, p in enumerate(params)
            )
            return walk_timed(shape, merged, s, r, batch, serving, rates)

        return jax.vmap(one)(axes_params, start, ran)

    return compiled(many)
