"""KV cache kept outside of device memory: load a prefix before prefill, store the new tokens after it.

For a prefix of p tokens found in tier i, S = p * kv_bytes_per_token:
    load     alpha_i + S / BW_i(block)                                     see `physics.memory_tiers`
    overlap  layer by layer behind the prefill of the rest, or before it
    policy   always load; or load only what is cheaper than computing it (the expected prefill time is given)
Storing is asynchronous: it takes bandwidth, which others then lack, but not time of the request.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.physics.memory_tiers import effective_bandwidth, load_seconds
from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any

#: tier → (resources its bytes pass through, latency s, bytes/s of one reader, half block bytes); sources in
#: `physics.memory_tiers.default_tiers`.
TIER_DEFAULTS = {
    "host": (("host_memory", "host_link"), 0.3e-3, 50e9, 0.3e6),
    "cxl": (("cxl", "host_link"), 0.3e-3, 45e9, 0.3e6),
    "nvme": (("storage", "host_link"), 0.5e-3, 6.5e9, 0.1e6),
    "rack_pool": (("pool", "network"), 1e-3, 49.5e9, 0.3e6),
    "remote_rdma": (("network",), 1e-3, 49.5e9, 0.3e6),
    "remote_tcp": (("network", "host_memory"), 2e-3, 4.2e9, 0.1e6),
    "object_store": (("pool", "network"), 30e-3, 10e9, 4e6),
}


@pytree
class KVTier:
    """One tier. NaN takes the tier's default."""

    tier: str = choice("host", tuple(TIER_DEFAULTS))
    policy: str = choice(
        "always", ("always", "cheaper"), "load every hit, or only if faster than computing it"
    )
    hit_rate: Array = parameter(0.5, high=1.0, doc="share of requests whose prefix is in this tier")
    prefix_share: Array = parameter(1.0, high=1.0, doc="share of the prompt that such a prefix covers")
    latency: Array = parameter(-1.0, "time", low=-1.0, doc="s before the first byte; negative: of the tier")
    bandwidth: Array = parameter(-1.0, "bandwidth", low=-1.0, doc="of one reader; negative: of the tier")
    half_block: Array = parameter(
        -1.0, "bytes", low=-1.0, doc="block with half the bandwidth; negative: of the tier"
    )
    block_tokens: Array = parameter(256.0, low=1.0, doc="tokens stored contiguously")
    block_layers: Array = parameter(0.0, doc="layers stored contiguously; 0: all (one block has every layer)")
    overlap: Array = parameter(0.0, high=1.0, doc="1: layer by layer behind the prefill; 0: before it")
    token_bytes: Array = parameter(
        0.0, "bytes", doc="KV bytes per token; 0: of the model that serves the request"
    )
    compression: Array = parameter(1.0, low=0.01, doc="stored bytes over KV bytes (CacheGen: about 1/3)")


def _settings(params: KVTier) -> tuple[Array, Array, Array]:
    _, latency, bandwidth, half = TIER_DEFAULTS[params.tier]
    given = (params.latency, params.bandwidth, params.half_block)
    picked = [jnp.where(jnp.asarray(v) < 0, d, v) for v, d in zip(given, (latency, bandwidth, half))]
    return picked[0], picked[1], picked[2]


def _token_bytes(params: KVTier, work: Work) -> Array:
    own = jnp.asarray(params.token_bytes)
    return jnp.where(own > 0, own, work.kv_bytes_per_token) * params.compression


def block_bytes(params: KVTier, work: Work) -> Array:
    """Bytes of one contiguous block: tokens * layers of it."""
    layers = jnp.where(jnp.asarray(params.block_layers) > 0, params.block_layers, work.kv_layers)
    return params.block_tokens * _token_bytes(params, work) * layers / jnp.maximum(work.kv_layers, 1.0)


def prefix_tokens(params: KVTier, work: Work) -> Array:
    """Tokens that a hit brings beyond what the engine has: whole blocks of the covered part."""
    covered = jnp.floor(work.prompt_tokens * params.prefix_share / params.block_tokens) * params.block_tokens
    return jnp.maximum(covered - work.cached_tokens, 0.0)


