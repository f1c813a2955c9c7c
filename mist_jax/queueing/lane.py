"""A lane: sequences that step together, what it is asked to do, and what its mean iteration holds.

A replica has dp * pp lanes: attention-DP ranks, and micro-batches in flight of a pipeline.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.numerics import safe_divide
from mist_jax.physics.memory import MemoryUse, memory_use
from mist_jax.physics.resolve import resolve
from mist_jax.pytree import pytree
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System, Workload

Array = Any


@pytree
class Lane:
    """What one lane is asked to do."""

    system: System
    isl: Array  #: new prompt tokens (prefix hits taken off)
    past: Array  #: prompt tokens found in the prefix cache
    steps: Array  #: decode iterations per request, (OSL - 1) / tokens per iteration
    gain: Array  #: tokens per decoding sequence and iteration (1 without speculation)
    width: Array  #: tokens that a decoding sequence puts through the model
    context: Array  #: mean cached tokens of a decoding sequence
    limit: Array  #: sequences that may decode at once (max_num_seqs, KV)
    request_kv: Array  #: tokens of KV one request needs at its end
    memory: MemoryUse  #: of the replica
    spread: Array  #: further cached tokens that the mean prompt token attends to, as prompts differ in length
    ahead: Array  #: prompts ahead of the mean request because a benchmark starts with all of them at once
    interference: Array  #: share of the others' prefill that falls into a request's decoding (1: of all)
    outside: Array  #: s a request spends outside of iterations, before its first token
    bunched: (
        Array  #: 1: prompts come at random, and some share an iteration; 0: each has its own while it can
    )
    #: most requests that wait with their first token given out, where nothing is set aside for answers. The blocks of
    #: one that ends admit (ISL + OSL) / ISL prompts, of which the growth of the others pushes out all but one; and the
    #: n answers that are kept, each anywhere in its length, vary by OSL sqrt(n / 12) tokens, in prompts of ISL
    evicted: Array
    #: share of the iterations that decode alone by flow balance, and yet hold a part of a prompt that will be given up
    thrash: Array


def make_lane(system: System, workload: Workload) -> Lane:
    """The lane of `system` under `workload` (per-lane limits from memory and `max_num_seqs`).

    Mean context of a decoding sequence: ISL + E[O^2] / (2 E[O]), as long answers are seen longer.
    """
    system = resolve(system)
    hit = system.engine.prefix_hit_rate
    isl = jnp.maximum(workload.isl * (1.0 - hit), 1.0)
    step, engine = system.calibration.step, system.engine
    gain = tokens_per_iteration(step.acceptance, step.acceptance_decay, engine.draft_tokens)
    steps = jnp.maximum(workload.osl - 1.0, 1e-3) / gain
    context = workload.isl + 0.5 * workload.osl * (1.0 + workload.osl_cv**2)
    memory = memory_use(system)
    held = workload.isl + workload.osl
    # an answer's memory is set aside whole, or taken as it grows: then the memory is full of answers half done
    reserves = engine.reserves_answer
    kept = context + reserves * (context - workload.isl)
    by_memory = safe_divide(memory.kv_tokens * step.kv_usable, kept)
    evicts = (1.0 - reserves) * (by_memory < system.engine.max_num_seqs)
    evicted = 1.0 + workload.osl / isl * (1.0 + jnp.sqrt(jnp.maximum(by_memory, 1.0) / 12.0))
    limit = jnp.minimum(system.engine.max_num_seqs, by_memory) / system.parallel.pp
    return Lane(
        system=system,
        isl=isl,
        past=workload.isl * hit,
        steps=steps,
        gain=gain,
        width=1.0 + engine.draft_tokens,
        context=context,
        limit=jnp.maximum(limit, 1.0),
        request_kv=held,
        memory=memory,
        spread=0.5 * isl * workload.isl_cv**2,
        outside=step.request_s + step.prompt_token_s * workload.isl,
        ahead=jnp.zeros_like(held),
        interference=jnp.ones_like(held),
        bunched=jnp.zeros_like(held),
        evicted=evicts * evicted / system.parallel.pp,
        thrash=jnp.zeros_like(held),
    )


#: Longest draft that `tokens_per_iteration` sums over.
MAX_DRAFT = 8


def tokens_per_iteration(acceptance: Array, decay: Array, drafts: Array) -> Array:
    """E = 1 + sum_{m=1..k} prod_{j<=m} a rho^(j-1): tokens of one verified iteration; scalars.

    Speculative decoding (Y. Leviathan et al., ICML 2023, eq. 1 is rho = 1) whose acceptance falls with the
    position, as the acceptance curves of InferenceX do. k up to `MAX_DRAFT`, fractions interpolate.
    """
    m = jnp.arange(1, MAX_DRAFT + 1)
    chain = jnp.exp(m * jnp.log(acceptance) + 0.5 * m * (m - 1.0) * jnp.log(decay))
    return 1.0 + jnp.sum(chain * jnp.clip(drafts - (m - 1.0), 0.0, 1.0))


def lanes_of(system: System, replicas: Array) -> Array:
    """Lanes of a pool: replicas * dp * pp."""
    return replicas * system.parallel.dp * system.parallel.pp


def mixed_batch(lane: Lane, m: Array, tokens: Array) -> Batch:
    """`m` decodes and `tokens` of prefill (0: an iteration of decoding alone)."""
    share = tokens / lane.isl
    # engines that keep prompts apart insert an iteration of prefill alone
    alone = jnp.where(tokens > 0, lane.system.engine.separate_prefill, 0.0)
    return Batch(
        prefill_tokens=tokens,
        prefill_seqs=jnp.where(tokens > 0, jnp.maximum(share, 1.0), 0.0),
        # attention is quadratic: E[I^2] / 2 pairs per prompt
        prefill_past=lane.past + lane.spread + 0.5 * jnp.maximum(lane.isl - tokens, 0.0),
        decode_seqs=m * (1.0 - alone),
        decode_context=lane.context,
        emitting_prefills=share,
        decode_width=lane.width,
    )


def chunk_tokens(lane: Lane, m: Array, others: Array) -> tuple[Array, Array, Array]:
    """(budget for prefill, tokens of a mixed iteration, share of mixed iterations) at batch `m`, of which
    `others` decode besides the observer. The chunk grows from one prompt to the whole budget with the demand.

    Prompts that come at random, y between two looks at them, make a share 1 - exp(-y) of the iterations after a look
    mixed. Those that come back one by one (closed loops) are together only where there is not a look an iteration.
    """
    budget = lane.system.engine.max_num_batched_tokens
    used = m * lane.width * (1.0 - lane.system.engine.separate_prefill)
    room = jnp.maximum(budget - used, 0.05 * budget)
    demand = lane.isl * others * lane.interference / lane.steps
    single = jnp.minimum(lane.isl, room)
    every = lane.system.engine.scheduler_recv_interval
    y = jnp.maximum(every * demand / single, 1e-6)
    bunched = jnp.where(every > 1.0, 1.0, lane.bunched)
    together = jnp.maximum(demand, single * (1.0 + bunched * (-y / jnp.expm1(-y) - 1.0)))
    tokens = jnp.minimum(together, room)
    share = jnp.minimum(demand / tokens, 1.0)
    return room, tokens, share + lane.thrash * (1.0 - share)
