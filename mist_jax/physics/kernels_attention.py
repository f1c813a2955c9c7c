"""Time of the softmax attention core: prefill (compute-bound, causal) and decode (a read of the KV cache)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import at_precision, effective_precision, from_cache, overlap, when
from mist_jax.pytree import pytree
from mist_jax.system.hardware import Hardware

Array = Any

#: Rows of queries one thread block works on (T. Dao, "FlashAttention-2", arXiv 2307.08691, section 3.3).
QUERY_TILE = 128.0


@pytree
class PrefillAttentionCoefficients:
    """Efficiencies of prefill attention; every leaf has shape [len(COMPUTE_PRECISIONS)]."""

    compute_efficiency: Array  #: share of the dense peak of the two matrix products
    memory_efficiency: Array  #: share of the memory bandwidth
    launch_s: Array  #: s, floor of the launch
    serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    softmax_rate: Array  #: exponentials per clock and unit
    key_padding: Array  #: keys computed for nothing per query (masked part of diagonal tiles)
    tail: Array  #: relative slow-down when the query tiles just fill the units once
    tile_s: Array  #: s per query tile at one unit, spread over the units (prologue, epilogue, cache write)
    head_dim_limit: Array  #: width of a head at which register pressure halves the rate of the products


@pytree
class DecodeAttentionCoefficients:
    """Efficiencies of decode attention; every leaf has shape [len(COMPUTE_PRECISIONS)]."""

    compute_efficiency: Array  #: share of the dense peak of the two products of a query group
    memory_efficiency: Array  #: share of the memory bandwidth when the cache is long
    launch_s: Array  #: s, floor of the launch (and of the kernel that merges the splits)
    serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    group_padding: Array  #: query rows computed for nothing per KV head (a group is narrower than a tile)
    tail: Array  #: relative slow-down when the work items just fill the units once
    split_tokens: Array  #: cached tokens after which a sequence is split over more units (flash decoding)
    sequence_s: Array  #: s per sequence and KV head at one unit, spread over the units
    cache_speedup: Array  #: rate of the cache over that of the memory, for KV left there by the call before
    window_leak: Array  #: share of the tokens outside the window that is read all the same


def causal_pairs(q_tokens: Array, past: Array, window: Array = jnp.inf) -> Array:
    """Query-key pairs of one causal chunk: integral over 0..q of min(past + x, window) dx.

    Without a window: q past + q^2 / 2. No difference of squares: it cancels where a chunk is short beside its past.
    """
    growing = jnp.clip(window - past, 0.0, q_tokens)  # queries that see all before them
    full = q_tokens - growing
    # a window without end times nothing is nothing, in gradients too
    return growing * (past + 0.5 * growing) + full * jnp.where(full > 0, window, 0.0)


def attention_prefill_time(
    coef: PrefillAttentionCoefficients,
    hw: Hardware,
    q_tokens: Array,
    past: Array,
    heads: Array,
    kv_heads: Array,
    qk_dim: Array,
    v_dim: Array,
    kv_bytes_per_element: Array,
    precision_index: Array,
    window: Array = jnp.inf,
    sequences: Array = 1.0,
    activation_bytes: Array = 2.0,
    pairs: Array | None = None,
) -> Array:
    """Seconds of causal attention of `q_tokens` new over `past` cached tokens, per layer.

    launch + overlap(C, bytes / (BW e_m)), where C = overlap(2 h (d_qk + d_v) pairs / (peak e_c),
    h pairs / (units clock r)) (1 + tail units / tiles) + tiles t / units. The exponentials run on
    special-function units beside the matrix units and are a bound of their own (J. Shah et al.,
    "FlashAttention-3", arXiv 2407.08608, section 3.1; 16 a clock and SM).

    Args:
        q_tokens, past: tokens per sequence, new and cached.
        heads, kv_heads: of this chip.
        qk_dim, v_dim: per head.
        kv_bytes_per_element: of the cache.
        precision_index: of the products, index into COMPUTE_PRECISIONS.
        window: tokens a query attends to at most.
        sequences: equal chunks in the batch.
        activation_bytes: of queries and outputs.
        pairs: query-key pairs of one sequence; None = `causal_pairs` (compressed attention has fewer).

    Fitted on past = 0, 16 to 16,384 tokens, heads of 64 to 256. Not modelled: unequal lengths in one launch
    (call it per chunk and subtract the launches), gathers from a paged cache.
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    pairs = causal_pairs(q_tokens, past, window) if pairs is None else pairs
    pairs = sequences * heads * (pairs + q_tokens * at_precision(coef.key_padding, index))
    tiles = sequences * heads * (q_tokens / QUERY_TILE + 1.0)
    tiles = jnp.where(tiles > 0, tiles, 1.0)
    wide = 1.0 + (qk_dim / at_precision(coef.head_dim_limit, index)) ** 2
    products = 2.0 * (qk_dim + v_dim) * pairs * wide / (peak * at_precision(coef.compute_efficiency, index))
    softmax = pairs / (hw.units * hw.clock * at_precision(coef.softmax_rate, index))
    serial = at_precision(coef.serialization, index)
    compute = overlap(products, softmax, serial) * (1.0 + at_precision(coef.tail, index) * hw.units / tiles)
    compute = compute + tiles * at_precision(coef.tile_s, index) / hw.units
    keys = jnp.minimum(past, window) + q_tokens
    traffic = (
        sequences
        * (qk_dim + v_dim)
        * (q_tokens * heads * activation_bytes + keys * kv_heads * kv_bytes_per_element)
    )
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    busy = overlap(compute, memory, serial)
    return when(sequences * q_tokens * heads > 0, at_precision(coef.launch_s, index) + busy)


