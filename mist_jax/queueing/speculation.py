"""Speculative decoding in the playback: answers counted in steps of the engine."""

from __future__ import annotations

import dataclasses

import numpy as np

from mist_jax.queueing.lane import tokens_per_iteration
from mist_jax.queueing.trace import Trace
from mist_jax.system.deployment import System


def tokens_per_step(system: System) -> float:
    """Tokens that a sequence gains in an iteration: 1, and with speculation the drafts that are accepted on top."""
    step = system.calibration.step
    return float(tokens_per_iteration(step.acceptance, step.acceptance_decay, system.engine.draft_tokens))


def in_verified_steps(trace: Trace, gain: float) -> Trace:
    """The trace of an engine that gains `gain` tokens a step: answers are counted in steps.

    The playback adds one token of KV a step. The tokens that this leaves out of an answer are there for half of its
    decoding on average: half of them count as cached tokens of the prompt from the start. Not where the trace names
    prefixes, whose tokens are known by their place: there the KV of answers is understated.
    """
    steps = np.maximum(np.rint((trace.output_tokens - 1.0) / gain), 0.0) + 1.0
    steps = np.where(trace.output_tokens > 0, steps, trace.output_tokens)
    early = np.zeros_like(steps) if trace.units is not None else np.floor(0.5 * (trace.output_tokens - steps))
    cached = 0.0 if trace.cached is None else trace.cached
    return dataclasses.replace(
        trace, output_tokens=steps, prompt_tokens=trace.prompt_tokens + early, cached=cached + early
    )
