"""A network as nested domains, and what messages and collectives cost on it.

Levels, from the inside: `chip` (dies of one package), `scale_up` (NVLink, xGMI, ICI), `rack` (one switch) and
`data_center` (everything else). A group of chips spans as many levels as it needs; a collective works level
by level (reduce-scatter inwards, all-reduce at the top, all-gather outwards: Thakur, Rabenseifner, Gropp,
IJHPCA 19(1), 2005, extended to nested domains as in NCCL and BlueConnect, Cho et al., MLSys 2019) or as one
flat ring, tree or exchange over all chips, whichever is faster at that size. Each has two protocols, because
communication libraries have: one with low latency and part of the bandwidth (NCCL's LL and LL128, which send
    a flag beside the
data) and one with full bandwidth and a long start.

Time of one pattern: launch + steps * hop + traffic / bandwidth (the alpha-beta model: Hockney, Parallel
    Computing
20(3), 1994). Inside an engine iteration, tensor and expert parallelism use `physics.kernels_collectives`,
fitted to kernel measurements of one domain; this module is for what leaves the domain and for the pipeline's
transfers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.physics.contention import fair_shares
from mist_jax.physics.extremes import largest, smallest
from mist_jax.pytree import pytree
from mist_jax.system.hardware import Hardware

Array = Any

LEVELS = ("chip", "scale_up", "rack", "data_center")
PROTOCOLS = ("low_latency", "simple")
ALGORITHMS = ("hierarchical", "ring", "tree", "direct")
#: Group sizes at which `Links.group` and `Links.rails` hold values; between them linear in log2, flat
#: outside.
GROUP_KNOTS = (2, 4, 8)
RAIL_KNOTS = (1, 2, 4, 8)


@pytree
class Links:
    """What software makes of the links of one level; leading axis [levels]."""

    launch_s: Array  #: [levels, protocols] s before the first byte of an operation whose top level this is
    share: Array  #: [levels, protocols] of the nominal bandwidth that a large message reaches
    hop_s: Array  #: [levels, protocols] s per step (ring step, tree depth): latency and the fill of one chunk
    group: (
        Array  #: [levels, GROUP_KNOTS] factor on `share` for groups of 2, 4, 8 and more members of the level
    )
    rails: (
        Array  #: [levels, RAIL_KNOTS] ports an element of this level uses at once with 1, 2, 4, 8 chips in it
    )


@pytree
class Network:
    """Nested domains; every leaf has the leading axis [levels]."""

    bandwidth: Array  #: bytes/s per direction of one chip's port into this level; 0 = the level is not there
    latency: Array  #: s, wire and switches, one way
    size: Array  #: chips inside one domain of this level, cumulative (1 at least, growing)
    oversubscription: (
        Array  #: >= 1; divides the bandwidth of flows that cross this level while all ports send
    )
    links: Links


def default_links() -> Links:
    """Links before any fit: 80 % of the nominal bandwidth, half of it with the low-latency protocol.

    Launch and hop times: NCCL's tuning constants (nccl/src/graph/tuning.cc: base latency 6.6-14 us by
        algorithm
    and protocol; hardware latency per hop 0.6-3.4 us on NVLink, 2.7-14 us on the network). All ports are
    used.
    """
    return Links(
        launch_s=np.array([[4e-6, 8e-6], [7e-6, 14e-6], [15e-6, 25e-6], [15e-6, 30e-6]]),
        share=np.array([[0.4, 0.8], [0.4, 0.8], [0.4, 0.8], [0.4, 0.8]]),
        hop_s=np.array([[0.3e-6, 0.6e-6], [1.0e-6, 2.0e-6], [4.0e-6, 10e-6], [6.0e-6, 15e-6]]),
        group=np.ones((len(LEVELS), len(GROUP_KNOTS))),
        rails=np.tile(np.array(RAIL_KNOTS, float), (len(LEVELS), 1)),
    )


def network_from_hardware(
    hardware: Hardware, rack: Array = 64.0, oversubscription: Array = 1.0, links: Links | None = None
) -> Network:
    """The network that a chip's own links describe.

    Args:
        hardware: its `scale_up_*` and `scale_out_*` (per direction and chip).
        rack: chips behind one leaf switch.
        oversubscription: of the spine, above the rack.
        links: fitted coefficients; `default_links` otherwise.
    """
    domain = jnp.maximum(hardware.scale_up_domain, 1.0)
    out, far = hardware.scale_out_bandwidth, hardware.scale_out_latency
    up = jnp.where(hardware.scale_up_domain > 1, hardware.scale_up_bandwidth, 0.0)
    return Network(
        bandwidth=jnp.stack([jnp.asarray(v, float) for v in (0.0, up, out, out)]),
        latency=jnp.stack([jnp.asarray(v, float) for v in (0.0, hardware.scale_up_latency, far, 2.0 * far)]),
        size=jnp.stack([jnp.asarray(v, float) for v in (1.0, domain, jnp.maximum(rack, domain), jnp.inf)]),
        oversubscription=jnp.stack([jnp.asarray(v, float) for v in (1.0, 1.0, 1.0, oversubscription)]),
        links=links or default_links(),
    )


def _arrays(network: Network) -> Network:
    """The same with JAX leaves: a NumPy array cannot be indexed by a traced level."""
    return jax.tree.map(jnp.asarray, network)


def _at(knots: tuple, values: Array, where: Array) -> Array:
    """`values` [levels, knots] at group sizes `where` [levels], linear in log2 and flat outside."""
    x = jnp.log2(jnp.maximum(where, 1.0))
    grid = np.log2(np.array(knots, float))
    return jnp.stack([jnp.interp(x[k], grid, values[k]) for k in range(len(LEVELS))])


def members(network: Network, chips: Array) -> Array:
    """Elements of each level in a group of `chips` neighbours: [levels], their product is `chips`."""
    upto = jnp.minimum(chips, network.size)
    below = jnp.concatenate([jnp.ones(1), upto[:-1]])
    return upto / below


def top_level(network: Network, chips: Array) -> Array:
    """Index of the level that joins a group of `chips` neighbours (0 for one chip)."""
    return jnp.sum(jnp.asarray(chips) > network.size)


def _rates(network: Network, chips: Array, protocol: int, all_ports: bool) -> tuple[Array, Array, Array]:
    """[levels] each: members, whether spanned, and s/byte out of one element (or of one port); 0 if not."""
    group = members(network, chips)
    inside = jnp.concatenate([jnp.ones(1), jnp.cumprod(group)[:-1]])
    lk = network.links
    port = (
        network.bandwidth
        * lk.share[:, protocol]
        * _at(GROUP_KNOTS, lk.group, group)
        / network.oversubscription
    )
    element = port * (_at(RAIL_KNOTS, lk.rails, inside) if all_ports else 1.0)
    # More than 8 chips in an element: ports grow in proportion.
    element = element * (jnp.maximum(inside / RAIL_KNOTS[-1], 1.0) if all_ports else 1.0)
    spanned = (group > 1) & (element > 0)
    return group, spanned, jnp.where(spanned, 1.0 / jnp.where(spanned, element, 1.0), 0.0)


def _launch(network: Network, chips: Array, protocol: int) -> Array:
    """Start of an operation over the group's top level, wire latency included."""
    top = top_level(network, chips)
    return network.links.launch_s[top, protocol] + network.latency[top]


