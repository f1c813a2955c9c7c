"""Pipelines played: the same as without a pipeline where there is none, queueing theory, chance, and the rows."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from test_pipeline import HOST, client, scenario

from mist_jax.evaluate import evaluate
from mist_jax.pipelines.dag import parse_pipeline
from mist_jax.pipelines.played import draw, plan
from mist_jax.pipelines.steady import Model
from mist_jax.play import play
from mist_jax.queueing.clients import Engine
from mist_jax.queueing.playback import play as play_trace
from mist_jax.queueing.table import StepTable
from mist_jax.queueing.trace import Trace
from mist_jax.schema import PipelineSpec
from mist_jax.workloads import build_trace


def test_one_llm_stage_plays_exactly_as_without_a_pipeline():
    piped = scenario({"generate": {}}, overrides=["workload.requests=150", "workload.rate=4"])
    a, b = play(dataclasses.replace(piped, pipeline=PipelineSpec())), play(piped)
    for name in ("ttft_s", "tpot_s", "e2e_s", "output_tokens"):
        np.testing.assert_allclose(b[name], a[name], rtol=1e-9)
    for name in ("energy_j", "cost_usd", "goodput_share", "ttft_p99_s"):
        assert b.attrs[name] == pytest.approx(a.attrs[name], rel=1e-9)


def test_a_single_server_waits_as_m_d_1_and_evaluate_agrees():
    # one core, 50 ms a request, 10 requests/s: rho = 1/2, wait = rho s / (2 (1 - rho)) = 25 ms
    stages = {"tokenize": {"client": "host", "base_s": "50 ms", "rate": 1e12}, "generate": {}}
    s = scenario(
        stages, {"host": client(cores=1)}, ["workload.requests=6000", "workload.rate=10", "workload.osl=2"]
    )
    played = float(play(s).stage_mean_s.sel(stage="tokenize"))
    assert float(evaluate(s).stage_s.sel(stage="tokenize")) == pytest.approx(0.075, rel=1e-6)
    assert played == pytest.approx(0.075, rel=0.06)


def test_several_machines_and_cores_wait_less_and_agree():
    stages = {"tokenize": {"client": "host", "base_s": "200 ms", "rate": 1e12}, "generate": {}}
    s = scenario(
        stages,
        {"host": client(cores=2, count=2)},
        ["workload.requests=6000", "workload.rate=16", "workload.osl=2"],
    )
    played, found = (float(x.sel(stage="tokenize")) for x in (play(s).stage_mean_s, evaluate(s).stage_s))
    assert 0.2 < found < 0.3
    assert played == pytest.approx(found, rel=0.06)


def test_batching_keeps_up_where_single_requests_cannot():
    embed = {"kind": "embed", "client": "gpu", "parameters": 6e9, "fixed_s": 0.0}
    gpu = {"gpu": client("l4")}
    overrides = ["workload.requests=1500", "workload.rate=40", "workload.osl=2"]
    s = scenario({"embed": {**embed, "max_batch": 64}, "generate": {}}, gpu, overrides, query_tokens=16)
    one = evaluate(s)
    assert float(one.stage_batch.sel(stage="embed")) > 1.5
    played = float(play(s).stage_mean_s.sel(stage="embed"))
    assert played == pytest.approx(float(one.stage_s.sel(stage="embed")), rel=0.25)


def test_end_is_the_end_of_what_the_request_waits_for_and_stages_fill_it():
    stages = {
        "tokenize": {"client": "host"},
        "tool": {"median_s": "1 s", "sigma": 0.5},
        "generate": {},
        "kv_store": {"client": "engine", "wait": False, "latency": "30 s"},
        "detokenize": {"client": "host", "after": ["generate"]},
    }
    ds = play(scenario(stages, HOST, ["workload.requests=100", "workload.rate=2"]))
    chain = ds.stage_s.sel(stage=["tokenize", "tool", "generate", "detokenize"]).sum("stage")
    np.testing.assert_allclose(ds.e2e_s, chain, rtol=1e-9)
    assert np.all(ds.stage_s.sel(stage="kv_store") > 30.0)
    assert np.all(ds.ttft_s < ds.e2e_s)


def test_chance_has_the_stated_shares_and_the_seed_decides():
    stages = {
        "near": {"kind": "kv_load", "client": "engine", "hit_rate": 0.3},
        "far": {"kind": "kv_load", "client": "engine", "tier": "remote_rdma", "hit_rate": 0.4},
        "generate": {},
        "tool": {"probability": 0.25},
    }
    s = scenario(stages, {"engine": {"tiers": {"remote_rdma": "1 TB"}}})
    pipeline = parse_pipeline(s)
    drawn = draw(pipeline, 20000, 3)
    np.testing.assert_allclose(drawn.hit.mean(axis=0)[:2], [0.3, 0.4], atol=0.012)
    assert not np.any(drawn.hit[:, 0] * drawn.hit[:, 1])  # a prefix is found in one tier
    assert drawn.ran[:, 3].mean() == pytest.approx(0.25, abs=0.012)
    np.testing.assert_array_equal(draw(pipeline, 20000, 3).hit, drawn.hit)
    assert np.any(draw(pipeline, 20000, 4).hit != drawn.hit)


def test_rows_and_edges_of_branches_and_turns():
    stages = {
        "reason": {"method": "best_of_n", "samples": 3, "mean_tokens": 40, "median_tokens": 30},
        "tool": {"sigma": 0, "median_s": 0.1},
        "answer": {"kind": "generate"},
    }
    s = scenario(
        stages, overrides=["workload.requests=20", "workload.arrivals=closed", "workload.concurrency=4"]
    )
    with jax.enable_x64(True):
        model = Model(s, parse_pipeline(s))
        laid = plan(s, model, build_trace(s)[0])
    count = np.bincount(laid.node)
    np.testing.assert_array_equal(count, [60, 20, 20])
    edges = laid.trace.edges
    assert np.all(laid.request[edges[:, 0]] <= laid.request[edges[:, 1]])
    same = laid.request[edges[:, 0]] == laid.request[edges[:, 1]]
    assert same.sum() == 60 + 20
    assert (~same).sum() == 3 * 16
    # only one branch prefills the prompt
    assert (laid.trace.cached[laid.node == 0] == 0).sum() == 20
    ds = play(s)
    # a user's next request arrives when the one before has ended: equal up to the rounding of arrival + e2e
    overlap = (ds.arrival_s.values[:, None] < (ds.arrival_s + ds.e2e_s).values - 1e-9) & (
        ds.arrival_s.values[:, None] >= ds.arrival_s.values
    )
    assert overlap.sum(axis=1).max() <= 4  # never more than the concurrency in flight


def test_a_cascade_answers_with_the_model_that_ran():
    s = scenario(
        {"small": {"kind": "cascade"}, "large": {"kind": "cascade", "probability": 0.5}},
        overrides=["workload.requests=80"],
    )
    ds = play(s)
    stopped = ds.stage_s.sel(stage="large").values == 0.0
    assert 0.25 < stopped.mean() < 0.75
    np.testing.assert_allclose(ds.ttft_s.values[stopped], ds.e2e_s.values[stopped])
    assert np.all(ds.tpot_s.values > 0)


def test_cached_tokens_take_memory_but_no_prefill():
    grid = np.array([1, 2, 4096])
    table = StepTable(
        tokens_grid=grid, tokens_s=1e-5 * grid, seqs_grid=grid, seqs_s=0.0 * grid, prefill_chunk_grid=grid,
        prefill_past_grid=np.array([0, 16, 8192]), prefill_s=np.zeros((3, 3)), decode_seqs_grid=grid,
        decode_context_grid=grid, decode_s=np.zeros((3, 3)), overhead_s=0.0, prefill_floor_s=0.0, pp=1,
    )  # fmt: skip
    engine = Engine(table, kv_blocks=70, max_num_batched_tokens=4096, max_num_seqs=8)

    def run(cached, n=1):
        trace = Trace(np.zeros(n), np.full(n, 1000), np.full(n, 2), cached=np.full(n, cached))
        return play_trace(trace, engine)

    assert run(0).ttft_s[0] == pytest.approx(1e-2)
    assert run(900).ttft_s[0] == pytest.approx(1e-3)
    assert run(5000).ttft_s[0] == pytest.approx(1e-5)  # one token is left to compute
    # 70 blocks hold one such request: the second waits for the first to end
    two = run(900, 2).requests
    assert two["scheduled"][1] >= two["finish"][0]
