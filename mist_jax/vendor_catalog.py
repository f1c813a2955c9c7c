"""Factors on the calibration of chips and engines whose kernels were never timed one by one.

Kernels of AMD chips, CPUs, TPUs and of vendor-tuned submissions have no microbenchmark here; the packaged kernels
of the mean NVIDIA chip stand in for them (`catalog_loader`, level "global"). What runs on such chips as a whole
tells a few named factors (`catalog/vendors.json`, written by `python -m calibration.vendors`):

    compute_efficiency   on the share of the dense peak that products, experts and prompt attention reach
    memory_efficiency    on the share of the memory bandwidth
    link_efficiency      on the share of the link bandwidth, and (inverse) on the floors of collectives
    launch               on the floors of kernels and the gaps between them
    host                 on the engine's time per iteration and sequence

A generation that no run tells keeps 1 everywhere and is labelled "physics-only".
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from mist_jax.schema import HardwareSpec

FACTORS = ("compute_efficiency", "memory_efficiency", "link_efficiency", "launch", "host")
_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")
_KERNELS = ("gemm", "moe", "prefill_attention", "decode_attention", "prefill_mla", "decode_mla")


def _times(tree: Any, names: tuple[str, ...], factor: Any) -> Any:
    return dataclasses.replace(tree, **{n: getattr(tree, n) * factor for n in names})


def scaled(calibration: Any, factors: Mapping[str, Any]) -> Any:
    """The calibration with `FACTORS` applied; what `factors` does not name has the factor 1.

    Args:
        calibration: `system.calibration.Calibration`, any leaf shapes.
        factors: name → factor (scalars, traced or not).

    Raises:
        KeyError: a name that is not in `FACTORS`.
    """
    unknown = set(factors) - set(FACTORS)
    if unknown:
        raise KeyError(f"unknown factors {sorted(unknown)}; known: {list(FACTORS)}")
    compute, memory, link, launch, host = (factors.get(name, 1.0) for name in FACTORS)
    kernels, step = calibration.kernels, calibration.step
    new: dict[str, Any] = {}
    for name in _KERNELS:
        one = _times(getattr(kernels, name), ("compute_efficiency",), compute)
        new[name] = _times(_times(one, ("memory_efficiency",), memory), ("launch_s",), launch)
    element = _times(kernels.elementwise, ("memory_efficiency",), memory)
    new["elementwise"] = _times(element, ("launch_s",), launch)
    recurrent = _times(kernels.recurrent, ("prefill_compute_efficiency",), compute)
    recurrent = _times(recurrent, ("prefill_memory_efficiency", "decode_memory_efficiency"), memory)
    new["recurrent"] = _times(recurrent, ("prefill_launch_s", "decode_launch_s"), launch)
    for name in _COLLECTIVES:
        one = _times(getattr(kernels, name), ("bandwidth_efficiency",), link)
        new[name] = _times(one, ("launch_s", "rank_s"), 1.0 / link)
    step = _times(step, ("host_s", "host_per_seq_s", "prefill_host_s"), host)
    step = _times(step, ("layer_s",), launch)
    return dataclasses.replace(calibration, kernels=dataclasses.replace(kernels, **new), step=step)


@functools.cache
def catalogue() -> dict[str, Any]:
    """The packaged factors (`mist_jax/catalog/vendors.json`)."""
    text = resources.files("mist_jax").joinpath("catalog/vendors.json").read_text(encoding="utf-8")
    return json.loads(text)


def vendor_factors(hardware: HardwareSpec) -> tuple[dict[str, float], str]:
    """(factors, label) of a chip: "calibrated" where runs of its generation told them, else "physics-only".

    Generations of one vendor that follow a calibrated one take its factors, labelled "extrapolated"
    (`inherits` in the catalogue).
    """
    table = catalogue()["generations"]
    entry = table.get(hardware.generation or "")
    if entry is None:
        return {}, "physics-only"
    if "inherits" in entry:
        return dict(table[entry["inherits"]]["factors"]), "extrapolated"
    return dict(entry["factors"]), entry["label"]


#: Chip whose kernels stand for its generation where a board has none of its own: W per FLOP/s of the peak bf16 rate.
GENERATION_BOARD = {"hopper": 700.0 / 989.4e12}


def board_factor(hardware: HardwareSpec) -> float:
    """Factor on compute efficiency of a board with less power per peak rate than the one whose kernels stand for it.

    min(1, (TDP / peak) / (TDP / peak of the generation's board)): dense products of H100 draw the board's limit at
    700 W, so the same silicon at 350 or 400 W runs them at a lower clock. 1 for chips with kernels of their own.
    """
    from mist_jax.catalog_loader import kernel_coefficients

    reference = GENERATION_BOARD.get(hardware.generation or "")
    if reference is None or kernel_coefficients(hardware.id, hardware.generation).level == "system":
        return 1.0
    return min(1.0, hardware.power.tdp / hardware.peak.bf16 / reference)


def for_chip(calibration: Any, hardware: HardwareSpec, level: str, step: Any) -> Any:
    """The calibration of a chip whose kernels come from other chips.

    Args:
        level: of the kernels' fall-back (`catalog_loader`). "global": the generation's factors, which were fitted
            around the priors of the step, so `step` (those priors) replaces the packaged ones. "generation": the
            board's power. Chips with kernels of their own are returned as they are.
    """
    if level == "global":
        factors, _ = vendor_factors(hardware)
        if not factors:
            return calibration
        return scaled(dataclasses.replace(calibration, step=step), factors)
    board = board_factor(hardware)
    return calibration if board == 1.0 else scaled(calibration, {"compute_efficiency": board})


def tuned_engine() -> dict[str, float]:
    """Factors of an engine as vendors tune it for MLPerf's closed division, over the packaged kernels."""
    return dict(catalogue()["tuned_engine"]["factors"])
