"""Energy coefficients of a chip: fitted on H100, carried over to others by physics, with a label.

    joule_per_flop        times (TDP / peak bf16) of the chip over that of H100: a chip is built so that dense
                          products at full rate draw about its board power, which tracks process and design (check:
                          A100 on 7 nm 1.44 times H100 on 4 nm; TSMC quotes 30 % and 20 % less energy for the steps to
                          5 and to 4 nm, together 1.7 times)
    joule_per_byte        on-chip transport as on H100, plus the energy of the memory (`MEMORY_PICOJOULE_PER_BIT`)
    active_fraction       a share of TDP - idle, so it scales with the board; limit_sharpness as on H100
    attention, unpacking  vector work: with joule_per_flop
Labels: "calibrated" (the fitted chip), "extrapolated" (same architecture), "physics-only" (all others).
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from mist_jax.schema import HardwareSpec

#: Chip of the fit: TDP / peak bf16 of conf/hardware/h100_sxm.yaml, its memory and generation.
REFERENCE = {
    "system": "h100_sxm",
    "generation": "hopper",
    "watt_per_flops": 700.0 / 989.4e12,
    "memory": "hbm3",
}

#: Device memory of a generation or chip.
MEMORY = {
    "ampere": "hbm2e",
    "hopper": "hbm3",
    "h200_sxm": "hbm3e",
    "gh200_144gb": "hbm3e",
    "blackwell": "hbm3e",
    "blackwell_ultra": "hbm3e",
    "cdna3": "hbm3",
    "mi325x": "hbm3e",
    "cdna4": "hbm3e",
    "a10": "gddr6",
    "ada": "gddr6",
    "rtx_4090": "gddr6x",
    "blackwell_rtx": "gddr7",
    "battlemage": "gddr6",
    "jetson_orin": "lpddr5",
    "grace": "lpddr5",
}
#: Energy at the memory, pJ/bit. HBM2 3.9 (M. O'Connor et al., "Fine-Grained DRAM", MICRO 2017); the later HBM
#: generations are taken to be as costly a bit (higher rate at lower voltage). GDDR6 7.5 and GDDR6X 7.25 (Micron,
#: "GDDR6X" technical brief, 2020); GDDR7 4.5 (Micron, GDDR7 brief, 2024: over 50 % better than GDDR6 at the same
#: rate; rounded up); LPDDR5 4 and DDR5 12: ASSUMPTIONS in the range of vendors' power calculators.
MEMORY_PICOJOULE_PER_BIT = {
    "hbm2e": 3.9,
    "hbm3": 3.9,
    "hbm3e": 3.9,
    "gddr6": 7.5,
    "gddr6x": 7.25,
    "gddr7": 4.5,
    "lpddr5": 4.0,
    "ddr5": 12.0,
}


@functools.cache
def catalogue() -> dict[str, Any]:
    """The packaged fit (`mist_jax/catalog/energy.json`)."""
    text = resources.files("mist_jax").joinpath("catalog/energy.json").read_text(encoding="utf-8")
    return json.loads(text)


def memory_kind(hardware: HardwareSpec) -> str:
    """Kind of the device memory, by chip, else generation, else DDR5 for CPUs and HBM for the rest."""
    for key in (hardware.id, hardware.generation):
        if key in MEMORY:
            return MEMORY[key]
    return "ddr5" if hardware.kind == "cpu" else "hbm3"


def scale_to(values: dict[str, float], hardware: HardwareSpec) -> dict[str, float]:
    """Coefficients of `REFERENCE` carried over to `hardware` (see the module)."""
    compute = hardware.power.tdp / hardware.peak.bf16 / REFERENCE["watt_per_flops"]
    memory = MEMORY_PICOJOULE_PER_BIT[memory_kind(hardware)] - MEMORY_PICOJOULE_PER_BIT[REFERENCE["memory"]]
    out = dict(values)
    for name in ("joule_per_flop", "joule_per_attention_byte", "joule_per_unpacked"):
        out[name] = values[name] * compute
    out["joule_per_byte"] = values["joule_per_byte"] + 8e-12 * memory
    return out


def energy_coefficients(hardware: HardwareSpec) -> tuple[Any, str]:
    """(`physics.step_energy.EnergyCoefficients` of a chip, label); see the module for what carries over how."""
    from mist_jax.physics.step_energy import EnergyCoefficients

    values = catalogue()["coefficients"]
    if hardware.id == REFERENCE["system"]:
        return EnergyCoefficients(**values), "calibrated"
    label = "extrapolated" if hardware.generation == REFERENCE["generation"] else "physics-only"
    return EnergyCoefficients(**scale_to(values, hardware)), label
