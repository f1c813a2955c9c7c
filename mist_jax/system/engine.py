"""The serving engine's settings that change what an iteration holds or costs."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any


@pytree
class Engine:
    """Settings of one engine instance (vLLM names where they exist)."""

    max_num_batched_tokens: Array  #: token budget of an iteration
    max_num_seqs: Array  #: sequences an iteration may hold
    block_size: Array  #: tokens in a KV block
    memory_utilization: Array  #: fraction of device memory the engine may use
    reserve_bytes: (
        Array  #: bytes per chip the engine keeps for itself (context, graphs, communication buffers)
    )
    activation_bytes_per_token: (
        Array  #: peak activation bytes per batched token per chip; 0 = derive from the model
    )
    eager: Array  #: 1.0 = kernels launched one by one, 0.0 = captured graphs for decode iterations
    prefix_hit_rate: Array  #: fraction of prompt tokens found in the prefix cache
