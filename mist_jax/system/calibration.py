"""Coefficients that correct the physics: kernels (measured one by one) and the engine's step around them."""

from __future__ import annotations

from typing import Any

from mist_jax.physics.kernels import KernelCoefficients
from mist_jax.physics.step_energy import EnergyCoefficients
from mist_jax.pytree import pytree

Array = Any


@pytree
class StepCoefficients:
    """What an engine adds around its kernels; all bounded, all with a meaning.

    The defaults in `default_step_coefficients` are priors, the packaged calibration replaces them.
    """

    host_s: Array  #: s per iteration that the host does not hide (scheduling, input preparation, sampling)
    host_per_seq_s: Array  #: s per sequence in the iteration (bookkeeping, detokenization back-pressure)
    layer_s: Array  #: s per layer of gaps between kernels inside a captured graph
    eager_layer_s: Array  #: s per layer added when kernels are launched one by one
    floor_scale: Array  #: share of a microbenchmark's launch floor that remains inside an engine iteration
    compute_scale: (
        Array  #: multiplies kernel time of linear layers and experts (>= 1: slower than the microbenchmark)
    )
    attention_scale: Array  #: multiplies kernel time of attention
    comm_scale: Array  #: multiplies collective time
    comm_overlap: Array  #: share of collective time hidden behind compute, 0 to 1
    request_s: Array  #: s per request outside of iterations, before the first token (HTTP, tokenizing, queue hand-over)
    imbalance: Array  #: busiest expert-parallel rank over the mean


@pytree
class Calibration:
    """All coefficients of one deployment."""

    kernels: KernelCoefficients
    step: StepCoefficients
    energy: EnergyCoefficients


def default_step_coefficients() -> StepCoefficients:
    """Uncalibrated priors.

    host_s and host_per_seq_s: order of the per-step CPU time that simulators found missing against vLLM
    (BLIS and LLMServingSim discussions; 1 to 3 ms a step at 100 sequences). imbalance: DeepSeek-V3 technical
    report (arXiv 2412.19437) balances to near 1; 1.2 leaves room for unbalanced batches.
    """
    return StepCoefficients(
        host_s=1.0e-3,
        host_per_seq_s=5e-6,
        layer_s=4e-6,
        eager_layer_s=40e-6,
        floor_scale=0.5,
        compute_scale=1.0,
        attention_scale=1.0,
        comm_scale=1.0,
        comm_overlap=0.0,
        request_s=5e-3,
        imbalance=1.2,
    )
