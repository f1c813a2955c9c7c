"""All kernel models of one engine on one chip, with the coefficients that they need."""

from __future__ import annotations

import numpy as np

from mist_jax.physics.kernels_attention import (
    DecodeAttentionCoefficients,
    PrefillAttentionCoefficients,
    attention_decode_time,
    attention_prefill_time,
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


#: Before any fit: efficiencies near the medians of public measurements (GEMM 0.55-0.9 of the peak and 0.6-0.9
#: of the bandwidth on A100 to B200: ai-dynamo/aiconfigurator kernel data), launch floors of 2-5 us.
PRIOR: dict[str, dict[str, float]] = {
    "gemm": {
        "compute_efficiency": 0.72,
        "memory_efficiency": 0.75,
        "launch_s": 3e-6,
        "serialization": 0.2,
        "row_padding": 16.0,
        "compute_tail": 0.3,
        "memory_tail": 0.1,
        "split_depth": 4096.0,
    },
    "moe": {
        "compute_efficiency": 0.6,
        "memory_efficiency": 0.7,
        "launch_s": 15e-6,
        "serialization": 0.3,
        "row_padding": 16.0,
        "tail": 0.2,
        "route_bytes": 4.0,
        "expert_s": 1e-8,
    },
    "prefill_attention": {
        "compute_efficiency": 0.65,
        "memory_efficiency": 0.7,
        "launch_s": 6e-6,
        "serialization": 0.2,
        "softmax_rate": 32.0,
        "key_padding": 64.0,
        "tail": 0.3,
        "token_s": 1e-9,
    },
    "decode_attention": {
        "compute_efficiency": 0.4,
        "memory_efficiency": 0.7,
        "launch_s": 6e-6,
        "serialization": 0.3,
        "group_padding": 8.0,
        "tail": 0.1,
        "split_tokens": 512.0,
        "sequence_s": 1e-7,
    },
    "recurrent": {
        "prefill_compute_efficiency": 0.15,
        "prefill_memory_efficiency": 0.5,
        "prefill_launch_s": 40e-6,
        "prefill_serialization": 0.5,
        "chunk_s": 1e-6,
        "decode_memory_efficiency": 0.6,
        "decode_launch_s": 6e-6,
    },
    "elementwise": {"memory_efficiency": 0.75, "launch_s": 2e-6},
    "collective": {
        "bandwidth_efficiency": 0.75,
        "launch_s": 8e-6,
        "rank_s": 1e-6,
        "hops": 2.0,
        "half_bytes": 1e5,
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