def all_reduce_times(network: Network, nbytes: Array, chips: Array) -> Array:
    """Seconds of an all-reduce by every algorithm and protocol: [ALGORITHMS, PROTOCOLS].

    With S bytes, n chips, m_l members of level l of c_l chips each, R_l bytes/s out of such an element:
        hierarchical  launch + sum_l 2 (m_l - 1) hop_l + sum_l 2 (m_l - 1)/m_l S / R_l
        ring          launch + 2 (n - 1) hop_top      + max_l 2 (n - 1)/n S / R_l
        tree          launch + 2 sum_l log2(m_l) hop_l + max_l 2 S / R_l
        direct        launch + hop_top                + max_l (n - n_l) S / port_l   (every chip to every
        other)
    where an element's R_l counts the ports it uses at once (`Links.rails`).

    Args:
        nbytes: size of the buffer on each chip.  chips: n, 1 costs nothing.
    """
    network, n = _arrays(network), jnp.asarray(chips, float)
    rows = []
    for p in range(len(PROTOCOLS)):
        hop = network.links.hop_s[:, p]
        group, spanned, per_byte = _rates(network, n, p, True)
        _, _, per_byte_port = _rates(network, n, p, False)
        top = top_level(network, n)
        launch = _launch(network, n, p)
        inside = jnp.concatenate([jnp.ones(1), jnp.cumprod(group)[:-1]])
        steps = jnp.where(spanned, group - 1.0, 0.0)
        ring = 2.0 * (n - 1.0) / n * nbytes
        rows.append(
            jnp.stack(
                [
                    launch + jnp.sum(2.0 * steps * hop + 2.0 * steps / group * nbytes * per_byte),
                    launch + 2.0 * (n - 1.0) * hop[top] + largest(ring * per_byte),
                    launch
                    + jnp.sum(jnp.where(spanned, 2.0 * jnp.ceil(jnp.log2(group)) * hop, 0.0))
                    + largest(2.0 * nbytes * per_byte),
                    launch + hop[top] + largest((n - inside) * nbytes * per_byte_port),
                ]
            )
        )
    return jnp.where(n > 1, jnp.stack(rows, axis=1), 0.0)


