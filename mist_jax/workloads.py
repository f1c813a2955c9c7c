"""From the workload's description to a trace to play."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mist_jax.errors import ConfigError, TraceError
from mist_jax.io.arrivals import (
    best_of_n,
    closed_loop,
    conversations,
    diurnal,
    gamma,
    lognormal_tokens,
    poisson,
    synthetic,
)
from mist_jax.queueing.trace import Trace
from mist_jax.schema import Scenario, WorkloadSpec


def _lengths(rng: np.random.Generator, mean: float, cv: float, n: int) -> np.ndarray:
    if cv <= 0:
        return np.full(n, max(round(mean), 1), dtype=np.int64)
    return lognormal_tokens(n, mean, cv, rng)


def synthetic_trace(spec: WorkloadSpec, seed: int) -> Trace:
    """Poisson, gamma or diurnal arrivals, or a closed loop, with lognormal lengths (constant where the coefficient of
    variation is 0); the same seed gives the same requests. `rate` and `requests` count every turn of a session."""

    def arrivals(n: int, rng: np.random.Generator, each: int = 1) -> np.ndarray:
        rate = spec.rate / each
        if spec.arrivals == "closed":
            return np.zeros(n)
        if spec.arrivals == "gamma":
            return gamma(n, rate, max(spec.burstiness, 1e-3), rng)
        if spec.arrivals == "diurnal":
            return diurnal(n, rate, swing=spec.swing, period_s=spec.period, seed=rng)
        return poisson(n, rate, rng)

    def prompts(n: int, rng: np.random.Generator) -> np.ndarray:
        return _lengths(rng, spec.isl, spec.isl_cv, n)

    def answers(n: int, rng: np.random.Generator) -> np.ndarray:
        return _lengths(rng, spec.osl, spec.osl_cv, n)

    turns = int(spec.turns)
    if turns > 1:
        first, rest = np.random.default_rng(seed).spawn(2)
        return conversations(
            arrivals(math.ceil(spec.requests / turns), first, turns),
            turns=lambda n, rng: np.full(n, turns),
            message_tokens=prompts,
            answer_tokens=answers,
            think_s=lambda n, rng: np.full(n, spec.think),
            system_tokens=int(spec.system_tokens),
            seed=rest,
        )
    trace = synthetic(int(spec.requests), arrivals, prompts, answers, seed, name=spec.name)
    if spec.arrivals == "closed":
        return closed_loop(trace, int(spec.concurrency), think_s=spec.think, ramp_s=spec.ramp)
    return trace


def require_steady(scenario: Scenario) -> None:
    """Raises ConfigError for what is played only: conversations, several answers to a prompt, think times, failures."""
    spec = scenario.workload
    played = {"workload.turns": spec.turns > 1, "workload.samples": spec.samples > 1}
    played |= {"workload.think": spec.think > 0 and spec.arrivals == "closed"}
    for key in (k for k, asked in played.items() if asked):
        got = getattr(spec, key.partition(".")[2])
        raise ConfigError(f"{key}: got {got:g}; the steady state has no such thing, it is played: mode=play")
    if scenario.failures:
        raise ConfigError(
            f"failures: got {len(scenario.failures)}; the steady state has none, they are played: mode=play"
        )


def _require_whole(spec: WorkloadSpec) -> None:
    """Raises ConfigError for turns, samples and arrivals that do not go together."""
    for name in ("turns", "samples"):
        if getattr(spec, name) != int(getattr(spec, name)):
            raise ConfigError(f"workload.{name}: got {getattr(spec, name):g}; must be a whole number")
    if spec.turns > 1 and spec.arrivals in ("closed", "trace"):
        raise ConfigError(
            f"workload.turns: got {spec.turns:g} with arrivals={spec.arrivals}; sessions arrive by poisson, gamma or "
            "diurnal, and a trace names its own"
        )
    if spec.turns > 1 and spec.limit is not None:
        raise ConfigError(f"workload.limit: got {spec.limit:g}; sessions are not cut, set workload.requests")
    if spec.samples > 1 and (spec.turns > 1 or spec.arrivals == "closed"):
        raise ConfigError(
            f"workload.samples: got {spec.samples:g}; a prompt with several answers is a session's only turn, and its "
            "arrivals are open (poisson, gamma, diurnal, trace)"
        )


def build_trace(scenario: Scenario) -> tuple[Trace, str]:
    """The trace that `mode=play` plays, and a sentence that says what it is.

    Raises:
        TraceError: the file is missing, malformed or empty. ConfigError: turns or samples that cannot be.
    """
    spec = scenario.workload
    _require_whole(spec)
    pipeline = bool(scenario.pipeline.stages)
    if pipeline and (spec.turns > 1 or spec.samples > 1):
        raise ConfigError(
            f"pipeline: {scenario.pipeline.name} has stages of its own; turns are its loops, several answers a stage "
            "of kind reason (pipeline=agentic, pipeline=reasoning_best_of_n), not workload.turns or workload.samples"
        )
    if spec.arrivals == "trace":
        from mist_jax.io.trace_sources import open_trace

        if spec.trace is None:
            raise TraceError("workload.trace: arrivals=trace needs the path or name of a trace")
        trace, text = open_trace(spec.trace, seed=scenario.seed)
        if spec.rate_scale != 1.0:
            trace, text = trace.at_rate(spec.rate_scale), f"{text}, {spec.rate_scale:g} times as fast"
    else:
        trace = synthetic_trace(spec, scenario.seed)
        text = f"{trace.size} synthetic requests ({spec.arrivals} arrivals, mean {spec.isl:g} in / {spec.osl:g} out)"
    if spec.limit is not None and spec.limit < trace.size:
        trace, text = trace.head(int(spec.limit)), f"the first {spec.limit:g} requests of {text}"
    if spec.turns > 1:
        text += f", in sessions of {spec.turns:g} turns"
    if spec.samples > 1:
        trace = dataclasses.replace(best_of_n(trace, int(spec.samples)), name=trace.name)
        text += f", {spec.samples:g} answers to each prompt"
    return trace, text
