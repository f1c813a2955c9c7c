"""Classes of kernels for the fit: coefficients with their bounds, and the model of the table columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from mist_jax.physics import kernels as k
from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware

Array = Any
Columns = dict[str, Array]

#: (low, high) of each coefficient. Shares of a peak may exceed 1 a little where a chip runs above its nominal
#: clock or a narrower format computes at a higher rate than its label (fp8 KV under a bf16 label).
BOUNDS: dict[str, tuple[float, float]] = {
    "compute_efficiency": (0.02, 1.9),
    "memory_efficiency": (0.05, 1.3),
    "launch_s": (5e-7, 1e-3),
    "serialization": (0.08, 1.0),  # the corner of a measured roofline is never sharp
    "row_padding": (0.5, 120.0),  # below one tile, else more rows could be faster
    "compute_tail": (0.005, 10.0),
    "memory_tail": (0.001, 10.0),
    "split_depth": (64.0, 1e6),
    "quantize_bytes": (1e-3, 50.0),
    "quantize_row": (1.0, 1e5),
    "cache_speedup": (1.001, 20.0),
    "route_passes": (0.01, 100.0),
    "expert_s": (1e-10, 1e-5),
    "softmax_rate": (1.0, 500.0),
    "key_padding": (1.0, 1000.0),
    "tail": (0.005, 10.0),
    "tile_s": (1e-9, 1e-4),
    "head_dim_limit": (64.0, 5000.0),
    "group_padding": (0.1, 100.0),
    "split_tokens": (16.0, 1e5),
    "sequence_s": (1e-10, 1e-4),
    "window_leak": (1e-4, 1.0),
    "prefill_compute_efficiency": (0.002, 1.5),
    "prefill_memory_efficiency": (0.02, 1.5),
    "prefill_launch_s": (2e-6, 1e-3),
    "prefill_serialization": (0.003, 1.0),
    "chunk_s": (1e-8, 1e-4),
    "wave_serialization": (0.01, 1.0),
    "decode_memory_efficiency": (0.02, 1.3),
    "decode_launch_s": (1e-6, 5e-4),
    "bandwidth_efficiency": (0.02, 1.5),
    "rank_s": (1e-9, 1e-4),
    "hops": (0.01, 30.0),
    "half_bytes": (1.0, 1e9),
    "sharing": (1e-3, 3.0),
}


@dataclass(frozen=True)
class KernelClass:
    """One class: its name, coefficient class, prior values and the model."""

    name: str
    coefficients: type
    prior: dict[str, float]
    predict: Callable[[Any, Hardware, Columns], Array]
    roofline: Callable[[Hardware, Columns], Array]
    per_precision: bool = True

    def build(self, values: Array) -> Any:
        """The coefficient pytree of a vector of values, the same for every precision."""
        leaves = {}
        for position, name in enumerate(self.prior):
            value = values[position]
            leaves[name] = jnp.full(len(COMPUTE_PRECISIONS), value) if self.per_precision else value
        return self.coefficients(**leaves)


def _max(compute: Array, memory: Array) -> Array:
    return jnp.maximum(compute, memory)


def _gemm(coef: Any, hw: Hardware, c: Columns) -> Array:
    args = [
        c[n] for n in ("m", "n", "k", "weight_bytes", "activation_bytes", "output_bytes", "precision_index")
    ]
    return k.gemm_time(coef, hw, *args, warm=1.0)


def _gemm_roofline(hw: Hardware, c: Columns) -> Array:
    m, n, depth = c["m"], c["n"], c["k"]
    traffic = n * depth * c["weight_bytes"] + m * depth * c["activation_bytes"] + m * n * c["output_bytes"]
    return _max(2.0 * m * n * depth / k.peak_flops(hw, c["precision_index"]), traffic / hw.memory_bandwidth)


_MOE = (
    "tokens",
    "experts",
    "experts_local",
    "top_k",
    "hidden",
    "expert_ffn",
    "weight_bytes",
    "activation_bytes",
)


def _moe(coef: Any, hw: Hardware, c: Columns) -> Array:
    args = [c[n] for n in (*_MOE, "precision_index", "imbalance", "matrices", "touched")]
    return k.moe_time(coef, hw, *args, warm=1.0)


def _moe_roofline(hw: Hardware, c: Columns) -> Array:
    weights = c["matrices"] * c["hidden"] * c["expert_ffn"]
    pairs = c["tokens"] * c["top_k"] * c["experts_local"] / c["experts"]
    compute = 2.0 * pairs * weights / k.peak_flops(hw, c["precision_index"])
    return _max(compute, c["experts_local"] * weights * c["weight_bytes"] / hw.memory_bandwidth)


_HEADS = ("heads", "kv_heads", "qk_dim", "v_dim", "kv_bytes_per_element", "precision_index", "window")


def _prefill(coef: Any, hw: Hardware, c: Columns) -> Array:
    return k.attention_prefill_time(coef, hw, *[c[n] for n in ("q_tokens", "past", *_HEADS, "sequences")])


def _prefill_roofline(hw: Hardware, c: Columns) -> Array:
    pairs = k.causal_pairs(c["q_tokens"], c["past"], c["window"]) * c["sequences"] * c["heads"]
    width = c["qk_dim"] + c["v_dim"]
    keys = c["kv_heads"] * c["kv_bytes_per_element"] + 2.0 * c["heads"]
    traffic = c["sequences"] * c["q_tokens"] * width * keys
    return _max(2.0 * pairs * width / k.peak_flops(hw, c["precision_index"]), traffic / hw.memory_bandwidth)


def _decode(coef: Any, hw: Hardware, c: Columns) -> Array:
    args = [c[n] for n in ("sequences", "context", *_HEADS)]
    return k.attention_decode_time(coef, hw, *args, shared_kv=c.get("shared_kv", 0.0), warm=1.0)


def _decode_roofline(hw: Hardware, c: Columns) -> Array:
    attended = jnp.minimum(c["context"], c["window"]) * c["sequences"]
    width = c["qk_dim"] + (1.0 - c.get("shared_kv", 0.0)) * c["v_dim"]
    traffic = attended * c["kv_heads"] * width * c["kv_bytes_per_element"]
    flops = 2.0 * attended * c["heads"] * (c["qk_dim"] + c["v_dim"])
    return _max(flops / k.peak_flops(hw, c["precision_index"]), traffic / hw.memory_bandwidth)


_STATE = ("v_heads", "k_heads", "k_dim", "v_dim")


def _recurrent(coef: Any, hw: Hardware, c: Columns) -> Array:
    shape = [c[n] for n in _STATE]
    prefill = k.recurrent_time(coef, hw, c["tokens"], c["sequences"], *shape, warm=1.0)
    decode = k.recurrent_decode_time(coef, hw, c["sequences"], *shape, warm=1.0)
    return jnp.where(c["decode"] > 0, decode, prefill)


def _recurrent_roofline(hw: Hardware, c: Columns) -> Array:
    state = c["v_heads"] * c["k_dim"] * c["v_dim"]
    width = 2.0 * c["k_heads"] * c["k_dim"] + 2.0 * c["v_heads"] * c["v_dim"]
    traffic = 8.0 * c["sequences"] * state + 2.0 * c["tokens"] * width
    return _max(6.0 * c["tokens"] * state / k.peak_flops(hw, 1.0), traffic / hw.memory_bandwidth)


def _collective(
    time: Callable[..., Array], rounds: float
) -> tuple[Callable[..., Array], Callable[..., Array]]:
    def predict(coef: Any, hw: Hardware, c: Columns) -> Array:
        return time(coef, c["nbytes"], c["ranks"], hw.scale_up_bandwidth, hw.scale_up_latency)

    def roofline(hw: Hardware, c: Columns) -> Array:
        return rounds * (c["ranks"] - 1.0) / c["ranks"] * c["nbytes"] / hw.scale_up_bandwidth

    return predict, roofline


def _p2p_link(hw: Hardware, c: Columns) -> tuple[Array, Array]:
    out = c["network"] > 0
    bandwidth = jnp.where(out, hw.scale_out_bandwidth, hw.scale_up_bandwidth)
    return bandwidth, jnp.where(out, hw.scale_out_latency, hw.scale_up_latency)


def _p2p(coef: Any, hw: Hardware, c: Columns) -> Array:
    return k.p2p_time(coef, c["nbytes"], *_p2p_link(hw, c))


def _p2p_roofline(hw: Hardware, c: Columns) -> Array:
    return c["nbytes"] / _p2p_link(hw, c)[0]


def _links(name: str, predict: Callable[..., Array], roofline: Callable[..., Array]) -> KernelClass:
    return KernelClass(name, k.CollectiveCoefficients, k.PRIOR["collective"], predict, roofline, False)


def kernel_classes() -> dict[str, KernelClass]:
    """All classes that are fitted, in the order of the report."""
    prefill, decode = k.PrefillAttentionCoefficients, k.DecodeAttentionCoefficients
    found = [
        KernelClass("gemm", k.GemmCoefficients, k.PRIOR["gemm"], _gemm, _gemm_roofline),
        KernelClass("moe", k.MoeCoefficients, k.PRIOR["moe"], _moe, _moe_roofline),
        KernelClass("prefill_attention", prefill, k.PRIOR["prefill_attention"], _prefill, _prefill_roofline),
        KernelClass("decode_attention", decode, k.PRIOR["decode_attention"], _decode, _decode_roofline),
        KernelClass("prefill_mla", prefill, k.PRIOR["prefill_mla"], _prefill, _prefill_roofline),
        KernelClass("decode_mla", decode, k.PRIOR["decode_mla"], _decode, _decode_roofline),
        KernelClass(
            "recurrent", k.RecurrentCoefficients, k.PRIOR["recurrent"], _recurrent, _recurrent_roofline, False
        ),
        _links("all_reduce", *_collective(k.all_reduce_time, 2.0)),
        _links("all_gather", *_collective(k.all_gather_time, 1.0)),
        _links("reduce_scatter", *_collective(k.reduce_scatter_time, 1.0)),
        _links("all_to_all", *_collective(k.all_to_all_time, 1.0)),
        _links("p2p", _p2p, _p2p_roofline),
    ]
    return {one.name: one for one in found}
