"""Time of linear-recurrent token mixers (gated delta rule and kin) and of element-wise kernels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import BF16, at_precision, overlap, when
from mist_jax.pytree import pytree
from mist_jax.system.hardware import Hardware

Array = Any

#: Tokens a chunk-wise recurrence turns into matrix products at once (flash-linear-attention's chunk size;
#: S. Yang et al., "Gated Delta Networks", arXiv 2412.06464, section 3.3).
CHUNK = 64.0


@pytree
class RecurrentCoefficients:
    """Efficiencies of a gated-delta mixer (short convolution and state update); scalar leaves."""

    prefill_compute_efficiency: Array  #: share of the bf16 peak
    prefill_memory_efficiency: Array  #: share of the memory bandwidth
    prefill_launch_s: Array  #: s, floor of all kernels of one layer together
    prefill_serialization: Array
    chunk_s: Array  #: s per chunk of one sequence: the state is passed from chunk to chunk
    decode_memory_efficiency: Array  #: share of the memory bandwidth when states are read and written
    decode_launch_s: Array  #: s, floor of all kernels of one layer together


def recurrent_time(
    coef: RecurrentCoefficients,
    hw: Hardware,
    tokens: Array,
    sequences: Array,
    v_heads: Array,
    k_heads: Array,
    k_dim: Array,
    v_dim: Array,
    activation_bytes: Array = 2.0,
    state_bytes: Array = 4.0,
) -> Array:
    """Seconds of a chunk-wise recurrence over `tokens` new tokens of `sequences` sequences, per layer (prefill).

    launch + chunk_s * tokens / sequences / 64 + overlap(FLOPs / (peak e_c), bytes / (BW e_m)), with FLOPs per
    token and value head 2 (3 d_k d_v + 2 C (d_k + d_v) / 2) for chunks of C tokens.

    Args:
        tokens, sequences: in all; the length of each is tokens / sequences.
        v_heads, k_heads, k_dim, v_dim: of this chip.
        activation_bytes, state_bytes: per element.

    Not modelled: input and output projections (dense products), norm and gate (element-wise).
    """
    peak = at_precision(hw.peak_flops, BF16)
    flops = 2.0 * tokens * v_heads * (3.0 * k_dim * v_dim + CHUNK * (k_dim + v_dim))
    compute = flops / (peak * coef.prefill_compute_efficiency)
    width = 2.0 * k_heads * k_dim + v_heads * v_dim
    # convolution reads and writes q, k, v; the recurrence reads them again and writes its output
    traffic = tokens * (3.0 * width + v_heads * v_dim) * activation_bytes
    traffic = traffic + 2.0 * sequences * v_heads * k_dim * v_dim * state_bytes
    memory = traffic / (hw.memory_bandwidth * coef.prefill_memory_efficiency)
    length = tokens / jnp.where(sequences > 0, sequences, 1.0)
    time = coef.prefill_launch_s + coef.chunk_s * length / CHUNK
    return when(tokens > 0, time + overlap(compute, memory, coef.prefill_serialization))


def recurrent_decode_time(
    coef: RecurrentCoefficients,
    hw: Hardware,
    sequences: Array,
    v_heads: Array,
    k_heads: Array,
    k_dim: Array,
    v_dim: Array,
    activation_bytes: Array = 2.0,
    state_bytes: Array = 4.0,
) -> Array:
    """Seconds of one recurrent step of each sequence, per layer: launch + (state read and written) / (BW e_m).

    Arguments as in `recurrent_time`.
    """
    width = 2.0 * k_heads * k_dim + v_heads * v_dim
    traffic = 2.0 * v_heads * k_dim * v_dim * state_bytes + (3.0 * width + v_heads * v_dim) * activation_bytes
    memory = sequences * traffic / (hw.memory_bandwidth * coef.decode_memory_efficiency)
    return when(sequences > 0, coef.decode_launch_s + memory)


@pytree
class ElementwiseCoefficients:
    """Efficiencies of norms, activations, rotations, copies; scalar leaves."""

    memory_efficiency: Array  #: share of the memory bandwidth
    launch_s: Array  #: s, floor of one kernel


def elementwise_time(coef: ElementwiseCoefficients, hw: Hardware, nbytes: Array) -> Array:
    """Seconds of one pass over `nbytes` bytes read plus written: launch + bytes / (BW e_m).

    Not modelled: operands that stay in the cache from the kernel before.
    """
    return when(nbytes > 0, coef.launch_s + nbytes / (hw.memory_bandwidth * coef.memory_efficiency))
