"""Speculative decoding: a cheap draft, checked by the model in one step.

Acceptance decays with position, alpha_j = alpha_1 rho^(j-1), so that a step yields
    E = 1 + sum_{m=1..k} prod_{j<=m} alpha_j        tokens (the last one is the model's own)
which for rho = 1 is (1 - alpha^(k+1)) / (1 - alpha) (Leviathan et al., ICML 2023, Eq. 1). Fitted to
acceptance lengths of InferenceX (SPEED-Bench coding, 8 draft lengths each) the decay form is off by 0.4 to
2.2 %, one alpha by 1.8 to 7.7 %. A step costs k drafts and a check of k + 1 tokens:
    speed-up = E * t_step(1) / (k t_draft + t_step(k + 1))
A draft model has its own KV: after the target's prefix came out of a store, the draft has not seen it and
accepts less (sglang issue 31600: 5.94 tokens a step became 2.87).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree, replace
from mist_jax.stages.generate import Generate
from mist_jax.stages.generate import call as plain
from mist_jax.stages.protocol import EngineCall, StageDefinition, Work, choice, parameter

Array = Any

#: draft → (alpha_1, rho), fits to InferenceX acceptance curves (SPEED-Bench coding): RESEARCH tables of
#: SemiAnalysis InferenceX, 2026. "thinking" and "plain" are the chat template's reasoning switch.
PRESETS = {
    "custom": (0.8, 0.9),
    "dsv4_mtp_thinking": (0.79, 0.75),
    "dsv4_mtp_plain": (0.92, 0.765),
    "dsv4_dspark": (0.84, 0.94),
    "glm5_mtp": (0.84, 0.95),
    "kimi_k25_eagle3_thinking": (0.83, 0.94),
    "kimi_k25_eagle3_plain": (0.80, 0.94),
    "kimi_k3_dspark": (0.84, 0.92),
}
MAX_DRAFT = 16


@pytree
class Speculate:
    """A draft of `length` tokens a step."""

    preset: str = choice("custom", tuple(PRESETS), "acceptance; custom takes alpha and decay")
    length: Array = parameter(3.0, high=float(MAX_DRAFT), doc="k, tokens drafted a step")
    alpha: Array = parameter(0.8, high=1.0, doc="acceptance of the first drafted token")
    decay: Array = parameter(0.9, low=0.01, high=1.0, doc="rho, factor from one position to the next")
    draft_cost: Array = parameter(0.1, doc="time of drafting one token over a decode step of the model")
    check_cost: Array = parameter(
        0.0, doc="time added to a step per drafted token over a decode step (0: free)"
    )
    lost_share: Array = parameter(
        0.0, high=1.0, doc="share of requests whose draft lacks KV after a store hit"
    )
    lost_factor: Array = parameter(
        0.375, high=1.0, doc="their accepted drafts over normal: (2.87-1)/(5.94-1), sglang 31600"
    )
    output_tokens: Array = parameter(0.0, doc="0: the request's")


def acceptance(params: Speculate) -> tuple[Array, Array]:
    """alpha_1 and rho."""
    if params.preset == "custom":
        return params.alpha, params.decay
    alpha, decay = PRESETS[params.preset]
    return jnp.asarray(alpha), jnp.asarray(decay)


def tokens_per_step(alpha: Array, decay: Array, length: Array) -> Array:
    """E = 1 + sum_{m=1..k} alpha^m rho^(m(m-1)/2), linear in the last, fractional drafted token.

    Args:
        length: k in [0, MAX_DRAFT]; fractional values interpolate, so that it can be searched.
    """
    m = jnp.arange(1, MAX_DRAFT + 1, dtype=float)
    safe = jnp.maximum(alpha, 1e-30)
    terms = jnp.exp(m * jnp.log(safe) + 0.5 * m * (m - 1.0) * jnp.log(decay))
    return 1.0 + jnp.sum(terms * jnp.clip(length - (m - 1.0), 0.0, 1.0))


def mean_tokens_per_step(params: Speculate) -> Array:
    """Tokens a step, with the share of requests whose draft has lost its KV."""
    alpha, decay = acceptance(params)
    full = tokens_per_step(alpha, decay, params.length)
    lost = 1.0 + (full - 1.0) * params.lost_factor
    # Requests spend steps, so the mean over tokens is harmonic.
    return 1.0 / ((1.0 - params.lost_share) / full + params.lost_share / lost)


def speedup(params: Speculate, step_s: Array, check_s: Array, draft_s: Array) -> Array:
    """Decode speed over plain decoding: E t_step / (k t_draft + t_check).

    Args:
        step_s: iteration with 1 token a sequence.  check_s: with k + 1 tokens.  draft_s: one drafted token.
        All from the engine's own step model; at large batches check_s grows and the gain vanishes.
    """
    return mean_tokens_per_step(params) * step_s / (params.length * draft_s + check_s)


def call(params: Speculate, work: Work) -> EngineCall:
    """A generate call whose sequences gain E tokens a step, in steps longer by the cost of drafting and
    checking."""
    base = plain(Generate(output_tokens=params.output_tokens), work)
    longer = 1.0 + params.length * (params.draft_cost + params.check_cost)
    return replace(base, tokens_per_step=mean_tokens_per_step(params) / longer)


STAGES = (
    StageDefinition(
        name="speculate",
        kind="engine",
        parameters=Speculate,
        function=call,
        summary="LLM call with speculative decoding (draft model, MTP, EAGLE)",
        source="Leviathan et al. (ICML 2023) with decaying acceptance fitted to InferenceX curves",
        valid="acceptance on coding; small batches unless check_cost is given",
        not_modelled="draft trees, adaptive length, batch-size dependence inside `call` (use `speedup`)",
    ),
)
