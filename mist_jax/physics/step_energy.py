"""Energy of an engine iteration: idle, active, arithmetic, memory and links, each a share of its own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import at_precision
from mist_jax.pytree import pytree
from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware
from mist_jax.system.model import Model

Array = Any

#: Order of the shares that `step_energy` returns.
ENERGY_SHARES = ("idle", "active", "compute", "memory", "network")


@pytree
class EnergyCoefficients:
    """What moves watts besides idling."""

    active_fraction: (
        Array  #: of (TDP - idle), drawn whenever kernels run (clocks, schedulers, leakage at speed)
    )
    joule_per_flop: Array  #: of a bf16 multiply-add counted as two (narrower formats: `equivalent_flops`)
    joule_per_byte: Array  #: device memory traffic
    joule_per_sent_byte: Array  #: link traffic
    #: decode attention's bytes on top: softmax on vector units and padded query tiles, per byte of the cache read
    joule_per_attention_byte: Array = 0.0
    joule_per_unpacked: Array = 0.0  #: per weight element expanded from 4 to 16 bits by vector units
    limit_sharpness: Array = 16.0  #: how late the mean power bends on its way to TDP
    #: share of what a FLOP in a narrow format could save that it does save: 1 where the kernel reaches the format's
    #: peak as well as bf16 its own and nothing else grows with the tokens, 0 where it costs as much as in bf16
    narrow_saving: Array = 1.0


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


#: Operators that multiply in one of the model's formats; the others multiply in 16 bits.
_FORMATS = {
    "attention_gemm_precision": ("attention_in", "attention_out"),
    "attention_core_precision": ("attention_prefill", "attention_decode"),
    "ffn_precision": ("ffn_dense", "ffn_shared"),
    "expert_precision": ("experts",),
}


def equivalent_flops(hw: Hardware, model: Model, flops: Array, saving: Array = 1.0) -> Array:
    """bf16 FLOPs that cost the energy of `flops`: times 1 - s + s peak(bf16) / peak(format), operator by operator.

    A narrower format reaches its higher peak at the same board power, so a FLOP costs the inverse of the rate, where
    the kernel is as efficient (`narrow_saving`). Formats without a unit compute in bf16.
    Shapes: flops and result [len(OPERATORS)]; saving s scalar, 0 to 1.
    """
    from mist_jax.physics.operators import OPERATORS

    peak = jnp.asarray(hw.peak_flops)
    bf16 = peak[COMPUTE_PRECISIONS.index("bf16")]
    formats = jnp.stack([jnp.asarray(getattr(model, name), float) for name in _FORMATS])
    rates = at_precision(peak, formats)
    narrow = saving * jnp.where(rates > bf16, 1.0 - bf16 / jnp.where(rates > 0, rates, 1.0), 0.0)
    of = [[float(o in operators) for o in OPERATORS] for operators in _FORMATS.values()]
    return flops * (1.0 - narrow @ jnp.asarray(of))


#: Operators during which a chip mostly waits for others: it draws little beyond idle and the links' energy.
_WAITING = ("all_reduce", "expert_dispatch", "pipeline_send")


def busy_seconds(system: Any, step: Any) -> Array:
    """Time of an iteration in which a chip computes or loads: without collectives, launch gaps and waits for the host.

    The engine's time per sequence counts as busy, as it is sampling and its copies on the chip (counted as idle, the
    measured power of batches of hundreds is underestimated by 10 to 15 %). Measured chips of a tensor-parallel pair
    draw 10 to 15 % less than one chip alone on the same model (ML.ENERGY v3: Gemma-3-27B, Qwen3-32B on H100).

    Args:
        system: `System`. step: `physics.step.StepTime`.
    """
    from mist_jax.physics.operators import OPERATORS

    coef, host = system.calibration.step, step.by_operator[-1]
    gaps = system.model.layers * (coef.layer_s + system.engine.eager * coef.eager_layer_s)
    waiting = sum(
        (step.by_operator[OPERATORS.index(o)] for o in _WAITING), start=jnp.minimum(host, coef.host_s + gaps)
    )
    return step.seconds - waiting


#: Weights narrower than this many bytes an element (scales included) are unpacked to 16 bits where the product
#: computes in 16 bits.
_NARROW = 0.75


def unpacked_weights(model: Model, nbytes: Array) -> Array:
    """Weight elements that kernels unpack from 4 bits to 16-bit operands in an iteration (scalar).

    Where a product computes in bf16 but its weights are stored in 4 bits, vector units expand each element that
    is read. nbytes: [len(OPERATORS)] of the iteration; expert traffic counts whole, activations are few beside it.
    """
    from mist_jax.physics.operators import OPERATORS

    bf16 = float(COMPUTE_PRECISIONS.index("bf16"))

    def elements(operators: tuple[str, ...], width: Array, precision: Array) -> Array:
        read = sum((nbytes[OPERATORS.index(o)] for o in operators), start=jnp.zeros(()))
        packed = (jnp.asarray(width) < _NARROW) & (jnp.asarray(precision) == bf16)
        return jnp.where(packed, read / jnp.maximum(width, 0.25), 0.0)

    return elements(("experts",), model.expert_weight_bytes, model.expert_precision) + elements(
        ("ffn_dense", "ffn_shared"), model.ffn_weight_bytes, model.ffn_precision
    )


def step_energy(
    coef: EnergyCoefficients,
    hw: Hardware,
    flops: Array,
    nbytes: Array,
    sent: Array,
    kernel_seconds: Array,
    seconds: Array,
    attention_bytes: Array = 0.0,
    unpacked: Array = 0.0,
) -> Array:
    """Joules of one iteration on one chip by share, [len(ENERGY_SHARES)], limited by TDP times its duration.

    D = a (TDP - P_idle) t_kernels + e_f FLOPs + e_b bytes + e_a attention bytes + e_u unpacked + e_n sent
    E = P_idle t + D / (1 + (D / room)^s)^(1/s),   room = (TDP - P_idle) t
    The chip throttles phases that would draw more than TDP, so the mean nears the limit softly; that this slows it
    down is in the measured kernels, not here (see `physics.energy` for a cap that does).

    Args:
        flops: bf16-equivalent (`equivalent_flops`), nbytes, sent: of one chip in the iteration (scalars).
        kernel_seconds: time in which the chip is busy (`busy_seconds`). seconds: duration of the iteration.
        attention_bytes: of `nbytes`, those that decode attention reads. unpacked: see `unpacked_weights`.

    Not modelled: temperature, clocks below the limit, the energy of host and fans (ML.ENERGY measures the chips).
    """
    idle = hw.idle_power * seconds
    dynamic = jnp.stack(
        [
            coef.active_fraction * (hw.tdp - hw.idle_power) * kernel_seconds,
            coef.joule_per_flop * flops + coef.joule_per_unpacked * unpacked,
            coef.joule_per_byte * nbytes + coef.joule_per_attention_byte * attention_bytes,
            coef.joule_per_sent_byte * sent,
        ]
    )
    room = jnp.maximum((hw.tdp - hw.idle_power) * seconds, 0.0)
    total = jnp.sum(dynamic)
    ratio = total / jnp.where(room > 0, room, 1.0)
    sharp = coef.limit_sharpness
    # (1 + r^s)^(-1/s) with the gradient guarded at r = 0 and in overflow
    safe = jnp.clip(ratio, 1e-6, 1e6)
    scale = jnp.exp(-jnp.logaddexp(0.0, sharp * jnp.log(safe)) / sharp)
    scale = jnp.where(room > 0, scale, 0.0)
    return jnp.concatenate([jnp.reshape(idle, (1,)), dynamic * scale])


def iteration_energy(system: Any, step: Any, micro_batches: Array = 1.0) -> Array:
    """Joules of one iteration on one chip by share, [len(ENERGY_SHARES)]: `step_energy` of a `StepTime`.

    Args:
        system: `System`; its calibration holds the coefficients. step: `physics.step.StepTime`.
        micro_batches: those that a chip of a pipeline works on while one passes all stages (pp when full).
    """
    from mist_jax.physics.operators import OPERATORS

    attention = OPERATORS.index("attention_decode")
    saving = system.calibration.energy.narrow_saving
    flops = equivalent_flops(system.hardware, system.model, step.flops, saving)
    return step_energy(
        system.calibration.energy,
        system.hardware,
        micro_batches * jnp.sum(flops),
        micro_batches * jnp.sum(step.bytes),
        micro_batches * jnp.sum(step.sent),
        busy_seconds(system, step),
        step.seconds,
        attention_bytes=micro_batches * step.bytes[attention],
        unpacked=micro_batches * unpacked_weights(system.model, step.bytes),
    )
