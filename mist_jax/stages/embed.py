"""Embedding of queries or chunks by an encoder."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.pytree import pytree
from mist_jax.stages.encoder import ENCODER_EFFICIENCY, encoder_demand
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any


@pytree
class Embed:
    """An embedding model; defaults: bge-large-en (24 layers, width 1024, 303 M parameters without tables)."""

    place: str = choice("accelerator", ("accelerator", "cpu"))
    parameters: Array = parameter(303e6, low=1.0, doc="without the embedding table")
    layers: Array = parameter(24.0, low=1.0)
    hidden: Array = parameter(1024.0, low=1.0)
    max_tokens: Array = parameter(512.0, low=1.0, doc="longer inputs are cut")
    tokens: Array = parameter(0.0, doc="tokens of one input; 0: the query of the request")
    inputs: Array = parameter(1.0, low=1.0, doc="texts embedded per request (query rewrites, chunks)")
    weight_bytes: Array = parameter(2.0, "bytes", low=0.5)
    efficiency: Array = parameter(ENCODER_EFFICIENCY, low=0.01, high=1.0, doc="of the 16-bit peak")
    fixed_s: Array = parameter(2e-3, "time", doc="launch and HTTP; assumption, 1 to 3 ms")
    core_flops: Array = parameter(30e9, "flops", low=1.0, doc="sustained per CPU core; assumption")
    cores: Array = parameter(16.0, low=1.0)


def demand(params: Embed, work: Work) -> Demand:
    """Demand of embedding the inputs of a batch of requests in one forward pass."""
    length = jnp.where(jnp.asarray(params.tokens) > 0, params.tokens, work.query_tokens)
    return encoder_demand(
        params.parameters,
        params.layers,
        params.hidden,
        work.batch * params.inputs,
        jnp.minimum(length, params.max_tokens),
        efficiency=params.efficiency,
        fixed_s=params.fixed_s,
        weight_bytes=params.weight_bytes,
        place=params.place,
        core_flops=params.core_flops,
        cores=params.cores,
    )


STAGES = (
    StageDefinition(
        name="embed",
        kind="service",
        parameters=Embed,
        function=demand,
        summary="embedding of queries or chunks by an encoder",
        source="roofline with 31 % MFU: infinity documentation, bge-large on L4",
        valid="batches that fill the chip; single short queries are bound by fixed_s and the weights' bytes",
        not_modelled="padding, tokenization (stage tokenize), queueing before the batch",
    ),
)
