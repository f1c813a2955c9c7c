"""Time of collectives over one kind of link: all-reduce, gather, scatter, all-to-all, point to point."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import when
from mist_jax.pytree import pytree

Array = Any


@pytree
class CollectiveCoefficients:
    """One collective's latency and efficiency; scalar leaves."""

    bandwidth_efficiency: Array  #: share of the link's bandwidth that large messages reach
    launch_s: Array  #: s, floor of the kernel and of the first synchronization
    rank_s: Array  #: s per further rank (a flag to wait for, a step of the ring)
    hops: Array  #: link latencies on the critical path
    half_bytes: Array  #: bytes per link at which the ramp of the protocols costs as much as the transfer
    sharing: (
        Array  #: ranks share links (PCIe behind one host bridge): rate ~ (2/n)^sharing; 0 behind a switch
    )


def _transfer(
    coef: CollectiveCoefficients, share: Array, ranks: Array, bandwidth: Array, latency: Array
) -> Array:
    """Seconds to move `share` bytes over each rank's link while `ranks` take part.

    launch + rank_s (n-1) + hops latency + (x + sqrt(x x_half)) / (BW e (2/n)^sharing). The root is the ramp
    between the low-latency and the bandwidth protocol, and the pipeline that fills with the message.
    """
    floor = coef.launch_s + coef.rank_s * (ranks - 1.0) + coef.hops * latency
    active = (ranks > 1.0) & (share > 0)
    crowd = jnp.where(active, ranks, 2.0) / 2.0
    rate = bandwidth * coef.bandwidth_efficiency
    safe = jnp.where(active, share, 1.0)  # the root has an infinite slope at 0
    ramp = safe + jnp.sqrt(safe * coef.half_bytes)
    return when(active, floor + ramp * jnp.exp(coef.sharing * jnp.log(crowd)) / rate)


def all_reduce_time(
    coef: CollectiveCoefficients, nbytes: Array, ranks: Array, bandwidth: Array, latency: Array
) -> Array:
    """Seconds of an all-reduce of `nbytes` per rank: floor + 2 (n-1)/n S / (BW e).

    Traffic per link of a ring or of reduce-scatter + all-gather (R. Thakur, R. Rabenseifner, W. Gropp,
    "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005).

    Args:
        nbytes: size of the reduced buffer on each rank.
        ranks: n; 1 costs nothing.
        bandwidth: bytes/s per direction per chip. latency: s of one hop.

    Not modelled: several kinds of links in one collective (call it per level of the hierarchy).
    """
    return _transfer(coef, 2.0 * (ranks - 1.0) / ranks * nbytes, ranks, bandwidth, latency)


def all_gather_time(
    coef: CollectiveCoefficients, nbytes: Array, ranks: Array, bandwidth: Array, latency: Array
) -> Array:
    """Seconds of an all-gather whose result has `nbytes` on each rank: floor + (n-1)/n S / (BW e)."""
    return _transfer(coef, (ranks - 1.0) / ranks * nbytes, ranks, bandwidth, latency)


def reduce_scatter_time(
    coef: CollectiveCoefficients, nbytes: Array, ranks: Array, bandwidth: Array, latency: Array
) -> Array:
    """Seconds of a reduce-scatter of `nbytes` on each rank: floor + (n-1)/n S / (BW e)."""
    return _transfer(coef, (ranks - 1.0) / ranks * nbytes, ranks, bandwidth, latency)


def all_to_all_time(
    coef: CollectiveCoefficients, nbytes: Array, ranks: Array, bandwidth: Array, latency: Array
) -> Array:
    """Seconds of an all-to-all of `nbytes` per rank, 1/n of it to itself: floor + (n-1)/n S / (BW e)."""
    return _transfer(coef, (ranks - 1.0) / ranks * nbytes, ranks, bandwidth, latency)


def p2p_time(coef: CollectiveCoefficients, nbytes: Array, bandwidth: Array, latency: Array) -> Array:
    """Seconds to send `nbytes` from one chip to another: floor + S / (BW e)."""
    return _transfer(coef, nbytes, 2.0, bandwidth, latency)
