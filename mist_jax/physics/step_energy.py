"""Energy of an engine iteration: idle, active, arithmetic, memory and links, each a share of its own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree
from mist_jax.system.hardware import Hardware

Array = Any

#: Order of the shares that `step_energy` returns.
ENERGY_SHARES = ("idle", "active", "compute", "memory", "network")


@pytree
class EnergyCoefficients:
    """What moves watts besides idling."""

    active_fraction: (
        Array  #: of (TDP - idle), drawn whenever kernels run (clocks, schedulers, leakage at speed)
    )
    joule_per_flop: Array  #: of a bf16 multiply-add counted as two; narrower formats cost bits / 16 of it
    joule_per_byte: Array  #: device memory traffic
    joule_per_sent_byte: Array  #: link traffic


def default_energy_coefficients() -> EnergyCoefficients:
    """Priors for a 4 nm accelerator with HBM3.

    joule_per_byte: about 4 pJ/bit of HBM3 plus on-chip transport (M. O'Connor et al., "Fine-Grained DRAM", MICRO
    2017, give 3.9 pJ/bit for HBM2 and as much again on chip). joule_per_flop: 700 W less idle, active and memory
    over 0.7 of 989 TFLOP/s. joule_per_sent_byte: 1.3 pJ/bit of NVLink PHYs plus switches (NVIDIA, Hot Chips 34).
    """
    return EnergyCoefficients(
        active_fraction=0.25,
        joule_per_flop=0.45e-12,
        joule_per_byte=60e-12,
        joule_per_sent_byte=30e-12,
    )


def step_energy(
    coef: EnergyCoefficients,
    hw: Hardware,
    flops: Array,
    nbytes: Array,
    sent: Array,
    kernel_seconds: Array,
    seconds: Array,
) -> Array:
    """Joules of one iteration on one chip by share, [len(ENERGY_SHARES)], capped at TDP times its duration.

    E = P_idle t + a (TDP - P_idle) t_kernels + e_f FLOPs + e_b bytes + e_n sent. Where the sum exceeds TDP * t the
    dynamic shares are scaled down to it: the chip throttles, which this does not turn into a slow-down (see
    `physics.energy` for a cap that does).

    Args:
        flops, nbytes, sent: of one chip in the iteration (scalars).
        kernel_seconds: time in which kernels run. seconds: duration of the iteration.
    """
    idle = hw.idle_power * seconds
    dynamic = jnp.stack(
        [
            coef.active_fraction * (hw.tdp - hw.idle_power) * kernel_seconds,
            coef.joule_per_flop * flops,
            coef.joule_per_byte * nbytes,
            coef.joule_per_sent_byte * sent,
        ]
    )
    room = jnp.maximum(hw.tdp * seconds - idle, 0.0)
    total = jnp.sum(dynamic)
    scale = jnp.where(total > room, room / jnp.where(total > 0, total, 1.0), 1.0)
    return jnp.concatenate([jnp.reshape(idle, (1,)), dynamic * scale])
