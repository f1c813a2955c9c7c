"""Time of linear-recurrent token mixers (gated delta rule and kin) and of element-wise kernels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.kernels_roofline import BF16, at_precision, from_cache, overlap, when
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
    prefill_serialization: Array  #: 0 = compute and memory overlap fully, 1 = not at all
    chunk_s: Array  #: s per chunk of one chain: the state is passed from chunk to chunk
    wave_serialization: Array  #: roundness of the step from one wave of chains to more
    sequence_s: Array  #: s per sequence (set-up, state read and write)
    decode_memory_efficiency: Array  #: share of the memory bandwidth when states are read and written
    decode_launch_s: Array  #: s, floor of all kernels of one layer together
    cache_speedup: (
        Array  #: rate of the cache over that of the memory, for operands left there by the call before
    )


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
    warm: Array = 0.0,
) -> Array:
    """Seconds of a chunk-wise recurrence over `tokens` tokens of `sequences` sequences, per layer (prefill).

    launch + overlap(FLOPs / (peak e_c), bytes / (BW e_m)) + chunks of a chain x chunk_s x waves. FLOPs per
    token and value head: 2 (3 d_k d_v + C (d_k + d_v)) for chunks of C = 64 tokens. Chains (sequences x
    heads) run side by side, one a unit: waves = overlap(1, chains / units).

    Args:
        tokens, sequences: in all; the length of each is tokens / sequences.
        v_heads, k_heads, k_dim, v_dim: of this chip.
        activation_bytes, state_bytes: per element.
        warm: 1 where operands are still cached from the call before (microbenchmarks), 0 in a model.

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
    memory = memory * from_cache(hw, traffic, coef.cache_speedup, warm)
    length = tokens / jnp.where(sequences > 0, sequences, 1.0)
    waves = overlap(1.0, sequences * v_heads / hw.units, coef.wave_serialization)
    time = coef.prefill_launch_s + coef.chunk_s * length / CHUNK * waves + coef.sequence_s * sequences
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
    warm: Array = 0.0,
) -> Array:
    """Seconds of one recurrent step of each sequence, per layer: launch + state read and written / (BW e_m).

    Arguments as in `recurrent_time`.
    """
    width = 2.0 * k_heads * k_dim + v_heads * v_dim
    traffic = 2.0 * v_heads * k_dim * v_dim * state_bytes + (3.0 * width + v_heads * v_dim) * activation_bytes
    traffic = sequences * traffic
    memory = traffic / (hw.memory_bandwidth * coef.decode_memory_efficiency)
    memory = memory * from_cache(hw, traffic, coef.cache_speedup, warm)
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
