"""Packaged kernel coefficients: chosen by system, engine and number format, with documented fall-backs.

For each class and number format the first of these that the catalogue holds is taken:
  1. this system, this engine's kernels             -> "system"
  2. this generation of chips, this engine          -> "generation"
  3. this system, another engine's kernels          -> "system (other engine)"
  4. this generation, another engine                -> "generation (other engine)"
  5. all systems, this engine, else another engine  -> "global"
  6. all systems and engines (same format, else any) -> "global"
A system or generation that was never measured therefore gets the global prior, and its label says so.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from mist_jax.system.hardware import COMPUTE_PRECISIONS

#: Chips that run the same kernels: GB300 and B300 (sm_103) take those of B200 and GB200 (sm_100).
KERNEL_GENERATION = {"blackwell_ultra": "blackwell"}

#: Engines whose kernels stand for others: SGLang and vLLM share FlashInfer, FlashAttention and DeepGEMM.
ENGINE_KERNELS = {
    "vllm": "vllm",
    "sglang": "vllm",
    "trtllm": "trtllm",
    "tensorrt_llm": "trtllm",
    "tensorrt-llm": "trtllm",
}

#: Number format measured for each compute precision, unless the caller asks for one of `ALTERNATIVES`.
DEFAULT_FORMATS: dict[str, tuple[str, ...]] = {
    "gemm": ("bf16", "bf16", "fp8", "int8", "nvfp4"),
    "moe": ("bf16", "bf16", "fp8", "fp8", "nvfp4"),
    "prefill_attention": ("bf16", "bf16", "fp8", "bf16", "fp8"),
    "decode_attention": ("bf16", "bf16", "bf16_kv_fp8", "bf16", "bf16_kv_fp8"),
    "prefill_mla": ("bf16", "bf16", "bf16_kv_fp8", "bf16", "bf16_kv_fp8"),
    "decode_mla": ("bf16", "bf16", "bf16_kv_fp8", "bf16", "bf16_kv_fp8"),
}
#: Compute precision of the formats that a caller may ask for.
ALTERNATIVES = {
    "fp8_block": "fp8",
    "int8_wo": "bf16",
    "int4_wo": "bf16",
    "w4a16_mxfp4": "bf16",
    "w4a8_mxfp4_mxfp8": "fp8",
    "bf16_kv_fp8": "bf16",
}
#: Kernels of the collectives: the engine's own all-reduce, NCCL for the rest, torch's for point to point.
_LINK_ENGINE = {"all_gather": "nccl", "reduce_scatter": "nccl", "all_to_all": "nccl", "p2p": "torch"}
_ORDER = (
    "system",
    "generation",
    "system (other engine)",
    "generation (other engine)",
    "global",
)


@dataclasses.dataclass(frozen=True)
class KernelChoice:
    """Coefficients and where they come from."""

    coefficients: Any  #: mist_jax.physics.kernels.KernelCoefficients
    level: str  #: least specific level among the classes that every model uses (products, attention)
    levels: dict[str, str]  #: "class/format" -> level
    provenance: dict[str, Any]  #: data digest, commit, date of the fit


@functools.cache
def catalogue() -> dict[str, Any]:
    """The packaged fit (`mist_jax/catalog/kernels.json`)."""
    text = resources.files("mist_jax").joinpath("catalog/kernels.json").read_text(encoding="utf-8")
    return json.loads(text)


def kernel_coefficients(
    system: str | None,
    generation: str | None,
    engine: str = "vllm",
    *,
    gemm_format: str | None = None,
    expert_format: str | None = None,
    kv_format: str | None = None,
) -> KernelChoice:
    """Fitted coefficients of all kernels for a chip and an engine; see the module for the fall-backs.

    Args:
        system: name in the catalogue of hardware ("h100_sxm"), or None.
        generation: of the chip ("hopper"), or None.
        engine: vllm, sglang, trtllm; others use vLLM's kernels.
        gemm_format, expert_format: storage format where one compute precision has several: "fp8_block",
            "int4_wo", "int8_wo" (products), "w4a16_mxfp4", "w4a8_mxfp4_mxfp8" (experts).
        kv_format: "fp8" where the KV cache holds fp8 and the queries 16-bit numbers.

    Raises:
        ValueError: a format that no class was measured in.
    """
    from mist_jax.physics import kernels as k

    for asked in (gemm_format, expert_format):
        if asked is not None and asked not in {*ALTERNATIVES, *DEFAULT_FORMATS["gemm"]}:
            raise ValueError(f"format {asked!r} is not in the catalogue; known: {sorted(ALTERNATIVES)}")
    kernels = ENGINE_KERNELS.get(engine, "vllm")
    generation = KERNEL_GENERATION.get(generation or "", generation)
    levels: dict[str, str] = {}

    def pick(name: str, form: str, engine_kernels: str) -> dict[str, float]:
        level, values = _find(catalogue()["classes"][name], form, engine_kernels, system, generation)
        levels[f"{name}/{form}"] = level
        return values

    def per_precision(name: str, cls: type, asked: str | None) -> Any:
        forms = list(DEFAULT_FORMATS[name])
        if asked in ALTERNATIVES:
            forms[COMPUTE_PRECISIONS.index(ALTERNATIVES[asked])] = asked
        chosen = [pick(name, form, kernels) for form in forms]
        return cls(**{field: np.array([one[field] for one in chosen]) for field in chosen[0]})

    attention = "bf16_kv_fp8" if kv_format == "fp8" else None
    gemm = per_precision("gemm", k.GemmCoefficients, gemm_format)
    prefill, decode = k.PrefillAttentionCoefficients, k.DecodeAttentionCoefficients
    links = {
        name: k.CollectiveCoefficients(**pick(name, "link", _LINK_ENGINE.get(name, kernels)))
        for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")
    }
    bf16 = COMPUTE_PRECISIONS.index("bf16")
    coefficients = k.KernelCoefficients(
        gemm=gemm,
        moe=per_precision("moe", k.MoeCoefficients, expert_format),
        prefill_attention=per_precision("prefill_attention", prefill, attention),
        decode_attention=per_precision("decode_attention", decode, attention),
        prefill_mla=per_precision("prefill_mla", prefill, attention),
        decode_mla=per_precision("decode_mla", decode, attention),
        recurrent=k.RecurrentCoefficients(**pick("recurrent", "bf16", kernels)),
        # not measured: an element-wise pass streams as a skinny product does, and launches as quickly
        elementwise=k.ElementwiseCoefficients(
            memory_efficiency=gemm.memory_efficiency[bf16], launch_s=gemm.launch_s[bf16]
        ),
        **links,
    )
    core = ("gemm/bf16", "prefill_attention/bf16", "decode_attention/bf16")
    level = max((levels[name] for name in core if name in levels), key=_ORDER.index)
    return KernelChoice(coefficients, level, levels, catalogue()["provenance"])


def _find(
    table: Mapping[str, Any], form: str, engine: str, system: str | None, generation: str | None
) -> tuple[str, dict[str, float]]:
    names = table["parameters"]

    def named(values: list[float]) -> dict[str, float]:
        return dict(zip(names, values))

    engines = table["values"].get(form, {})
    mine = engines.get(engine, {})
    others = [values for name, values in sorted(engines.items()) if name not in (engine, "all")]
    for suffix, candidates in (("", [mine]), (" (other engine)", others)):
        for level, key in (("system", system), ("generation", generation)):
            for values in candidates:
                if key is not None and key in values.get(level, {}):
                    return level + suffix, named(values[level][key])
    for values in [mine, *others]:
        if "all" in values:
            return "global", named(values["all"])
    return "global", named(engines.get("all", table["all"]))