def _fastest(times: Array, softness: Array) -> Array:
    """Minimum; for softness > 0 the p-norm (sum t^-p)^(-1/p) with p = 1/softness, never above it."""
    best = smallest(times.ravel())
    some = best > 0
    power = 1.0 / jnp.maximum(softness, 1e-2)
    # In logarithms: powers of small ratios become subnormal, and XLA's slope of such a power is NaN.
    logs = jnp.log(jnp.where(some, times, 1.0))
    soft = jnp.exp(-jax.nn.logsumexp(-power * logs) / power)
    return jnp.where((jnp.asarray(softness) > 0) & some, soft, best)


def all_reduce_seconds(network: Network, nbytes: Array, chips: Array, softness: Array = 0.0) -> Array:
    """Seconds of an all-reduce with the fastest algorithm and protocol (see `all_reduce_times`).

    Args:
        softness: 0 = hard choice (kinks where it changes); 0.05 to 0.2 smooths it for gradient search and is
            up to a few per cent faster than the best.
    """
    return _fastest(all_reduce_times(network, nbytes, chips), softness)


def gather_seconds(network: Network, nbytes: Array, chips: Array) -> Array:
    """Seconds of an all-gather whose result has `nbytes`, or of a reduce-scatter of it: half the all-reduce
    traffic.

    launch + sum_l (m_l - 1) hop_l + sum_l (m_l - 1)/m_l S / R_l, the faster protocol.
    """
    network, out = _arrays(network), []
    for p in range(len(PROTOCOLS)):
        group, spanned, per_byte = _rates(network, chips, p, True)
        steps = jnp.where(spanned, group - 1.0, 0.0)
        out.append(
            _launch(network, chips, p)
            + jnp.sum(steps * network.links.hop_s[:, p] + steps / group * nbytes * per_byte)
        )
    return jnp.where(jnp.asarray(chips) > 1, jnp.minimum(out[0], out[1]), 0.0)


def all_to_all_seconds(network: Network, nbytes: Array, chips: Array) -> Array:
    """Seconds of an all-to-all in which each chip sends `nbytes` in all, 1/n of it to each chip.

    launch + hop_top + max_l S (n - n_l)/n / port_l: through each chip's own port of level l goes what is
    meant for chips outside its domain of the level below (n_l chips).
    """
    network, n = _arrays(network), jnp.asarray(chips, float)
    out = []
    for p in range(len(PROTOCOLS)):
        group, _, per_byte_port = _rates(network, n, p, False)
        inside = jnp.concatenate([jnp.ones(1), jnp.cumprod(group)[:-1]])
        hop = network.links.hop_s[top_level(network, n), p]
        out.append(_launch(network, n, p) + hop + largest((n - inside) / n * nbytes * per_byte_port))
    return jnp.where(n > 1, jnp.minimum(out[0], out[1]), 0.0)


def send_seconds(network: Network, nbytes: Array, level: Array, ports: Array = 1.0) -> Array:
    """Seconds to send `nbytes` to a chip that `level` joins: launch + latency + S / (ports * BW_level *
    share).

    Args:
        level: index into LEVELS.  ports: chips on each side that send their part at the same time (rails).
    """
    network = _arrays(network)
    lk = network.links
    port = network.bandwidth[level] * lk.group[level, 0] / network.oversubscription[level]
    there = port > 0
    rate = jnp.where(there, port, 1.0) * ports * lk.share[level]
    time = smallest(lk.launch_s[level] + nbytes / rate) + network.latency[level]
    return jnp.where(there, time, jnp.inf)


def flow_rates(network: Network, level: Array, ports: Array, weights: Array | None = None) -> Array:
    """Max-min bytes/s of point-to-point flows that leave one element together: shape [flows].

    Every flow crosses the port of the level that joins its ends; flows of one level share it.

    Args:
        level: [flows] index into LEVELS.  ports: [levels] ports the element has into each level.
    """
    demand = (jnp.asarray(level)[:, None] == jnp.arange(len(LEVELS))[None, :]).astype(float)
    lk = network.links
    capacity = network.bandwidth * lk.share[:, -1] * ports / network.oversubscription
    return fair_shares(demand, jnp.maximum(capacity, 1e-300), weights=weights)


def packaged_links(name: str) -> Links:
    """Fitted links of the catalogue: `h100_all_reduce`, `h100_send_recv`, `a100_all_reduce`,
    `a100_send_recv`.

    Fitted by `python -m calibration.network` to microsoft/vidur's profiles of DGX clusters (MIT licence).

    Raises:
        ConfigError: unknown name, with what there is.
    """
    import json
    from importlib.resources import files

    from mist_jax.errors import ConfigError, nearest

    table = json.loads((files("mist_jax") / "catalog" / "links.json").read_text())["links"]
    if name not in table:
        raise ConfigError(
            f"no fitted links '{name}'; there are {', '.join(sorted(table))}{nearest(name, table)}"
        )
    return Links(**{key: np.array(value) for key, value in table[name].items()})
