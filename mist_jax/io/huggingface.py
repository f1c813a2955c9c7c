"""Read a Hugging Face config.json into an `Architecture` and the formats of its checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.io.architecture import (
    PRECISIONS,
    Architecture,
    AttentionGroup,
    CheckpointPrecision,
    VisionTower,
    architecture_from_mapping,
    override_precision,
    precision_from_mapping,
    precision_to_mapping,
    to_mapping,
)
from mist_jax.io.hf_families import Keys, attention_groups
from mist_jax.io.hf_precision import read_precision
from mist_jax.io.parameters import Parameters, count_parameters

__all__ = [
    "PRECISIONS",
    "Architecture",
    "AttentionGroup",
    "CheckpointPrecision",
    "Parameters",
    "VisionTower",
    "architecture_from_mapping",
    "count_parameters",
    "override_precision",
    "precision_from_mapping",
    "precision_to_mapping",
    "read_config",
    "to_mapping",
]

#: `model_type`s whose layout is known; others are read by the common keys, with a note.
KNOWN_TYPES = frozenset(
    (
        "llama",
        "llama4",
        "llama4_text",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_vl_text",
        "qwen3_vl_moe_text",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_text",
        "qwen3_5_moe_text",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "deepseek_ref",
        "kimi_k2",
        "kimi_k25",
        "kimi_k3",
        "kimi_linear",
        "glm4_moe",
        "glm_moe_dsa",
        "gpt_oss",
        "minimax_m2",
        "minimax_m3",
        "mimo",
        "mimo_v2_flash",
        "step3p5",
        "step3p7",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma4",
        "gemma4_text",
        "gptj",
        "gpt2",
        "bloom",
        "opt",
        "bert",
        "xlm-roberta",
        "mamba",
        "mamba2",
        "jamba",
        "nemotron_h",
        "granitemoehybrid",
        "bamba",
        "phi3",
    )
)
#: Families whose feed-forward has two matrices (no gate).
_PLAIN_FFN = ("gptj", "gpt2", "bloom", "opt", "falcon", "bert", "xlm-roberta", "nemotron_h", "nemotron")
#: Families whose embeddings are tied unless the config says not.
_TIED = (
    "bloom",
    "opt",
    "gpt2",
    "bert",
    "xlm-roberta",
    "gemma2",
    "gemma3",
    "gemma4",
    "mamba",
    "mamba2",
)
_ENCODERS = ("bert", "xlm-roberta")
_FFN_BIAS = ("gptj", "gpt2", "bloom", "opt", "bert", "xlm-roberta", "gpt_oss")


def _moe_layers(k: Keys, layers: int, experts: int) -> int:
    """Decoder layers with routed experts."""
    if not experts:
        return 0
    if k.get("hybrid_override_pattern") is not None:
        return k.get("hybrid_override_pattern").count("E")
    if k.get("mlp_layer_types") is not None:
        return sum(t == "sparse" for t in k.get("mlp_layer_types")[:layers])
    freq = k.get("moe_layer_freq", default=1)
    if isinstance(freq, (list, tuple)):
        return sum(bool(f) for f in freq[:layers])
    if k.get("interleave_moe_layer_step") is not None:
        return layers // k.get("interleave_moe_layer_step")
    if k.get("expert_layer_period") is not None:
        period, offset = k.get("expert_layer_period"), k.get("expert_layer_offset", default=0)
        return sum(i % period == offset for i in range(layers))
    step, dense = k.get("decoder_sparse_step", default=1), k.get("mlp_only_layers", default=())
    first = k.get("first_k_dense_replace", default=0)
    return sum(i >= first and i % freq == 0 and (i + 1) % step == 0 and i not in dense for i in range(layers))


def _feed_forward(k: Keys, layers: int) -> dict[str, Any]:
    """The feed-forward numbers of an `Architecture`."""
    hidden = k.need("hidden_size", "n_embd", "d_model")
    experts = k.get("n_routed_experts", "num_local_experts", "num_experts", default=0)
    if k.get("enable_moe_block") is False or experts == 1:
        experts = 0
    moe = _moe_layers(k, layers, experts)
    pattern = k.get("hybrid_override_pattern")
    dense = pattern.count("-") if pattern is not None else layers - moe
    if k.get("enable_moe_block"):
        dense = layers  # Gemma-4: a dense feed-forward runs beside the experts in every layer
    if k.model_type in ("mamba", "mamba2"):
        dense = 0  # the mixer is the whole layer
    out: dict[str, Any] = {
        "dense_layers": dense,
        "ffn_bias": bool(k.get("mlp_bias", default=k.model_type in _FFN_BIAS)),
    }
    out["ffn_matrices"] = 2 if k.model_type in _PLAIN_FFN else 3
    if dense:
        names = (
            "intermediate_size_mlp",
            "dense_intermediate_size",
            "intermediate_size",
            "ffn_dim",
            "n_inner",
        )
        ffn = k.get(*names, "ffn_hidden_size")
        if ffn is None and k.model_type in _PLAIN_FFN:
            ffn = 4 * hidden  # the convention of the GPT-2 family where the key is null
        out["dense_ffn"] = ffn if ffn is not None else k.need(*names)
    if moe:
        size = k.need("moe_intermediate_size", "moe_ffn_dim", "intermediate_size")
        out |= {
            "moe_layers": moe,
            "experts": experts,
            "top_k": k.need(
                "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "experts_per_token"
            ),
            "expert_ffn": size,
            "expert_hidden": k.get("routed_expert_hidden_size", "moe_latent_size", default=0),
        }
        shared = k.get(
            "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim"
        )
        count = k.get("n_shared_experts", "num_shared_experts", default=0)
        if "llama4" in k.model_type:
            shared = size
        elif shared is None:
            shared = count * size if count else k.get("shared_intermediate_size", default=0)
        out["shared_ffn"] = shared
    return out


def _vision(top: Keys, hidden: int) -> VisionTower | None:
    v = top.sub("vision_config")
    if not v.mapping:
        return None
    width = v.need("hidden_size", "vt_hidden_size")
    patch = v.need("patch_size")
    merge = v.get("spatial_merge_size", "pooling_kernel_size", default=(v.get("merge_kernel_size") or [2])[0])
    # Gemma pools patches and projects once; the others put merge x merge patches through a network.
    pooled = "gemma" in v.model_type or top.get("mm_tokens_per_image") is not None
    fixed = top.get("vision_soft_tokens_per_image", "mm_tokens_per_image")
    if top.get("mm_tokens_per_image") is not None:
        merge = round(v.need("image_size") / patch / math.sqrt(fixed))
    return VisionTower(
        layers=v.need("depth", "num_hidden_layers", "vt_num_hidden_layers"),
        hidden=width,
        ffn=v.need("intermediate_size", "vt_intermediate_size"),
        heads=v.need("num_heads", "num_attention_heads", "vt_num_attention_heads"),
        patch=patch,
        merge=merge,
        out_hidden=hidden,
        qkv_hidden=v.get("qkv_hidden_size", default=0),
        ffn_matrices=3 if "gemma" in v.model_type else 2,
        patch_elements=v.get("in_channels", default=3) * v.get("temporal_patch_size", default=1) * patch**2,
        positions=v.get("num_position_embeddings", "position_embedding_size")
        or v.get("init_pos_emb_height", default=0) * v.get("init_pos_emb_width", default=0),
        mergers=0 if pooled else 1 + len(v.get("deepstack_visual_indexes", default=())),
        image_patches=fixed * merge**2 if fixed else (1024 // (patch * merge) * merge) ** 2,
    )


def _load(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, str(source.get("_name_or_path") or "custom")
    path = Path(source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"model.config: cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"model.config: {path} is not JSON: {exc}") from exc
    if not isinstance(config, Mapping):
        raise ConfigError(f"model.config: {path} holds {type(config).__name__}, not an object")
    name = path.parent.name if path.name == "config.json" else path.stem.split("--")[-1]
    return config, name


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[Architecture, CheckpointPrecision]:
    """The architecture and number formats that a Hugging Face config describes.

    Args:
        source: path of a config.json, or its content.

    Returns:
        `(architecture, precision)`; `architecture.notes` says what had to be assumed, an unknown `model_type`
        among it.

    Raises:
        ConfigError: the file cannot be read, or a key that the family needs is missing (named, with those
            found).

    Not read: rotary scaling, dropout, tokenizer, generation settings. Draft layers are counted only.
    """
    config, name = _load(source)
    try:
        return _described(config, name)
    except ConfigError as exc:
        if isinstance(source, Mapping):
            raise
        raise ConfigError(f"model.config: {source}: {exc}") from None


def _described(config: Mapping[str, Any], name: str) -> tuple[Architecture, CheckpointPrecision]:
    top = Keys(config)
    text = top.sub("text_config") if isinstance(config.get("text_config"), Mapping) else top
    kind = text.model_type or top.model_type
    if kind not in KNOWN_TYPES:
        text.notes.append(f"model_type {kind!r} is unknown: read by the common keys")
    layers = text.need("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden = text.need("hidden_size", "n_embd", "d_model")
    tied = text.get("tie_word_embeddings", default=top.get("tie_word_embeddings"))
    if tied is None:
        tied = any(kind == t or kind == f"{t}_text" for t in _TIED)
    positions = 0
    if kind in ("opt", "gpt2", *_ENCODERS):
        positions = text.get("max_position_embeddings", "n_positions", default=0)
    groups = attention_groups(text, layers)
    architecture = Architecture(
        name=name,
        hidden=hidden,
        vocab=text.need("vocab_size"),
        layers=layers,
        attention=groups,
        **_feed_forward(text, layers),
        tied_embeddings=bool(tied),
        max_context=text.get(
            "max_position_embeddings", "n_positions", "seq_length", "model_max_length", default=0
        ),
        positions=positions,
        residual_streams=text.get("hc_mult", default=1),
        draft_layers=text.get(
            "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", default=0
        ),
        causal=kind not in _ENCODERS,
        vision=_vision(top, hidden),
        notes=tuple(text.notes),
    )
    return architecture, read_precision(config, text, layers)
