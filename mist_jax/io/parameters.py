"""How many weights a model has, part by part, from its architecture."""

from __future__ import annotations

import dataclasses

from mist_jax.io.architecture import Architecture, AttentionGroup, VisionTower


@dataclasses.dataclass(frozen=True)
class MixerParameters:
    """Weight elements of one layer's token mixer, by how tensor parallelism treats them."""

    split_in: int  #: projections into the mixer, split over its heads
    replicated_in: int  #: projections every rank holds: down-projections, indexer
    in_width: int  #: output features of the split input products together
    out: int  #: projections out of the mixer, split
    small: int  #: biases, convolutions, decays: element-wise, not in a product

    @property
    def total(self) -> int:
        """All of them."""
        return self.split_in + self.replicated_in + self.out + self.small


def _gate_width(group: AttentionGroup) -> int:
    return {"none": 0, "head": group.heads, "element": group.heads * group.v_dim}[group.gate]


def _softmax(g: AttentionGroup, hidden: int) -> MixerParameters:
    # Grouped-query attention, Ainslie et al., arXiv 2305.13245: q of all heads, k and v of `kv_heads`.
    kv = g.kv_heads * (g.qk_dim + (0 if g.value_is_key else g.v_dim))
    width = g.heads * g.qk_dim + kv + _gate_width(g)
    bias = (width + hidden) if g.bias else 0
    # Block-sparse selection (MiniMax-M3): index queries split like the heads, one index key on every rank.
    width += g.index_heads * g.index_dim
    key = hidden * g.index_dim if g.index_heads else 0
    return MixerParameters(hidden * width, key, width, g.heads * g.v_dim * hidden, bias)


def _mla(g: AttentionGroup, hidden: int) -> MixerParameters:
    # Multi-head latent attention, DeepSeek-V2, arXiv 2405.04434, section 2.1: the latent c_kv and the shared
    # rotary key come from one down-projection that every rank computes; up-projections are split by heads.
    query_in = g.q_lora_rank or hidden
    query = g.heads * g.qk_dim
    up = g.heads * (g.qk_dim - g.rope_dim + g.v_dim)
    gate = _gate_width(g)
    down = hidden * (g.q_lora_rank + g.kv_lora_rank + g.rope_dim)
    # Lightning indexer, DeepSeek-V3.2-Exp report, section 2.1 and inference/model.py: wq_b, wk, weights_proj.
    indexer = (
        (query_in * g.index_heads * g.index_dim + hidden * (g.index_dim + g.index_heads))
        if g.index_heads
        else 0
    )
    return MixerParameters(
        query_in * query + g.kv_lora_rank * up + hidden * gate,
        down + indexer,
        query + up + gate,
        g.heads * g.v_dim * hidden,
        g.q_lora_rank + g.kv_lora_rank,
    )


def _compressed(g: AttentionGroup, hidden: int) -> MixerParameters:
    # DeepSeek-V4 (CSA, HCA): low-rank query, one shared key-value latent, grouped low-rank output. A
    # compressor pools `compress` tokens with learnt weights: a value and a weight projection, doubled where
    # windows overlap (ratio 4), plus one bias a position in the window.
    query_in = g.q_lora_rank or hidden
    query = g.heads * g.qk_dim
    down = hidden * (g.q_lora_rank + g.qk_dim)
    overlap = 2 if g.compress == 4 else 1

    def compressor(dim: int) -> int:
        return overlap * dim * (2 * hidden + g.compress) if g.compress > 1 else 0

    indexer = 0
    if g.index_heads:
        indexer = query_in * g.index_heads * g.index_dim + hidden * g.index_heads + compressor(g.index_dim)
    out = g.heads * g.v_dim * hidden
    if g.o_lora_rank:
        out = g.heads * g.v_dim * g.o_lora_rank + g.o_groups * g.o_lora_rank * hidden
    return MixerParameters(query_in * query, down + compressor(g.qk_dim) + indexer, query, out, g.heads)


def _recurrent(g: AttentionGroup, hidden: int) -> MixerParameters:
    keys, values = g.kv_heads * g.qk_dim, g.heads * g.v_dim
    if g.kind == "mamba":
        # Mamba, arXiv 2312.00752: x and z in; then dt, B, C from x; dt up; A and D.
        split = hidden * 2 * values + values * (g.dt_rank + 2 * g.qk_dim) + g.dt_rank * values
        return MixerParameters(split, 0, 2 * values, values * hidden, values * (g.conv_kernel + g.qk_dim + 3))
    conv = g.conv_kernel * (2 * keys + values)
    if g.kind == "mamba2":
        # Mamba-2, arXiv 2405.21060, section 7: z, x, B, C and dt in one projection.
        width = 2 * values + 2 * keys + g.heads
    elif g.kind == "gated_delta":
        # Gated DeltaNet, arXiv 2412.06464: q, k, v, output gate z, decay a, step b.
        width = 2 * keys + 2 * values + 2 * g.heads
    else:
        # Kimi Delta Attention, arXiv 2510.26692, section 3: q, k, v, step b; the decay of every channel
        # through a projection of rank head_dim, the output gate through one of `gate_rank` (full where 0).
        low = hidden * g.qk_dim + g.qk_dim * keys
        gate = g.gate_rank * (hidden + values) if g.gate_rank else hidden * values
        width = 2 * keys + values + g.heads + (0 if g.gate_rank else values)
        split = hidden * (2 * keys + values + g.heads) + gate + g.qk_dim * keys
        return MixerParameters(split, low - g.qk_dim * keys, width, values * hidden, conv + keys + g.heads)
    return MixerParameters(hidden * width, 0, width, values * hidden, conv + 3 * g.heads)


