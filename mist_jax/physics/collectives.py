"""Collectives over a group that may reach beyond one scale-up domain: hierarchical alpha-beta.

Each returns (seconds, bytes sent per chip). Inside a domain the links of the domain carry everything; beyond it
the collective runs inside first, then one share per chip crosses the scale-out network (the hierarchy of NCCL's
tree and of "Massively Scale Your Deep Learning Training with NCCL 2.4", NVIDIA 2019).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics import kernels as k
from mist_jax.pytree import replace
from mist_jax.system.hardware import Hardware

Array = Any

#: Share of the NICs' rate that the exchange of tokens between experts reaches across domains: 90 GB/s on 2 and 61 GB/s
#: on 4 nodes of H100 with 50 GB/s a chip, of which 1/2 and 3/4 cross (deepseek-ai/DeepEP README, EP 8 x 2 and 8 x 4).
NETWORK_EFFICIENCY = 0.9


#: s that an all-reduce across domains takes longer than its parts: NCCL's kernel with its proxy threads in place of the
#: engines' one-shot kernel. 16 ranks on 2 nodes of A100: 65 to 71 us at 2 to 18 kB, 8 ranks on one node 26 us
#: (microsoft/vidur, data/profiling/network/a100_dgx/all_reduce.csv, MIT).
NETWORK_FLOOR = 40e-6


def _split(hw: Hardware, ranks: Array) -> tuple[Array, Array]:
    """(ranks inside one domain, number of domains); a relaxed count, not rounded, so that it has a slope."""
    inner = jnp.minimum(ranks, hw.scale_up_domain)
    return inner, ranks / inner


def _levels(hw: Hardware, ranks: Array) -> tuple[Array, Array, tuple[Array, Array], tuple[Array, Array]]:
    inner, outer = _split(hw, ranks)
    # A chip without links of its own talks through the host: PCIe.
    up = jnp.where(hw.scale_up_bandwidth > 0, hw.scale_up_bandwidth, hw.host_bandwidth)
    out = jnp.where(hw.scale_out_bandwidth > 0, hw.scale_out_bandwidth, hw.host_bandwidth)
    return inner, outer, (up, hw.scale_up_latency), (out, hw.scale_out_latency)


def group_all_reduce(kern: Any, hw: Hardware, nbytes: Array, ranks: Array) -> tuple[Array, Array]:
    """All-reduce of `nbytes` per rank: inside one domain, then of 1/inner of it across domains.

    Seconds: AR(S, inner) + AR(S / inner, outer). Scalars.
    """
    inner, outer, up, out = _levels(hw, ranks)
    seconds = k.all_reduce_time(kern.all_reduce, nbytes, inner, *up)
    seconds += k.all_reduce_time(kern.all_reduce, nbytes / inner, outer, *out)
    seconds += jnp.where((outer > 1.0) & (nbytes > 0), NETWORK_FLOOR, 0.0)
    return seconds, 2.0 * (ranks - 1.0) / ranks * nbytes


def group_all_gather(kern: Any, hw: Hardware, nbytes: Array, ranks: Array) -> tuple[Array, Array]:
    """All-gather whose result has `nbytes` on every rank: AG(S / inner, outer) + AG(S, inner)."""
    inner, outer, up, out = _levels(hw, ranks)
    seconds = k.all_gather_time(kern.all_gather, nbytes, inner, *up)
    seconds += k.all_gather_time(kern.all_gather, nbytes / inner, outer, *out)
    return seconds, (ranks - 1.0) / ranks * nbytes


def group_all_to_all(
    kern: Any, hw: Hardware, nbytes: Array, ranks: Array, copies: Array = 1.0
) -> tuple[Array, Array]:
    """All-to-all in which each rank sends `nbytes`: the share for other domains crosses the network, in parallel.

    `copies` c: of each row, to as many ranks. To one of n domains it goes once, and is handed on there (DeepSeek's
    DeepEP), so that n (1 - (1 - 1/n)^c) / c of the bytes cross and all pass the links inside a domain.
    Both levels start together; the time is the sum of their floors and the slower transfer, taken as the sum of the
    two, which is at most twice the larger.
    """
    inner, outer, up, out = _levels(hw, ranks)
    several = jnp.maximum(outer, 1.0 + 1e-6)
    once = jnp.maximum(copies, 1.0)
    crossing = -several * jnp.expm1(once * jnp.log1p(-1.0 / several)) / once
    handed_on = jnp.where(once > 1.0, 1.0, 1.0 / outer)
    seconds = k.all_to_all_time(kern.all_to_all, nbytes * handed_on, inner, *up)
    network = replace(
        kern.all_to_all,
        bandwidth_efficiency=NETWORK_EFFICIENCY,
        half_bytes=kern.p2p.half_bytes,
        sharing=jnp.zeros_like(kern.all_to_all.sharing),
    )
    seconds += k.all_to_all_time(network, nbytes * crossing, outer, *out)
    return seconds, (ranks - 1.0) / ranks * nbytes


def group_send(kern: Any, hw: Hardware, nbytes: Array, beyond: Array) -> Array:
    """Seconds to send `nbytes` from one chip to another, of which the share `beyond` leaves the domain."""
    _, _, up, out = _levels(hw, jnp.asarray(2.0))
    inside = k.p2p_time(kern.p2p, nbytes, *up)
    return inside + beyond * (k.p2p_time(kern.p2p, nbytes, *out) - inside)
