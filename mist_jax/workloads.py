"""From the workload's description to a trace to play."""

from __future__ import annotations

import numpy as np

from mist_jax.io.arrivals import closed_loop, gamma, lognormal_tokens, poisson, synthetic
from mist_jax.queueing.trace import Trace
from mist_jax.schema import Scenario, WorkloadSpec


def _lengths(rng: np.random.Generator, mean: float, cv: float, n: int) -> np.ndarray:
    if cv <= 0:
        return np.full(n, max(round(mean), 1), dtype=np.int64)
    return lognormal_tokens(n, mean, cv, rng)


def synthetic_trace(spec: WorkloadSpec, seed: int) -> Trace:
    """Poisson or gamma arrivals, or a closed loop, with lognormal lengths (constant where the coefficient of
    variation is 0); the same seed gives the same requests."""

    def arrivals(n: int, rng: np.random.Generator) -> np.ndarray:
        if spec.arrivals == "closed":
            return np.zeros(n)
        if spec.arrivals == "gamma":
            return gamma(n, spec.rate, max(spec.burstiness, 1e-3), rng)
        return poisson(n, spec.rate, rng)

    trace = synthetic(
        int(spec.requests),
        arrivals,
        lambda n, rng: _lengths(rng, spec.isl, spec.isl_cv, n),
        lambda n, rng: _lengths(rng, spec.osl, spec.osl_cv, n),
        seed,
        name=spec.name,
    )
    return closed_loop(trace, int(spec.concurrency)) if spec.arrivals == "closed" else trace


def build_trace(scenario: Scenario) -> tuple[Trace, str]:
    """The trace that `mode=play` plays, and a sentence that says what it is.

    Raises:
        TraceError: the file is missing, malformed or empty.
    """
    spec = scenario.workload
    if spec.arrivals == "trace":
        from mist_jax.errors import TraceError
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
    return trace, text
