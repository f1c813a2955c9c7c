"""The playback where theory has the answer: M/M/1, M/D/1, M/M/c, M/D/1 on an engine, processor sharing, Little."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest

from mist_jax.io.arrivals import poisson
from mist_jax.queueing.clients import Engine, Link, Router, Station
from mist_jax.queueing.metrics import duration
from mist_jax.queueing.playback import play
from mist_jax.queueing.table import StepTable
from mist_jax.queueing.trace import Trace

N = 200_000


def batch_means(x, batches=40):
    """Mean and its standard error, from means of long batches: waiting times are correlated."""
    m = x[x.size // 20 :]
    m = m[: m.size // batches * batches].reshape(batches, -1).mean(axis=1)
    return m.mean(), m.std(ddof=1) / np.sqrt(batches)


def erlang_c(c, a):
    top = a**c / factorial(c) * c / (c - a)
    return top / (sum(a**k / factorial(k) for k in range(c)) + top)


def station_times(work, servers, rho, seed):
    n = work.size
    trace = Trace(poisson(n, rho * servers, seed), np.ones(n), np.zeros(n), work=work, model=np.full(n, 3))
    p = play(trace, [Station(3, (0.0, 0.0, 1.0), servers=servers)])
    return p, p.requests["finish"] - p.requests["arrival"]


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_mm1(rho):
    work = np.random.default_rng(1).exponential(1.0, N)
    p, t = station_times(work, 1, rho, 2)
    mean, error = batch_means(t)
    assert abs(mean - 1 / (1 - rho)) < 4 * error
    assert error < 0.05 / (1 - rho)
    # utilization law: busy time is the work done
    assert p.clients["busy_s"][0] == pytest.approx(work.sum(), rel=1e-12)


def test_md1():
    rho = 0.7
    _, t = station_times(np.ones(N), 1, rho, 3)
    mean, error = batch_means(t)
    assert abs(mean - (1 + rho / (2 * (1 - rho)))) < 4 * error  # Pollaczek-Khinchine


def test_mmc():
    c, rho = 4, 0.75
    _, t = station_times(np.random.default_rng(4).exponential(1.0, N), c, rho, 5)
    mean, error = batch_means(t)
    assert abs(mean - (1 + erlang_c(c, c * rho) / (c * (1 - rho)))) < 4 * error


def test_engine_with_one_slot_is_md1():
    # ten iterations of 10 ms a request
    table = StepTable.linear(0.01, 0.0, 0.0, 0.0, 0.0, max_context=4096)
    n, rho = 50_000, 0.6
    trace = Trace(poisson(n, rho / 0.1, 6), np.full(n, 20), np.full(n, 10))
    p = play(trace, Engine(table, 1000, max_num_seqs=1))
    mean, error = batch_means(p.e2e_s)
    assert abs(mean - 0.1 * (1 + rho / (2 * (1 - rho)))) < 4 * error
    assert p.clients["busy_s"][0] == pytest.approx(n * 0.1)


def test_fair_link_is_processor_sharing():
    # M/M/1-PS: the mean time in system is that of FCFS, and proportional to the size of the transfer
    table = StepTable.linear(1e-9, 0.0, 0.0, 0.0, 0.0, max_context=4096)
    n, rho = 60_000, 0.6
    rng = np.random.default_rng(7)
    size = np.maximum(1, rng.geometric(1 / 200, n))
    trace = Trace(poisson(n, rho, 8), size, np.full(n, 2))
    clients = [
        Engine(table, 10**7, block_size=1, role="prefill", link="net", kv_bytes_per_token=1 / 200),
        Engine(table, 10**7, block_size=1, role="decode"),
    ]
    p = play(trace, clients, Router(), links=[Link("net", 1.0)])
    t = p.e2e_s
    mean, error = batch_means(t)
    assert abs(mean - 1 / (1 - rho)) < 4 * error + 1e-6
    large = size > 300
    ratio, ratio_error = batch_means(t[large] / (size[large] / 200))
    assert abs(ratio - 1 / (1 - rho)) < 4 * ratio_error


@pytest.mark.parametrize("policy", ["vllm", "orca", "sarathi", "mixed"])
def test_little_law(policy):
    # the time that requests spend running is the area under the number of running ones, exactly
    rng = np.random.default_rng(9)
    n = 2000
    trace = Trace(poisson(n, 8.0, rng), rng.integers(1, 800, n), rng.integers(1, 200, n))
    engine = Engine(
        StepTable.linear(), 10**5, max_num_batched_tokens=1 << 20, max_num_seqs=400, policy=policy
    )
    p = play(trace, engine, log=True)
    r = p.requests
    assert p.clients["batch_s"][0] == pytest.approx(np.sum(r["finish"] - r["scheduled"]), rel=1e-9)
    # and all of them, waiting included: L = lambda W
    edges = np.sort(np.concatenate([r["arrival"], r["finish"]]))
    inside = np.searchsorted(np.sort(r["arrival"]), edges, "right") - np.searchsorted(
        np.sort(r["finish"]), edges, "right"
    )
    area = np.sum(inside[:-1] * np.diff(edges))
    assert area == pytest.approx(p.e2e_s.sum(), rel=1e-9)
    assert area / duration(p) == pytest.approx(n / duration(p) * p.e2e_s.mean(), rel=1e-9)
    assert p.clients["busy_s"][0] == pytest.approx(np.sum(p.steps["end"] - p.steps["start"]), rel=1e-9)
