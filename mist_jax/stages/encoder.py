"""Forward pass of an encoder (embedding, cross-encoder, classifier, vision tower) as a roofline; not a stage
itself.

    FLOP  = 2 P T + 4 l d sum_i s_i^2           (projections; bidirectional attention of each sequence)
    bytes = P * weight_bytes + T * d * l * activation_bytes * 2
    t     = t0 + max(FLOP / (F eta), bytes / (BW eta_m))
T = tokens of the batch, s_i = tokens of a sequence, P = parameters without the embedding table.

eta = 0.31 of the 16-bit peak: bge-large (303 M parameters without embeddings) on one L4 embeds 62.2e3
tokens/s = 37.7 TFLOP/s of 121 (infinity documentation, benchmarking page: text-embeddings-inference, 1.15 M
tokens in 18.49 s).
"""

from __future__ import annotations

from typing import Any

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make

Array = Any

#: Model FLOP utilization of a small encoder, see above.
ENCODER_EFFICIENCY = 0.31


def encoder_flops(
    parameters: Array, layers: Array, hidden: Array, tokens: Array, sequence_tokens: Array
) -> Array:
    """FLOP of a forward pass over `tokens` tokens in sequences of `sequence_tokens` tokens."""
    return 2.0 * parameters * tokens + 4.0 * layers * hidden * tokens * sequence_tokens


def encoder_demand(
    parameters: Array,
    layers: Array,
    hidden: Array,
    sequences: Array,
    sequence_tokens: Array,
    efficiency: Array = ENCODER_EFFICIENCY,
    memory_efficiency: Array = 0.7,
    fixed_s: Array = 2e-3,
    weight_bytes: Array = 2.0,
    place: str = "accelerator",
    core_flops: Array = 30e9,
    cores: Array = 16.0,
) -> Demand:
    """Demand of one forward pass over `sequences` sequences of `sequence_tokens` tokens.

    Args:
        place: `accelerator`, or `cpu` with `core_flops` FLOP/s sustained per core on `cores` cores.
        fixed_s: launch and server overhead per call.

    Not modelled: padding of ragged batches (give the padded length), kernels too small to fill the chip.
    """
    tokens = sequences * sequence_tokens
    flops = encoder_flops(parameters, layers, hidden, tokens, sequence_tokens)
    nbytes = parameters * weight_bytes + 4.0 * tokens * hidden * layers
    if place == "cpu":
        return make(fixed_s, cpu=flops / core_flops, host_memory=nbytes, caps={"cpu": cores})
    return make(fixed_s, accelerator=flops / efficiency, device_memory=nbytes / memory_efficiency)
