"""Waits at prefill replicas (`queueing.batch_server`) against a simulation of them, and their limits."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest

from mist_jax.queueing.batch_server import batch_wait

PROMPT = 1.0


def simulated(rate: float, fixed: float, cv: float, room: float, servers: int, n: int) -> float:
    """Mean seconds to the end of a prompt: `servers` that take all who wait, up to `room` mean prompts, in turn.

    Each arrival joins the server with the fewest requests; prompts are cut where they exceed what is left of `room`.
    """
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1.0 / (rate * servers), n))
    spread = np.sqrt(np.log1p(cv**2))
    left = rng.lognormal(-0.5 * spread**2, spread, n)
    waiting: list[list[int]] = [[] for _ in range(servers)]
    held, running = [0] * servers, [False] * servers
    ends: list[tuple[float, int, list[int]]] = []
    total = 0.0

    def start(server: int, now: float) -> None:
        free, batch = room, []
        while waiting[server] and free > 1e-12:
            request = waiting[server][0]
            part = min(left[request], free)
            left[request] -= part
            free -= part
            if left[request] > 1e-12:
                break
            batch.append(waiting[server].pop(0))
        running[server] = True
        heapq.heappush(ends, (now + fixed + PROMPT * (room - free), server, batch))

    following = 0
    while following < n or ends:
        if following < n and (not ends or arrivals[following] < ends[0][0]):
            server = min(range(servers), key=held.__getitem__)
            held[server] += 1
            waiting[server].append(following)
            if not running[server]:
                start(server, arrivals[following])
            following += 1
            continue
        now, server, batch = heapq.heappop(ends)
        running[server] = False
        held[server] -= len(batch)
        total += sum(now - arrivals[r] for r in batch if r >= n // 10)
        if waiting[server]:
            start(server, now)
    return total / (n - n // 10)


def error(load: float, fixed: float, cv: float, room: float, servers: int, n: int) -> float:
    """Formula over simulation, less 1, at this share of the capacity of full iterations."""
    rate = load / (PROMPT + fixed / room)
    wait, own, _ = batch_wait(rate, fixed, PROMPT, 1.0, cv, room, float(servers))
    return float(wait + own) / simulated(rate, fixed, cv, room, servers, n) - 1.0


@pytest.mark.parametrize(("load", "servers"), [(0.3, 1), (0.8, 1), (0.8, 4)])
def test_near_the_simulation(load: float, servers: int) -> None:
    assert abs(error(load, 0.5, 0.1, 4.0, servers, 20_000)) < 0.07


@pytest.mark.slow
def test_near_the_simulation_over_the_stated_range() -> None:
    grid = itertools.product((0.1, 0.3, 0.6, 0.8, 0.9), (0.1, 0.5), (0.1, 1.0), (1.01, 4.0), (1, 2, 4, 8))
    errors = np.abs([error(*at, 60_000) for at in grid])
    print(f"median {np.median(errors):.3f}, largest {errors.max():.3f}")
    assert np.median(errors) < 0.03
    assert errors.max() < 0.19


def test_limits() -> None:
    wait, own, busy = batch_wait(1e-6, 0.2, 1.0, 1000.0, 0.1, 8192.0, 1.0)
    assert float(wait) == pytest.approx(0.0, abs=1e-5)
    assert float(own) == pytest.approx(1.2, rel=1e-4)
    assert float(busy) == pytest.approx(1.2e-6, rel=1e-3)
    # prompts one at a time: the M/D/1 wait of Pollaczek and Khinchine, rho / (2 (1 - rho)), which the 8-norm of two
    # equal waits exceeds by 2^(1/8)
    for rho in (0.2, 0.5, 0.8):
        wait, _, busy = batch_wait(rho, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0)
        assert 1.0 - 1e-6 <= float(wait) / (0.5 * rho / (1.0 - rho)) <= 2**0.125 + 1e-6
        assert float(busy) == pytest.approx(rho, rel=1e-6)


def test_monotone_in_load_spread_and_servers() -> None:
    def total(rate: float, cv: float = 0.3, servers: float = 1.0) -> float:
        wait, own, _ = batch_wait(rate, 0.3, 1.0, 1.0, cv, 4.0, servers)
        return float(wait + own)

    assert (np.diff([total(r) for r in np.linspace(0.01, 0.9, 12)]) > 0).all()
    assert (np.diff([total(0.6, cv=c) for c in (0.0, 0.3, 1.0, 2.0)]) > 0).all()
    assert (np.diff([total(0.6, servers=s) for s in (1.0, 1.5, 2.0, 4.0, 8.0, 32.0)]) < 0).all()
    assert np.isfinite([total(r) for r in (0.0, 0.99, 1.0, 10.0)]).all()
