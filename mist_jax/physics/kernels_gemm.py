"""Time of a dense matrix product and of a mixture-of-experts feed-forward (grouped matrix products)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import at_precision, effective_precision, overlap, when
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
    memory_tail: Array  #: the same for the memory stream: too few tiles do not keep the memory busy
    split_depth: Array  #: elements of k after which a tile is worth splitting over more units (split-K)


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
) -> Array:
    """Seconds of C[m,n] = A[m,k] B[k,n]: launch + overlap(2 m n k / (peak e_c), bytes / (BW e_m)).

    Both terms are stretched by 1 + tail * units / (tiles * splits): a product with fewer tiles than the chip has
    units cannot use all of it.

    Args:
        m, n, k: rows (tokens), columns and depth of one chip's share.
        weight_bytes, activation_bytes, output_bytes: bytes per element of B, A and C.
        precision_index: multiply-accumulate precision, index into COMPUTE_PRECISIONS.

    Not modelled: transposed layouts, weights that stay in the cache between calls.
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    rows = m + at_precision(coef.row_padding, index)
    splits = 1.0 + k / at_precision(coef.split_depth, index)
    fill = hw.units / ((m / TILE + 1.0) * (n / TILE + 1.0) * splits)
    compute = 2.0 * rows * n * k / (peak * at_precision(coef.compute_efficiency, index))
    compute = compute * (1.0 + at_precision(coef.compute_tail, index) * fill)
    traffic = n * k * weight_bytes + m * k * activation_bytes + m * n * output_bytes
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    memory = memory * (1.0 + at_precision(coef.memory_tail, index) * fill)
    busy = overlap(compute, memory, at_precision(coef.serialization, index))
    return when(m * n * k > 0, at_precision(coef.launch_s, index) + busy)


@pytree
class MoeCoefficients:
    """Efficiencies of a routed feed-forward; every leaf has shape [len(COMPUTE_PRECISIONS)]."""

    compute_efficiency: Array  #: share of the dense peak reached with many tokens per expert
    memory_efficiency: Array  #: share of the memory bandwidth reached when weights are read
    launch_s: Array  #: s, floor of routing, permutation and the grouped kernels together
    serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    row_padding: Array  #: rows computed for nothing per expert touched (tile quantization)
    tail: Array  #: relative slow-down when the tiles just fill the units once
    route_bytes: Array  #: passes over the routed activations (permute, activation, un-permute)
    expert_s: Array  #: s per expert touched (scheduling of one group)


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
) -> Array:
    """Seconds of the routed experts of one rank: launch + per expert + overlap(FLOPs, weights touched).

    Args:
        tokens: tokens routed over all the experts (of all expert-parallel ranks).
        experts, experts_local: experts of the layer, and those that this rank holds.
        top_k: experts per token.
        hidden, expert_ffn: width and this rank's share of the intermediate size of one expert.
        weight_bytes, activation_bytes: bytes per element.
        precision_index: multiply-accumulate precision, index into COMPUTE_PRECISIONS.
        imbalance: load of this rank over the mean load (>= 1 for the slowest rank).
        matrices: 3 for gated experts (SwiGLU), 2 for plain ones.

    Not modelled: the router's own product, shared experts (dense products), dispatch and combine (collectives).
    """
    index = effective_precision(hw, precision_index)
    peak = at_precision(hw.peak_flops, index)
    pairs = tokens * top_k * experts_local / experts * imbalance
    touched = experts_touched(tokens, experts, experts_local, top_k)
    weights = matrices * hidden * expert_ffn
    rows = pairs + touched * at_precision(coef.row_padding, index)
    tiles = (pairs / TILE + touched) * (expert_ffn / TILE + 1.0)
    stretch = 1.0 + at_precision(coef.tail, index) * hw.units / jnp.where(tiles > 0, tiles, 1.0)
    compute = 2.0 * rows * weights / (peak * at_precision(coef.compute_efficiency, index)) * stretch
    routed = pairs * (hidden + expert_ffn) * activation_bytes * at_precision(coef.route_bytes, index)
    traffic = touched * weights * weight_bytes + routed
    memory = traffic / (hw.memory_bandwidth * at_precision(coef.memory_efficiency, index))
    busy = overlap(compute, memory, at_precision(coef.serialization, index))
    floor = at_precision(coef.launch_s, index) + touched * at_precision(coef.expert_s, index)
    return when(tokens * experts_local > 0, floor + busy)
