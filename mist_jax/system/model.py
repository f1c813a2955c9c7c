"""A transformer (or hybrid) as numbers: layer counts by kind, so that one program serves all models."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any

#: Length of the leading axis of every `AttentionGroups` leaf. Unused groups have `layers = 0`.
MAX_ATTENTION_GROUPS = 3


@pytree
class AttentionGroups:
    """Layers grouped by their token mixer; every leaf has shape [MAX_ATTENTION_GROUPS].

    A group is softmax attention (full, sliding-window, sparse, latent) or a recurrence (`is_recurrent`).
    `heads`, `kv_heads`, `qk_dim`, `v_dim` describe the attention core as prefill computes it (for MLA: the
    expanded multi-head form); `decode_*` describe it as decode computes it (for MLA: the absorbed multi-query
    form over the latent; otherwise the same numbers).
    """

    layers: Array  #: layers of this kind
    heads: Array  #: query heads (value heads of a recurrence)
    kv_heads: Array
    qk_dim: Array
    v_dim: Array
    decode_kv_heads: Array
    decode_qk_dim: Array
    decode_v_dim: Array
    #: cached elements per entry per layer, before sharding (GQA: kv_heads*(qk_dim+v_dim); MLA: lora+rope)
    kv_elements: Array
    kv_shards_max: Array  #: how many TP ranks the cache can be split over (GQA: kv_heads; MLA: 1)
    #: entries (tokens, unless compressed) a query attends to at most (inf: full; sparse attention: its top-k)
    window: Array
    cache_window: Array  #: tokens kept in the cache at most (inf: all). Sparse attention keeps all.
    compress: Array  #: tokens represented by one cached entry (1 except for compressed attention)
    index_elements: Array  #: indexer key elements cached per entry per layer (0: none)
    index_heads: Array  #: indexer heads, scored against every past entry (0: none)
    in_params: (
        Array  #: weight elements of the input projections that TP splits (q, k, v, gates, up-projections)
    )
    #: weight elements of the input side that every TP rank holds (MLA down-projections, indexer, compressor)
    in_params_replicated: Array
    in_width: Array  #: output features of the split input projections (the GEMM's N), before TP
    out_params: Array  #: weight elements of the output projection, split by TP
    is_mla: Array  #: 1.0 for latent attention, else 0.0
    is_recurrent: Array  #: 1.0 for gated-delta / Mamba / linear attention, else 0.0
    state_elements: Array  #: recurrent state elements per sequence per layer (float32 by default)
    state_flops: Array  #: FLOPs of the recurrence per token per layer (projections excluded)
    #: newest tokens attended and cached uncompressed beside the compressed entries (0: none). Entries that a
    #: query with n past tokens reads: min(n / compress, window) + min(n, local_window).
    local_window: Array = 0.0


@pytree
class Model:
    """Numbers of one decoder-only model. Counts are of elements; bytes follow from the precisions."""

    hidden: Array
    vocab: Array
    layers: Array  #: total decoder layers
    attention: AttentionGroups
    # feed-forward: dense layers
    dense_layers: Array
    dense_ffn: Array  #: intermediate size
    ffn_matrices: Array  #: 3 for gated (SwiGLU), 2 for plain
    # feed-forward: mixture-of-experts layers
    moe_layers: Array
    experts: Array
    top_k: Array
    expert_ffn: Array  #: intermediate size of one routed expert
    expert_hidden: Array  #: width the routed experts work in (= hidden, less for latent MoE)
    shared_ffn: Array  #: total intermediate size of shared experts (0: none)
    #: elements not counted elsewhere, held by every rank: norms, biases, convolutions, latent projections,
    #: vision tower. Routers (moe_layers * hidden * experts) are not among them.
    extra_params: Array
    tied_embeddings: Array  #: 1.0 if the LM head shares the embedding
    max_context: Array  #: tokens
    # bytes per element, quantization scales included
    attention_weight_bytes: Array
    ffn_weight_bytes: Array  #: dense feed-forward and shared experts
    expert_weight_bytes: Array
    embedding_bytes: Array  #: embedding and LM head
    activation_bytes: Array
    kv_bytes: Array
    state_bytes: Array
    # index into hardware.COMPUTE_PRECISIONS of the multiply-accumulate (a float; cast where used)
    attention_gemm_precision: Array
    ffn_precision: Array
    expert_precision: Array
    attention_core_precision: Array
    vision_flops_per_image: Array
    draft_layers: Array  #: multi-token-prediction layers shipped with the model (not counted in `layers`)
    index_bytes: Array = (
        1.03125  #: bytes per indexer key element: fp8 and one float32 scale a key of 128 (132 bytes)
    )
    latent_params: Array = 0.0  #: of `extra_params`: all projections into and out of `expert_hidden`
    vision_params: Array = 0.0  #: of `extra_params`: the vision tower, read for images only
    vision_tokens_per_image: Array = 0.0  #: decoder tokens of the nominal image of `vision_flops_per_image`
    residual_streams: Array = (
        1.0  #: copies of the residual that element-wise work reads and writes (hyper-connections)
    )
