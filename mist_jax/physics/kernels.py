"""All kernel models of one engine on one chip, with the coefficients that they need."""

from __future__ import annotations

import numpy as np

from mist_jax.physics.kernels_attention import (
    DecodeAttentionCoefficients,
    PrefillAttentionCoefficients,
    attention_decode_time,
    attention_prefill_time,
    attention_tile_time,
    causal_pairs,
)
from mist_jax.physics.kernels_collectives import (
    CollectiveCoefficients,
    all_gather_time,
    all_reduce_time,
    all_to_all_time,
    p2p_time,
    reduce_scatter_time,
)
from mist_jax.physics.kernels_gemm import (
    GemmCoefficients,
    MoeCoefficients,
    experts_touched,
    gemm_time,
    moe_time,
)
from mist_jax.physics.kernels_recurrent import (
    ElementwiseCoefficients,
    RecurrentCoefficients,
    elementwise_time,
    recurrent_decode_time,
    recurrent_time,
)
from mist_jax.physics.kernels_roofline import effective_precision, overlap, peak_flops
from mist_jax.pytree import pytree
from mist_jax.system.hardware import COMPUTE_PRECISIONS

__all__ = [
    "CollectiveCoefficients",
    "DecodeAttentionCoefficients",
    "ElementwiseCoefficients",
    "GemmCoefficients",
    "KernelCoefficients",
    "MoeCoefficients",
    "PrefillAttentionCoefficients",
    "RecurrentCoefficients",
    "all_gather_time",
    "all_reduce_time",
    "all_to_all_time",
    "attention_decode_time",
    "attention_prefill_time",
    "attention_tile_time",
    "causal_pairs",
    "default_coefficients",
    "effective_precision",
    "elementwise_time",
    "experts_touched",
    "gemm_time",
    "moe_time",
    "overlap",
    "p2p_time",
    "peak_flops",
    "recurrent_decode_time",
    "recurrent_time",
    "reduce_scatter_time",
]


@pytree
class KernelCoefficients:
    """One set of coefficients per class of kernel."""

    gemm: GemmCoefficients
    moe: MoeCoefficients
    prefill_attention: PrefillAttentionCoefficients
    decode_attention: DecodeAttentionCoefficients
    prefill_mla: PrefillAttentionCoefficients  #: latent attention, expanded to heads
    decode_mla: DecodeAttentionCoefficients  #: latent attention, absorbed (kv_heads = 1, shared K and V)
    recurrent: RecurrentCoefficients
    elementwise: ElementwiseCoefficients
    all_reduce: CollectiveCoefficients
    all_gather: CollectiveCoefficients
    reduce_scatter: CollectiveCoefficients
    all_to_all: CollectiveCoefficients
    p2p: CollectiveCoefficients


def _per_precision(**values: float) -> dict[str, np.ndarray]:
    return {name: np.full(len(COMPUTE_PRECISIONS), value) for name, value in values.items()}


#: Before any fit: round numbers in the middle of what public kernel measurements show (data of
#: ai-dynamo/aiconfigurator: products reach 0.55-0.9 of the peak and 0.7-0.95 of the bandwidth from A100
#: to B200, launches take 2-20 us).
PRIOR: dict[str, dict[str, float]] = {
    "gemm": {
        "compute_efficiency": 0.72,
        "memory_efficiency": 0.8,
        "launch_s": 3e-6,
        "serialization": 0.15,
        "row_padding": 60.0,
        "compute_tail": 0.5,
        "split_depth": 10000.0,
        "quantize_bytes": 0.3,
        "quantize_row": 1000.0,
        "cache_speedup": 1.2,
    },
    "moe": {
        "compute_efficiency": 0.5,
        "memory_efficiency": 0.85,
        "launch_s": 20e-6,
        "serialization": 0.2,
        "row_padding": 14.0,
        "compute_tail": 0.3,
        "memory_tail": 0.1,
        "route_passes": 4.0,
        "expert_s": 5e-8,
        "cache_speedup": 1.5,
    },
    "prefill_attention": {
        "compute_efficiency": 0.75,
        "memory_efficiency": 0.5,
        "launch_s": 10e-6,
        "serialization": 0.3,
        "softmax_rate": 16.0,
        "key_padding": 100.0,
        "tail": 0.8,
        "tile_s": 1e-6,
        "head_dim_limit": 500.0,
    },
    "decode_attention": {
        "compute_efficiency": 0.3,
        "memory_efficiency": 0.9,
        "launch_s": 9e-6,
        "serialization": 0.15,
        "group_padding": 6.0,
        "tail": 0.3,
        "split_tokens": 1000.0,
        "sequence_s": 2e-6,
        "cache_speedup": 1.5,
        "window_leak": 0.01,
    },
    "recurrent": {
        "prefill_compute_efficiency": 0.15,
        "prefill_memory_efficiency": 0.5,
        "prefill_launch_s": 20e-6,
        "prefill_serialization": 0.2,
        "chunk_s": 1e-6,
        "wave_serialization": 0.2,
        "sequence_s": 2e-7,
        "decode_memory_efficiency": 0.8,
        "decode_launch_s": 6e-6,
        "cache_speedup": 1.5,
    },
    "elementwise": {"memory_efficiency": 0.8, "launch_s": 2e-6},
    "collective": {
        "bandwidth_efficiency": 0.7,
        "launch_s": 4e-6,
        "rank_s": 5e-7,
        "hops": 1.0,
        "half_bytes": 5e5,
        "sharing": 0.02,
    },
}
PRIOR["prefill_mla"] = dict(PRIOR["prefill_attention"])
PRIOR["decode_mla"] = dict(PRIOR["decode_attention"])


def default_coefficients() -> KernelCoefficients:
    """Coefficients before any fit (`PRIOR`), the same for every precision."""
    collective = CollectiveCoefficients(**PRIOR["collective"])
    return KernelCoefficients(
        gemm=GemmCoefficients(**_per_precision(**PRIOR["gemm"])),
        moe=MoeCoefficients(**_per_precision(**PRIOR["moe"])),
        prefill_attention=PrefillAttentionCoefficients(**_per_precision(**PRIOR["prefill_attention"])),
        decode_attention=DecodeAttentionCoefficients(**_per_precision(**PRIOR["decode_attention"])),
        prefill_mla=PrefillAttentionCoefficients(**_per_precision(**PRIOR["prefill_mla"])),
        decode_mla=DecodeAttentionCoefficients(**_per_precision(**PRIOR["decode_mla"])),
        recurrent=RecurrentCoefficients(**PRIOR["recurrent"]),
        elementwise=ElementwiseCoefficients(**PRIOR["elementwise"]),
        all_reduce=collective,
        all_gather=collective,
        reduce_scatter=collective,
        all_to_all=collective,
        p2p=collective,
    )
