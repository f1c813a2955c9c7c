"""Collectives over a group that may reach beyond one scale-up domain: hierarchical alpha-beta.

Each returns (seconds, bytes sent per chip), shaped like `nbytes` and `ranks`, which are alike. Inside a domain the
links of the domain carry everything; beyond it the collective runs inside first, then one share per chip crosses the
scale-out network (the hierarchy of NCCL's tree and of "Massively Scale Your Deep Learning Training with NCCL 2.4",
NVIDIA 2019).
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


def _levels(hw: Hardware, ranks: Array) -> tuple[Array, Array, Array, Array, Array]:
    """(ranks inside one domain, domains, and both as [2, ...] with the bandwidth and the latency of their links).

    Both levels go through one call of a kernel's time: half as much of it in the program.
    """
    inner, outer = _split(hw, ranks)
    # A chip without links of its own talks through the host: PCIe.
    up = jnp.where(hw.scale_up_bandwidth > 0, hw.scale_up_bandwidth, hw.host_bandwidth)
    out = jnp.where(hw.scale_out_bandwidth > 0, hw.scale_out_bandwidth, hw.host_bandwidth)
    both = jnp.stack([inner, outer])

    def alike(first: Array, second: Array) -> Array:
        return jnp.stack([jnp.broadcast_to(x, inner.shape) for x in (first, second)])

    return inner, outer, both, alike(up, out), alike(hw.scale_up_latency, hw.scale_out_latency)


def group_all_reduce(kern: Any, hw: Hardware, nbytes: Array, ranks: Array) -> tuple[Array, Array]:
    """All-reduce of `nbytes` per rank: inside one domain, then of 1/inner of it across domains.

    Seconds: AR(S, inner) + AR(S / inner, outer).
    """
    inner, outer, both, *links = _levels(hw, ranks)
    seconds = k.all_reduce_time(kern.all_reduce, jnp.stack([nbytes, nbytes / inner]), both, *links).sum(
        axis=0
    )
    seconds += jnp.where((outer > 1.0) & (nbytes > 0), NETWORK_FLOOR, 0.0)
    return seconds, 2.0 * (ranks - 1.0) / ranks * nbytes


def group_all_gather(kern: Any, hw: Hardware, nbytes: Array, ranks: Array) -> tuple[Array, Array]:
    """All-gather whose result has `nbytes` on every rank: AG(S / inner, outer) + AG(S, inner)."""
    inner, _, both, *links = _levels(hw, ranks)
    seconds = k.all_gather_time(kern.all_gather, jnp.stack([nbytes, nbytes / inner]), both, *links).sum(
        axis=0
    )
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
    _, outer, both, *links = _levels(hw, ranks)
    several = jnp.maximum(outer, 1.0 + 1e-6)
    once = jnp.maximum(copies, 1.0)
    crossing = -several * jnp.expm1(once * jnp.log1p(-1.0 / several)) / once
    handed_on = jnp.where(once > 1.0, 1.0, 1.0 / outer)
    inside, link = kern.all_to_all, kern.p2p
    coef = replace(
        inside,
        bandwidth_efficiency=jnp.stack(
            [inside.bandwidth_efficiency, jnp.full_like(inside.sharing, NETWORK_EFFICIENCY)]
        ),
        half_bytes=jnp.stack([inside.half_bytes, link.half_bytes]),
        sharing=jnp.stack([inside.sharing, jnp.zeros_like(inside.sharing)]),
    )
    seconds = k.all_to_all_time(coef, nbytes * jnp.stack([handed_on, crossing]), both, *links).sum(axis=0)
    return seconds, (ranks - 1.0) / ranks * nbytes


def group_send(kern: Any, hw: Hardware, nbytes: Array, beyond: Array) -> Array:
    """Seconds to send `nbytes` from one chip to another, of which the share `beyond` leaves the domain."""
    _, _, _, *links = _levels(hw, jnp.asarray(2.0))
    inside, outside = k.p2p_time(kern.p2p, nbytes, *links)
    return inside + beyond * (outside - inside)
