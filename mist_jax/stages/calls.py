"""Time of an `EngineCall` from the two numbers that an engine gives: prefill and decode-step seconds.

The engine's own model (`physics.step.step_time`) comes in as two callables, so that there is one latency
model:
    prefill_seconds(new_tokens, past_tokens) -> s
    decode_seconds(sequences, context) -> s of one iteration
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from mist_jax.stages.protocol import EngineCall

Array = Any


def plain_call(prompt: Array, past: Array, output: Array) -> EngineCall:
    """One sequence, once."""
    return EngineCall(
        new_tokens=jnp.maximum(prompt - past, 0.0),
        past_tokens=past,
        output_tokens=output,
        longest_output=output,
        branches=1.0,
        shared_prefix=1.0,
        rounds=1.0,
        tokens_per_step=1.0,
        probability=1.0,
    )


def call_seconds(
    call: EngineCall,
    prefill_seconds: Callable[[Array, Array], Array],
    decode_seconds: Callable[[Array, Array], Array],
) -> Array:
    """Seconds of a call alone on the engine, when it is made.

    rounds * (prefill + longest_output / tokens_per_step * step(branches, context)), with the mean context of
    the decode, prompt + output / 2. Where the kernels read the shared prompt once, the step is that of
    `branches` sequences whose private context is output / 2, plus the reading of one prompt.
    """
    prompt = call.new_tokens + call.past_tokens
    private = 0.5 * call.output_tokens
    apart = decode_seconds(call.branches, prompt + private)
    # Reading the prompt once instead of `branches` times: spread it over the sequences.
    together = decode_seconds(call.branches, prompt / jnp.maximum(call.branches, 1.0) + private)
    step = jnp.where(call.shared_prefix > 0, together, apart)
    return call.rounds * (
        prefill_seconds(call.new_tokens, call.past_tokens) + call.longest_output / call.tokens_per_step * step
    )


def kv_blocks(call: EngineCall, block: Array) -> Array:
    """KV blocks of a call at its end: ceil(p / b) + branches * ceil(o / b); the prompt is shared either
    way."""
    prompt = call.new_tokens + call.past_tokens
    return jnp.ceil(prompt / block) + call.branches * jnp.ceil(call.output_tokens / block)
