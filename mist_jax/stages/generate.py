"""A plain LLM call: prefill of what is not cached, decode of the answer. Query rewriting is one with few
tokens."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.pytree import pytree, replace
from mist_jax.stages.calls import plain_call
from mist_jax.stages.protocol import EngineCall, StageDefinition, Work, parameter

Array = Any


@pytree
class Generate:
    """Lengths of the call; 0 takes the request's own."""

    prompt_tokens: Array = parameter(0.0)
    output_tokens: Array = parameter(0.0)
    appends: Array = parameter(0.0, high=1.0, doc="1: the answer becomes part of the prompt of later stages")


def _lengths(params: Generate, work: Work) -> tuple[Array, Array]:
    prompt = jnp.where(jnp.asarray(params.prompt_tokens) > 0, params.prompt_tokens, work.prompt_tokens)
    output = jnp.where(jnp.asarray(params.output_tokens) > 0, params.output_tokens, work.output_tokens)
    return prompt, output


def call(params: Generate, work: Work) -> EngineCall:
    """The call of one request."""
    prompt, output = _lengths(params, work)
    return plain_call(prompt, jnp.minimum(work.cached_tokens, prompt), output)


def update(params: Generate, work: Work) -> Work:
    """What was generated may lengthen the prompt of the next turn, and is then cached with it."""
    _, output = _lengths(params, work)
    longer = work.prompt_tokens + output
    return replace(
        work,
        prompt_tokens=jnp.where(jnp.asarray(params.appends) > 0, longer, work.prompt_tokens),
        cached_tokens=jnp.where(jnp.asarray(params.appends) > 0, longer, work.cached_tokens),
    )


STAGES = (
    StageDefinition(
        name="generate",
        kind="engine",
        parameters=Generate,
        function=call,
        update=update,
        summary="a plain LLM call",
        source="timed by physics.step",
        valid="as the engine",
        not_modelled="nothing beyond the engine",
    ),
)