def mixer_parameters(group: AttentionGroup, hidden: int) -> MixerParameters:
    """Weight elements of the token mixer of one layer of `group` in a model of width `hidden`."""
    if group.kind == "softmax":
        return _softmax(group, hidden)
    if group.kind == "mla":
        return _mla(group, hidden)
    if group.kind == "compressed":
        return _compressed(group, hidden)
    return _recurrent(group, hidden)


def vision_parameters(v: VisionTower) -> int:
    """Weight elements of a vision tower: patch embedding, positions, blocks and mergers."""
    attention = 4 * v.hidden * (v.qkv_hidden or v.hidden)
    block = attention + v.ffn_matrices * v.hidden * v.ffn
    merged = v.hidden * v.merge**2
    embed = v.hidden * ((v.patch_elements or 3 * v.patch**2) + v.positions)
    return embed + v.layers * block + v.mergers * merged * (merged + v.out_hidden)


def vision_flops(v: VisionTower) -> float:
    """FLOPs of the tower for one nominal image of `image_patches` patches; every patch attends to all.

    2 N (params of a block) + 4 N^2 qkv for every block, plus the mergers on N / merge^2 tokens.
    """
    n, merged = v.image_patches, v.hidden * v.merge**2
    width = v.qkv_hidden or v.hidden
    block = 2 * n * v.hidden * (4 * width + v.ffn_matrices * v.ffn) + 4 * n**2 * width
    mergers = v.mergers * 2 * (n / v.merge**2) * merged * (merged + v.out_hidden)
    return float(v.layers * block + mergers)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Weight elements by part; `total` excludes draft (multi-token-prediction) layers, as model cards do."""

    embedding: int  #: input table and, unless tied, LM head
    attention: int
    dense_ffn: int
    shared_experts: int
    experts: int
    routers: int
    latent: int  #: projections into and out of a narrower expert width
    other: int  #: norms, biases of the feed-forward, hyper-connections, learned positions
    vision: int
    inactive_experts: int  #: routed experts that one token does not visit
    input_table: int  #: the input embedding where the LM head is apart

    @property
    def total(self) -> int:
        """All weights of decoder and vision tower."""
        return self.text + self.vision

    @property
    def text(self) -> int:
        """Without the vision tower."""
        return (
            self.embedding
            + self.attention
            + self.dense_ffn
            + self.shared_experts
            + self.experts
            + self.routers
            + self.latent
            + self.other
        )

    @property
    def active(self) -> int:
        """Decoder weights less the experts a token does not visit; embedding and LM head both counted."""
        return self.text - self.inactive_experts

    @property
    def active_without_input_table(self) -> int:
        """`active` less the input embedding, of which a token reads one row."""
        return self.active - self.input_table


def _hyper_connections(arch: Architecture) -> int:
    # Manifold-constrained hyper-connections, arXiv 2512.24880: before attention and before the feed-forward,
    # the n streams together project to n reads, n writes and an n x n mixing matrix.
    n = arch.residual_streams
    return 0 if n == 1 else arch.layers * 2 * (n * arch.hidden) * (n * n + 2 * n)


def count_parameters(arch: Architecture) -> Parameters:
    """Weight elements of `arch`, part by part.

    Norms are counted as two vectors a layer and one at the end; draft layers are not counted.
    """
    table = arch.vocab * arch.hidden
    width = arch.expert_hidden or arch.hidden
    expert = arch.ffn_matrices * width * arch.expert_ffn
    routed = arch.moe_layers * arch.experts * expert
    bias, idle_bias = 0, 0
    if arch.ffn_bias:
        one = (arch.ffn_matrices - 1) * arch.expert_ffn + width
        bias = arch.moe_layers * arch.experts * (one + 1)
        idle_bias = arch.moe_layers * (arch.experts - arch.top_k) * one
        bias += arch.dense_layers * ((arch.ffn_matrices - 1) * arch.dense_ffn + arch.hidden)
    norms = (2 * arch.layers + 1) * arch.hidden
    return Parameters(
        embedding=table * (1 if arch.tied_embeddings else 2),
        attention=sum(g.layers * mixer_parameters(g, arch.hidden).total for g in arch.attention),
        dense_ffn=arch.dense_layers * arch.ffn_matrices * arch.hidden * arch.dense_ffn,
        shared_experts=arch.moe_layers * arch.ffn_matrices * arch.hidden * arch.shared_ffn,
        experts=routed,
        routers=arch.moe_layers * arch.hidden * arch.experts,
        latent=arch.moe_layers * 2 * arch.hidden * width if width != arch.hidden else 0,
        other=norms + bias + arch.positions * arch.hidden + _hyper_connections(arch),
        vision=vision_parameters(arch.vision) if arch.vision else 0,
        inactive_experts=arch.moe_layers * (arch.experts - arch.top_k) * expert + idle_bias,
        input_table=0 if arch.tied_embeddings else table,
    )
