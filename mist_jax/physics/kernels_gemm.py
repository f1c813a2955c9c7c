"""Time of a dense matrix product and of a mixture-of-experts feed-forward (grouped matrix products)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import at_precision, effective_precision, from_cache, overlap, when
from mist_jax.pytree import pytree
from mist_jax.system.hardware import Hardware

Array = Any

#: Edge of an output tile: 128 x 128 is the usual choice of CUTLASS-style kernels on tensor cores
#: (NVIDIA, "Matrix Multiplication Background User's Guide", section on tile quantization).
TILE = 128.0


@pytree
class GemmCoefficients:
    """Efficiencies of matrix products; every leaf has shape [len(COMPUTE_PRECISIONS)]."""

    compute_efficiency: Array  #: share of the dense peak that a large product reaches
    memory_efficiency: Array  #: share of the memory bandwidth that a large skinny product reaches
    launch_s: Array  #: s, floor of one kernel launch
    serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    row_padding: Array  #: rows computed for nothing (tile quantization along m)
    compute_tail: Array  #: lost waves: relative slow-down when the tiles just fill the units once
    split_depth: Array  #: elements of k after which a tile is worth splitting over more units (split-K)
    quantize_bytes: (
        Array  #: bytes of traffic per element of A in a pass of its own (quantization; tiny for 16-bit)
    )
    quantize_row: Array  #: elements that such a pass costs per row on top
    cache_speedup: (
        Array  #: rate of the cache over that of the memory, for operands left there by the call before
    )


def gemm_time(
    coef: GemmCoefficients,
    hw: Hardware,
    m: Array,
    n: Array,
    k: Array,
    weight_bytes: Array,
    activation_bytes: Array,
    output_bytes: Array,
    precision_index: Array,
    warm: Array = 0.0,
) -> Array:
    """Seconds of C[m,n] = A[m,k] B[k,n]: launch + overlap(2 m n k / (peak e_c), bytes / (BW e_m)) + quantize.

    Rows are padded, and FLOPs stretched by 1 + tail * units / (tiles * splits): a product with fewer tiles
    than the chip has units cannot use all of it. This also slows products of few rows, whose tiles are empty.
    Quantization of A is a kernel of its own: m (k + k_row) q / BW.

    Args:
        m, n, k: rows (tokens), columns and depth of one chip's share.
        weight_bytes, activation_bytes, output_bytes: bytes per element of B, A (as it comes in, mostly 2), C.
        precision_index: multiply-accumulate precision, index into COMPUTE_PRECISIONS.
        warm: 1 where the operands are still cached from the call before (microbenchmarks), 0 in a model.

    Valid for m, n, k >= 1; fitted on m 1 to 32,768, n and k 128 to 65,536. Not modelled: odd sizes,
    transposed layouts, clock throttling under power limits.
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    rows = m + at_precision(coef.row_padding, index)
    columns = (n / TILE + 1.0) * (1.0 + k / at_precision(coef.split_depth, index))
    fill = hw.units / (columns * (m / TILE + 1.0))
    compute = 2.0 * rows * n * k / (peak * at_precision(coef.compute_efficiency, index))
    compute = compute * (1.0 + at_precision(coef.compute_tail, index) * fill)
    traffic = n * k * weight_bytes + m * k * activation_bytes + m * n * output_bytes
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    memory = memory * from_cache(hw, traffic, at_precision(coef.cache_speedup, index), warm)
    busy = overlap(compute, memory, at_precision(coef.serialization, index))
    quantize = m * (k + at_precision(coef.quantize_row, index)) * at_precision(coef.quantize_bytes, index)
    time = at_precision(coef.launch_s, index) + busy + quantize / hw.memory_bandwidth
    return when(m * n * k > 0, time)


