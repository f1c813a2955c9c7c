"""Device memory: weights, reserves, and how many KV blocks are left, as the engines compute it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.numerics import safe_divide
from mist_jax.pytree import pytree
from mist_jax.system.deployment import System
from mist_jax.system.model import AttentionGroups, Model
from mist_jax.system.parallel import Parallel

Array = Any


@pytree
class MemoryUse:
    """Bytes per chip, and what they leave for the KV cache."""

    weights: Array
    activations: Array
    reserve: Array
    state_per_seq: Array  #: recurrent state of one sequence
    kv_budget: Array  #: bytes left for KV (negative: the deployment does not fit, by so much)
    kv_per_token: Array  #: bytes of one token in layers that keep every token
    kv_window: Array  #: bytes that sliding-window layers of one full sequence keep
    kv_blocks: Array  #: blocks of `block_size` tokens that the budget holds
    kv_tokens: Array  #: tokens of one attention-DP rank


def replicated_kv_width(att: AttentionGroups, tp: Array) -> Array:
    """Columns of the key and value projections that a rank holds beyond its 1/tp, [MAX_ATTENTION_GROUPS].

    With more ranks than KV heads every rank keeps one head: kv (d_qk + d_v) (1 / min(tp, kv) - 1 / tp). Not for
    latent attention (no split of the latent) and recurrences.
    """
    plain = (1.0 - att.is_mla) * (1.0 - att.is_recurrent)
    heads = jnp.maximum(att.kv_heads, 1.0)
    return plain * heads * (att.qk_dim + att.v_dim) * (1.0 / jnp.minimum(tp, heads) - 1.0 / tp)


def weight_bytes_per_chip(model: Model, parallel: Parallel) -> Array:
    """Bytes of weights on the fullest chip.

    Attention and dense feed-forward are split over TP, except what MLA and the indexer replicate; routed experts
    over EP and MoE-TP; shared experts over TP; the embedding and LM head over TP (vocabulary parallel); layers
    over PP. With PP the first and last stages hold one embedding each; one is counted.
    """
    att = model.attention
    attention = jnp.sum(
        att.layers
        * (
            (att.in_params + att.out_params) / parallel.tp
            + att.in_params_replicated
            + model.hidden * replicated_kv_width(att, parallel.tp)
        )
    )
    matrices = model.ffn_matrices * model.hidden
    dense = model.dense_layers * matrices * model.dense_ffn / parallel.tp
    shared = model.moe_layers * matrices * model.shared_ffn / parallel.tp
    experts = (
        model.moe_layers
        * (model.experts + parallel.redundant)
        * (model.ffn_matrices * model.expert_hidden * model.expert_ffn)
        / (parallel.ep * parallel.moe_tp)
    )
    router = model.moe_layers * model.hidden * model.experts
    # one table of a tied model is on the first and on the last stage
    tables = jnp.where(parallel.pp > 1, parallel.pp, 2.0 - model.tied_embeddings)
    embedding = tables * model.vocab * model.hidden / parallel.tp
    return (
        attention * model.attention_weight_bytes
        + (dense + shared) * model.ffn_weight_bytes
        + experts * model.expert_weight_bytes
        + router * model.embedding_bytes
        + embedding * model.embedding_bytes
        + model.extra_params * model.embedding_bytes
    ) / parallel.pp


def kv_bytes_per_chip(model: Model, parallel: Parallel, context: Array) -> Array:
    """Bytes of the KV cache of one sequence of `context` tokens on one chip; shape like `context`.

    A layer keeps min(context, window) tokens, one entry per `compress` of them, and the newest `local_window`
    uncompressed; entries are split over as many TP ranks as there are KV heads (an MLA latent is replicated).
    """
    att = model.attention
    n = jnp.expand_dims(jnp.asarray(context), -1)
    entries = jnp.minimum(n, att.cache_window) / jnp.maximum(att.compress, 1.0)
    uncompressed = jnp.minimum(n, att.local_window)
    main, index = _entry_bytes(model, parallel)
    return jnp.sum(entries * (main + index) + uncompressed * main, axis=-1)


def _entry_bytes(model: Model, parallel: Parallel) -> tuple[Array, Array]:
    """Bytes per cached entry of each attention group on one chip, all its layers: (keys and values, indexer)."""
    att = model.attention
    shards = jnp.minimum(parallel.tp, jnp.maximum(att.kv_shards_max, 1.0))
    layers = att.layers * (1.0 - att.is_recurrent) / parallel.pp
    return layers * att.kv_elements / shards * model.kv_bytes, layers * att.index_elements * model.index_bytes


def kv_bytes_total(model: Model, context: Array) -> Array:
    """Bytes of the KV cache of one sequence, not sharded: what a transfer between replicas moves."""
    one = Parallel(tp=1.0, pp=1.0, dp=1.0, ep=1.0, moe_tp=1.0)
    return kv_bytes_per_chip(model, one, context) + state_bytes(model)


def state_bytes(model: Model) -> Array:
    """Bytes of recurrent state of one sequence (gated-delta, Mamba), not sharded."""
    att = model.attention
    return jnp.sum(att.layers * att.is_recurrent * att.state_elements) * model.state_bytes


def activation_bytes(system: System) -> Array:
    """Peak activation bytes per chip in an iteration that fills the token budget.

    The largest live tensors: residual, normed input and the wider of the QKV and feed-forward intermediates, in
    16-bit; and the float32 logits of `max_num_seqs` rows. vLLM measures this by a profiling run
    (docs.vllm.ai, "Conserving memory"); this is the closed form of what that run allocates, within about 1 GB.
    """
    model, par, eng = system.model, system.parallel, system.engine
    tokens = eng.max_num_batched_tokens
    ffn = jnp.maximum(model.dense_ffn * (model.dense_layers > 0), model.shared_ffn)
    routed = model.top_k * model.expert_ffn * (model.moe_layers > 0)
    width = jnp.maximum(ffn / par.tp, routed / (par.ep * par.moe_tp))
    derived = tokens * 2.0 * (4.0 * model.hidden + model.ffn_matrices * width)
    logits = eng.max_num_seqs * model.vocab / par.tp * 4.0
    given = eng.activation_bytes_per_token
    return jnp.where(given > 0, given * tokens, derived) + logits


def memory_use(system: System) -> MemoryUse:
    """Bytes of each kind per chip, and the number of KV blocks (shape: scalars).

    budget = utilization * capacity - weights - activations - reserve, as vLLM's `determine_available_memory`
    does; blocks = floor(budget / bytes of a block). Where activations have the rest of the memory
    (`build.activations_apart`) only those that exceed it are taken off. Sliding-window layers are charged for the
    tokens they keep.
    """
    hw, model, par, eng = system.hardware, system.model, system.parallel, system.engine
    weights = weight_bytes_per_chip(model, par)
    activations = activation_bytes(system)
    state = state_bytes(model) / (par.tp * par.pp)
    rest = eng.activations_apart * (1.0 - eng.memory_utilization) * hw.memory_capacity
    inside = jnp.maximum(activations - rest, 0.0)
    free = eng.memory_utilization * hw.memory_capacity - weights - inside - eng.reserve_bytes
    budget = jnp.where(free > 0, eng.kv_free_fraction, 1.0) * free
    att = model.attention
    main, index = _entry_bytes(model, par)
    entry = (main + index) / jnp.maximum(att.compress, 1.0)
    windowed = jnp.isfinite(att.cache_window)
    per_token = jnp.sum(jnp.where(windowed, 0.0, entry))
    window = jnp.sum(jnp.where(windowed, entry * jnp.where(windowed, att.cache_window, 0.0), 0.0))
    window += jnp.sum(att.local_window * main)
    per_seq = window + state
    after_seqs = budget - per_seq * eng.max_num_seqs
    # A model whose every layer slides keeps a fixed amount per sequence: its tokens are then unlimited.
    usable = jnp.maximum(jnp.where(after_seqs > 0.1 * budget, after_seqs, 0.1 * budget), 0.0)
    tokens = jnp.where(per_token > 0, safe_divide(usable, per_token, 0.0), jnp.where(budget > 0, 1e12, 0.0))
    # a number that the engine reported (vLLM's num_gpu_blocks) goes before ours
    reported = eng.kv_blocks * eng.block_size
    tokens = jnp.where(reported > 0, reported, tokens)
    budget = jnp.where(
        (reported > 0) & (per_token > 0), reported * per_token + per_seq * eng.max_num_seqs, budget
    )
    return MemoryUse(
        weights=weights,
        activations=activations,
        reserve=eng.reserve_bytes,
        state_per_seq=state,
        kv_budget=budget,
        kv_per_token=per_token,
        kv_window=window,
        kv_blocks=jnp.floor(tokens / eng.block_size),
        kv_tokens=tokens,
    )
