"""The playback against the naive simulator on random deployments and traces: 1e-9 s a request, equal counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from oracle.simulator import simulate

from mist_jax.queueing.clients import Engine, Failure, Link, Router, Station, Tier
from mist_jax.queueing.metrics import token_times
from mist_jax.queueing.playback import play
from mist_jax.queueing.policies import POLICIES
from mist_jax.queueing.state import ROUTERS
from mist_jax.queueing.table import StepTable
from mist_jax.queueing.trace import Trace

SEEDS = 16
AHEAD = ("vllm", "sarathi")  #: policies that can form an iteration while the one before it runs


def random_table(rng, ties):
    """Powers of two where ties are wanted: then arrivals fall exactly on the ends of iterations."""
    if ties:
        return StepTable.linear(2.0**-6, rng.choice([0.0, 2.0**-12]), 0.0, 0.0, 0.0, max_context=4096)
    table = StepTable.linear(
        5e-3, rng.choice([0.0, 2e-5, 1e-3]), 1e-5, 1e-8, rng.choice([0.0, 2e-6]), max_context=4096,
        prefill_floor_s=rng.choice([0.0, 1e-3]), decode_width=rng.choice([1.0, 4.0]),
    )  # fmt: skip
    if rng.random() < 0.5:  # decodes beside prompts cost more, the more so the more there are
        more = 1e-6 * np.arange(table.decode_s.size).reshape(table.decode_s.shape)
        table = dataclasses.replace(table, mixed_s=1.5 * table.decode_s + more)
    return table


def random_engine(rng, table, policy="vllm", **fields):
    block = int(rng.choice([1, 4, 8]))
    seqs = int(rng.choice([2, 8, 64]))
    kv = int(rng.choice([400, 900, 20000])) // block + 2
    base = {
        "block_size": block,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": int(max(seqs, rng.choice([seqs, 64, 100, 512]))),
        "long_prefill_threshold": int(rng.choice([0, 0, 40])),
        "watermark": float(rng.choice([0.0, 0.05])),
        "order": str(rng.choice(["fcfs", "fcfs", "priority", "shortest"])),
        "policy": policy,
        "ahead": policy in AHEAD and bool(rng.integers(2)),
        "lag": float(rng.choice([0.0, 0.0, 0.3, 1.7, 3.0])),
        "poll": int(rng.choice([1, 1, 1, 4, 9])),
    }
    return Engine(table, kv, **{**base, **fields})


def random_trace(rng, ties, n=None, prefixes=False, **fields):
    n = n or int(rng.integers(10, 60))
    if ties:
        arrival = np.sort(rng.integers(0, n, n)) / 64
    else:
        arrival = rng.exponential(rng.choice([0.01, 0.05]), n).cumsum()
    prompt, output = rng.integers(1, 300, n), rng.integers(1, 60, n)
    if prefixes:  # a few families of prompts, of which each request has a beginning; then its own tokens
        unit, rows, own = 16, [], 1_000_000
        for i in range(n):
            family, common = rng.integers(0, 4), rng.integers(0, 20)
            k = (prompt[i] + rng.integers(0, output[i])) // unit
            rows.append([family * 1000 + j if j < common else own + j for j in range(k)])
            own += 1000
        fields["units"] = np.array([h for r in rows for h in r], dtype=np.int64)
        fields["unit_offsets"] = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        fields["unit_tokens"] = unit
    if rng.random() < 0.3:  # the KV of some beginnings is there
        fields["cached"] = rng.integers(0, 2, n) * rng.integers(0, 200, n)
    return Trace(arrival, prompt, output, priority=rng.integers(0, 3, n), **fields)


def agree(trace, clients, router=None, **parts):
    got = play(trace, clients, router, log=True, **parts)
    want = simulate(trace, clients, router or Router(), **parts)
    r = got.requests
    np.testing.assert_array_equal(r["status"], want["status"])
    for name in ("preemptions", "retries", "hits"):
        np.testing.assert_array_equal(r[name], want[name], err_msg=name)
    for name in ("scheduled", "first", "finish"):
        np.testing.assert_allclose(r[name], want[name], rtol=0, atol=1e-9, err_msg=name)
    served = r["status"] == 0
    who, when = token_times(got)
    tokens = [(i, t) for i, times in enumerate(want["token_times"]) if want["status"][i] == 0 for t in times]
    np.testing.assert_array_equal(who, [i for i, _ in tokens])
    np.testing.assert_allclose(when, [t for _, t in tokens], rtol=0, atol=1e-9)
    # every iteration: its end, prompt tokens, decodes, blocks in use
    for c, steps in enumerate(want["log"]):
        mine = got.steps[got.steps["client"] == c]
        rows = np.stack([mine[x] for x in ("end", "prefill", "decodes", "blocks")], 1)
        np.testing.assert_allclose(rows, np.array(steps).reshape(-1, 4), rtol=0, atol=1e-9)
    # conservation: each served request has all of its tokens, and the iterations add up to what the requests computed
    stations = [c.model for c in (clients if isinstance(clients, list) else []) if isinstance(c, Station)]
    whole = served & ~np.isin(r["model"], stations)
    np.testing.assert_array_equal(np.bincount(who, minlength=trace.size)[whole], r["output"][whole])
    assert got.steps["prefill"].sum() == r["computed_total"].sum()
    assert np.all(np.isfinite(r["finish"][served]))
    assert np.all(np.isnan(r["finish"][~served]))
    # everything has gone home: no request, block or reference is left behind
    assert np.all(got.clients["running"] + got.clients["waiting"] + got.clients["decoding"] == 0)
    assert np.all(got.clients["free"] == got.clients["kv_blocks"])
    alive = got.clients["alive"] == 1
    assert np.all(got.clients["tokens"][alive] == 0)
    assert np.all(got.clients["backlog"][alive] == 0)
    return got


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("policy", list(POLICIES))
def test_one_engine(policy, seed):
    rng = np.random.default_rng([1, seed])
    ties = seed % 2 == 0
    agree(random_trace(rng, ties), random_engine(rng, random_table(rng, ties), policy))


@pytest.mark.parametrize("seed", range(3 * SEEDS))
def test_prefix_cache_and_tiers(seed):
    rng = np.random.default_rng([2, seed])
    tiers = [
        Tier("host", float(rng.choice([0, 160, 1600])), 1e-4, 5e8),
        Tier("rack", 3200, 1e-3, 1e8, shared=bool(seed % 2)),
    ]
    policy = ["vllm", "sarathi", "prefill_first", "mixed", "sglang", "trtllm"][seed % 6]
    engine = random_engine(
        rng, random_table(rng, False), policy, prefix_caching=True, kv_bytes_per_token=1e4,
        tiers=("host", "rack")[: seed % 3], overlap_load=bool(seed % 5), count=1 + seed % 2,
    )  # fmt: skip
    agree(random_trace(rng, False, prefixes=True), [engine], tiers=tiers)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", ROUTERS)
def test_routers(rule, seed):
    rng = np.random.default_rng([3, seed])
    ties = seed % 2 == 0
    policies = ["vllm", "sarathi", "mixed", "orca", "sglang"]
    prefixes = rule == "prefix_affinity"
    if prefixes:
        policies = ["vllm", "sarathi", "mixed", "sglang"]
    clients = [
        random_engine(rng, random_table(rng, ties), str(rng.choice(policies)), heavy=bool(i % 2), count=1 + i % 2,
                      prefix_caching=prefixes, model=i // 3)
        for i in range(4)
    ]  # fmt: skip
    n = 60
    trace = random_trace(
        rng, ties, n, prefixes, session=rng.integers(-1, 6, n), model=(rng.random(n) < 0.2).astype(int)
    )
    fallback = str(rng.choice(["round_robin", "random", "least_requests", "least_tokens", "least_kv"]))
    agree(trace, clients, Router(rule, fallback, 150, 200, seed=seed))


@pytest.mark.parametrize("seed", range(2 * SEEDS))
def test_disaggregated(seed):
    rng = np.random.default_rng([4, seed])
    table = random_table(rng, False)
    behind = (0.0, 0.9, 1.0)[seed % 3]
    links = [Link("net", float(rng.choice([1e6, 1e8])), 1e-3, str(rng.choice(["fair", "fcfs"])), behind)]
    policy = ["vllm", "prefill_first", "sarathi", "static", "sglang"][seed % 5]
    common = {"kv_bytes_per_token": 100.0, "link": "net"}
    clients = [
        random_engine(rng, table, policy, role="prefill", group=g, count=1 + seed % 2, **common)
        for g in (0, 1)
    ]
    clients += [random_engine(rng, table, policy, role="decode", group=g, **common) for g in (0, 1)]
    failures = [Failure(0, 0.2, 0.5)] if seed % 3 == 0 else []
    agree(
        random_trace(rng, False),
        clients,
        Router("least_tokens", local=bool(seed % 2)),
        links=links,
        failures=failures,
    )


@pytest.mark.parametrize("seed", range(2 * SEEDS))
def test_ranks_step_together_and_micro_batches_follow_one_another(seed):
    rng = np.random.default_rng([7, seed])
    pp, ranks = [(1, 3), (2, 1), (4, 1), (3, 2)][seed % 4]
    ties = seed % 8 >= 4 and pp != 3  # thirds are not binary
    table = random_table(rng, ties)
    table = dataclasses.replace(table, pp=pp, experts_s=table.tokens_s * float(rng.choice([0.0, 0.5])))
    policy = list(POLICIES)[int(rng.integers(len(POLICIES)))]
    engine = random_engine(rng, table, policy, ranks=ranks, count=ranks * (1 + seed % 2))
    engine = dataclasses.replace(
        engine, kv_blocks=engine.kv_blocks * pp, max_num_seqs=engine.max_num_seqs * pp,
        max_num_batched_tokens=max(engine.max_num_batched_tokens, engine.max_num_seqs * pp),
    )  # fmt: skip
    failures = [Failure(0, 0.2, 0.5)] if seed % 3 == 0 and not ties else []
    router = Router(str(rng.choice(["round_robin", "least_requests", "least_tokens"])))
    agree(random_trace(rng, ties), [engine], router, failures=failures)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_failures(seed):
    rng = np.random.default_rng([5, seed])
    clients = [random_engine(rng, random_table(rng, False), count=3, prefix_caching=False)]
    until = 0.6 if seed % 2 else np.inf
    failures = [Failure(0, 0.1, until), Failure(1, 0.3, 0.7), Failure(2, 0.31, 0.65)]
    trace = random_trace(rng, False)
    got = agree(trace, clients, Router("least_requests", retry_delay_s=0.01 * (seed % 3)), failures=failures)
    # failures lose no request that a client could have served
    assert set(np.unique(got.status)) <= {0, 3}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_pipelines_and_closed_loops(seed):
    rng = np.random.default_rng([6, seed])
    n = 45
    engine = random_engine(rng, random_table(rng, False), count=1 + seed % 2, prefix_caching=True)
    station = Station(7, (1e-3, 1e-4, 1e-3), servers=2, max_batch=3, window_s=0.004 * (seed % 2))
    if seed % 4 == 3:
        trace = random_trace(rng, False, n, True, closed_loop=4, think_s=0.01 * (seed % 3))
        agree(trace, [engine])
        return
    # retrieval (station) -> answer -> three branches that share its prompt -> verdict
    model = np.tile([7, 0, 0, 0, 0], n // 5)
    at = np.arange(0, n, 5)[:, None]
    edges = (at[:, :, None] + np.array([[0, 1], [1, 2], [1, 3], [1, 4]])[None]).reshape(-1, 2)
    if seed % 2:
        edges = np.concatenate([edges, np.stack([at[:-1, 0] + 4, at[1:, 0] + 1], 1)])
    delay = np.where(np.arange(n) % 5 == 2, 0.1, 0.0)
    trace = random_trace(rng, False, n, True, model=model, edges=edges, delay_s=delay, work=rng.random(n))
    agree(
        trace,
        [engine, station],
        Router("round_robin"),
        failures=[Failure(0, 0.2, 0.4)] if seed % 3 == 0 else [],
    )