@pytree
class MoeCoefficients:
    """Efficiencies of a routed feed-forward; every leaf has shape [len(COMPUTE_PRECISIONS)]."""

    compute_efficiency: Array  #: share of the dense peak reached with many tokens per expert
    memory_efficiency: Array  #: share of the memory bandwidth reached when weights are read
    launch_s: Array  #: s, floor of routing, permutation and the grouped kernels together
    serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    row_padding: Array  #: rows computed for nothing per expert touched (tile quantization)
    compute_tail: Array  #: lost waves: relative slow-down when the tiles just fill the units once
    memory_tail: Array  #: the same for the stream of the weights
    route_passes: (
        Array  #: passes over the routed activations at full bandwidth (permute, activate, un-permute)
    )
    expert_s: Array  #: s per expert touched (scheduling of one group)
    cache_speedup: (
        Array  #: rate of the cache over that of the memory, for weights left there by the call before
    )


def experts_touched(tokens: Array, experts: Array, experts_local: Array, top_k: Array) -> Array:
    """Expected experts of this rank with at least one token: E_l (1 - (1 - k/E)^b).

    Uniform independent routing; skewed routing touches fewer.
    """
    # a ratio of 1 (every expert always) would make the slope infinite
    ratio = jnp.minimum(top_k / experts, 1.0 - 1e-6)
    return -experts_local * jnp.expm1(tokens * jnp.log1p(-ratio))


def moe_time(
    coef: MoeCoefficients,
    hw: Hardware,
    tokens: Array,
    experts: Array,
    experts_local: Array,
    top_k: Array,
    hidden: Array,
    expert_ffn: Array,
    weight_bytes: Array,
    activation_bytes: Array,
    precision_index: Array,
    imbalance: Array = 1.0,
    matrices: Array = 3.0,
    touched: Array | None = None,
    warm: Array = 0.0,
) -> Array:
    """Seconds of one rank's routed experts: launch + experts + overlap(FLOPs, weights touched) + routing.

    Pairs P = b k E_l/E x imbalance, experts touched T = E_l (1 - (1 - k/E)^b); FLOPs 2 (P + pad T) w and
    weight bytes T w s with w = matrices x hidden x ffn; routing moves P (hidden + ffn) activations
    several times.

    Args:
        tokens: tokens routed over all the experts (of all expert-parallel ranks).
        experts, experts_local: experts of the layer, and those that this rank holds.
        top_k: experts per token.
        hidden, expert_ffn: width and this rank's share of the intermediate size of one expert.
        weight_bytes, activation_bytes: bytes per element; activations as they come in, normally 2.
        precision_index: multiply-accumulate precision, index into COMPUTE_PRECISIONS.
        imbalance: load of this rank over the mean load (>= 1 for the slowest rank).
        matrices: 3 for gated experts (SwiGLU), 2 for plain ones.
        touched: local experts with work; None = `experts_touched`, the mean under uniform routing.
        warm: 1 where the weights are still cached from the call before (microbenchmarks), 0 in a model.

    Not modelled: the router's own product, shared experts (dense products), dispatch and combine
    (collectives).
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    pairs = tokens * top_k * experts_local / experts * imbalance
    busy_experts = experts_touched(tokens, experts, experts_local, top_k) if touched is None else touched
    some = busy_experts > 0
    safe = jnp.where(some, busy_experts, 1.0)
    weights = matrices * hidden * expert_ffn
    rows = pairs + busy_experts * at_precision(coef.row_padding, index)
    fill = hw.units / (safe * (expert_ffn / TILE + 1.0))
    stretch = 1.0 + at_precision(coef.compute_tail, index) * fill / (pairs / (TILE * safe) + 1.0)
    compute = 2.0 * rows * weights / (peak * at_precision(coef.compute_efficiency, index)) * stretch
    traffic = busy_experts * weights * weight_bytes
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    memory = memory * from_cache(hw, traffic, at_precision(coef.cache_speedup, index), warm)
    memory = memory * (1.0 + at_precision(coef.memory_tail, index) * fill)
    busy = overlap(compute, memory, at_precision(coef.serialization, index))
    routed = pairs * (hidden + expert_ffn) * activation_bytes * at_precision(coef.route_passes, index)
    floor = at_precision(coef.launch_s, index) + busy_experts * at_precision(coef.expert_s, index)
    return when((tokens * experts_local > 0) & some, floor + busy + routed / hw.memory_bandwidth)
