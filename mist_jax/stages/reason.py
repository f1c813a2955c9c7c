"""Reasoning: thinking tokens, parallel samples, beams and trees, sequential revision, and a verifier.

Thinking length is log-normal with given mean and median (DeepSeek-R1 in production: output mean 2,133,
median 1,014, P90 5,423, P99 15,063: ServeGen, Xiang et al., arXiv 2505.09999, rate-weighted). Of N
independent branches the request waits for the longest,
    E[max] = integral_0^inf 1 - F(x)^N dx,
all share the prompt's KV (Juravsky et al., Hydragen, arXiv 2402.05099; cascade attention in FlashInfer): a
step reads W + KV_prompt + sum KV_i with such kernels, N KV_prompt without. A tree of depth D and width B
shares its stems.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax.pytree import pytree
from mist_jax.stages.calls import plain_call
from mist_jax.stages.protocol import EngineCall, StageDefinition, Work, choice, parameter

Array = Any


@pytree
class Reason:
    """How an answer is thought about; defaults: DeepSeek-R1 lengths."""

    method: str = choice("single", ("single", "best_of_n", "beam", "revise"))
    mean_tokens: Array = parameter(
        2133.0, low=1.0, doc="of one chain, thinking and answer; GPQA means: R1 11,450 ..."
    )
    median_tokens: Array = parameter(1014.0, low=1.0)
    max_tokens: Array = parameter(32768.0, low=1.0, doc="longer chains are cut")
    samples: Array = parameter(1.0, low=1.0, doc="chains of best_of_n, width of the beam")
    revisions: Array = parameter(0.0, doc="further rounds of revise; each reads all that came before")
    expand: Array = parameter(4.0, low=1.0, doc="beam: continuations tried from each kept stem")
    steps: Array = parameter(8.0, low=1.0, doc="beam: steps at which the verifier prunes")
    shared_prefix: Array = parameter(
        1.0, high=1.0, doc="1: kernels read the shared prompt once for all branches"
    )


@pytree
class Verify:
    """A reward model that reads finished answers: prefill only."""

    answers: Array = parameter(1.0, low=1.0, doc="answers read per request (N of best_of_n)")
    answer_tokens: Array = parameter(0.0, doc="tokens of one; 0: the request's output")
    prompt_cached: Array = parameter(
        1.0, high=1.0, doc="share of the prompt's tokens read once for all answers"
    )


def sigma_of(mean: Array, median: Array) -> Array:
    """Standard deviation of ln(length) of a log-normal: sqrt(2 ln(mean / median)); 0 if mean <= median."""
    excess = jnp.log(jnp.maximum(mean / median, 1.0))
    safe = jnp.where(excess > 0, excess, 1.0)
    return jnp.where(excess > 0, jnp.sqrt(2.0 * safe), 0.0)


def mean_of_longest(mean: Array, median: Array, samples: Array, limit: Array) -> Array:
    """E[max of n] tokens for a log-normal cut at `limit`: integral over quantiles, E = int_0^1 Q(u^(1/n)) du.

    Args:
        samples: n >= 1, may be fractional (differentiable).

    Midpoint rule on 512 quantiles after u = 1 - (1 - v)^3, which resolves the tail: within 1 % of simulation
    for sigma <= 1.5 and n <= 64 (tests/test_stages.py).
    """
    v = (jnp.arange(512) + 0.5) / 512
    u = 1.0 - (1.0 - v) ** 3
    weight = 3.0 * (1.0 - v) ** 2 / 512
    z = jax.scipy.special.ndtri(u ** (1.0 / samples))
    length = jnp.minimum(median * jnp.exp(sigma_of(mean, median) * z), limit)
    return jnp.sum(weight * length)


def call(params: Reason, work: Work) -> EngineCall:
    """The engine call of one request.

    best_of_n: N branches from the prompt. beam: `samples` stems, each tried in `expand` ways at each of
        `steps`:
    samples * expand sequences decode, each of the mean length (pruned chains share their stem). revise:
    rounds in
    sequence, each with the previous chains in its prompt: mean past grows by half of what is generated.
    """
    one = mean_of_longest(params.mean_tokens, params.median_tokens, 1.0, params.max_tokens)
    base = plain_call(work.prompt_tokens, jnp.minimum(work.cached_tokens, work.prompt_tokens), one)
    if params.method == "single":
        return base
    if params.method == "best_of_n":
        longest = mean_of_longest(params.mean_tokens, params.median_tokens, params.samples, params.max_tokens)
        return _changed(
            base, longest_output=longest, branches=params.samples, shared_prefix=params.shared_prefix
        )
    if params.method == "beam":
        # Steps are cut at equal lengths, so that nobody waits for a longest chain but for the longest of
        # each step: the spread of a sum of `steps` equal parts is smaller by sqrt(steps).
        wide = params.samples * params.expand
        spread = mean_of_longest(params.mean_tokens, params.median_tokens, wide, params.max_tokens) / one
        longest = one * (1.0 + (spread - 1.0) / jnp.sqrt(params.steps))
        return _changed(base, longest_output=longest, branches=wide, shared_prefix=params.shared_prefix)
    rounds = 1.0 + params.revisions
    return _changed(base, past_tokens=base.past_tokens + 0.5 * params.revisions * one, rounds=rounds)


def _changed(call_: EngineCall, **changes: Any) -> EngineCall:
    from mist_jax.pytree import replace

    return replace(call_, **changes)


def verify_call(params: Verify, work: Work) -> EngineCall:
    """Prefill of every answer behind the prompt, one token out."""
    tokens = jnp.where(jnp.asarray(params.answer_tokens) > 0, params.answer_tokens, work.output_tokens)
    prompts = 1.0 + (params.answers - 1.0) * (1.0 - params.prompt_cached)
    read = work.prompt_tokens * prompts + params.answers * tokens
    return plain_call(read, jnp.zeros(()), jnp.ones(()))


def update_reason(params: Reason, work: Work) -> Work:
    """The answer is as long as the chains: what a verifier reads."""
    from mist_jax.pytree import replace

    one = mean_of_longest(params.mean_tokens, params.median_tokens, 1.0, params.max_tokens)
    return replace(work, output_tokens=one)


def tree_tokens(width: int, depth: int, step_tokens: float, shared: bool) -> float:
    """KV tokens of a full tree: sum over levels of width^k * step (stems shared), or leaves * depth *
    step."""
    levels = np.power(float(width), np.arange(1, depth + 1))
    return float(step_tokens * (levels.sum() if shared else levels[-1] * depth))


STAGES = (
    StageDefinition(
        name="reason",
        kind="engine",
        parameters=Reason,
        function=call,
        update=update_reason,
        summary="thinking tokens: single chain, best-of-N, beam, sequential revision",
        source="ServeGen (arXiv 2505.09999), ML.ENERGY v3; Hydragen (arXiv 2402.05099)",
        valid="log-normal lengths; means over requests",
        not_modelled="accuracy (give your own curve); early stopping when samples agree",
    ),
    StageDefinition(
        name="verify",
        kind="engine",
        parameters=Verify,
        function=verify_call,
        summary="a reward model reads the answers",
        source="prefill of N * o tokens, timed by physics.step",
        valid="as the engine",
        not_modelled="process rewards at every step (set it inside a beam's rounds)",
    ),
)
