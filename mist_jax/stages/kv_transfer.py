"""KV transfer from a prefill engine to a decode engine.

    serial      t = alpha + S / min(BW, b / t_msg)                                      after the prefill
    layer-wise  visible = alpha + max(S/L / BW, S / BW - t_prefill (L - 1)/L)           behind the prefill
A NIC works on many messages at once, so that messages of b bytes either fill the wire or are limited by their number.
Push (the prefill side writes, as layers finish) can overlap; pull (the decode side reads when it has been
told and has room) starts after the prefill and pays another round trip. Concurrent transfers share the NIC:
`physics.contention`.
Two links end to end: the slower counts; give `bandwidth` for a transport slower than the NIC (TCP, staging
copies). Splitwise (Patel et al., ISCA 2024, 4.3) describes serial and layer-wise transfer and
finds the latter best for large prompts.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any


@pytree
class KVTransfer:
    """The link between a prefill and a decode engine."""

    mode: str = choice("push", ("push", "pull"))
    link: str = choice("network", ("network", "scale_up", "host_link"))
    latency: Array = parameter(0.5e-3, "time", doc="set-up and notification; assumption")
    round_trip_s: Array = parameter(0.5e-3, "time", doc="pull only: asking for it; assumption")
    bandwidth: Array = parameter(float("inf"), "bandwidth", low=1.0, doc="of one transfer; inf: the link's")
    efficiency: Array = parameter(
        0.9,
        low=0.01,
        high=1.0,
        doc="of the link: 12.1 of 12.5 GB/s on 100G RoCE, 49.5 of 50, 87 of 100 on four NICs; 190 of 400 on eight",
    )
    overlap: Array = parameter(0.0, high=1.0, doc="1: layer by layer behind the prefill (push only)")
    block_bytes: Array = parameter(
        float("inf"),
        "bytes",
        low=1.0,
        doc="of one message (paged caches: a block of one layer, of all ranks if each has a NIC); inf: one message",
    )
    message_s: Array = parameter(
        0.21e-6,
        "time",
        doc="between two messages of a NIC: 155 GB/s in pages of 4 KB over 8 of them (Mooncake's vLLM documentation)",
    )
    token_bytes: Array = parameter(
        0.0, "bytes", doc="KV bytes per token; 0: of the model that serves the request"
    )


def transfer_bytes(params: KVTransfer, work: Work) -> Array:
    """Bytes of one request: the KV of the whole prompt."""
    own = jnp.asarray(params.token_bytes)
    return work.prompt_tokens * jnp.where(own > 0, own, work.kv_bytes_per_token)


def demand(params: KVTransfer, work: Work) -> Demand:
    """Demand of the visible part of the transfers of a batch of requests."""
    nbytes = transfer_bytes(params, work)
    fixed = params.latency + params.message_s
    # the number of messages a second limits small ones
    several = jnp.isfinite(params.block_bytes) & (jnp.asarray(params.message_s) > 0)
    block, gap = (jnp.where(several, v, 1.0) for v in (params.block_bytes, params.message_s))
    limit = jnp.minimum(params.bandwidth, jnp.where(several, block / (gap * params.efficiency), jnp.inf))
    share = 1.0
    if params.mode == "pull":
        fixed = fixed + params.round_trip_s
    else:
        layers = jnp.maximum(work.kv_layers, 1.0)
        # With a finite bandwidth the part behind the prefill is known; with the link's own, all but a layer.
        finite = jnp.isfinite(limit)
        alone = nbytes / jnp.where(finite, limit, 1.0)
        behind = jnp.minimum(work.prefill_s, alone) / jnp.where(alone > 0, alone, 1.0)
        hidden = jnp.where(finite, behind, 1.0) * (layers - 1.0) / layers
        share = 1.0 - params.overlap * hidden
    moved = work.batch * nbytes * share / params.efficiency
    return make(fixed, caps={params.link: limit}, **{params.link: moved})


STAGES = (
    StageDefinition(
        name="kv_transfer",
        kind="transfer",
        parameters=KVTransfer,
        function=demand,
        summary="prefill to decode KV transfer",
        source="alpha-beta; Splitwise (ISCA 2024); rates: llm-d blog 2026-06-23, Mooncake documentation",
        valid="homogeneous KV layouts on both sides",
        not_modelled="resharding between different TP (set block_bytes smaller); full receive buffers",
    ),
)
