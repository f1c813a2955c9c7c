"""The `Model` pytree of an architecture and its number formats; all leaves are NumPy float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mist_jax.errors import ConfigError, nearest
from mist_jax.io.architecture import (
    PRECISIONS,
    RECURRENT_KINDS,
    Architecture,
    AttentionGroup,
    CheckpointPrecision,
    override_precision,
)
from mist_jax.io.parameters import count_parameters, mixer_parameters, vision_flops, vision_parameters
from mist_jax.system.hardware import COMPUTE_PRECISIONS
from mist_jax.system.model import MAX_ATTENTION_GROUPS, AttentionGroups, Model

Array = Any

#: Widest first: the product of two formats runs in the wider one's unit.
_COMPUTE = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}
_WIDTH = ("fp32", "bf16", "int8", "fp8", "fp4")


def bytes_per_element(name: str, group_size: int | None = None) -> float:
    """Bytes of a stored weight, scales included.

    fp8: 1 + 4/(128*128), a float32 scale a block (DeepSeek-V3, arXiv 2412.19437, section 3.3); int4:
    0.5 + 2/group, a 16-bit scale a group of 128 (AWQ, arXiv 2306.00978); mxfp4: 4.25 bits, an 8-bit scale
    per 32 (OCP Microscaling Formats v1.0, section 5.2); nvfp4: 4.5 bits, an fp8 scale per 16 (NVIDIA,
    "Introducing NVFP4", 2025). int8 has one scale an output channel, which is left out.

    Raises:
        ConfigError: unknown format.
    """
    sizes = {
        "fp32": 4.0,
        "bf16": 2.0,
        "fp16": 2.0,
        "fp8": 1.0 + 4.0 / 128**2,
        "int8": 1.0,
        "int4": 0.5 + 2.0 / (group_size or 128),
        "mxfp4": 0.5 + 1.0 / 32.0,
        "nvfp4": 0.5 + 1.0 / 16.0,
    }
    if name not in sizes:
        raise ConfigError(
            f"precision: {name!r} is not one of {', '.join(PRECISIONS)}{nearest(name, PRECISIONS)}"
        )
    return sizes[name]


def cache_bytes_per_element(name: str) -> float:
    """Bytes of a cached element: 8-bit caches keep one scale a tensor, 4-bit ones a scale a block."""
    return 1.0 if name in ("fp8", "int8") else bytes_per_element(name)


def compute_index(weights: str, activations: str | None = None) -> int:
    """Index into `COMPUTE_PRECISIONS` of a product of weights and activations of these formats.

    The narrower of the two is widened ahead of the product: int4 weights compute in bf16 unless activations
    are named, fp8 and int8 in their own unit, mxfp4 and nvfp4 in fp4. What a chip does that lacks the unit is
    the hardware's matter, not the model's.
    """
    weight_unit = "fp4" if weights == "int4" else _COMPUTE[weights]
    if activations is None:
        activations = "bf16" if weights == "int4" else weights
    unit = min(weight_unit, _COMPUTE.get(activations, "fp4"), key=_WIDTH.index)
    return COMPUTE_PRECISIONS.index(unit)


def resolve_precision(checkpoint: CheckpointPrecision, spec: Any) -> CheckpointPrecision:
    """The checkpoint's formats with those of a `precision:` section put in (attributes; None keeps).

    Raises:
        ConfigError: unknown format.
    """
    out = override_precision(
        checkpoint,
        weights=spec.weights,
        experts=spec.experts,
        attention=spec.attention,
        activations=spec.activations,
        kv=spec.kv,
    )
    group = getattr(spec, "group_size", None)
    return out if group is None else dataclasses.replace(out, group_size=int(group))


def _cached_elements(g: AttentionGroup, kv: str) -> float:
    if g.kind in RECURRENT_KINDS:
        return 0.0
    if g.kind == "softmax":
        return g.kv_heads * (g.qk_dim + g.v_dim)
    latent = g.kv_lora_rank if g.kind == "mla" else g.qk_dim - g.rope_dim
    if kv == "fp8" and (g.sparse_top_k or g.kind == "compressed"):
        # Sparse-attention caches keep the rotary part in bf16 and a scale a block beside fp8, here in units
        # of a byte: 512 + 4*4 + 2*64 = 656 for DeepSeek-V3.2 (FlashMLA README, "FP8 KV cache"); V4: 1 per 64.
        scales = 4 * (latent / 128) if g.kind == "mla" else latent / 64
        return latent + scales + 2 * g.rope_dim
    return latent + g.rope_dim


def _state(g: AttentionGroup) -> tuple[float, float]:
    """Recurrent state elements per sequence, and FLOPs per token, of one layer.

    Per state element, delta rules (arXiv 2412.06464, eq. 10): decay 1, read by the key 2, rank-one update 2,
    read by the query 2; Mamba-2 (arXiv 2405.21060): decay 1, update 2, read 2; Mamba (arXiv 2312.00752): the
    same and 4 for discretizing A and B. The convolution's last inputs count as state.
    """
    if g.kind not in RECURRENT_KINDS:
        return 0.0, 0.0
    matrix = g.heads * g.qk_dim * g.v_dim
    values = g.heads * g.v_dim
    channels = values if g.kind == "mamba" else values + 2 * g.kv_heads * g.qk_dim
    per_element = {"gated_delta": 7, "kda": 7, "mamba2": 5, "mamba": 9}[g.kind]
    flops = per_element * matrix + 2 * g.conv_kernel * channels
    return matrix + max(g.conv_kernel - 1, 0) * channels, flops


def _group(g: AttentionGroup, hidden: int, kv: str) -> dict[str, float]:
    """One column of `AttentionGroups`."""
    p = mixer_parameters(g, hidden)
    mla, latent = g.kind == "mla", g.kind in ("mla", "compressed")
    recurrent = g.kind in RECURRENT_KINDS
    inf = float("inf")
    local = 0
    if g.kind == "compressed" and g.compress > 1:
        local = g.window or 0
        window, cached = (g.sparse_top_k if g.sparse_top_k else inf), inf
    else:
        cached = g.window if g.window is not None else inf
        window = min(cached, g.sparse_top_k if g.sparse_top_k is not None else inf)
    state, flops = _state(g)
    return {
        "layers": g.layers,
        "heads": g.heads,
        "kv_heads": g.kv_heads,
        "qk_dim": g.qk_dim,
        "v_dim": g.v_dim,
        # Absorbed MLA (arXiv 2405.04434, 2.1.2): all heads share a key of rank + rope, a value of rank
        "decode_kv_heads": 1 if latent else g.kv_heads,
        "decode_qk_dim": g.kv_lora_rank + g.rope_dim if mla else g.qk_dim,
        "decode_v_dim": g.kv_lora_rank if mla else g.v_dim,
        "kv_elements": _cached_elements(g, kv),
        "kv_shards_max": 1 if latent else g.kv_heads,
        "window": window,
        "cache_window": cached,
        "compress": g.compress,
        "index_elements": g.index_dim if g.index_heads else 0,
        "index_heads": g.index_heads,
        "in_params": p.split_in,
        "in_params_replicated": p.replicated_in,
        "in_width": p.in_width,
        "out_params": p.out,
        "is_mla": float(latent),
        "is_recurrent": float(recurrent),
        "state_elements": state,
        "state_flops": flops,
        "local_window": local,
    }


#: An unused slot of `AttentionGroups`: no layers, dimensions that divide safely.
_UNUSED = dict.fromkeys((f.name for f in dataclasses.fields(AttentionGroups)), 0.0) | {
    "heads": 1.0,
    "kv_heads": 1.0,
    "qk_dim": 1.0,
    "v_dim": 1.0,
    "decode_kv_heads": 1.0,
    "decode_qk_dim": 1.0,
    "decode_v_dim": 1.0,
    "kv_shards_max": 1.0,
    "window": float("inf"),
    "cache_window": float("inf"),
    "compress": 1.0,
    "in_width": 1.0,
}


def build_model(arch: Architecture, precision: CheckpointPrecision | None = None) -> Model:
    """The `Model` pytree: counts of elements from the architecture, bytes and compute units from the formats.

    Args:
        arch: architecture in plain numbers.
        precision: formats class by class; None: bf16 throughout.

    Returns:
        `Model` with float64 NumPy leaves; those of `attention` have shape [MAX_ATTENTION_GROUPS].

    Not modelled: chunked attention's reset at chunk borders, KV sharing between layers, draft layers'
    weights, single layers exempt from quantization.
    """
    prec = precision or CheckpointPrecision()
    columns = [_group(g, arch.hidden, prec.kv) for g in arch.attention]
    columns += [_UNUSED] * (MAX_ATTENTION_GROUPS - len(columns))
    attention = AttentionGroups(**{k: np.array([c[k] for c in columns], dtype=np.float64) for k in _UNUSED})
    counts = count_parameters(arch)
    small = sum(g.layers * mixer_parameters(g, arch.hidden).small for g in arch.attention)
    vision = arch.vision
    sparse = any(g.sparse_top_k or g.kind == "compressed" for g in arch.attention)
    block_sparse = any(g.kind == "softmax" and g.index_heads for g in arch.attention)
    core = "fp32" if prec.kv == "fp32" else "bf16"
    if prec.kv == "fp8" and not sparse:
        core = "fp8"  # attention kernels with an fp8 cache quantize the query too; sparse ones widen to bf16
    numbers = {
        "hidden": arch.hidden,
        "vocab": arch.vocab,
        "layers": arch.layers,
        "dense_layers": arch.dense_layers,
        "dense_ffn": arch.dense_ffn,
        "ffn_matrices": arch.ffn_matrices,
        "moe_layers": arch.moe_layers,
        "experts": arch.experts,
        "top_k": arch.top_k,
        "expert_ffn": arch.expert_ffn,
        "expert_hidden": arch.expert_hidden or arch.hidden,
        "shared_ffn": arch.shared_ffn,
        "extra_params": counts.other + counts.latent + counts.vision + small,
        "tied_embeddings": float(arch.tied_embeddings),
        "max_context": arch.max_context or float("inf"),
        "attention_weight_bytes": bytes_per_element(prec.attention, prec.group_size),
        "ffn_weight_bytes": bytes_per_element(prec.ffn, prec.group_size),
        "expert_weight_bytes": bytes_per_element(prec.experts, prec.group_size),
        "embedding_bytes": bytes_per_element(prec.embedding),
        # The residual and what collectives carry stay in 16 bits whatever the products read.
        "activation_bytes": 4.0 if prec.embedding == "fp32" else 2.0,
        "kv_bytes": cache_bytes_per_element(prec.kv),
        "state_bytes": 4.0,  # recurrences accumulate in float32 (`mamba_ssm_dtype` of the Qwen3.5 configs)
        "attention_gemm_precision": compute_index(prec.attention, prec.activations),
        "ffn_precision": compute_index(prec.ffn, prec.activations),
        "expert_precision": compute_index(prec.experts, prec.activations),
        "attention_core_precision": COMPUTE_PRECISIONS.index(core),
        "vision_flops_per_image": vision_flops(vision) if vision else 0.0,
        "draft_layers": arch.draft_layers,
        # DeepSeek's indexer keeps fp8 keys, a float32 scale each; block-sparse keys share the cache's type.
        "index_bytes": cache_bytes_per_element(prec.kv) if block_sparse else 1.0 + 4.0 / 128.0,
        "latent_params": counts.latent,
        "vision_params": vision_parameters(vision) if vision else 0.0,
        "vision_tokens_per_image": vision.image_patches / vision.merge**2 if vision else 0.0,
        "residual_streams": arch.residual_streams,
    }
    return Model(attention=attention, **{k: np.float64(v) for k, v in numbers.items()})


def _minimum(a: Array, b: Array) -> Array:
    plain = (int, float, np.generic, np.ndarray)
    if all(isinstance(x, plain) for x in (a, b)):
        return np.minimum(a, b)
    import jax.numpy as jnp

    return jnp.minimum(a, b)


def weight_bytes(model: Model) -> Array:
    """Bytes of one replica's weights, not sharded: each class of elements times its bytes per element.

    Draft layers are not included.
    """
    att = model.attention
    mixers = (att.layers * (att.in_params + att.in_params_replicated + att.out_params)).sum(-1)
    dense = model.dense_layers * model.dense_ffn + model.moe_layers * model.shared_ffn
    routed = model.moe_layers * model.experts * model.expert_hidden * model.expert_ffn
    high = (2.0 - model.tied_embeddings) * model.vocab * model.hidden + model.extra_params
    high = high + model.moe_layers * model.hidden * model.experts
    return (
        mixers * model.attention_weight_bytes
        + dense * model.ffn_matrices * model.hidden * model.ffn_weight_bytes
        + routed * model.ffn_matrices * model.expert_weight_bytes
        + high * model.embedding_bytes
    )


def _cached_bytes(model: Model, entries: Array, recent: Array) -> Array:
    att = model.attention
    values = (entries + recent) * att.kv_elements * model.kv_bytes
    return values + entries * att.index_elements * model.index_bytes


def kv_bytes(model: Model, context: Array) -> Array:
    """Bytes of the cache of one sequence of `context` tokens, not sharded: shape of `context`.

    sum over groups of layers * (min(n, cache_window) / compress * (kv + index) + min(n, local_window) * kv +
    state); the recurrent state does not depend on n.
    """
    att = model.attention
    tokens = context[..., None] if getattr(context, "ndim", 0) else context
    entries = _minimum(tokens, att.cache_window) / att.compress
    cached = _cached_bytes(model, entries, _minimum(tokens, att.local_window))
    return (att.layers * (cached + att.state_elements * model.state_bytes)).sum(-1)


def kv_bytes_per_token(model: Model) -> Array:
    """Bytes that one more token adds while no window is full: the slope of `kv_bytes` at 0.

    Layers of compressed attention add a token to their local window and 1/compress of an entry.
    """
    att = model.attention
    cached = _cached_bytes(model, 1.0 / att.compress, (att.local_window > 0) * 1.0)
    return (att.layers * cached).sum(-1)
