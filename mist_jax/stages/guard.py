"""Guards: a chain of small classifiers, or an LLM that reads the text and says safe or not.

Classifier chain (HaluGate, vLLM semantic router, on CPU; P50 / P99 ms): classifier 12 / 28, extraction 1 /
3, detector 45 / 89, NLI 18 / 42; published total 76 / 162. Medians and tails are given per step; a step is
log-normal with sigma = ln(P99/P50)/2.326, and the chain's quantiles come from moment matching of the sum.
Detector time grows with the context: about 125 ms at 4K and 365 ms at 16K tokens.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree
from mist_jax.stages.calls import plain_call
from mist_jax.stages.protocol import EngineCall, StageDefinition, Work, parameter

Array = Any

Z99 = 2.3263478740408408  # 99 % quantile of the standard normal

#: HaluGate steps: name → (P50, P99) in seconds.
HALUGATE = {
    "classifier": (12e-3, 28e-3),
    "extraction": (1e-3, 3e-3),
    "detector": (45e-3, 89e-3),
    "nli": (18e-3, 42e-3),
}


@pytree
class Guard:
    """Classifier chain on CPU; times at `reference_tokens` of context."""

    step_s: Array = parameter(
        76e-3, "time", doc="median of the whole chain for a short context (HaluGate: 76 ms)"
    )
    sigma: Array = parameter(0.33, high=3.0, doc="of ln(time); HaluGate: ln(162/76)/2.326")
    per_token_s: Array = parameter(20e-6, "time", doc="(365 - 125 ms) / (16K - 4K tokens) of the detector")
    reference_tokens: Array = parameter(2000.0, doc="context up to which step_s holds; assumption")
    share: Array = parameter(1.0, high=1.0, doc="of the requests that are checked")
    cores: Array = parameter(8.0, low=1.0, doc="cores one check keeps busy")


@pytree
class GuardLLM:
    """An LLM as guard: prefill of the text and its policy, a few tokens out (Llama Guard)."""

    policy_tokens: Array = parameter(200.0, doc="of the guard's own prompt, cached")
    output_tokens: Array = parameter(4.0, low=1.0, doc="safe, or unsafe and a category")
    reads_answer: Array = parameter(0.0, high=1.0, doc="1: reads the answer too")
    share: Array = parameter(1.0, high=1.0, doc="of the requests that are checked")


def demand(params: Guard, work: Work) -> Demand:
    """Mean core-seconds of the chain for a batch: median * exp(sigma^2 / 2) + per_token * tokens beyond
    reference."""
    beyond = jnp.maximum(work.prompt_tokens - params.reference_tokens, 0.0)
    mean = params.step_s * jnp.exp(0.5 * jnp.asarray(params.sigma) ** 2) + params.per_token_s * beyond
    busy = work.batch * params.share * mean * params.cores
    return make(cpu=busy, caps={"cpu": params.cores * jnp.maximum(work.batch, 1.0)})


def chain_quantiles(p50: Array, p99: Array, quantile_z: Array = Z99) -> tuple[Array, Array]:
    """Median and upper quantile of a sum of independent log-normal steps, by matching mean and variance.

    Fenton-Wilkinson (Fenton, IRE Trans. Commun. Systems 8, 1960). Args: `p50`, `p99` [steps] of each step, s.

    Published chain totals that add the steps' P99 assume that all are slow at once; independent steps give
    less.
    """
    sigma = jnp.log(p99 / p50) / Z99
    mean = jnp.sum(p50 * jnp.exp(0.5 * sigma**2))
    variance = jnp.sum(p50**2 * jnp.exp(sigma**2) * (jnp.exp(sigma**2) - 1.0))
    total = jnp.sqrt(jnp.log1p(variance / mean**2))
    median = mean * jnp.exp(-0.5 * total**2)
    return median, median * jnp.exp(quantile_z * total)


def llm_call(params: GuardLLM, work: Work) -> EngineCall:
    """The guard's own engine call: it reads the prompt (and the answer), with its policy cached."""
    from mist_jax.pytree import replace

    text = work.prompt_tokens + params.reads_answer * work.output_tokens
    base = plain_call(text + params.policy_tokens, params.policy_tokens, params.output_tokens)
    return replace(base, probability=params.share)


STAGES = (
    StageDefinition(
        name="guard",
        kind="service",
        parameters=Guard,
        function=demand,
        summary="chain of classifiers on CPU",
        source="HaluGate (vLLM semantic router): P50 76 ms, P99 162 ms",
        valid="contexts up to 16K tokens on that CPU",
        not_modelled="early exit of the chain",
        needs=("cpu",),
    ),
    StageDefinition(
        name="guard_llm",
        kind="engine",
        parameters=GuardLLM,
        function=llm_call,
        summary="an LLM reads the text and judges it",
        source="prefill-heavy call, timed by physics.step",
        valid="as the engine",
        not_modelled="streaming checks of partial answers",
    ),
)
