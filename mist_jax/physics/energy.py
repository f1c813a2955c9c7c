"""Energy of stages, and what a power cap does to their time.

    E = P_idle t + sum_r e_r amount_r            idle, and so much a FLOP and a byte of each tier
A cap slows the clock of the compute units to a fraction f of its peak. Their dynamic power goes with f^gamma,
so their energy with f^(gamma - 1), their rate with f; memory and links keep their rate and their energy:
    (P_idle t(f) + E_clocked f^(gamma - 1) + E_other) / t(f) = P_cap
gamma: 3 where voltage follows frequency (Horowitz, ISSCC 2014), less near the voltage floor. The public
point: DGX H100 capped at 70 % of its 10.2 kW runs prompts 1.30 times longer and tokens 1.00 times
(splitwise-sim, SKU dgx-h100-pcap, from Patel et al., ISCA 2024); the default gamma gives it for 30 % idle and
other power (tests/test_energy_cost.py).

Energy of an LLM iteration is `physics.step_energy`; both count the same shares.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mist_jax.physics.demand import INDEX, RESOURCES, Demand, amounts, seconds
from mist_jax.physics.step_energy import default_energy_coefficients
from mist_jax.pytree import pytree, replace

Array = Any

_CHIP = default_energy_coefficients()
#: Joules per unit of each resource: FLOP, byte, core-second, read operation. What an accelerator does costs as in
#: `physics.step_energy`.
DEFAULT_JOULES = {
    "accelerator": _CHIP.joule_per_flop,
    "device_memory": _CHIP.joule_per_byte,
    # a server core under load: 10 to 200 W over 32 to 64 cores (LLMServingSim's CPU range)
    "cpu": 4.0,
    # 6 pJ/bit (LLMServingSim's DRAM) at the module, and as much on the way
    "host_memory": 96e-12,
    "cxl": 120e-12,  # DRAM and a PCIe link on top; assumption
    "host_link": 32e-12,  # 4 pJ/bit (LLMServingSim's links)
    "scale_up": _CHIP.joule_per_sent_byte,
    # 20 W of a NIC (LLMServingSim) over 50 GB/s
    "network": 400e-12,
    # about 10 W of an active drive over 6.5 GB/s
    "storage": 1.5e-9,
    "storage_io": 6e-6,  # the same drive at its operations: 10 W over 1.6e6/s
    "pool": 1.5e-9,  # as storage; assumption
}


@pytree
class EnergyRates:
    """Per machine."""

    joules: Array  #: [RESOURCES] per unit of each resource
    idle_w: Array  #: W of the machine at rest
    gamma: Array  #: exponent of dynamic power in the clock


def energy_rates(idle_w: Array, gamma: Array = 2.13, **joules: Array) -> EnergyRates:
    """Defaults of `DEFAULT_JOULES`, changed by name."""
    values = {**DEFAULT_JOULES, **joules}
    return EnergyRates(
        joules=jnp.stack([jnp.asarray(values[name], float) for name in RESOURCES]),
        idle_w=jnp.asarray(idle_w, float),
        gamma=jnp.asarray(gamma, float),
    )


def dynamic_joules(work: Demand, rates: EnergyRates) -> Array:
    """Joules of each resource, [RESOURCES], at full clock."""
    return amounts(work) * rates.joules


def stage_joules(work: Demand, rates: EnergyRates, time: Array, occupancy: Array = 1.0) -> Array:
    """Joules of one unit of work: idle power of its share of the machine's time, and dynamic energy.

    Args:
        time: s it takes (contention included).
        occupancy: share of the machine that it holds meanwhile, 0 to 1; idle time nobody uses is not in it.
    """
    return rates.idle_w * time * occupancy + jnp.sum(dynamic_joules(work, rates))


def _at_clock(work: Demand, rate: Array, rates: EnergyRates, clock: Array) -> tuple[Array, Array]:
    """Time and power with the accelerator at `clock` of its peak."""
    slow = rate.at[INDEX["accelerator"]].multiply(clock)
    time = seconds(work, slow)
    each = dynamic_joules(work, rates)
    clocked = each[INDEX["accelerator"]]
    energy = jnp.sum(each) - clocked + clocked * clock ** (rates.gamma - 1.0)
    return time, rates.idle_w + energy / time


def capped_seconds(work: Demand, rate: Array, rates: EnergyRates, cap_w: Array) -> tuple[Array, Array]:
    """Seconds of the work alone under a power cap, and the clock fraction that keeps it: (s, 0.1 to 1).

    The clock is found by bisection between 0.1 and 1; its slope is that of the implicit equation, by one
    Newton step. Below 0.1 a cap cannot be kept by the clock; then the clock stays at 0.1 (compare the power).

    Args:
        rate: [RESOURCES] of the machine.  cap_w: W.

    Not modelled: caps on memory clocks, thermal limits, the time to settle.
    """

    def power(clock: Array, w: Demand, r: Array, e: EnergyRates) -> Array:
        return _at_clock(w, r, e, clock)[1]

    frozen = jax.lax.stop_gradient((work, rate, rates))
    limit = jax.lax.stop_gradient(jnp.asarray(cap_w, float))

    def halve(_: int, span: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = span
        middle = 0.5 * (low + high)
        over = power(middle, *frozen) > limit
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    low, _ = jax.lax.fori_loop(0, 50, halve, (jnp.asarray(0.1), jnp.asarray(1.0)))
    slope = jax.lax.stop_gradient(jax.grad(power)(low, *frozen))
    binding = (power(jnp.asarray(1.0), *frozen) > limit) & (low > 0.1 + 1e-9) & (slope > 0)
    step = (cap_w - power(low, work, rate, rates)) / jnp.where(binding, slope, 1.0)
    free = jnp.where(power(jnp.asarray(1.0), *frozen) > limit, low, 1.0)
    clock = jnp.where(binding, low + step, free)
    return _at_clock(work, rate, rates, clock)[0], clock


def with_clock(rate: Array, clock: Array) -> Array:
    """Machine rates with the accelerator at `clock` of its peak."""
    return rate.at[INDEX["accelerator"]].multiply(clock)


def per_token_joules(base: Array, per_step: Array, batch: Array) -> Array:
    """E/token = e0 + e1 / b: the form that measured decoding follows.

    Fits to ML.ENERGY v3 on H100 (chat, e0 + e1/b in J, error 0.4 to 2.1 %): Llama-3.1-8B 0.067 + 3.16/b,
    Qwen3-14B 0.091 + 4.90/b, Qwen3-32B on two 0.189 + 11.47/b, Llama-3.1-70B on four 0.360 + 27.43/b. For
    comparison with the component model, not a second one.
    """
    return base + per_step / batch


def scaled(work: Demand, factor: Array) -> Demand:
    """The same work `factor` times as large (amounts only): to share a batch's energy among its requests."""
    return replace(work, amount=work.amount * factor)
