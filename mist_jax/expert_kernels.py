"""Which kernels engines run experts in, where the catalogue of a chip holds others.

**16-bit experts of vLLM.** The experts of RTX PRO 6000 were timed in FlashInfer's CUTLASS kernels, the default of newer
versions. 16-bit experts ran in Triton's unless asked otherwise up to v0.19, and do with attention DP in every version
(vllm-project/vllm, vllm/model_executor/layers/fused_moe/oracle/unquantized.py; pull requests 36838 and 44220).
Triton's overlap loading and products less, so that they slow down with tokens where CUTLASS still streams the weights.

**Block-scaled FP8 experts that attention-DP ranks exchange tokens with.** On Blackwell the catalogue holds Triton's
kernels for them, which reach a fifth of the peak. SGLang and TensorRT-LLM run what an exchange brings in grouped
products of DeepGEMM or of their own (docs.sglang.io, "Expert Parallelism": backends of --moe-runner-backend;
deepseek-ai/DeepGEMM supports Hopper and Blackwell), whose share of the peak is taken from where such kernels were
timed: TensorRT-LLM's on Hopper.
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


#: Engines that run exchanged experts in grouped kernels of their own, and where such were timed.
GROUPED_ENGINES = ("sglang", "trtllm")
GROUPED_CHIPS = (("h100_sxm", "hopper"), ("h200_sxm", "hopper"))


def exchanged_experts(
    own: MoeCoefficients, generation: str | None, engine: str, experts: str | None, dp: float
) -> MoeCoefficients:
    """The kernels of experts stored as `experts` under `dp` attention-DP ranks, where the catalogue's are `own`."""
    blackwell = (generation or "").startswith("blackwell") and generation != CUTLASS_GENERATION
    if dp <= 1 or experts != "fp8" or engine not in GROUPED_ENGINES or not blackwell:
        return own
    return dataclasses.replace(own, compute_efficiency=_grouped_efficiency())


@functools.cache
def _grouped_efficiency() -> Any:
    """Share of the peak of TensorRT-LLM's kernels for block-scaled FP8 experts, geometric mean over chips."""
    timed = [
        kernel_coefficients(*chip, "trtllm", expert_format="fp8_block").coefficients.moe
        for chip in GROUPED_CHIPS
    ]
    return np.exp(np.mean([np.log(moe.compute_efficiency) for moe in timed], axis=0))


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