def load_alone_seconds(params: KVTier, work: Work) -> Array:
    """Seconds to load the prefix of one hit, nobody else on the links."""
    latency, bandwidth, half = _settings(params)
    nbytes = prefix_tokens(params, work) * _token_bytes(params, work)
    return load_seconds(nbytes, latency, bandwidth, block_bytes(params, work), half)


def prefill_saved_seconds(params: KVTier, work: Work) -> Array:
    """Prefill time that a hit saves, taken proportional to the tokens left out (long prompts save more)."""
    new = jnp.maximum(work.prompt_tokens - work.cached_tokens, 1.0)
    return work.prefill_s * jnp.minimum(prefix_tokens(params, work) / new, 1.0)


def loads(params: KVTier, work: Work) -> Array:
    """1 if a hit is loaded, 0 if it is recomputed because that is faster."""
    if params.policy == "always":
        return jnp.asarray(1.0)
    return jnp.where(load_alone_seconds(params, work) < prefill_saved_seconds(params, work), 1.0, 0.0)


def load_demand(params: KVTier, work: Work) -> Demand:
    """Demand of loading the prefixes of a batch: mean over hits and misses.

    Bytes go through every resource on the way (`TIER_DEFAULTS`), at most at the reader's bandwidth;
    layer-wise overlap leaves 1/layers of the transfer, or what exceeds the prefill of the rest.
    """
    latency, bandwidth, half = _settings(params)
    chance = params.hit_rate * loads(params, work)
    nbytes = prefix_tokens(params, work) * _token_bytes(params, work)
    rate = effective_bandwidth(bandwidth, block_bytes(params, work), half)
    alone = nbytes / rate
    rest = work.prefill_s - prefill_saved_seconds(params, work)
    layers = jnp.maximum(work.kv_layers, 1.0)
    hidden = jnp.minimum(alone, rest) * (layers - 1.0) / layers * params.overlap
    visible = jnp.where(alone > 0, (alone - hidden) / jnp.where(alone > 0, alone, 1.0), 0.0)
    moved = work.batch * chance * nbytes * visible
    resources = TIER_DEFAULTS[params.tier][0]
    return make(
        chance * jnp.where(nbytes > 0, latency, 0.0),
        caps=dict.fromkeys(resources, rate),
        **dict.fromkeys(resources, moved),
    )


def store_demand(params: KVTier, work: Work) -> Demand:
    """Bytes of storing the new tokens of a batch; the request does not wait for them (see the pipeline's
    `wait`)."""
    latency, bandwidth, half = _settings(params)
    new = jnp.maximum(work.prompt_tokens + work.output_tokens - work.cached_tokens, 0.0)
    rate = effective_bandwidth(bandwidth, block_bytes(params, work), half)
    moved = work.batch * new * _token_bytes(params, work)
    resources = TIER_DEFAULTS[params.tier][0]
    return make(latency, caps=dict.fromkeys(resources, rate), **dict.fromkeys(resources, moved))


def update(params: KVTier, work: Work) -> Work:
    """The loaded tokens need no prefill: mean over hits and misses."""
    more = params.hit_rate * loads(params, work) * prefix_tokens(params, work)
    return replace(work, cached_tokens=jnp.minimum(work.cached_tokens + more, work.prompt_tokens))


_COMMON = {
    "kind": "transfer",
    "parameters": KVTier,
    "source": "alpha-beta with block size: vLLM KV offloading blog 2026-01-08; tiers: physics.memory_tiers",
    "valid": "means over requests; prefill saved is taken linear in tokens",
}
STAGES = (
    StageDefinition(
        name="kv_load",
        function=load_demand,
        update=update,
        summary="load a KV prefix from a tier",
        not_modelled="eviction (give a hit rate, or lru_hits of a trace); bimodality of hit and miss",
        **_COMMON,
    ),
    StageDefinition(
        name="kv_store",
        function=store_demand,
        summary="store new KV in a tier",
        not_modelled="write amplification, deduplication",
        **_COMMON,
    ),
)
