"""Area and cost of a chip from its rates: what "the best accelerator under 800 mm2 and $X" needs.

    A_die  = F_bf16 / d_logic + C_sram / d_sram + HBM PHYs + link PHYs + A_other
    cost   = wafer / (dies per wafer * yield) + HBM $/GB * GB + package
    yield  = (1 + A D0 / alpha)^-alpha                          negative binomial
    dies   = pi (d/2)^2 / A - pi d / sqrt(2 A)                  gross dies of a round wafer

Sources: PHY areas and memory prices as in LLMCompass (Zhang et al., ISCA 2024, arXiv 2312.03134): HBM2e PHY
10.45 mm2 per 1,024 bits, NVLink-class PHY 0.965 mm2 a lane, HBM $7/GB (October 2023). Yield: C. Stapper, IBM J. Res.
Dev. 27(6), 1983. Gross dies: D. de Vries, IEEE Trans. Semicond. Manuf. 18(1), 2005. Logic density: an H100 SXM5 die
(814 mm2, 989 TFLOP/s dense bf16, 50 MB L2, 5 stacks HBM3, 18 NVLink4; NVIDIA H100 whitepaper, 2022) leaves about
570 mm2 for SMs and what scales with them, 1.73 TFLOP/s a mm2; SRAM: TSMC N5's 0.021 um2 bit cell (Yeap et al.,
IEDM 2019) at 45 % array efficiency, 2.7 MB a mm2. Wafer: $17,000 for N5 (CSET, "AI Chips", 2020). D0 and the
packaging share are assumptions.

Range: accelerators of one die in an N5-class process, 100 to 850 mm2. Not modelled: chiplets, other nodes, margins and
development; a chip's price is several times its cost.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree
from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware

Array = Any
BF16 = COMPUTE_PRECISIONS.index("bf16")


@pytree
class ChipModel:
    """Densities and prices; every number is a leaf."""

    flops_per_mm2: Array = 1.73e12  #: dense bf16 FLOP/s a mm2 of logic
    sram_bytes_per_mm2: Array = 2.7e6
    hbm_bandwidth_per_stack: Array = 0.67e12  #: bytes/s, HBM3 at 5.2 Gbit/s (H100: 3.35 TB/s over 5)
    hbm_phy_mm2: Array = 10.45  #: a stack, 1,024 bits
    link_bandwidth_per_lane: Array = 25e9  #: bytes/s per direction, NVLink4
    link_phy_mm2: Array = 0.965 * 2.0  #: a link of two lane groups
    other_mm2: Array = 60.0  #: host interface, video, management
    hbm_usd_per_gb: Array = 7.0
    wafer_usd: Array = 17000.0
    wafer_mm: Array = 300.0
    defects_per_mm2: Array = 1.0e-3
    clustering: Array = 3.0
    package_usd: Array = 200.0  #: interposer, substrate, test
    joule_per_flop: Array = 0.45e-12  #: at full rate
    joule_per_byte: Array = 56e-12  #: HBM and its PHY, 7 pJ/bit


def die_area(hw: Hardware, chip: ChipModel) -> Array:
    """mm2 of the die."""
    logic = hw.peak_flops[..., BF16] / chip.flops_per_mm2
    sram = hw.cache_capacity / chip.sram_bytes_per_mm2
    hbm = hw.memory_bandwidth / chip.hbm_bandwidth_per_stack * chip.hbm_phy_mm2
    links = hw.scale_up_bandwidth / chip.link_bandwidth_per_lane * chip.link_phy_mm2
    return logic + sram + hbm + links + chip.other_mm2


def dies_per_wafer(area: Array, chip: ChipModel) -> Array:
    """Gross dies; at least 1."""
    d = chip.wafer_mm
    return jnp.maximum(jnp.pi * (d / 2.0) ** 2 / area - jnp.pi * d / jnp.sqrt(2.0 * area), 1.0)


def die_yield(area: Array, chip: ChipModel) -> Array:
    """Share of good dies."""
    return (1.0 + area * chip.defects_per_mm2 / chip.clustering) ** -chip.clustering


def chip_cost(hw: Hardware, chip: ChipModel) -> Array:
    """$ of die, memory and package."""
    area = die_area(hw, chip)
    die = chip.wafer_usd / (dies_per_wafer(area, chip) * die_yield(area, chip))
    return die + chip.hbm_usd_per_gb * hw.memory_capacity / 1e9 + chip.package_usd


def chip_power(hw: Hardware, chip: ChipModel) -> Array:
    """W at full compute and bandwidth together: idle + e_f F + e_b B."""
    return (
        hw.idle_power
        + chip.joule_per_flop * hw.peak_flops[..., BF16]
        + chip.joule_per_byte * hw.memory_bandwidth
    )
