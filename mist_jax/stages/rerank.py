"""Reranking of retrieved documents: a cross-encoder over (query, document) pairs, or late interaction.

Cross-encoder: the encoder of `encoder` on k sequences of q + c tokens, `pairs_per_pass` at a time.
Late interaction (Khattab and Zaharia, ColBERT, SIGIR 2020): token vectors of the documents are stored; a
pair costs 2 q c dim FLOP and reads c dim component_bytes, after the query has been embedded.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand, in_sequence
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree, replace
from mist_jax.stages.encoder import ENCODER_EFFICIENCY, encoder_demand
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any


@pytree
class Rerank:
    """A reranker; defaults: bge-reranker-large (24 layers, width 1024, 303 M parameters without tables)."""

    method: str = choice("cross_encoder", ("cross_encoder", "late_interaction"))
    place: str = choice("accelerator", ("accelerator", "cpu"))
    parameters: Array = parameter(303e6, low=1.0, doc="without the embedding table")
    layers: Array = parameter(24.0, low=1.0)
    hidden: Array = parameter(1024.0, low=1.0)
    weight_bytes: Array = parameter(2.0, "bytes", low=0.5)
    candidates: Array = parameter(0.0, doc="documents scored; 0: all that were retrieved")
    keep: Array = parameter(5.0, low=0.0, doc="documents passed on")
    pairs_per_pass: Array = parameter(64.0, low=1.0, doc="pairs in one forward pass")
    dim: Array = parameter(128.0, low=1.0, doc="late interaction: width of a token vector")
    component_bytes: Array = parameter(2.0, "bytes", low=0.125)
    efficiency: Array = parameter(ENCODER_EFFICIENCY, low=0.01, high=1.0)
    fixed_s: Array = parameter(2e-3, "time", doc="per forward pass; assumption")
    core_flops: Array = parameter(30e9, "flops", low=1.0)
    vector_rate: Array = parameter(
        10e9, "bandwidth", low=1.0, doc="late interaction on CPU, bytes/s per core"
    )
    cores: Array = parameter(16.0, low=1.0)


def demand(params: Rerank, work: Work) -> Demand:
    """Demand of scoring the candidates of a batch of requests.

    The weights are read once for each pass; passes = pairs / pairs_per_pass, at least one.
    """
    count = jnp.where(jnp.asarray(params.candidates) > 0, params.candidates, work.documents)
    pairs = work.batch * count
    if params.method == "late_interaction":
        query = encoder_demand(
            params.parameters, params.layers, params.hidden, work.batch, work.query_tokens,
            efficiency=params.efficiency, fixed_s=params.fixed_s, weight_bytes=params.weight_bytes,
            place=params.place, core_flops=params.core_flops, cores=params.cores,
        )  # fmt: skip
        nbytes = pairs * work.document_tokens * params.dim * params.component_bytes
        flops = 2.0 * pairs * work.document_tokens * work.query_tokens * params.dim
        if params.place == "cpu":
            busy = jnp.maximum(nbytes / params.vector_rate, flops / params.core_flops)
            return in_sequence(query, make(cpu=busy, host_memory=nbytes, caps={"cpu": params.cores}))
        return in_sequence(query, make(accelerator=flops / params.efficiency, device_memory=nbytes / 0.7))
    passes = jnp.maximum(pairs / params.pairs_per_pass, 1.0)
    one = encoder_demand(
        params.parameters, params.layers, params.hidden, pairs / passes, work.query_tokens +
        work.document_tokens, efficiency=params.efficiency, fixed_s=params.fixed_s,
        weight_bytes=params.weight_bytes, place=params.place, core_flops=params.core_flops,
        cores=params.cores,
    )  # fmt: skip
    return replace(one, amount=one.amount * passes, fixed_s=one.fixed_s * passes)


def update(params: Rerank, work: Work) -> Work:
    """Only the best documents go on."""
    return replace(work, documents=jnp.minimum(work.documents, params.keep))


STAGES = (
    StageDefinition(
        name="rerank",
        kind="service",
        parameters=Rerank,
        function=demand,
        update=update,
        summary="cross-encoder or late-interaction reranking",
        source="encoder roofline (31 % MFU, infinity documentation); ColBERT, SIGIR 2020",
        valid="passes that fill the chip; late interaction uncalibrated",
        not_modelled="padding of documents of unequal length; decompression of stored vectors",
    ),
)
