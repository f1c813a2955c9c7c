"""Trace readers, synthetic workloads, and what the playback does with bad requests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mist_jax.io import arrivals as syn
from mist_jax.io.traces import read_benchmark, read_burstgpt, read_engine_run, read_jsonl, read_trace
from mist_jax.queueing.cache_curve import cache_curve, hit_ratio
from mist_jax.queueing.clients import Engine
from mist_jax.queueing.metrics import SPLITWISE, Slo, meets, splitwise_met, splitwise_slo, summarize, unloaded
from mist_jax.queueing.playback import play, play_engine
from mist_jax.queueing.state import STATUS
from mist_jax.queueing.table import StepTable
from mist_jax.queueing.trace import Trace

DATA = Path(os.environ.get("MIST_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "traces").is_dir(),
    reason="no reference data: Azure/AzurePublicDataset and kvcache-ai/Mooncake; set MIST_DATA_DIR",
)


@needs_data
def test_azure_conversation_plays():
    trace = read_trace(DATA / "traces" / "azure_2023_conversation.csv")
    assert trace.size == 19366
    assert trace.arrival_s[0] == 0
    out = play_engine(
        StepTable.linear(), {"kv_blocks": 30000}, trace.arrival_s, trace.prompt_tokens, trace.output_tokens
    )
    assert np.all(out["status"] == 0)
    assert np.all(out["arrival_s"] <= out["scheduled_s"])
    assert np.all(out["scheduled_s"] < out["first_token_s"])
    assert np.all(out["first_token_s"] <= out["finish_s"])


@needs_data
@pytest.mark.parametrize(("name", "share"), [("conversation", 0.366), ("synthetic", 0.640)])
def test_mooncake_infinite_cache(name, share):
    trace = read_trace(DATA / "traces" / f"mooncake_{name}.jsonl")
    assert hit_ratio(trace) == pytest.approx(share, abs=5e-4)
    curve = cache_curve(trace, [0, 1000, 10_000, 50_000, np.inf])
    assert curve[0] == 0
    assert np.all(np.diff(curve) >= 0)


@needs_data
def test_mooncake_hits_in_an_engine_with_endless_memory():
    trace = read_trace(DATA / "traces" / "mooncake_conversation.jsonl").head(3000)
    engine = Engine(StepTable.linear(1e-9, 0.0, 0.0, 0.0, 0.0), 10**9, block_size=16, prefix_caching=True,
                    max_num_batched_tokens=1 << 20, max_num_seqs=1000)  # fmt: skip
    p = play(trace, engine)
    assert p.requests["hits"][:, 0].sum() > 0
    # the engine leaves the last token to compute, so a whole prompt that is cached counts one unit less
    ids = np.diff(trace.unit_offsets).sum()
    assert p.requests["hits"][:, 0].sum() / ids == pytest.approx(hit_ratio(trace), abs=0.01)


@needs_data
def test_engine_run():
    trace = read_engine_run(DATA / "engine_runs" / "rtx_pro_6000_Llama-3.1-8B")
    assert trace.size == 300
    assert trace.request_id[0] == "bench-0"
    assert np.all(trace.measured["ttft_s"] > 0)
    assert np.all(trace.measured["e2e_s"] >= trace.measured["ttft_s"])


def test_small_formats(tmp_path):
    f = tmp_path / "burst.csv"
    f.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n7.5,GPT-4,10,0,10,API log\n9,GPT-4,20,3,23,API log\n"
    )
    assert read_trace(f).prompt_tokens.tolist() == [472, 20]
    assert read_burstgpt(f, model="GPT-4", failures=True).output_tokens.tolist() == [0, 3]
    f = tmp_path / "vllm.json"
    d = {"input_lens": [5, 6], "output_lens": [3, 1], "ttfts": [0.1, 0.2], "itls": [[0.02, 0.04], []]}
    f.write_text(json.dumps(d | {"start_times": [10.0, 11.0]}))
    t = read_trace(f)
    assert t.arrival_s.tolist() == [0, 1]
    assert t.measured["tpot_s"][0] == pytest.approx(0.03)
    f = tmp_path / "any.jsonl"
    f.write_text(
        '{"timestamp": 3, "input_tokens": 7, "output_tokens": 2, "session_id": "a"}\n{"timestamp": 4}\n'
    )
    t = read_jsonl(f)
    assert t.session.tolist() == [0, -1]
    assert np.isnan(t.prompt_tokens[1])
    f.write_text("not json\n")
    with pytest.raises(ValueError, match=r"any\.jsonl"):
        read_trace(f)
    f = tmp_path / "short.json"
    f.write_text('{"duration": 3, "output_lens": [1]}')
    with pytest.raises(ValueError, match="save-detailed"):
        read_benchmark(f)


def test_bad_requests_are_marked_and_do_no_harm():
    nan = float("nan")
    arrival = [0.0, 2.0, 1.0, nan, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0]
    prompt = [50, 50, 0, 50, 50, 50, 2000, 900, -5, 50.5, 50]
    output = [5, 5, 5, 5, 5, 0, 5, 5, 5, 5, 5]
    engine = Engine(StepTable.linear(), 50, block_size=16, max_model_len=1000)  # 800 tokens of KV
    p = play(Trace(arrival, prompt, output), engine)
    names = [STATUS[i] for i in p.status]
    bad = "invalid"
    assert names == ["ok", "ok", bad, bad, bad, bad, "too_long", "too_large", bad, bad, "ok"]
    assert np.isfinite(p.ttft_s).tolist() == [n == "ok" for n in names]
    # a closed loop goes on past them, and what depends on them is marked
    p = play(syn.closed_loop(Trace(np.zeros(11), prompt, output), 1), engine)
    assert (p.status == 0).sum() == 5
    p = play(Trace(np.zeros(4), [50, 2000, 50, 50], [5] * 4, edges=[[0, 1], [1, 2], [2, 3]]), engine)
    assert [STATUS[i] for i in p.status] == ["ok", "too_long", "blocked", "blocked"]
    assert play(Trace(np.zeros(0), np.zeros(0), np.zeros(0)), engine).requests.size == 0
    assert play(Trace([0.0], [5], [5], model=[4]), engine).status.tolist() == [STATUS.index("no_client")]


def test_contradictions_are_refused():
    t = StepTable.linear(max_context=1024)
    trace = Trace([0.0], [5], [5])
    for bad in (
        {"kv_blocks": 0}, {"policy": "magic"}, {"order": "lifo"}, {"role": "prefill"}, {"tiers": ("disk",)},
        {"max_num_batched_tokens": 8}, {"prefix_caching": True, "block_size": 7},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            play(trace, Engine(t, **{"kv_blocks": 100, **bad}))
    with pytest.raises(ValueError, match="parents"):
        Trace([0.0, 0.0], [1, 1], [1, 1], edges=[[1, 0]])
    with pytest.raises(ValueError, match="distinct"):
        Trace([0.0], [64], [1], units=[3, 3], unit_offsets=[0, 2])
    with pytest.raises(ValueError, match="tokens_s"):
        StepTable.linear(overhead_s=-1.0)


def test_synthetic_is_seeded_and_has_the_moments():
    n = 100_000
    for draw, cv in ((lambda s: syn.poisson(n, 4.0, s), 1.0), (lambda s: syn.gamma(n, 4.0, 2.0, s), 2.0)):
        gaps = np.diff(draw(3))
        assert np.array_equal(draw(3), draw(3))
        assert gaps.mean() == pytest.approx(0.25, rel=0.03)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    t = syn.diurnal(n, n / 86400, swing=0.8, seed=1)
    assert np.all(np.diff(t) >= 0)
    share = np.mean((t > 21600) & (t < 64800))  # half a day around noon: 1/2 + swing / pi
    assert share == pytest.approx(0.5 + 0.8 / np.pi, abs=0.01)
    x = syn.lognormal_tokens(n, 500, 1.5, 2)
    assert x.mean() == pytest.approx(500, rel=0.03)
    trace = Trace(syn.poisson(100, 1.0), x[:100], x[100:200])
    assert np.ptp(trace.at_rate(2.0).arrival_s) == pytest.approx(np.ptp(trace.arrival_s) / 2)
    assert set(syn.like(trace, 50, 3.0).prompt_tokens) <= set(trace.prompt_tokens)


def test_conversations_and_branches_reuse_their_prefix():
    fixed = lambda k: lambda n, rng: np.full(n, k)  # noqa: E731
    trace = syn.conversations(
        syn.poisson(20, 0.5), turns=fixed(4), message_tokens=fixed(64), answer_tokens=fixed(33), think_s=fixed(3.0),
        system_tokens=160,
    )  # fmt: skip
    engine = Engine(StepTable.linear(), 10**5, prefix_caching=True)
    p = play(trace, engine)
    assert np.all(p.status == 0)
    turn = np.arange(80) % 4
    # each turn arrives three seconds after the answer before it, and finds all whole units of it but the last token
    follow = np.flatnonzero(turn > 0)
    np.testing.assert_allclose(p.requests["arrival"][follow], p.requests["finish"][follow - 1] + 3.0)
    known = 160 + 97 * turn[follow] - 1
    np.testing.assert_array_equal(p.requests["hits"][follow, 0], known // 16)
    best = syn.best_of_n(Trace([0.0, 30.0], [320, 160], [10, 10]), 4)
    q = play(best, engine)
    assert q.requests["hits"][:, 0].tolist() == [0, 19, 19, 19, 0, 9, 9, 9]


def test_metrics():
    rng = np.random.default_rng(0)
    n = 400
    trace = Trace(syn.poisson(n, 0.2, rng), rng.integers(1, 900, n), rng.integers(1, 90, n))
    table = StepTable.linear()
    p = play(trace, Engine(table, 10**5))
    alone = unloaded(p, table, 8192)
    # at this load most requests are alone, and none is faster than alone
    assert np.all(p.ttft_s >= alone["ttft_s"] * (1 - 1e-9))
    assert np.median(p.ttft_s / alone["ttft_s"]) == pytest.approx(1.0)
    assert splitwise_met(p, alone)
    assert {k: set(v) for k, v in splitwise_slo(p, alone).items()} == {
        k: set(v) for k, v in SPLITWISE.items()
    }
    slo = Slo(ttft_s=float(np.median(p.ttft_s)))
    s = summarize(p, slo, power_w=(700.0, 100.0), usd_per_hour=3.0)
    assert meets(p, slo).mean() == s["slo_attainment"] == pytest.approx(0.5, abs=0.01)
    assert s["energy_j"] == pytest.approx(100 * s["duration_s"] + 600 * p.clients["busy_s"][0])
    assert s["cost_usd"] == pytest.approx(3 * s["duration_s"] / 3600)
