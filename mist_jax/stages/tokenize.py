"""Text to tokens before the model, tokens to text after it, on CPU cores.

    t = base + tokens / rate          one request on one core; a batch keeps min(batch, cores) busy
rate = 1.5e6 tokens/s a core for a byte-pair encoder in native code (assumption: 1 to 2 M tokens/s; measure
yours).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree
from mist_jax.stages.protocol import StageDefinition, Work, parameter

Array = Any


@pytree
class Tokenize:
    """Native tokenizer on CPU."""

    base_s: Array = parameter(100e-6, "time", doc="per request: template, parsing; assumption")
    rate: Array = parameter(1.5e6, "frequency", low=1.0, doc="tokens/s per core; assumption")
    cores: Array = parameter(8.0, low=1.0)


def _demand(params: Tokenize, work: Work, tokens: Array) -> Demand:
    busy = work.batch * (params.base_s + tokens / params.rate)
    return make(cpu=busy, caps={"cpu": jnp.minimum(jnp.maximum(work.batch, 1.0), params.cores)})


def tokenize_demand(params: Tokenize, work: Work) -> Demand:
    """Core-seconds of tokenizing the prompts of a batch."""
    return _demand(params, work, work.prompt_tokens)


def detokenize_demand(params: Tokenize, work: Work) -> Demand:
    """Core-seconds of turning the answers of a batch into text, all tokens together (streams hide it)."""
    return _demand(params, work, work.output_tokens)


_COMMON = {
    "kind": "service",
    "parameters": Tokenize,
    "source": "assumption: 1-2 M tokens/s a core for native byte-pair encoders",
    "valid": "plain text; linear in tokens",
    "not_modelled": "chat templates with heavy logic, multimodal preprocessing (stage vision)",
    "needs": ("cpu",),
}
STAGES = (
    StageDefinition(name="tokenize", function=tokenize_demand, summary="text to tokens", **_COMMON),
    StageDefinition(name="detokenize", function=detokenize_demand, summary="tokens to text", **_COMMON),
)
