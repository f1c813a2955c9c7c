"""Context assembly: retrieved documents and instructions lengthen the prompt."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import StageDefinition, Work, parameter

Array = Any


@pytree
class AssembleContext:
    """prompt = instructions + question + documents * (document_tokens + separator), cut at `limit`."""

    instructions: Array = parameter(0.0, doc="tokens of the system prompt added here")
    separator: Array = parameter(4.0, doc="tokens around each document; assumption")
    limit: Array = parameter(float("inf"), low=1.0, doc="longest prompt; later documents are dropped")
    cached_share: Array = parameter(
        0.0,
        high=1.0,
        doc="share of the added instructions found in the prefix cache (documents change, they are not)",
    )
    fixed_s: Array = parameter(200e-6, "time", doc="fetching the texts from memory; assumption")


def demand(params: AssembleContext, work: Work) -> Demand:
    """A fixed time per batch: the texts are a few kilobytes."""
    return make(params.fixed_s + 0.0 * work.batch)


def update(params: AssembleContext, work: Work) -> Work:
    """The longer prompt. Documents are consumed; of a cut prompt no more is cached than is left."""
    added = params.instructions + work.documents * (work.document_tokens + params.separator)
    prompt = jnp.minimum(work.prompt_tokens + added, params.limit)
    cached = jnp.minimum(work.cached_tokens + params.instructions * params.cached_share, prompt)
    return replace(work, prompt_tokens=prompt, cached_tokens=cached, documents=0.0)


STAGES = (
    StageDefinition(
        name="assemble_context",
        kind="service",
        parameters=AssembleContext,
        function=demand,
        update=update,
        summary="retrieved tokens lengthen the prompt",
        source="token arithmetic",
        valid="any",
        not_modelled="compression or summarising of documents (make it a generate stage)",
    ),
)
