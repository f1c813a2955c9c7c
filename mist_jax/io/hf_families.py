"""Token mixers of the model families: which layers attend how, from the keys of a config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.io.architecture import AttentionGroup


class Keys:
    """A config with aliases: the first of several names that is present and not null."""

    def __init__(self, mapping: Mapping[str, Any], where: str = "config") -> None:
        self.mapping, self.where = mapping, where
        self.notes: list[str] = []

    def get(self, *names: str, default: Any = None) -> Any:
        """The value of the first of `names` that is set, else `default`."""
        for name in names:
            if self.mapping.get(name) is not None:
                return self.mapping[name]
        return default

    def need(self, *names: str) -> Any:
        """The value of the first of `names` that is set; ConfigError names them and what was found."""
        value = self.get(*names)
        if value is None:
            found = ", ".join(sorted(self.mapping)) or "nothing"
            raise ConfigError(f"{self.where}: missing {' or '.join(names)}; found the keys {found}")
        return value

    def sub(self, name: str) -> Keys:
        """The nested mapping `name` (empty if absent)."""
        return Keys(self.mapping.get(name) or {}, f"{self.where}.{name}")

    @property
    def model_type(self) -> str:
        """`model_type`, or an empty string."""
        return str(self.get("model_type", default=""))


def _merge(groups: Iterable[AttentionGroup]) -> tuple[AttentionGroup, ...]:
    """Groups that differ in nothing but their number of layers become one; empty ones go."""
    merged: dict[AttentionGroup, int] = {}
    for group in groups:
        key = dataclasses.replace(group, layers=0)
        merged[key] = merged.get(key, 0) + group.layers
    return tuple(dataclasses.replace(g, layers=n) for g, n in merged.items() if n)


def _grouped(k: Keys, layers: int, **changes: Any) -> AttentionGroup:
    """Multi-head, multi-query or grouped-query attention by the common keys."""
    hidden = k.need("hidden_size", "n_embd", "d_model")
    heads = k.need("num_attention_heads", "n_head", "n_heads")
    if k.get("multi_query") and not k.get("new_decoder_architecture"):
        kv = 1
    else:
        kv = k.get("num_key_value_heads", "num_kv_heads", "multi_query_group_num", default=heads)
    dim = k.get("head_dim", default=hidden // heads)
    numbers: dict[str, Any] = {
        "heads": heads,
        "kv_heads": kv,
        "qk_dim": dim,
        "v_dim": k.get("v_head_dim", default=dim),
    }
    gated = k.get("attn_output_gate", "attention_output_gate", default=k.model_type == "qwen3_next")
    if gated:
        numbers["gate"] = "element"
    elif k.get("use_head_wise_attn_gate"):
        numbers["gate"] = "head"
    # Qwen2 has query, key and value biases although its config does not say so.
    numbers["bias"] = bool(k.get("attention_bias", "qkv_bias", default=k.model_type in _BIASED))
    return AttentionGroup(layers=layers, **(numbers | changes))


_BIASED = ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "bloom", "opt", "bert", "xlm-roberta", "gpt2")


def _sliding_layers(k: Keys, layers: int) -> int:
    """Layers with a sliding window where no list names them."""
    if k.get("use_sliding_window") is False:
        return 0
    pattern = k.get("sliding_window_pattern")
    if isinstance(pattern, int):  # Gemma-3: every `pattern`-th layer is global
        return layers - layers // pattern
    if k.model_type == "gemma2":
        return (layers + 1) // 2
    return layers - k.get("max_window_layers", default=0) if k.get("use_sliding_window") else layers


def softmax_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """Full, sliding-window and chunked attention, alone or interleaved."""
    window = k.get("sliding_window", "sliding_window_size")
    types = k.get("layer_types")
    if "llama4" in k.model_type:
        # Llama-4: three chunked layers, then one with full attention and no rotary embedding.
        every = k.get("no_rope_layer_interval", default=4)
        chunk = k.need("attention_chunk_size")
        k.notes.append(f"chunked attention of {chunk} tokens is described as a sliding window of that length")
        full = layers // every
        return _merge([_grouped(k, layers - full, window=chunk), _grouped(k, full)])
    if types is not None:
        sliding = sum(t in ("sliding_attention", "chunked_attention") for t in types[:layers])
        if sliding and window is None:
            window = k.need("sliding_window", "attention_chunk_size")
    else:
        sliding = _sliding_layers(k, layers) if window is not None else 0
    wide: dict[str, Any] = {}
    if (
        k.get("global_head_dim") is not None
    ):  # Gemma-4: global layers have other heads, and their value is the key
        wide = {"qk_dim": k.need("global_head_dim"), "v_dim": k.need("global_head_dim")}
        if k.get("attention_k_eq_v"):
            wide |= {"kv_heads": k.need("num_global_key_value_heads"), "value_is_key": True}
    return _merge([_grouped(k, sliding, window=window), _grouped(k, layers - sliding, **wide)])


def mimo_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """MiMo-V2: `hybrid_layer_pattern` 1 = sliding window with its own heads."""
    sliding = sum(k.need("hybrid_layer_pattern")[:layers])
    own: dict[str, Any] = {"window": k.need("sliding_window", "sliding_window_size")}
    for ours, theirs in (
        ("heads", "swa_num_attention_heads"),
        ("kv_heads", "swa_num_key_value_heads"),
        ("qk_dim", "swa_head_dim"),
        ("v_dim", "swa_v_head_dim"),
    ):
        if k.get(theirs) is not None:
            own[ours] = k.get(theirs)
    return _merge([_grouped(k, sliding, **own), _grouped(k, layers - sliding)])


def block_sparse_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """MiniMax-M3: some layers attend to `topk` blocks that index heads select, the others to everything."""
    s = k.sub("sparse_attention_config")
    sparse = sum(s.get("sparse_attention_freq", default=[1] * layers)[:layers])
    own = {
        "sparse_top_k": s.need("sparse_topk_blocks") * s.need("sparse_block_size"),
        "index_heads": s.need("sparse_num_index_heads"),
        "index_dim": s.need("sparse_index_dim"),
    }
    return _merge([_grouped(k, sparse, **own), _grouped(k, layers - sparse)])


def _mla_group(k: Keys, layers: int, **changes: Any) -> AttentionGroup:
    nope, rope = k.need("qk_nope_head_dim"), k.get("qk_rope_head_dim", default=0)
    heads = k.need("num_attention_heads")
    numbers: dict[str, Any] = {
        "heads": heads,
        "kv_heads": heads,
        "qk_dim": nope + rope,
        "v_dim": k.need("v_head_dim"),
        "rope_dim": rope,
        "q_lora_rank": k.get("q_lora_rank", default=0),
        "kv_lora_rank": k.need("kv_lora_rank"),
        "gate": "element" if k.get("mla_use_output_gate") else "none",
    }
    return AttentionGroup(kind="mla", layers=layers, **(numbers | changes))


def mla_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """Multi-head latent attention, dense or with a sparse indexer that may serve several layers."""
    if k.get("index_topk") is None:
        return (_mla_group(k, layers),)
    top_k = k.need("index_topk")
    types = k.get("indexer_types", default=["full"] * layers)
    own = sum(t == "full" for t in types[:layers])
    indexed = {"index_heads": k.need("index_n_heads"), "index_dim": k.need("index_head_dim")}
    return _merge(
        [_mla_group(k, own, sparse_top_k=top_k, **indexed), _mla_group(k, layers - own, sparse_top_k=top_k)]
    )


def compressed_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """DeepSeek-V4 by `compress_ratios`: 0 window only, 4 entries that an indexer picks, 128 all entries."""
    ratios = k.need("compress_ratios")[:layers]
    dim = k.need("head_dim")
    common: dict[str, Any] = {
        "kind": "compressed",
        "heads": k.need("num_attention_heads"),
        "kv_heads": k.get("num_key_value_heads", default=1),
        "qk_dim": dim,
        "v_dim": dim,
        "rope_dim": k.get("qk_rope_head_dim", default=0),
        "q_lora_rank": k.need("q_lora_rank"),
        "o_lora_rank": k.get("o_lora_rank", default=0),
        "o_groups": k.get("o_groups", default=0),
        "window": k.need("sliding_window"),
        "value_is_key": True,
    }
    groups = []
    for ratio in sorted(set(ratios)):
        own: dict[str, Any] = {"layers": sum(r == ratio for r in ratios), "compress": max(ratio, 1)}
        if ratio == 4:
            own |= {
                "sparse_top_k": k.need("index_topk"),
                "index_heads": k.need("index_n_heads"),
                "index_dim": k.need("index_head_dim"),
            }
        groups.append(AttentionGroup(**common, **own))
    return _merge(groups)


def gated_delta_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """Qwen3-Next and Qwen3.5: gated-delta layers with a full-attention layer every few."""
    types = k.get("layer_types")
    if types is None:
        types = [
            "full_attention" if (i + 1) % k.need("full_attention_interval") == 0 else ""
            for i in range(layers)
        ]
    full = sum(t == "full_attention" for t in types[:layers])
    delta = AttentionGroup(
        kind="gated_delta",
        layers=layers - full,
        heads=k.need("linear_num_value_heads"),
        kv_heads=k.need("linear_num_key_heads"),
        qk_dim=k.need("linear_key_head_dim"),
        v_dim=k.need("linear_value_head_dim"),
        conv_kernel=k.need("linear_conv_kernel_dim"),
    )
    return _merge([delta, _grouped(k, full)])


def kda_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """Kimi Linear and Kimi-K3: delta attention with latent attention every few layers."""
    c = k.sub("linear_attn_config")
    delta = len(c.need("kda_layers"))
    heads, dim = c.need("num_heads"), c.need("head_dim")
    group = AttentionGroup(
        kind="kda",
        layers=delta,
        heads=heads,
        kv_heads=heads,
        qk_dim=dim,
        v_dim=dim,
        conv_kernel=c.need("short_conv_kernel_size"),
        gate_rank=0 if c.get("use_full_rank_gate") else dim,
    )
    return _merge([group, _mla_group(k, layers - delta)])


def _mamba2(k: Keys, layers: int, hidden: int) -> AttentionGroup:
    heads = k.need("mamba_num_heads", "mamba_n_heads", "num_heads")
    inner = k.get("mamba_expand", "expand", default=2) * hidden
    return AttentionGroup(
        kind="mamba2",
        layers=layers,
        heads=heads,
        kv_heads=k.get("n_groups", "mamba_n_groups", "mamba_num_groups", default=1),
        qk_dim=k.need("ssm_state_size", "mamba_d_state", "mamba_state_dim", "state_size"),
        v_dim=k.get("mamba_head_dim", "mamba_d_head", "head_dim", default=inner // heads),
        conv_kernel=k.get("conv_kernel", "mamba_d_conv", default=4),
    )


def _mamba1(k: Keys, layers: int, hidden: int) -> AttentionGroup:
    rank = k.get("mamba_dt_rank", "time_step_rank", default="auto")
    return AttentionGroup(
        kind="mamba",
        layers=layers,
        heads=k.get("mamba_expand", "expand", default=2) * hidden,
        kv_heads=1,
        qk_dim=k.get("mamba_d_state", "state_size", default=16),
        v_dim=1,
        conv_kernel=k.get("mamba_d_conv", "conv_kernel", default=4),
        dt_rank=-(-hidden // 16)
        if rank == "auto"
        else rank,  # ceil(hidden / 16), arXiv 2312.00752, section 3.6
    )


def state_space_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """Mamba and Mamba-2 alone or with attention layers: Nemotron-H, Jamba, Granite-4, Bamba."""
    hidden = k.need("hidden_size", "d_model")
    pattern = k.get("hybrid_override_pattern")
    types: Sequence[str] | None = k.get("layers_block_type", "layer_types", "layer_types_list")
    if pattern is not None:
        full, state = pattern.count("*"), pattern.count("M")
    elif types is not None:
        full = sum(t in ("attention", "full_attention") for t in types[:layers])
        state = sum(t in ("mamba", "mamba2") for t in types[:layers])
    elif k.get("attn_layer_indices") is not None:
        full = len(k.get("attn_layer_indices"))
        state = layers - full
    elif k.get("attn_layer_period") is not None:
        period, offset = k.need("attn_layer_period"), k.get("attn_layer_offset", default=0)
        full = sum(i % period == offset for i in range(layers))
        state = layers - full
    else:
        full, state = 0, layers
    two = any(k.get(n) is not None for n in ("mamba_num_heads", "mamba_n_heads")) or k.model_type == "mamba2"
    mamba = (_mamba2 if two else _mamba1)(k, state, hidden)
    dims = {}
    if k.get("attention_head_dim") is not None:
        dims = {"qk_dim": k.get("attention_head_dim"), "v_dim": k.get("attention_head_dim")}
    return _merge([mamba, _grouped(k, full, **dims)] if full else [mamba])


def attention_groups(k: Keys, layers: int) -> tuple[AttentionGroup, ...]:
    """The groups of token mixers of a config, told apart by the keys that only one family has."""
    state_space = (
        "hybrid_override_pattern",
        "mamba_d_state",
        "ssm_state_size",
        "attn_layer_period",
        "state_size",
    )
    if k.get("compress_ratios") is not None:
        return compressed_groups(k, layers)
    if k.get("linear_attn_config") is not None:
        return kda_groups(k, layers)
    if k.get("linear_num_value_heads") is not None:
        return gated_delta_groups(k, layers)
    if k.get("kv_lora_rank") is not None:
        return mla_groups(k, layers)
    if k.get("sparse_attention_config") is not None:
        return block_sparse_groups(k, layers)
    if k.get("hybrid_layer_pattern") is not None:
        return mimo_groups(k, layers)
    if any(k.get(name) is not None for name in state_space):
        return state_space_groups(k, layers)
    return softmax_groups(k, layers)
