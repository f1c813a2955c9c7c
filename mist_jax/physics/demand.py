"""What a unit of work demands of a machine, and how long that takes: the roofline of every stage that is not
an LLM.

A `Demand` is a sequence of phases; a phase asks for an amount of each resource at once (FLOP, bytes,
core-seconds) and is done when the slowest is. A `Machine` says how much of each resource there is per
second. What other work leaves of it comes from `physics.contention`, the same for every stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.errors import ConfigError, nearest
from mist_jax.physics.contention import dominant_weights, fair_shares, shared_slowdown
from mist_jax.physics.extremes import largest
from mist_jax.pytree import pytree
from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware

Array = Any

#: Order of the resource axis. Amounts are FLOP, core-seconds for `cpu`, otherwise bytes.
RESOURCES = (
    "accelerator",  # FLOP of the chips, at 16-bit rates
    "device_memory",  # bytes of HBM or GDDR
    "cpu",  # core-seconds
    "host_memory",  # bytes of DRAM
    "cxl",  # bytes of CXL-attached memory
    "host_link",  # bytes over PCIe or chip-to-chip, per direction
    "scale_up",  # bytes over NVLink, xGMI, ICI
    "network",  # bytes over the NICs
    "storage",  # bytes of local NVMe
    "storage_io",  # random reads of local NVMe, operations
    "pool",  # bytes out of a rack or data-centre store
)
INDEX = {name: k for k, name in enumerate(RESOURCES)}


@pytree
class Demand:
    """Phases in sequence; leading axis [phases]."""

    amount: Array  #: [phases, RESOURCES] demanded, in the resource's unit
    cap: Array  #: [phases, RESOURCES] most that this work draws per second (cores, queue depth)
    fixed_s: Array  #: [phases] s of latency that no bandwidth shortens


@pytree
class Machine:
    """What a client (one server, or some chips of one) offers; 0 = not there."""

    rate: Array  #: [RESOURCES] per second, sustained
    interference: Array  #: [RESOURCES] kappa of `contention.interference`


def _index(name: str) -> int:
    if name not in INDEX:
        raise ConfigError(f"no resource '{name}'; there are {', '.join(RESOURCES)}{nearest(name, INDEX)}")
    return INDEX[name]


def demand(fixed_s: Array = 0.0, caps: Mapping[str, Array] | None = None, **amounts: Array) -> Demand:
    """A demand of one phase: `demand(2e-3, host_memory=1e9, caps={"host_memory": 5e10})`.

    Raises:
        ConfigError: unknown resource.
    """
    amount = [jnp.zeros(())] * len(RESOURCES)
    cap = [jnp.asarray(jnp.inf)] * len(RESOURCES)
    for name, value in amounts.items():
        amount[_index(name)] = jnp.asarray(value, float)
    for name, value in (caps or {}).items():
        cap[_index(name)] = jnp.asarray(value, float)
    return Demand(
        amount=jnp.stack(amount)[None], cap=jnp.stack(cap)[None], fixed_s=jnp.asarray(fixed_s, float)[None]
    )


def in_sequence(*demands: Demand) -> Demand:
    """One demand after another."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *demands)


def machine(interference: Mapping[str, Array] | None = None, **rates: Array) -> Machine:
    """A machine from named rates; what is not named is not there.

    Raises:
        ConfigError: unknown resource.
    """
    rate, kappa = [jnp.zeros(())] * len(RESOURCES), [jnp.zeros(())] * len(RESOURCES)
    for name, value in rates.items():
        rate[_index(name)] = jnp.asarray(value, float)
    for name, value in (interference or {}).items():
        kappa[_index(name)] = jnp.asarray(value, float)
    return Machine(rate=jnp.stack(rate), interference=jnp.stack(kappa))


def machine_of(hardware: Hardware, chips: Array = 1.0, cores: Array = 0.0, **more: Array) -> Machine:
    """`chips` chips of one kind with the host share that belongs to them.

    Args:
        cores: CPU cores of the host (for a CPU described as `Hardware`, its own units if 0).
        more: rates that `Hardware` does not know: storage, storage_io, cxl, pool.

    host_link interference 0.2: PCIe 5 in both directions moves 83.4 of 2 x 50 GB/s (vLLM blog, 2026-01-08).
    """
    bf16 = COMPUTE_PRECISIONS.index("bf16")
    return machine(
        interference={"host_link": 0.2},
        accelerator=hardware.peak_flops[bf16] * chips,
        device_memory=hardware.memory_bandwidth * chips,
        cpu=jnp.where(jnp.asarray(cores) > 0, cores, 0.0),
        host_memory=hardware.host_memory_bandwidth * chips,
        host_link=hardware.host_bandwidth * chips,
        scale_up=hardware.scale_up_bandwidth * chips,
        network=hardware.scale_out_bandwidth * chips,
        **more,
    )


