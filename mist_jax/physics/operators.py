"""The operators of one engine iteration: seconds, FLOPs, bytes and messages of each, on one chip.

Shapes follow the engines' kernels: projections fused over heads, one grouped kernel for the routed experts, one
attention kernel for the prompts and one for the decodes of the iteration. All layers of a kind are alike, so a
layer is worked once and multiplied.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics import kernels as k
from mist_jax.physics.collectives import group_all_gather, group_all_reduce, group_all_to_all, group_send
from mist_jax.physics.feed_forward import feed_forward
from mist_jax.physics.memory import replicated_kv_width
from mist_jax.physics.operator_cost import FIELDS, Cost, column, cost, gemms, kernels_of, products_scale
from mist_jax.physics.resolve import Rated, resolve
from mist_jax.pytree import replace
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System

Array = Any

#: Names of the operators, in the order of the last axis of a breakdown.
OPERATORS = (
    "attention_in",
    "attention_prefill",
    "attention_decode",
    "attention_index",
    "recurrence",
    "attention_out",
    "ffn_dense",
    "ffn_shared",
    "router",
    "experts",
    "elementwise",
    "all_reduce",
    "expert_dispatch",
    "pipeline_send",
    "lm_head",
    "draft",
)
#: Operators whose time depends on the tokens of the iteration alone, see docs/architecture.md, "The step table".
TOKEN_OPERATORS = tuple(
    o
    for o in OPERATORS
    if o not in ("attention_prefill", "attention_decode", "attention_index", "recurrence", "lm_head", "draft")
)


def operator_costs(system: System, batch: Batch, *, together: bool = False) -> dict[str, Cost]:
    """Cost of each of `OPERATORS` for one iteration (scalars); together: as in `operator_cost.gemms`.

    FLOPs count a multiply-add as two. Prefill attention is causal (half of the square), the LM head runs on the
    tokens that emit, expert weights are read for the experts that the tokens touch.

    Not modelled: padding of captured graphs, ragged lengths within one launch (means are used).
    """
    system = resolve(system)
    out = _attention(system, batch, together)
    t_router, t_head = _wide(system, batch, together)
    out.update(feed_forward(system, batch, t_router, together))
    out.update(_rest(system, batch, t_head))
    out["expert_dispatch"] = _behind(system, out)
    out["draft"] = _draft(system, batch, out)
    return {name: out[name] for name in OPERATORS}


def _behind(system: System, costs: dict[str, Cost]) -> Cost:
    """The exchange of tokens between experts, less what two micro-batches hide behind the products.

    max(0, exchange - products): while one half of the batch exchanges the other computes (DeepSeek-V3, arXiv
    2412.19437, 3.2.1). Attention cores are left out, whose time does not depend on the tokens alone. Not modelled:
    weights read twice, SMs that the exchange takes from the products.
    """
    dispatch = costs["expert_dispatch"]
    products = [costs[o].seconds for o in TOKEN_OPERATORS if o not in ("expert_dispatch", "pipeline_send")]
    hidden = jnp.minimum(dispatch.seconds, sum(products[1:], products[0]))
    return replace(dispatch, seconds=dispatch.seconds - system.engine.two_batches * hidden)


def _draft(system: System, batch: Batch, costs: dict[str, Cost]) -> Cost:
    """Drafting for speculation: k passes through one layer (the model's mean) and the LM head."""
    drafts = jnp.where(batch.decode_seqs > 0, system.engine.draft_tokens, 0.0)
    whole = np.asarray([o == "lm_head" for o in costs])
    passes = drafts * jnp.where(whole, 1.0, 1.0 / system.model.layers)
    seconds, flops, nbytes, sent = (jnp.sum(passes * column(costs.values(), field)) for field in FIELDS)
    return cost(system.calibration.step.draft_scale * seconds, flops, nbytes, sent)


#: Tokens of a window that never ends.
ENDLESS = 1e15


def _either(which: Array, first: Rated, second: Rated) -> Rated:
    """`second` where `which` > 0, else `first`, group by group of attention layers."""
    return jax.tree.map(lambda a, b: jnp.where(which > 0, b, a), first, second)


def _attention(system: System, batch: Batch, together: bool) -> dict[str, Cost]:
    hw, model, par = system.hardware, system.model, system.parallel
    kern, step = kernels_of(system), system.calibration.step
    att = model.attention
    tp = par.tp
    tokens = batch.prefill_tokens + batch.decode_seqs * batch.decode_width
    softmax = 1.0 - att.is_recurrent
    wb, ab = model.attention_weight_bytes, model.activation_bytes

    # projections: N = in_width / tp, K follows from the element count (MLA: two low-rank products in one)
    width = jnp.maximum(att.in_width / tp + replicated_kv_width(att, tp), 1.0)
    depth = att.in_params / jnp.maximum(att.in_width, 1.0)
    replicated = att.in_params_replicated / model.hidden
    depth_out = att.out_params / model.hidden / tp
    t_in, t_rep, t_out = gemms(
        kern.attention_gemm,
        hw,
        tokens,
        (width, replicated, model.hidden),
        (depth, model.hidden, depth_out),
        wb,
        ab,
        2.0,
        together=together,
    )
    has_in = att.in_params > 0
    t_in = jnp.where(has_in, t_in, 0.0) + t_rep
    elements_in = jnp.where(has_in, width * depth, 0.0) + att.in_params_replicated
    moved_in = jnp.where(has_in, width + depth, 0.0) + replicated + model.hidden * (replicated > 0)

    def linear(seconds: Array, elements: Array, moved: Array) -> Cost:
        """`moved`: elements read and written per token."""
        return cost(
            products_scale(step, tokens) * jnp.sum(att.layers * seconds),
            jnp.sum(att.layers * 2.0 * tokens * elements),
            jnp.where(tokens > 0, jnp.sum(att.layers * (elements * wb + tokens * moved * ab)), 0.0),
        )

    # attention cores
    heads = att.heads / tp
    kv_heads = jnp.maximum(att.kv_heads / tp, jnp.minimum(att.kv_heads, 1.0))
    decode_kv = jnp.maximum(att.decode_kv_heads / tp, jnp.minimum(att.decode_kv_heads, 1.0))
    seqs = jnp.where(batch.prefill_seqs > 0, batch.prefill_seqs, 1.0)
    chunk, past = batch.prefill_tokens / seqs, batch.prefill_past
    squeeze = jnp.maximum(att.compress, 1.0)
    # entries seen by a query: of the compressed past at most `window`, and the newest tokens uncompressed. A window
    # without end is a large number here: inf times a tangent of 0 would be NaN in forward mode.
    reach = jnp.where(jnp.isfinite(att.window), att.window, ENDLESS)
    window = reach + att.local_window

    def entries(past: Array) -> Array:
        return jnp.minimum(past / squeeze, reach) + jnp.minimum(past, att.local_window)

    pairs = k.causal_pairs(chunk, past, reach * squeeze) / squeeze + k.causal_pairs(
        chunk, past, att.local_window
    )
    prefill = _either(att.is_mla, kern.prefill_attention, kern.prefill_mla)
    prefill_args = (chunk, entries(past), heads, kv_heads, att.qk_dim, att.v_dim, model.kv_bytes, None)
    t_pre = k.attention_prefill_time(prefill.coef, prefill.on(hw), *prefill_args, window, seqs, 2.0, pairs)
    prefill_flops = 2.0 * heads * (att.qk_dim + att.v_dim) * pairs * seqs
    keys = (entries(past) + chunk) * seqs
    prefill_bytes = (att.qk_dim + att.v_dim) * (
        kv_heads * keys * model.kv_bytes + heads * batch.prefill_tokens * ab
    )

    decode = _either(att.is_mla, kern.decode_attention, kern.decode_mla)
    # a kernel with a sliding window reads a little beyond it: it has to see the whole context
    seen = jnp.where(jnp.isfinite(att.cache_window), batch.decode_context, entries(batch.decode_context))
    qk, v = att.decode_qk_dim, att.decode_v_dim
    queries = heads * batch.decode_width  # drafts to verify are further queries on the same keys
    decode_args = (
        batch.decode_seqs,
        seen,
        queries,
        decode_kv,
        qk,
        v,
        model.kv_bytes,
        None,
        window,
        att.is_mla,
    )
    t_dec = k.attention_decode_time(decode.coef, decode.on(hw), *decode_args)
    # One launch for prompts and decodes: a decode takes a tile of queries for each head, nearly all of it padding. The
    # tiles of some sequences work while those of others load.
    core_kernel = kern.prefill_attention
    reach_of_tile = jnp.minimum(seen, window)
    tile_args = (
        system.engine.query_tile,
        batch.decode_seqs,
        reach_of_tile,
        heads,
        att.qk_dim,
        att.v_dim,
        None,
    )
    t_tile = k.attention_tile_time(core_kernel.coef, core_kernel.on(hw), *tile_args)
    tiled = (system.engine.query_tile > 0) & (chunk > 0) & (att.is_mla < 0.5)
    t_dec = jnp.where(tiled, jnp.maximum(t_dec, t_tile), t_dec)
    attended = entries(batch.decode_context) * batch.decode_seqs
    decode_flops = 2.0 * queries * (qk + v) * attended
    decode_bytes = decode_kv * (qk + (1.0 - att.is_mla) * v) * attended * model.kv_bytes
    decode_bytes += batch.decode_seqs * queries * (qk + v) * ab

    # sparse attention scores every past token with a small indexer first (DeepSeek-V3.2 report, eq. 1)
    index_dim = att.index_elements
    past_pairs = batch.decode_seqs * batch.decode_context + k.causal_pairs(chunk, past) * seqs
    index_flops = 2.0 * att.index_heads * index_dim * past_pairs / squeeze
    scanned = batch.decode_seqs * batch.decode_context + (past + chunk) * seqs * (chunk > 0)
    index_bytes = scanned * index_dim * model.index_bytes / squeeze
    products = kern.attention_gemm
    index_used = att.index_heads > 0
    t_index = jnp.where(
        index_used,
        index_flops / (products.peak * products.coef.compute_efficiency)
        + index_bytes / (hw.memory_bandwidth * products.coef.memory_efficiency)
        + INDEX_LAUNCHES * kern.wide_gemm.coef.launch_s * (1.0 * (chunk > 0) + 1.0 * (batch.decode_seqs > 0)),
        0.0,
    )

    # recurrences
    recurrent = att.is_recurrent
    rec_args = (heads, jnp.maximum(att.kv_heads / tp, 1.0), att.qk_dim, att.v_dim, 2.0, model.state_bytes)
    mixer, chip = kern.recurrent.coef, kern.recurrent.on(hw)
    t_rec = k.recurrent_time(mixer, chip, batch.prefill_tokens, seqs, *rec_args)
    t_rec += k.recurrent_decode_time(mixer, chip, batch.decode_seqs, *rec_args)
    touched_states = (
        2.0 * (batch.decode_seqs + batch.prefill_seqs) * att.state_elements / tp * model.state_bytes
    )

    def total(x: Array) -> Array:
        return jnp.sum(att.layers * x)

    def core(x: Array) -> Array:
        return total(softmax * x)

    scale = step.attention_scale
    return {
        "attention_in": linear(t_in, elements_in, moved_in),
        "attention_prefill": cost(
            step.prefill_attention_scale * core(t_pre),
            core(prefill_flops),
            core(jnp.where(chunk > 0, prefill_bytes, 0.0)),
        ),
        "attention_decode": cost(scale * core(t_dec), core(decode_flops), core(decode_bytes)),
        "attention_index": cost(scale * total(t_index), total(index_flops), total(index_bytes)),
        "recurrence": cost(
            scale * total(recurrent * t_rec),
            total(recurrent * tokens * att.state_flops / tp),
            total(recurrent * touched_states),
        ),
        "attention_out": linear(t_out, att.out_params / tp, depth_out + model.hidden),
    }


#: Most tokens of an iteration for which vLLM captures a graph, and pads the ranks to the same batch
#: (vllm/config, max_cudagraph_capture_size).
CAPTURED_TOKENS = 512.0

#: Kernels that the indexer of sparse attention launches in a layer besides reading keys: two projections, rotation,
#: quantization, logits, selection (DeepSeek-V3.2 reference implementation); once for prompts, once for decodes.
INDEX_LAUNCHES = 6.0


def _rows_of_head(batch: Batch) -> Array:
    """Tokens that need logits."""
    return batch.decode_seqs * batch.decode_width + batch.emitting_prefills


def _wide(system: System, batch: Batch, together: bool) -> tuple[Array, ...]:
    """Seconds of the products in 16 bits: (router of one layer, LM head)."""
    model, par = system.model, system.parallel
    tokens = batch.prefill_tokens + batch.decode_seqs * batch.decode_width
    experts = jnp.maximum(model.experts, 1.0) + par.redundant
    return gemms(
        kernels_of(system).wide_gemm,
        system.hardware,
        (tokens, _rows_of_head(batch)),
        (experts, model.vocab / par.tp),
        model.hidden,
        (2.0, model.embedding_bytes),
        2.0,
        4.0,
        together=together,
    )


def _rest(system: System, batch: Batch, t_head: Array) -> dict[str, Cost]:
    hw, model, par = system.hardware, system.model, system.parallel
    kern, step = kernels_of(system), system.calibration.step
    tokens = batch.prefill_tokens + batch.decode_seqs * batch.decode_width
    layers = model.layers
    moe_layers = jnp.where(model.moe_layers > 0, model.moe_layers, 0.0)

    # two norms with residual (read, read, write), rotary and activation: about 10 passes over the residual
    # stream in 16-bit, the activation over its own width (mean over dense and shared feed-forward layers)
    gated = (model.dense_layers * model.dense_ffn + moe_layers * model.shared_ffn) / layers / par.tp
    width = 10.0 * model.hidden * model.residual_streams + 3.0 * gated
    nbytes = tokens * width * 2.0
    elementwise = k.elementwise_time(kern.elementwise, hw, nbytes)

    # Tensor parallelism: one all-reduce after attention, one after the feed-forward (Megatron-LM, arXiv
    # 1909.08053). With attention-DP the experts exchange tokens with all ranks instead.
    message = tokens * model.hidden * 2.0
    reduce_layer, reduce_sent = group_all_reduce(kern, hw, message, par.tp)
    spread = par.dp > 1.0
    reduces = layers + jnp.where(spread, layers - moe_layers, layers)
    chips = par.tp * par.dp
    gathered = message * par.dp
    rows = _rows_of_head(batch)
    results, ranks = jnp.stack([gathered, rows * model.vocab * 2.0]), jnp.stack([chips, par.tp])
    (gather, gather_logits), (gather_sent, logits_sent) = group_all_gather(kern, hw, results, ranks)
    routed = tokens / par.tp * model.top_k * model.expert_hidden
    to_all, to_all_sent = group_all_to_all(kern, hw, routed * (1.0 + 2.0), chips, model.top_k)
    # dispatch + combine: gather and scatter everything, or send each token to its experts, whichever is quicker
    to_all = to_all * step.imbalance  # the rank whose experts are the busiest receives the most
    use_gather = 2.0 * gather < to_all
    # vLLM gathers tokens by default. Beyond the captured sizes ranks are not padded to the same batch, and each sends
    # its part in a broadcast of its own: all of the bytes pass each link, not (n - 1) / n of them.
    uneven = jnp.where(tokens > CAPTURED_TOKENS, system.engine.uneven_exchange, 0.0)
    gathers = 2.0 * gather * (1.0 + uneven / jnp.maximum(chips - 1.0, 1.0))
    dispatch = jnp.where(use_gather, gathers, to_all)
    dispatch_sent = jnp.where(use_gather, 2.0 * gather_sent, to_all_sent)
    dispatch_layers = jnp.where(spread, moe_layers, 0.0)

    # stages follow each other through the domains: (domains - 1) of the (pp - 1) borders lie between two domains
    domains = par.tp * par.dp * par.pp / hw.scale_up_domain
    borders = jnp.maximum(par.pp - 1.0, 1.0)
    send = group_send(kern, hw, message / par.tp, jnp.clip((domains - 1.0) / borders, 0.0, 1.0))
    sends = jnp.where(tokens > 0, par.pp - 1.0, 0.0)

    vocab = model.vocab / par.tp
    visible = step.comm_scale * (1.0 - step.comm_overlap)
    return {
        "elementwise": cost(layers * elementwise, 0.0, layers * nbytes),
        "all_reduce": cost(visible * reduces * reduce_layer, sent=reduces * reduce_sent),
        "expert_dispatch": cost(
            dispatch_layers * step.dispatch_scale * (1.0 - step.comm_overlap) * dispatch,
            sent=dispatch_layers * dispatch_sent,
        ),
        "pipeline_send": cost(sends * send, sent=sends * message / par.tp),
        "lm_head": cost(
            step.compute_scale * t_head + step.comm_scale * gather_logits,
            2.0 * rows * vocab * model.hidden,
            vocab * model.hidden * model.embedding_bytes * (rows > 0)
            + rows * (2.0 * model.hidden + 4.0 * vocab),
            logits_sent,
        ),
    }
