"""Tiers that hold KV caches, from host DRAM to an object store, and what reading a block from them costs.

    t(S) = alpha + S / BW_eff(b),   BW_eff(b) = BW * b / (b + b_half)
b = bytes of one contiguous block, b_half = block at which half of the bandwidth is reached: every block
costs a fixed time b_half / BW. vLLM 0.11 to 0.12 went from blocks of 16-72 KB to 0.5-2 MB and gained about a
factor of 10 (vLLM blog, "KV offloading connector", 2026-01-08): with 50 GB/s that is b_half near 0.3 MB, 6
us a block.

Load or recompute: loading n tokens pays when t_load(n) < t_prefill(n); by bandwidth (Qin et al., Mooncake,
    FAST 2025,
Eq. 2) when B / G > 2 d s / (gqa (a p d + b d^2)), G = effective FLOP/s, p = prefix tokens.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree

Array = Any

TIERS = ("host", "cxl", "nvme", "rack_pool", "remote_rdma", "remote_tcp", "object_store")


@pytree
class Tiers:
    """Every leaf has shape [tiers], in the order the caches are asked."""

    latency: Array  #: alpha, s
    bandwidth: Array  #: bytes/s of one reader
    half_block: Array  #: b_half, bytes
    capacity: Array  #: bytes


def default_tiers() -> Tiers:
    """One tier of each kind in `TIERS`, as one H100 server of 2025 sees them.

    host: 50 GB/s one way (vLLM blog, 2026-01-08), 0.3 ms. cxl: PCIe 5 x16, 64 GB/s raw; assumption.
    nvme: 6.5 GB/s a drive sustained (PegaFlow). rack_pool, remote_rdma: 49.5 GB/s on 400G InfiniBand (UCX,
        UCCL;
    llm-d blog, 2026-06-23). remote_tcp: 4.2 GB/s, the middle of 3.5 to 4.9 (same). object_store: 10 to 100
    ms and 10 GB/s ("cloud storage" of llm-d's tiers); assumption. Capacities are examples.
    """
    return Tiers(
        latency=jnp.array([0.3e-3, 0.3e-3, 0.5e-3, 1e-3, 1e-3, 2e-3, 30e-3]),
        bandwidth=jnp.array([50e9, 45e9, 6.5e9, 49.5e9, 49.5e9, 4.2e9, 10e9]),
        half_block=jnp.array([0.3e6, 0.3e6, 0.1e6, 0.3e6, 0.3e6, 0.1e6, 4e6]),
        capacity=jnp.array([1e12, 2e12, 8e12, 32e12, 32e12, 32e12, 1e15]),
    )


def effective_bandwidth(bandwidth: Array, block: Array, half_block: Array) -> Array:
    """BW b / (b + b_half), bytes/s."""
    return bandwidth * block / (block + half_block)


def load_seconds(nbytes: Array, latency: Array, bandwidth: Array, block: Array, half_block: Array) -> Array:
    """Seconds to read `nbytes` in blocks of `block` bytes; 0 for nothing."""
    time = latency + nbytes / effective_bandwidth(bandwidth, block, half_block)
    return jnp.where(nbytes > 0, time, 0.0)


def overlapped_seconds(load: Array, compute: Array, layers: Array) -> tuple[Array, Array]:
    """Layer-wise overlap of a load with the prefill that needs it: (total seconds, seconds added to the
    compute).

    total = load/L + (L - 1) max(load/L, compute/L) + compute/L: layer k computes while layer k+1 arrives
    (Gao et al., CachedAttention, ATC 2024, 3.2.1; the same bound for Mooncake's layer-wise prefill). One
    layer: serial.
    """
    n = jnp.maximum(layers, 1.0)
    total = load / n + (n - 1.0) * jnp.maximum(load, compute) / n + compute / n
    return total, total - compute


def tier_walk(hit: Array, load: Array, miss_s: Array) -> Array:
    """Expected seconds, sum_i P_i t_i + (1 - sum P) t_miss: `hit` [tiers] are disjoint probabilities of each
    tier."""
    return jnp.sum(hit * load) + (1.0 - jnp.sum(hit)) * miss_s


def break_even_bandwidth(
    hidden: Array,
    kv_bytes_per_element: Array,
    gqa: Array,
    prefix: Array,
    flops: Array,
    a: Array = 4.0,
    b: Array = 22.0,
) -> Array:
    """Bytes/s above which loading a prefix of `prefix` tokens beats recomputing it: Mooncake (FAST 2025),
    Eq. 2.

    B = G * 2 d s / (gqa (a p d + b d^2)); a = 4, b = 22 for Llama-like layers. Prefill FLOP of n tokens are
    l (a n^2 d + b n d^2), KV bytes n l 2 d s / gqa.

    Args:
        hidden: d.  kv_bytes_per_element: s.  gqa: query heads over KV heads.  flops: G, effective FLOP/s.
    """
    return flops * 2.0 * hidden * kv_bytes_per_element / (gqa * (a * prefix * hidden + b * hidden**2))


def lru_hits(blocks: list[list[int]], capacity: float = float("inf")) -> tuple[int, int]:
    """Hits and total of block references under LRU with prefix semantics, host side.

    A request hits its leading blocks that are all cached; the first miss ends the prefix (as in prefix
    caching).

    Args:
        blocks: per request, its block hashes in order.  capacity: blocks that fit.
    """
    from collections import OrderedDict

    cache: OrderedDict[int, None] = OrderedDict()
    hits = total = 0
    for request in blocks:
        total += len(request)
        matching = True
        for block in request:
            if matching and block in cache:
                hits += 1
            else:
                matching = False
            cache[block] = None
            cache.move_to_end(block)
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits, total
