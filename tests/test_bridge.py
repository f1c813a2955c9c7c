"""The steady state against the exact playback: one engine, Poisson arrivals, moderate load."""

from __future__ import annotations

import numpy as np
import pytest

from mist_jax.queueing.gated import expected_chunks, gated_ttft


def test_gate_without_load_is_the_own_iteration():
    # nobody else: one decode part and the prompt's own time
    assert float(gated_ttft(1e-9, 0.02, 0.05, 1000.0, 0.5, 8192.0, 0.0)) == pytest.approx(0.07, rel=1e-3)


def test_gate_is_monotone_in_load_and_variability():
    at = [float(gated_ttft(r, 0.02, 0.05, 1000.0, 0.5, 8192.0, 1.0)) for r in (1.0, 5.0, 10.0, 15.0, 19.0)]
    assert np.all(np.diff(at) > 0)
    spread = [float(gated_ttft(10.0, 0.02, 0.05, 1000.0, cv, 8192.0, 1.0)) for cv in (0.0, 0.5, 1.0, 2.0)]
    assert np.all(np.diff(spread) > 0)


def test_gate_of_vanishing_decode_work_is_a_gated_queue_of_prompts_alone():
    # M/G/1 served in gated batches with no vacation: every waiting prompt is served at the next gate. Simulated.
    rng = np.random.default_rng(1)
    rate, prompt, decode = 6.0, 0.05, 0.02
    arrivals = np.cumsum(rng.exponential(1.0 / rate, 60_000))
    clock, i, total, n = 0.0, 0, 0.0, arrivals.size
    while i < n:
        j = int(np.searchsorted(arrivals, clock, side="right"))
        end = clock + decode + prompt * (j - i)
        total += np.sum(end - arrivals[i:j])
        i, clock = j, end
    simulated = total / n
    predicted = float(gated_ttft(rate, decode, prompt, 1.0, 0.0, 1e9, 1.0))
    assert predicted == pytest.approx(simulated, rel=0.02)  # sampling error of 60,000 requests: about 0.5 %


def test_expected_chunks_of_a_lognormal_prompt():
    rng = np.random.default_rng(0)
    mean, cv, room = 3000.0, 0.9, 2048.0
    s = np.sqrt(np.log1p(cv**2))
    sample = rng.lognormal(np.log(mean) - s**2 / 2, s, 400_000)
    assert float(expected_chunks(mean, cv, room)) == pytest.approx(np.ceil(sample / room).mean(), rel=0.01)
