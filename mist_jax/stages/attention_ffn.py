"""Attention-FFN disaggregation: attention and KV on one pool, experts on another, activations travel every
layer.

With m micro-batches in flight, per layer and micro-batch attention takes t_a, experts t_f, the way there and
back 2 t_c each (Zhu et al., MegaScale-Infer, SIGCOMM 2025, arXiv 2504.02263, section 4.1; Step-3, arXiv
2507.19427):
    T_layers = (t_a + t_f + 2 t_c) + max(t_a, t_f, t_c) (m L - 1)       if m hides the pipeline
    hidden if  m >= 2 (1 + t_c / max(t_a, t_f))
and otherwise the round trip t_a + t_f + 2 t_c bounds a layer. Bytes of one dispatch: tokens * hidden * s,
times top_k if tokens are sent to each expert's chip separately.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree
from mist_jax.stages.protocol import StageDefinition, Work, parameter

Array = Any


@pytree
class AttentionFfn:
    """The links between the pools and the pipeline."""

    layers: Array = parameter(61.0, low=1.0)
    hidden: Array = parameter(7168.0, low=1.0)
    activation_bytes: Array = parameter(2.0, "bytes", low=0.5)
    copies: Array = parameter(1.0, low=1.0, doc="times a token is sent (top_k if to every expert's chip)")
    micro_batches: Array = parameter(3.0, low=1.0)
    latency: Array = parameter(10e-6, "time", doc="one way, kernel and wire; assumption")
    bandwidth: Array = parameter(50e9, "bandwidth", low=1.0, doc="per attention chip")


def hop_seconds(params: AttentionFfn, tokens: Array) -> Array:
    """t_c: one way of one micro-batch of `tokens` tokens of one attention chip."""
    nbytes = tokens * params.hidden * params.activation_bytes * params.copies
    return params.latency + nbytes / params.bandwidth


def iteration_seconds(params: AttentionFfn, attention_s: Array, ffn_s: Array, tokens: Array) -> Array:
    """Seconds of a decode iteration of all micro-batches together.

    Args:
        attention_s: t_a, one layer's attention of one micro-batch (from the engine's step terms).
        ffn_s: t_f, one layer's experts of one micro-batch.
        tokens: tokens of a micro-batch per attention chip.
    """
    hop = hop_seconds(params, tokens)
    trip = attention_s + ffn_s + 2.0 * hop
    slowest = jnp.maximum(jnp.maximum(attention_s, ffn_s), hop)
    m, n = params.micro_batches, params.layers
    # A micro-batch cannot start its next layer before it is back; m of them keep the slowest station busy or
    # not.
    return trip + jnp.maximum(slowest * (m * n - 1.0), trip * (n - 1.0) + slowest * (m - 1.0))


def hides_communication(params: AttentionFfn, attention_s: Array, ffn_s: Array, tokens: Array) -> Array:
    """MegaScale-Infer's condition m >= (t_a + t_f + 2 t_c) / max(t_a, t_f), 1.0 if it holds."""
    hop = hop_seconds(params, tokens)
    busiest = jnp.maximum(attention_s, ffn_s)
    return jnp.where(params.micro_batches * busiest >= attention_s + ffn_s + 2.0 * hop, 1.0, 0.0)


def demand(params: AttentionFfn, work: Work) -> Demand:
    """Bytes over the network of one decode iteration of `batch` sequences: both ways, every layer."""
    moved = 2.0 * params.layers * work.batch * params.hidden * params.activation_bytes * params.copies
    return make(2.0 * params.layers * params.latency, network=moved, caps={"network": params.bandwidth})


STAGES = (
    StageDefinition(
        name="attention_ffn",
        kind="transfer",
        parameters=AttentionFfn,
        function=demand,
        summary="activations between attention and expert pools",
        source="MegaScale-Infer (arXiv 2504.02263), Step-3 (arXiv 2507.19427)",
        valid="balanced micro-batches",
        not_modelled="expert imbalance (give the busiest rank's t_f), M-to-N fan-in",
    ),
)