def phase_terms(work: Demand, rate: Array) -> Array:
    """Seconds of each resource in each phase, alone: amount / min(cap, rate); [phases, RESOURCES].

    inf where something is demanded that the machine does not have.
    """
    limit = jnp.minimum(work.cap, rate)
    needed = work.amount > 0
    there = limit > 0
    term = work.amount / jnp.where(needed & there, limit, 1.0)
    return jnp.where(needed, jnp.where(there, term, jnp.inf), 0.0)


def seconds(work: Demand, rate: Array) -> Array:
    """Time of one unit of work alone: sum over phases of fixed + max over resources (roofline). Scalar.

    Args:
        rate: [RESOURCES] per second that this work may draw (`Machine.rate`, or a share of it).
    """
    return jnp.sum(work.fixed_s + largest(phase_terms(work, rate)))


def seconds_by_resource(work: Demand, rate: Array) -> Array:
    """Time that each resource bounds, [RESOURCES]; sums to `seconds` less the fixed latency.

    A phase counts for the resource that is slowest in it: the attribution of `seconds`.
    """
    terms = phase_terms(work, rate)
    slowest = jax.nn.one_hot(jnp.argmax(terms, axis=-1), len(RESOURCES))
    return jnp.sum(jnp.where(slowest > 0, terms, 0.0), axis=0)


def elasticities(work: Demand, rate: Array) -> Array:
    """d ln(seconds) / d ln(rate) of each resource, [RESOURCES]: -0.8 means 10 % more buys about 8 % time."""
    slope = jax.grad(lambda r: seconds(work, r))(rate)
    return slope * rate / seconds(work, rate)


def amounts(work: Demand) -> Array:
    """Total demanded of each resource, [RESOURCES]."""
    return jnp.sum(work.amount, axis=0)


def _jobs(works: Sequence[Demand], rate: Array) -> tuple[Array, Array, Array]:
    """Demands per unit of progress [jobs, used], caps [jobs] (1 / seconds alone) and fixed latency [jobs]."""
    total = jnp.stack([amounts(w) for w in works])
    fixed = jnp.stack([jnp.sum(w.fixed_s) for w in works])
    alone = jnp.stack([seconds(w, rate) for w in works]) - fixed
    return total, jnp.where(alone > 0, 1.0 / jnp.where(alone > 0, alone, 1.0), jnp.inf), fixed


def seconds_together(works: Sequence[Demand], on: Machine, weights: Array | None = None) -> Array:
    """Seconds of each of several jobs that run at the same time on one machine, [jobs].

    Rates come from `fair_shares` with dominant-resource weights and each job's time alone as its cap;
    capacities are derated by how many jobs use them. The number of jobs stays as it is until each ends
    (steady state): what happens as they end one by one is `contention.fluid_play`.
    """
    total, cap, fixed = _jobs(works, on.rate)
    users = jnp.sum(total > 0, axis=0)
    derate = 1.0 / (1.0 + on.interference * jnp.maximum(users - 1.0, 0.0))
    capacity = jnp.where(on.rate > 0, on.rate, 1e-300) * derate
    base = dominant_weights(total, capacity)
    rate = fair_shares(total, capacity, cap, base if weights is None else base * weights)
    return fixed + jnp.where(jnp.isfinite(rate), 1.0 / jnp.where(jnp.isfinite(rate), rate, 1.0), 0.0)


def steady_together(works: Sequence[Demand], arrivals: Array, on: Machine) -> dict[str, Array]:
    """Mean seconds of job classes that arrive at `arrivals` [classes] per second on one machine.

    `contention.shared_slowdown` with the demands of the classes; `seconds` includes the fixed latency.
    """
    total, cap, fixed = _jobs(works, on.rate)
    capacity = jnp.where(on.rate > 0, on.rate, 1e-300)
    out = shared_slowdown(
        arrivals,
        jnp.ones(len(works)),
        total,
        capacity,
        cap,
        dominant_weights(total, capacity),
        on.interference,
    )
    return {**out, "seconds": out["seconds"] + fixed, "alone": out["alone"] + fixed}


def missing(work: Demand, on: Machine) -> list[str]:
    """Names of resources that the work needs and the machine lacks (host side, concrete numbers)."""
    need, have = np.asarray(amounts(work)) > 0, np.asarray(on.rate) > 0
    return [name for name, n, h in zip(RESOURCES, need, have) if n and not h]
