"""Tabulate `step_time` for the playback: its four separable terms on grids of batch shapes, in one compiled call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.operators import operator_costs
from mist_jax.physics.step import token_terms
from mist_jax.programs import compiled
from mist_jax.queueing.table import StepTable, octave_grid
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System

Array = Any

#: Shared by the attention-DP ranks of a replica.
_EXPERTS = ("experts", "expert_dispatch")
_ATTENTION = ("attention_prefill", "attention_decode", "attention_index", "recurrence")


def _batch(
    prefill: Array = 0.0, past: Array = 0.0, decode: Array = 0.0, context: Array = 0.0, emit: Array = 0.0
) -> Batch:
    return Batch(
        prefill_tokens=jnp.asarray(prefill),
        prefill_seqs=jnp.where(jnp.asarray(prefill) > 0, 1.0, 0.0),
        prefill_past=jnp.asarray(past),
        decode_seqs=jnp.asarray(decode),
        decode_context=jnp.asarray(context),
        emitting_prefills=jnp.asarray(emit),
    )


def _attention(system: System, batch: Batch) -> Array:
    costs = operator_costs(system, batch)
    return sum((costs[name].seconds for name in _ATTENTION), start=jnp.asarray(0.0))


def _tokens(system: System, n: Array) -> Array:
    return token_terms(system, _batch(decode=n))


def _experts(system: System, n: Array) -> Array:
    costs = operator_costs(system, _batch(decode=n))
    return sum((costs[name].seconds for name in _EXPERTS), start=jnp.asarray(0.0))


def _seqs(system: System, e: Array) -> Array:
    head = operator_costs(system, _batch(emit=e))["lm_head"].seconds
    return head + system.calibration.step.host_per_seq_s * e


def _prefill(system: System, chunk: Array, past: Array) -> Array:
    return _attention(system, _batch(prefill=chunk, past=past))


def _decode(system: System, seqs: Array, context: Array) -> Array:
    return _attention(system, _batch(decode=seqs, context=context))


@lru_cache(maxsize=1)
def _program() -> Any:
    def grids(system: System, n: Array, s: Array, past: Array, context: Array) -> tuple[Array, ...]:
        one = jax.vmap(_tokens, (None, 0))
        two = jax.vmap(_seqs, (None, 0))
        pre = jax.vmap(jax.vmap(_prefill, (None, None, 0)), (None, 0, None))
        dec = jax.vmap(jax.vmap(_decode, (None, None, 0)), (None, 0, None))
        floor = _prefill(system, jnp.asarray(1e-6), jnp.asarray(0.0))
        shared = jax.vmap(_experts, (None, 0))
        return (
            one(system, n),
            shared(system, n),
            two(system, s),
            pre(system, n, past),
            dec(system, s, context),
            floor,
        )

    return compiled(grids)


def build_step_table(
    system: System,
    *,
    max_tokens: int | None = None,
    max_seqs: int | None = None,
    max_context: int | None = None,
) -> StepTable:
    """The step table of one replica (seconds, float64), from 1 to the engine's and the model's limits.

    A prefill chunk's entry leaves out the launch floor, which the playback adds once per iteration.

    Args:
        system: one replica with scalar leaves.
        max_tokens, max_seqs, max_context: ends of the grids; defaults: the token budget (and at least the
            sequences), `max_num_seqs`, the model's context up to 2^20.
    """
    eng = system.engine
    seqs = int(max_seqs or float(eng.max_num_seqs))
    tokens = int(max_tokens or max(float(eng.max_num_batched_tokens), seqs))
    context = int(max_context or min(float(system.model.max_context), 2.0**20))
    n = octave_grid(1, max(tokens, 2))
    s = octave_grid(1, max(seqs, 2))
    past = octave_grid(16, max(context, 32), zero=True)
    ctx = octave_grid(1, max(context, 2))
    with jax.enable_x64(True):
        t_n, t_e, t_s, t_p, t_d, floor = (np.asarray(x) for x in _program()(system, n, s, past, ctx))
    return StepTable(
        tokens_grid=n,
        tokens_s=t_n,
        seqs_grid=s,
        seqs_s=t_s,
        prefill_chunk_grid=n,
        prefill_past_grid=past,
        prefill_s=np.maximum(t_p - floor, 0.0),
        decode_seqs_grid=s,
        decode_context_grid=ctx,
        decode_s=t_d,
        experts_s=t_e,
        overhead_s=float(system.calibration.step.host_s),
        prefill_floor_s=float(floor) + float(system.calibration.step.prefill_host_s),
        pp=int(float(system.parallel.pp)),
    )
