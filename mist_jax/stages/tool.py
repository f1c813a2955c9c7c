"""Tool calls and people: time outside of the system, log-normal.

Defaults: gaps between turns of Codex agent sessions, median 5.2 s, P99 81.4 s, so sigma = ln(81.4/5.2)/2.326
= 1.18. Tool calls are 30 to 85 % of the time to the first token shown in agentic serving (Sutradhara, arXiv
2601.12967).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import Delay, StageDefinition, Work, parameter

Array = Any


@pytree
class Tool:
    """A call that leaves the system and comes back with text."""

    median_s: Array = parameter(5.2, "time", doc="median time")
    sigma: Array = parameter(1.18, high=5.0, doc="standard deviation of ln(time); 0: constant")
    result_tokens: Array = parameter(2242.0, doc="tokens added to the prompt; Codex traces: 2,242 a turn")
    keeps_cache: Array = parameter(
        1.0, high=1.0, doc="share of the KV cache still there when the tool returns"
    )


def delay(params: Tool, work: Work) -> Delay:
    """The distribution of the time outside."""
    return Delay(median_s=jnp.asarray(params.median_s, float), sigma=jnp.asarray(params.sigma, float))


def mean_seconds(params: Tool) -> Array:
    """Mean of the log-normal, median * exp(sigma^2 / 2)."""
    return params.median_s * jnp.exp(0.5 * jnp.asarray(params.sigma) ** 2)


def update(params: Tool, work: Work) -> Work:
    """The result lengthens the prompt; what was answered before is part of it and partly cached."""
    history = work.prompt_tokens + work.output_tokens
    return replace(
        work, prompt_tokens=history + params.result_tokens, cached_tokens=history * params.keeps_cache
    )


STAGES = (
    StageDefinition(
        name="tool",
        kind="delay",
        parameters=Tool,
        function=delay,
        update=update,
        summary="time outside of the system",
        source="Codex agent traces; Sutradhara (arXiv 2601.12967)",
        valid="independent of the load",
        not_modelled="tools with limited capacity (make them a service), overlap with decoding",
    ),
)
