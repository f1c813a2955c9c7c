"""Tabulate `step_time` for the playback: its four separable terms on grids of batch shapes, in one compiled call."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.operators import operator_costs
from mist_jax.physics.step import host_seconds, token_terms
from mist_jax.programs import compiled
from mist_jax.pytree import replace
from mist_jax.queueing.table import StepTable, octave_grid
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System

Array = Any

#: Shared by the attention-DP ranks of a replica.
_EXPERTS = ("experts", "expert_dispatch")
_ATTENTION = ("attention_prefill", "attention_decode", "attention_index", "recurrence")


#: Points of one call are a multiple of this: few sizes to compile for.
_POINTS = 16384


def _batch(
    prefill: Array = 0.0, past: Array = 0.0, decode: Array = 0.0, context: Array = 0.0, emit: Array = 0.0
) -> Array:
    """[points, 5] batches, all broadcast against one another, in order."""
    columns = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (prefill, past, decode, context, emit))
    )
    return np.stack([c.ravel() for c in columns], axis=1)


def _terms(drafting: bool, system: System, point: Array) -> Array:
    """[4] seconds of one batch: token terms, experts in them, terms of emitting sequences, attention.

    With `drafting`, the last holds what speculation adds to decoding sequences beside their tokens: attention of the
    drafts to verify and their rows of the LM head, drafting, and the host between the two.
    """
    prefill, past, decode, context, emit = point
    batch = Batch(
        prefill_tokens=prefill,
        prefill_seqs=jnp.where(prefill > 0, 1.0, 0.0),
        prefill_past=past,
        decode_seqs=decode,
        decode_context=context,
        emitting_prefills=emit,
    )
    plain = replace(system, engine=replace(system.engine, draft_tokens=0.0)) if drafting else system
    costs = operator_costs(plain, batch, together=True)

    def total(names: tuple[str, ...], costs: Any = costs) -> Array:
        return sum((costs[name].seconds for name in names), start=jnp.asarray(0.0))

    attention = total(_ATTENTION)
    if drafting:
        batch_of_drafts = replace(batch, decode_width=1.0 + system.engine.draft_tokens)
        wide = operator_costs(system, batch_of_drafts, together=True)
        attention = total((*_ATTENTION, "lm_head", "draft"), wide) - costs["lm_head"].seconds
        attention += host_seconds(system, batch) - host_seconds(plain, batch)
    head = costs["lm_head"].seconds + system.calibration.step.host_per_seq_s * emit
    return jnp.stack([token_terms(plain, batch, costs), total(_EXPERTS), head, attention])


@lru_cache(maxsize=2)
def _program(drafting: bool) -> Any:
    return compiled(jax.vmap(partial(_terms, drafting), (None, 0)))


def _fill(system: System, parts: list[Array]) -> list[Array]:
    """[points, 4] terms of each part's batches, in one call."""
    points = np.concatenate(parts)
    missing = -points.shape[0] % _POINTS
    drafting = float(system.engine.draft_tokens) > 0
    out = np.asarray(
        _program(drafting)(system, np.concatenate([points, np.repeat(points[-1:], missing, axis=0)]))
    )
    return np.split(out[: points.shape[0]], np.cumsum([p.shape[0] for p in parts])[:-1])


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
    width = 1.0 + float(eng.draft_tokens)
    tokens = int(max(max_tokens or float(eng.max_num_batched_tokens), seqs * width))
    context = int(max_context or min(float(system.model.max_context), 2.0**20))
    n = octave_grid(1, max(tokens, 2))
    s = octave_grid(1, max(seqs, 2))
    past = octave_grid(16, max(context, 32), zero=True)
    ctx = octave_grid(1, max(context, 2))
    parts = [
        _batch(decode=n),
        _batch(emit=s),
        _batch(prefill=n[:, None], past=past),
        _batch(decode=s[:, None], context=ctx),
        _batch(prefill=1e-6),
    ]
    one_launch = float(eng.query_tile) > 0
    if one_launch:
        parts.append(_batch(prefill=1e-6, decode=s[:, None], context=ctx))
    with jax.enable_x64(True):
        by_tokens, by_seqs, pre, dec, least, *mixed = _fill(system, parts)
    t_p, t_d = pre[:, 3].reshape(n.size, past.size), dec[:, 3].reshape(s.size, ctx.size)
    floor = float(least[0, 3])
    t_m = np.maximum(mixed[0][:, 3] - floor, 0.0).reshape(t_d.shape) if one_launch else None
    return StepTable(
        tokens_grid=n,
        tokens_s=by_tokens[:, 0],
        seqs_grid=s,
        seqs_s=by_seqs[:, 2],
        prefill_chunk_grid=n,
        prefill_past_grid=past,
        prefill_s=np.maximum(t_p - floor, 0.0),
        decode_seqs_grid=s,
        decode_context_grid=ctx,
        decode_s=t_d,
        mixed_s=t_m,
        experts_s=by_tokens[:, 1],
        overhead_s=float(system.calibration.step.host_s),
        prefill_floor_s=floor + float(system.calibration.step.prefill_host_s),
        decode_width=width,
        pp=int(float(system.parallel.pp)),
    )
