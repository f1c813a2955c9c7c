"""Multi-LoRA: many adapters on one base model; what their products, bytes and swaps add to an iteration.

An adapter of rank r on projections of widths (d_in, d_out) has r (d_in + d_out) weights each. A batch of b
tokens over a distinct adapters adds, per iteration (Chen et al., Punica, MLSys 2024; Sheng et al., S-LoRA,
MLSys 2024):
    FLOP  = 2 b r sum (d_in + d_out)
    bytes = a r sum (d_in + d_out) s                weights of the distinct adapters, read once each
    t     = max(FLOP / (F eta), bytes / (BW eta_m)) + 2 launches a projection and layer
Distinct adapters of b requests with popularity p_i: a = sum_i 1 - (1 - p_i)^b (Zipf by default). An adapter
that is not in device memory is loaded over the host link first.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand, in_sequence
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree
from mist_jax.stages.protocol import StageDefinition, Work, parameter

Array = Any

MAX_ADAPTERS = 4096


@pytree
class Lora:
    """Adapters and what of them is resident; defaults: rank 16 on all projections of Llama-3.1-8B."""

    rank: Array = parameter(16.0, low=1.0)
    widths: Array = parameter(
        81920.0, low=1.0, doc="sum of d_in + d_out over the adapted projections of one layer"
    )
    layers: Array = parameter(32.0, low=1.0)
    projections: Array = parameter(7.0, low=1.0, doc="adapted projections of a layer")
    adapters: Array = parameter(64.0, low=1.0, high=float(MAX_ADAPTERS), doc="adapters in use")
    zipf: Array = parameter(1.0, doc="popularity exponent; 0: equal")
    resident: Array = parameter(32.0, low=0.0, doc="adapters that fit in device memory")
    weight_bytes: Array = parameter(2.0, "bytes", low=0.5)
    compute_efficiency: Array = parameter(0.1, low=0.001, high=1.0, doc="thin products; assumption")
    memory_efficiency: Array = parameter(0.5, low=0.01, high=1.0, doc="gathered reads; assumption")
    launch_s: Array = parameter(1.5e-6, "time", doc="per kernel inside a captured graph; assumption")


def popularity(adapters: Array, zipf: Array) -> Array:
    """Zipf probabilities, [MAX_ADAPTERS], zero beyond `adapters`."""
    rank = jnp.arange(1, MAX_ADAPTERS + 1, dtype=float)
    raw = jnp.where(rank <= adapters, rank**-zipf, 0.0)
    return raw / jnp.sum(raw)


def distinct(adapters: Array, zipf: Array, requests: Array) -> Array:
    """Expected number of different adapters among `requests`: sum_i 1 - (1 - p_i)^b."""
    return jnp.sum(1.0 - (1.0 - popularity(adapters, zipf)) ** requests)


def miss_rate(params: Lora) -> Array:
    """Share of requests whose adapter is not resident, when the most popular are (an upper bound on LRU's
    hits)."""
    rank = jnp.arange(1, MAX_ADAPTERS + 1)
    return jnp.sum(jnp.where(rank > params.resident, popularity(params.adapters, params.zipf), 0.0))


def adapter_bytes(params: Lora) -> Array:
    """Bytes of one adapter."""
    return params.rank * params.widths * params.layers * params.weight_bytes


def iteration_demand(params: Lora, tokens: Array, requests: Array) -> Demand:
    """What adapters add to one engine iteration of `tokens` tokens from `requests` requests."""
    read = distinct(params.adapters, params.zipf, requests) * adapter_bytes(params)
    flops = 2.0 * tokens * params.rank * params.widths * params.layers
    return make(
        2.0 * params.projections * params.layers * params.launch_s,
        accelerator=flops / params.compute_efficiency,
        device_memory=read / params.memory_efficiency,
    )


def demand(params: Lora, work: Work) -> Demand:
    """Before the request: loading a missing adapter; then what its prefill pays for adapters."""
    load = make(host_link=work.batch * miss_rate(params) * adapter_bytes(params))
    new = jnp.maximum(work.prompt_tokens - work.cached_tokens, 0.0)
    return in_sequence(load, iteration_demand(params, work.batch * new, work.batch))


STAGES = (
    StageDefinition(
        name="lora",
        kind="service",
        parameters=Lora,
        function=demand,
        summary="multi-LoRA: adapter loads and products",
        source="Punica (MLSys 2024), S-LoRA (MLSys 2024)",
        valid="physics, uncalibrated; decode steps: iteration_demand",
        not_modelled="scheduling by adapter, unified paging of adapters with the KV cache",
    ),
)
