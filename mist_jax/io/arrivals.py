"""Synthetic workloads: arrival processes, lengths, conversations, branches. Everything is drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mist_jax.queueing.trace import Trace

Array = np.ndarray
Seed = int | np.random.Generator


def _rng(seed: Seed) -> np.random.Generator:
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)


def _positive(**values: float) -> None:
    for name, v in values.items():
        if not v > 0:
            raise ValueError(f"{name} must be positive, got {v}")


def poisson(n: int, rate: float, seed: Seed = 0) -> Array:
    """n arrivals (s) of a Poisson process of `rate` (1/s), the first after one gap."""
    _positive(rate=rate)
    return _rng(seed).exponential(1.0 / rate, n).cumsum()


def gamma(n: int, rate: float, cv: float, seed: Seed = 0) -> Array:
    """n arrivals (s) with Gamma gaps of mean 1 / rate and coefficient of variation `cv` (1 = Poisson, > 1 bursty).

    vLLM's `--burstiness` b is 1 / cv^2.
    """
    _positive(rate=rate, cv=cv)
    shape = 1.0 / cv**2
    return _rng(seed).gamma(shape, 1.0 / (rate * shape), n).cumsum()


def diurnal(n: int, rate: float, *, swing: float = 0.5, period_s: float = 86400.0, seed: Seed = 0) -> Array:
    """n arrivals (s) of a Poisson process whose rate is rate (1 - swing cos(2 pi t / period)), by inversion.

    `swing` in [0, 1): the rate is lowest at 0 and highest half a period later.
    """
    _positive(rate=rate, period_s=period_s)
    if not 0 <= swing < 1:
        raise ValueError(f"swing must be in [0, 1), got {swing}")
    area = _rng(seed).exponential(1.0, n).cumsum() / rate
    w = 2 * np.pi / period_s
    t = area.copy()
    for _ in range(60):  # Newton on t - swing sin(w t) / w = area; the left side rises everywhere
        step = (t - swing * np.sin(w * t) / w - area) / (1 - swing * np.cos(w * t))
        t -= np.clip(step, -period_s / 8, period_s / 8)
    return np.maximum.accumulate(t)


def lognormal_tokens(
    n: int, mean: float, cv: float, seed: Seed = 0, *, low: int = 1, high: int = 1 << 20
) -> Array:
    """n lengths (tokens), log-normal with this mean and coefficient of variation, clipped to [low, high]."""
    _positive(mean=mean, cv=cv)
    s2 = np.log1p(cv**2)
    x = np.exp(_rng(seed).normal(np.log(mean) - s2 / 2, np.sqrt(s2), n))
    return np.clip(np.round(x), low, high).astype(np.int64)


def empirical_tokens(n: int, sample: Array, seed: Seed = 0) -> Array:
    """n lengths (tokens) drawn with replacement from `sample`."""
    return _rng(seed).choice(np.asarray(sample), n)


def like(trace: Trace, n: int, rate: float | None = None, seed: Seed = 0) -> Trace:
    """n requests with pairs of lengths drawn from `trace` and Poisson arrivals (at its rate, if none is given)."""
    rng = _rng(seed)
    span = float(np.ptp(trace.arrival_s))
    r = rate if rate is not None else (trace.size - 1) / span
    i = rng.integers(0, trace.size, n)
    return Trace(
        poisson(n, r, rng), trace.prompt_tokens[i], trace.output_tokens[i], name=f"like {trace.name}"
    )


def synthetic(
    n: int,
    arrivals: Callable[[int, np.random.Generator], Array],
    prompt: Callable[[int, np.random.Generator], Array],
    output: Callable[[int, np.random.Generator], Array],
    seed: Seed = 0,
    **fields: Any,
) -> Trace:
    """A trace from three draws; each gets its own stream, so that changing one leaves the others as they are."""
    a, p, o = _rng(seed).spawn(3)
    return Trace(arrivals(n, a), prompt(n, p), output(n, o), **fields)


def closed_loop(trace: Trace, concurrency: int, *, think_s: float = 0.0, ramp_s: float = 0.0) -> Trace:
    """The same requests with `concurrency` in flight; the first ones start evenly over `ramp_s`."""
    if concurrency < 1 or think_s < 0 or ramp_s < 0:
        raise ValueError("concurrency must be positive, think_s and ramp_s not negative")
    start = np.full(trace.size, ramp_s)  # the others come after the first ones, whenever that is
    k = min(concurrency, trace.size)
    start[:k] = np.arange(k) * (ramp_s / k)
    return replace(trace, arrival_s=start, closed_loop=concurrency, think_s=think_s)


def conversations(
    starts: Array,
    *,
    turns: Callable[[int, np.random.Generator], Array],
    message_tokens: Callable[[int, np.random.Generator], Array],
    answer_tokens: Callable[[int, np.random.Generator], Array],
    think_s: Callable[[int, np.random.Generator], Array],
    system_tokens: int = 0,
    unit_tokens: int = 16,
    seed: Seed = 0,
) -> Trace:
    """Multi-turn sessions that begin at `starts` (s): each prompt is the conversation so far and a new message, sent
    `think_s` after the answer.

    A tool call is a turn whose think time is the tool's. Units name the whole conversation, so prefix caches find
    the earlier turns and their answers, and the system prompt that all sessions share.
    """
    rng = _rng(seed)
    sessions = len(starts)
    k = np.maximum(np.asarray(turns(sessions, rng)).astype(int), 1)
    n = int(k.sum())
    message, answer = (
        np.maximum(np.asarray(f(n, rng)).astype(np.int64), 1) for f in (message_tokens, answer_tokens)
    )
    delay = np.asarray(think_s(n, rng), dtype=np.float64)
    session = np.repeat(np.arange(sessions), k)
    first = np.concatenate([[0], np.cumsum(k)[:-1]])
    opening = np.zeros(n, bool)
    opening[first] = True
    total = np.cumsum(message + answer)
    before = total - (message + answer)
    prompt = system_tokens + (before - before[first][session]) + message
    length = (prompt + answer) // unit_tokens
    common = system_tokens // unit_tokens
    offsets = np.concatenate([[0], np.cumsum(length)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    stride = int(length.max(initial=1)) + 1
    own = common + np.repeat(session, length) * stride + place
    units = np.where(place < common, place, own)
    later = np.flatnonzero(~opening)
    return Trace(
        np.where(opening, starts[session], 0.0), prompt, answer, units=units, unit_offsets=offsets,
        unit_tokens=unit_tokens, session=session, edges=np.stack([later - 1, later], 1),
        delay_s=np.where(opening, 0.0, delay), name="conversations",
    )  # fmt: skip


def best_of_n(trace: Trace, branches: int, *, unit_tokens: int = 16) -> Trace:
    """Each request as `branches` answers to the same prompt, arriving together (Trace.session joins them).

    Units name the prompt, so that an engine with prefix caching computes and keeps its whole units once.
    """
    if branches < 1:
        raise ValueError(f"branches must be positive, got {branches}")
    i = np.repeat(np.arange(trace.size), branches)
    length = (trace.prompt_tokens[i] // unit_tokens).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)])
    stride = int(length.max(initial=0)) + 1
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    units = np.repeat(i * stride, length) + place
    return Trace(
        trace.arrival_s[i], trace.prompt_tokens[i], trace.output_tokens[i], units=units, unit_offsets=offsets,
        unit_tokens=unit_tokens, session=i, name=f"best of {branches}",
    )  # fmt: skip