def attention_tile_time(
    coef: PrefillAttentionCoefficients,
    hw: Hardware,
    rows: Array,
    sequences: Array,
    context: Array,
    heads: Array,
    qk_dim: Array,
    v_dim: Array,
    precision_index: Array,
) -> Array:
    """Seconds in which one layer's thread blocks work on decodes that share a launch with prompts.

    `rows` of queries a tile, one tile a sequence and head whatever is in it: overlap(2 rows h (d_qk + d_v) s context /
    (peak e_c), exponentials) + tiles t / units, as in `attention_prefill_time`. The read of the cache is not in it.

    Args: as in `attention_prefill_time`; context: tokens that a decode attends to.
    """
    index = effective_precision(hw, precision_index)
    tiles = sequences * heads
    pairs = tiles * rows * context
    wide = 1.0 + (qk_dim / at_precision(coef.head_dim_limit, index)) ** 2
    rate = at_precision(hw.peak_flops, index) * at_precision(coef.compute_efficiency, index)
    products = 2.0 * (qk_dim + v_dim) * pairs * wide / rate
    softmax = pairs / (hw.units * hw.clock * at_precision(coef.softmax_rate, index))
    busy = overlap(products, softmax, at_precision(coef.serialization, index))
    return busy + tiles * at_precision(coef.tile_s, index) / hw.units


def attention_decode_time(
    coef: DecodeAttentionCoefficients,
    hw: Hardware,
    sequences: Array,
    context: Array,
    heads: Array,
    kv_heads: Array,
    qk_dim: Array,
    v_dim: Array,
    kv_bytes_per_element: Array,
    precision_index: Array = 1.0,
    window: Array = jnp.inf,
    shared_kv: Array = 0.0,
    queries: Array = 1.0,
    activation_bytes: Array = 2.0,
    warm: Array = 0.0,
) -> Array:
    """Seconds of one decode step's attention over `context` cached tokens per sequence, per layer.

    launch + overlap(products, KV bytes / (BW e_m)) (1 + tail units / items) + sequence term. The products are
    padded: the queries that share a KV head (heads / kv_heads of them) rarely fill a tile of the matrix unit.

    Args:
        sequences: decoding sequences of this chip.
        context: cached tokens per sequence (the mean; the time is linear in it where bandwidth-bound).
        heads, kv_heads, qk_dim, v_dim: as decode computes them; absorbed MLA has kv_heads = 1, 576 and 512.
        kv_bytes_per_element: of the cache.
        precision_index: of the products, index into COMPUTE_PRECISIONS.
        window: tokens attended to at most.
        shared_kv: 1 where the values are a slice of the keys (absorbed MLA), so they are read once.
        queries: query tokens per sequence (1 + draft tokens in speculative decoding).
        activation_bytes: of queries and outputs.
        warm: 1 where the KV is still cached from the call before (microbenchmarks), 0 in a model.

    Fitted on 1 to 131,072 tokens, 1 to 2,048 sequences, up to 32 heads per KV head. Not modelled: the
    imbalance of unequal contexts in one launch.
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    attended = jnp.minimum(context, window)
    attended = attended + (context - attended) * at_precision(coef.window_leak, index)
    rows = queries * heads + kv_heads * at_precision(coef.group_padding, index)
    flops = 2.0 * sequences * attended * rows * (qk_dim + v_dim)
    compute = flops / (peak * at_precision(coef.compute_efficiency, index))
    cached = sequences * attended * kv_heads * (qk_dim + (1.0 - shared_kv) * v_dim) * kv_bytes_per_element
    traffic = cached + sequences * queries * heads * (qk_dim + v_dim) * activation_bytes
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    memory = memory * from_cache(hw, traffic, at_precision(coef.cache_speedup, index), warm)
    items = sequences * kv_heads * (1.0 + attended / at_precision(coef.split_tokens, index))
    items = jnp.where(items > 0, items, 1.0)
    stretch = 1.0 + at_precision(coef.tail, index) * hw.units / items
    busy = overlap(compute, memory, at_precision(coef.serialization, index)) * stretch
    spread = sequences * kv_heads * at_precision(coef.sequence_s, index) / hw.units
    return when(sequences * heads > 0, at_precision(coef.launch_s, index) + busy + spread)
