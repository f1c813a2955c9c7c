"""Workloads from the description: arrivals that follow the day, ramps, sessions, several answers, lost engines."""

from __future__ import annotations

import numpy as np
import pytest

import mist_jax as mist
from mist_jax.workloads import build_trace

SMALL = ["model=llama3_1_8b", "parallelism=tp1", "workload.rate=20"]


def scenario(*overrides: str) -> mist.Scenario:
    return mist.load([*SMALL, *overrides])


def test_diurnal_arrivals_keep_the_mean_rate() -> None:
    keys = ["workload.arrivals=diurnal", "workload.period='100 s'", "workload.swing=0.9"]
    trace, text = build_trace(scenario(*keys, "workload.requests=20000"))
    assert "diurnal" in text
    phase = trace.arrival_s % 100.0
    assert trace.size / trace.arrival_s.max() == pytest.approx(20.0, rel=0.03)
    middle = np.mean((phase > 25) & (phase < 75))  # half a period around the peak: 1/2 + swing / pi
    assert middle == pytest.approx(0.5 + 0.9 / np.pi, abs=0.01)


def test_a_closed_loop_ramps_up_and_thinks() -> None:
    closed = [
        "workload.arrivals=closed",
        "workload.concurrency=4",
        "workload.requests=12",
        "workload.isl_cv=0",
    ]
    ds = mist.play(scenario(*closed, "workload.ramp='2 s'", "workload.think='3 s'"))
    arrival = np.sort(ds.arrival_s.values)
    np.testing.assert_allclose(arrival[:4], [0.0, 0.5, 1.0, 1.5], atol=1e-9)
    ends = np.sort(ds.arrival_s.values + ds.e2e_s.values)
    np.testing.assert_allclose(arrival[4:], ends[:8] + 3.0, atol=1e-9)


def test_sessions_find_their_turns_in_the_cache() -> None:
    keys = [
        "workload.turns=4",
        "workload.isl=320",
        "workload.isl_cv=0",
        "workload.osl=64",
        "workload.osl_cv=0",
    ]
    keys += ["workload.requests=80", "workload.think='2 s'", "workload.cache_sizes=[0,1e9]"]
    ds = mist.play(scenario(*keys, "engine.prefix_caching=true"))
    prompts = ds.prompt_tokens.values.reshape(20, 4)
    assert np.all(prompts == 320 + 384 * np.arange(4))
    gap = ds.arrival_s.values.reshape(20, 4)[:, 1:] - (ds.arrival_s + ds.e2e_s).values.reshape(20, 4)[:, :3]
    np.testing.assert_allclose(gap, 2.0, atol=1e-9)
    # with endless memory both the engine and the curve find all that came before, up to the last unit
    known = sum(384 * k // 16 for k in range(4)) / sum((320 + 384 * k) // 16 for k in range(4))
    assert ds.attrs["prefix_hit_rate"] == pytest.approx(known, rel=0.02)
    whole = sum(384 * k // 16 for k in range(4)) / sum((384 + 384 * k) // 16 for k in range(4))
    np.testing.assert_allclose(ds.hit_rate, [0.0, whole], rtol=1e-9)
    assert "prefix_hit_rate" not in mist.play(scenario(*keys)).attrs


def test_several_answers_share_their_prompt() -> None:
    keys = ["workload.samples=4", "workload.requests=30", "workload.isl_cv=0", "workload.isl=1600"]
    ds = mist.play(scenario(*keys, "engine.prefix_caching=true"))
    assert ds.sizes["request"] == 120
    assert ds.attrs["prefix_hit_rate"] == pytest.approx(0.75, rel=0.02)


def test_requests_of_a_lost_engine_start_again() -> None:
    keys = ["parallelism.replicas=2", "workload.requests=200", "routing.retry_delay='100 ms'"]
    ds = mist.play(scenario(*keys, "failures=[{client: 1, at: 2 s, until: 4 s}]"))
    again = ds.retries.values > 0
    assert 0 < again.sum() < 100
    assert np.all(ds.status == 0)
    assert np.all((ds.arrival_s + ds.ttft_s).values[again] > 2.1)
    never = mist.play(scenario(*keys, "failures=[{client: 0, at: 1 s}, {client: 1, at: 2 s}]"))
    assert 0 < (never.status != 0).sum() < 200
