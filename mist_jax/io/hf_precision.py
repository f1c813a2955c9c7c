"""Number formats of a checkpoint from `quantization_config` of its config.json."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mist_jax.errors import ConfigError, nearest
from mist_jax.io.architecture import CheckpointPrecision
from mist_jax.io.hf_families import Keys

_METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", "awq", "gptq", "bitsandbytes")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

#: What products with weights of a format read when nothing else is said.
_USUAL_ACTIVATIONS = {"fp8": "fp8", "int8": "int8", "int4": "bf16"}

#: A weight of each class in the middle of a model, as checkpoints and as vLLM name it.
_EXAMPLES = {
    "attention": ("self_attn.q_proj", "self_attn.o_proj", "self_attn.q_b_proj", "self_attn.kv_b_proj"),
    "ffn": ("mlp.gate_proj", "mlp.down_proj", "mlp.shared_experts.gate_proj"),
    "experts": ("mlp.experts.7.gate_proj", "mlp.experts.7.down_proj"),
}


def _matches(pattern: str, module: str) -> bool:
    """Whether an exclusion names `module`: `re:` expressions, globs, or runs of whole dotted parts."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    if "*" in pattern:
        return fnmatch.fnmatch(module, pattern) or fnmatch.fnmatch(module, pattern + ".*")
    return f".{pattern}." in f".{module}."


def _excluded(patterns: Sequence[str], kind: str, layers: int) -> bool:
    """Whether most layers' weights of `kind` are exempt from quantization."""
    names = [f"model.layers.{i}.{m}" for i in range(layers) for m in _EXAMPLES[kind]]
    return sum(any(_matches(p, n) for p in patterns) for n in names) * 2 > len(names)


def _format_of(weights: Mapping[str, Any], label: str) -> tuple[str, int | None]:
    """Format and group of one `weights` entry of compressed-tensors or ModelOpt."""
    bits, kind, group = weights.get("num_bits"), weights.get("type", "int"), weights.get("group_size")
    if bits == 8:
        return ("fp8" if kind == "float" else "int8"), None
    if bits == 4 and kind == "float":
        return ("nvfp4" if "nvfp4" in label.lower() or group == 16 else "mxfp4"), None
    if bits == 4:
        return "int4", group
    raise ConfigError(f"quantization_config: weights of {bits} bits, type {kind!r}, are not described here")


def _activation_of(entry: Any) -> str | None:
    if not isinstance(entry, Mapping):
        return None
    bits = entry.get("num_bits")
    if bits == 8:
        return "fp8" if entry.get("type", "int") == "float" else "int8"
    return None


def _groups_format(q: Keys) -> tuple[str, int | None, str | None]:
    group = next(iter(q.need("config_groups").values()))
    label = str(group.get("format") or q.get("format", "quant_algo", default=""))
    name, size = _format_of(group["weights"], label)
    activations = _activation_of(group.get("input_activations"))
    if activations is None and group.get("input_activations") is None:
        activations = "bf16"  # weight-only: the products run in 16 bits
    return name, size, activations


def _algorithm(algo: str, group: int | None) -> tuple[str, int | None, str | None]:
    """ModelOpt's `quant_algo` names (TensorRT Model Optimizer, hf_quant_config.json)."""
    known = {
        "FP8": ("fp8", None, "fp8"),
        "FP8_PB_WO": ("fp8", None, "fp8"),
        "NVFP4": ("nvfp4", None, None),
        "NVFP4_AWQ": ("nvfp4", None, None),
        "W4A16_AWQ": ("int4", group, "bf16"),
        "W4A8_AWQ": ("int4", group, "fp8"),
        "INT8_SQ": ("int8", None, "int8"),
        "MXFP4": ("mxfp4", None, None),
    }
    if algo.upper() not in known:
        allowed = ", ".join(known)
        raise ConfigError(
            f"quantization_config.quant_algo: {algo!r} is not one of {allowed}{nearest(algo, known)}"
        )
    return known[algo.upper()]


def _quantized(q: Keys) -> tuple[str, int | None, str | None]:
    """Weights' format, group and activations of a `quantization_config`."""
    if q.get("config_groups") is not None:
        return _groups_format(q)
    if q.get("quant_algo") is not None:
        return _algorithm(q.need("quant_algo"), q.get("group_size"))
    method = str(q.need("quant_method"))
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8", None, "fp8"
    if method == "mxfp4":
        return "mxfp4", None, None
    if method in ("awq", "gptq"):
        bits = q.get("bits", "w_bit", default=4)
        if bits not in (4, 8):
            raise ConfigError(f"quantization_config.bits: {bits} is not described here; allowed are 4 and 8")
        size = q.get("group_size", "q_group_size")
        return ("int4" if bits == 4 else "int8"), (size if bits == 4 and size and size > 0 else None), "bf16"
    if method == "bitsandbytes":
        return ("int4", 64, "bf16") if q.get("load_in_4bit") else ("int8", None, "bf16")
    raise ConfigError(
        f"quantization_config.quant_method: {method!r} is not one of {', '.join(_METHODS)}"
        f"{nearest(method, _METHODS)}"
    )


def _cache_format(q: Keys) -> str:
    scheme = q.get("kv_cache_scheme", "kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        return "fp8" if scheme.get("num_bits") == 8 else "bf16"
    return {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}.get(str(scheme).upper(), "bf16")


def read_precision(config: Mapping[str, Any], text: Keys, layers: int) -> CheckpointPrecision:
    """Formats of a checkpoint's classes of weights, of its activations and of its cache.

    Embedding, LM head, norms and routers stay in the checkpoint's own type; the cache is 16-bit unless the
    checkpoint says otherwise. Classes that the exclusion list names for most layers stay unquantized; a list
    that exempts some layers only is taken as exempting none.

    Raises:
        ConfigError: a quantization method that is not described here.
    """
    top = Keys(config)
    dtype = str(text.get("torch_dtype", "dtype") or top.get("torch_dtype", "dtype", default="bfloat16"))
    base = _DTYPES.get(dtype.removeprefix("torch."), "bf16")
    high = "fp16" if base == "fp16" else "bf16"  # float32 checkpoints are served in 16 bits
    q = top.sub("quantization_config")
    if not q.mapping:
        q = text.sub("quantization_config")
    if isinstance(q.mapping.get("quantization"), Mapping):
        q = q.sub("quantization")
    if not q.mapping:
        return CheckpointPrecision(attention=high, ffn=high, experts=high, embedding=high)
    name, group, activations = _quantized(q)
    ignore = q.get("modules_to_not_convert", "ignore", "exclude_modules", default=[])
    kinds = {kind: (high if _excluded(ignore, kind, layers) else name) for kind in _EXAMPLES}
    if q.get("quant_method") == "mxfp4" and q.get("config_groups") is None:
        # gpt-oss: the method converts the experts alone (gpt-oss model card, arXiv 2508.10925, section 2.1).
        kinds |= {"attention": high, "ffn": high}
    kv = _cache_format(q)
    if text.get("compress_ratios") is not None:
        kv = (
            "fp8"  # DeepSeek-V4 keeps its entries in fp8, rotary elements aside (technical report, section 2)
        )
    if str(text.get("expert_dtype", default="")).lower() in ("fp4", "mxfp4"):
        kinds["experts"] = "mxfp4"
    used = set(kinds.values()) - {high}
    if all(_USUAL_ACTIVATIONS.get(kind) == activations for kind in used):
        activations = None
    return CheckpointPrecision(**kinds, embedding=high, kv=kv, activations=activations, group_size=group)
