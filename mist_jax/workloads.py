"""From the workload's description to a trace to play."""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.trace import Trace
from mist_jax.schema import Scenario, WorkloadSpec


def _lengths(rng: np.random.Generator, mean: float, cv: float, n: int) -> np.ndarray:
    """Lognormal whole tokens with this mean and coefficient of variation (cv = 0: constant), at least 1."""
    if cv <= 0:
        return np.full(n, max(round(mean), 1), dtype=np.int64)
    s = np.sqrt(np.log1p(cv**2))
    return np.maximum(np.rint(rng.lognormal(np.log(mean) - 0.5 * s**2, s, n)), 1).astype(np.int64)


def synthetic_trace(spec: WorkloadSpec, seed: int) -> Trace:
    """Poisson or gamma arrivals, or a closed loop, with lognormal lengths; the same seed gives the same requests."""
    rng = np.random.default_rng(seed)
    n = int(spec.requests)
    prompts = _lengths(rng, spec.isl, spec.isl_cv, n)
    outputs = _lengths(rng, spec.osl, spec.osl_cv, n)
    if spec.arrivals == "closed":
        return Trace(np.zeros(n), prompts, outputs, closed_loop=min(int(spec.concurrency), n), name=spec.name)
    cv = spec.burstiness if spec.arrivals == "gamma" else 1.0
    shape = 1.0 / max(cv, 1e-3) ** 2
    gaps = rng.gamma(shape, 1.0 / (spec.rate * shape), n)
    return Trace(np.cumsum(gaps), prompts, outputs, name=spec.name)


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
