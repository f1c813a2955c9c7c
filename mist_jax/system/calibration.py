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
    prefill_host_s: Array  #: s added to an iteration that holds prompts (not captured in a graph)
    layer_s: Array  #: s per layer of gaps between kernels inside a captured graph
    eager_layer_s: Array  #: s per layer added when kernels are launched one by one
    floor_scale: Array  #: share of a microbenchmark's launch floor that remains inside an engine iteration
    compute_scale: Array  #: multiplies kernel time of dense products (1: as in the microbenchmark)
    expert_scale: Array  #: multiplies kernel time of routed experts
    exchanged_expert_scale: (
        Array  #: further factor on it where attention-DP ranks exchange tokens (grouped kernels of their own)
    )
    attention_scale: Array  #: multiplies kernel time of attention in decoding
    prefill_attention_scale: Array  #: multiplies kernel time of attention over prompts
    many_tokens_scale: Array  #: further factor on products and experts of iterations with thousands of tokens
    comm_scale: Array  #: multiplies the time of all-reduces
    dispatch_scale: Array  #: multiplies the time to exchange tokens between expert-parallel ranks
    comm_overlap: Array  #: share of collective time hidden behind compute, 0 to 1
    routing_spread: (
        Array  #: tokens^this is the number of independent ones that touch as many experts; 1: all are
    )
    imbalance: Array  #: busiest expert-parallel rank over the mean
    request_s: Array  #: s per request outside of iterations, before the first token (HTTP, queue hand-over)
    first_round_s: (
        Array  #: s by which a benchmark's first round is slower: kernels loaded, compiled and tuned
    )
    prompt_token_s: Array  #: s per prompt token outside of iterations (tokenizing, copying)
    admission_steps: Array  #: iterations until the scheduler looks at a new request
    admission_steps_dp: Array  #: further ones with attention DP (prompts wait until all ranks have some)
    queue_scale: Array  #: multiplies the wait for other prompts
    pool_burst_scale: Array  #: multiplies what the first round of a benchmark waits for in a prefill pool
    lockstep: Array  #: share of equally long prompts that keep coming in rounds (where prefill runs apart from decodes)
    kv_usable: Array  #: share of the KV budget that admission fills
    handover_s: Array  #: s per request to hand it from a prefill to a decode replica, transfer apart
    first_handover_s: Array  #: s by which a benchmark's first hand-over is slower: connections set up
    transfer_scale: Array  #: multiplies the time of the KV transfer
    acceptance: Array  #: probability that the first drafted token is accepted
    acceptance_decay: Array  #: factor on it from one drafted position to the next
    draft_host_s: (
        Array  #: s that speculation adds to an iteration on the host, between drafting and verifying
    )
    draft_scale: Array  #: time of drafting one token over one decoder layer and the LM head


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
    report (arXiv 2412.19437) balances to near 1; 1.2 leaves room for unbalanced batches. acceptance and its
    decay: InferenceX acceptance curves of multi-token prediction (0.79 to 0.92, 0.75 to 0.95).
    """
    return StepCoefficients(
        host_s=1.0e-3,
        host_per_seq_s=5e-6,
        prefill_host_s=2e-3,
        layer_s=4e-6,
        eager_layer_s=40e-6,
        floor_scale=0.5,
        compute_scale=1.0,
        expert_scale=1.0,
        exchanged_expert_scale=1.0,
        attention_scale=1.0,
        prefill_attention_scale=1.0,
        many_tokens_scale=1.0,
        comm_scale=1.0,
        dispatch_scale=1.0,
        comm_overlap=0.0,
        routing_spread=1.0,
        imbalance=1.2,
        request_s=5e-3,
        first_round_s=0.0,
        prompt_token_s=0.0,
        admission_steps=1.0,
        admission_steps_dp=0.0,
        queue_scale=1.0,
        pool_burst_scale=1.0,
        lockstep=0.0,
        kv_usable=1.0,
        handover_s=0.0,
        first_handover_s=0.0,
        transfer_scale=1.0,
        acceptance=0.84,
        acceptance_decay=0.9,
        draft_host_s=0.0,
        draft_scale=1.0,
    )
