"""Which kernels vLLM runs 16-bit experts in, where the catalogue of a chip holds others.

The experts of RTX PRO 6000 were timed in FlashInfer's CUTLASS kernels, the default of newer versions. 16-bit experts
ran in Triton's unless asked otherwise up to v0.19, and do with attention DP in every version
(vllm-project/vllm, vllm/model_executor/layers/fused_moe/oracle/unquantized.py; pull requests 36838 and 44220).
Triton's overlap loading and products less, so that they slow down with tokens where CUTLASS still streams the weights.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from mist_jax.catalog_loader import kernel_coefficients
from mist_jax.physics.kernels import MoeCoefficients
from mist_jax.schema import EngineSpec, HardwareSpec

#: Generation of chips whose 16-bit experts were timed in CUTLASS kernels and may run in Triton's.
CUTLASS_GENERATION = "blackwell_rtx"
#: Chips (and their generation) whose 16-bit experts were timed in Triton's kernels, in vLLM 0.24.
TRITON_CHIPS = (("h100_sxm", "hopper"), ("h200_sxm", "hopper"), ("l40s", "ada"))
#: Coefficients that belong to the chip rather than to the kernel.
OF_THE_CHIP = ("memory_efficiency", "launch_s", "cache_speedup")
#: The first version whose default is FlashInfer (pull request 44220 finds it so; 38215, written for v0.19, does not).
FLASHINFER_SINCE = (0, 20)


def runs_triton(hardware: HardwareSpec, engine: EngineSpec, experts: str | None, dp: float) -> bool:
    """Whether the experts, stored as `experts`, run in Triton's kernels while the catalogue holds CUTLASS ones."""
    if engine.name != "vllm" or hardware.generation != CUTLASS_GENERATION:
        return False
    if experts not in (None, "bf16", "fp16"):
        return False
    parts = (engine.version or "").lstrip("v").split(".")
    old = parts[0].isdigit() and tuple(int(x) for x in parts[:2] if x.isdigit()) < FLASHINFER_SINCE
    return dp > 1 or old


@functools.cache
def _triton() -> dict[str, Any]:
    """Geometric mean over `TRITON_CHIPS` of each coefficient."""
    timed = [kernel_coefficients(*chip, "vllm").coefficients.moe for chip in TRITON_CHIPS]
    names = [f.name for f in dataclasses.fields(MoeCoefficients)]
    return {n: np.exp(np.mean([np.log(getattr(m, n)) for m in timed], axis=0)) for n in names}


def triton_experts(own: MoeCoefficients) -> MoeCoefficients:
    """Triton's kernels on a chip whose CUTLASS ones are `own`: the kernel's coefficients from other chips."""
    kept = {name: getattr(own, name) for name in OF_THE_CHIP}
    return MoeCoefficients(**(_triton() | kept))
