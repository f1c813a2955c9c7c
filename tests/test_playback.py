"""Laws of the playback: conservation, limits, monotonicity, equal results whatever the way they are computed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mist_jax.io import arrivals as syn
from mist_jax.io.perfetto import timeline, write_timeline
from mist_jax.queueing.batch import brief, play_many
from mist_jax.queueing.clients import Engine, Router
from mist_jax.queueing.metrics import inter_token_latencies, kv_occupancy, summarize
from mist_jax.queueing.playback import play
from mist_jax.queueing.table import StepTable, octave_grid
from mist_jax.queueing.trace import Trace

TABLE = StepTable.linear()


def workload(n=500, rate=5.0, seed=0):
    rng = np.random.default_rng(seed)
    return Trace(syn.poisson(n, rate, rng), rng.integers(1, 900, n), rng.integers(1, 200, n))


def test_one_request_alone():
    p = play(
        Trace(np.zeros(1), np.array([1000]), np.array([3])), Engine(TABLE, 1000, max_num_batched_tokens=600)
    )
    prefill = TABLE.step_s([(600, 0)], 0, 0, 0) + TABLE.step_s([(400, 600)], 0, 0, 1)
    assert p.ttft_s[0] == pytest.approx(prefill, rel=1e-12)
    decode = TABLE.step_s([], 1, 1001, 1) + TABLE.step_s([], 1, 1002, 1)
    assert p.e2e_s[0] == pytest.approx(prefill + decode, rel=1e-12)


def test_every_token_is_accounted_for():
    trace = workload()
    p = play(trace, Engine(TABLE, 10**5), log=True)
    assert p.steps["prefill"].sum() == trace.prompt_tokens.sum() == p.clients["prefilled"].sum()
    assert p.steps["decodes"].sum() == (trace.output_tokens - 1).sum() == p.clients["decoded"].sum()
    tight = play(trace, Engine(TABLE, 80), log=True)
    assert tight.requests["preemptions"].sum() > 0
    assert np.all(tight.status == 0)
    # what was preempted is computed again
    assert tight.steps["prefill"].sum() == tight.requests["computed_total"].sum() > trace.prompt_tokens.sum()
    for q in (p, tight):
        who, gap = inter_token_latencies(q)
        assert gap.size == (trace.output_tokens - 1).sum()
        assert np.all(gap > 0)
        r = q.requests
        np.testing.assert_allclose(np.bincount(who, gap, trace.size), r["finish"] - r["first"], atol=1e-9)
        assert np.all(kv_occupancy(q)[1] <= 1)


def test_a_log_changes_nothing():
    trace = workload()
    a, b = (
        play(trace, Engine(TABLE, 300, count=3), Router("least_kv"), log=x).requests for x in (False, True)
    )
    assert a.tobytes() == b.tobytes()


def test_more_of_everything_is_not_slower():
    trace = workload(rate=12.0)
    base = play(trace, Engine(TABLE, 400)).e2e_s.mean()
    assert play(trace, Engine(TABLE, 4000)).e2e_s.mean() <= base
    assert play(trace, Engine(TABLE, 400, count=2)).e2e_s.mean() < base
    faster = StepTable.linear(overhead_s=4e-3, per_token_s=1.6e-5)
    assert play(trace, Engine(faster, 400)).e2e_s.mean() < base


@pytest.mark.parametrize("policy", ["vllm", "sarathi", "prefill_first", "sglang", "mixed", "orca"])
def test_a_long_prompt_does_not_wait_for_decodes_to_end(policy):
    # 40 answers of 5,000 tokens are under way when a prompt of four budgets arrives, and a short one behind it
    arrival = np.append(np.zeros(40), [2.0, 2.0])
    prompt, output = np.append(np.full(40, 50), [2048, 30]), np.append(np.full(40, 5000), [10, 10])
    engine = Engine(TABLE, 10**5, max_num_batched_tokens=512, policy=policy)
    late = play(Trace(arrival, prompt, output), engine).ttft_s[40:]
    alone = TABLE.step_s([(2048, 0)], 0, 0, 1)
    decode = TABLE.step_s([], 40, 5050, 40)
    # the iteration in flight and, at four chunks with decodes in each, five more for both prompts
    assert np.all(late < alone + 6 * decode)


def test_order_of_the_rows_does_not_matter():
    trace = workload(200)
    shuffle = np.random.default_rng(1).permutation(200)
    mixed = Trace(trace.arrival_s[shuffle], trace.prompt_tokens[shuffle], trace.output_tokens[shuffle])
    a, b = play(trace, Engine(TABLE, 200)), play(mixed, Engine(TABLE, 200))
    np.testing.assert_array_equal(a.requests["finish"][shuffle], b.requests["finish"])


def test_many_is_as_one_after_another():
    jobs = [(workload(200, 5.0 + k), Engine(TABLE, 200 + 50 * k)) for k in range(6)]
    assert play_many(jobs, workers=2) == [brief(play(*j)) for j in jobs]
    assert play_many([]) == []


def test_micro_batches_of_a_pipeline_take_turns():
    flat = StepTable.linear(8e-3, 0.0, 0.0, 0.0, 0.0, pp=2)  # every iteration 8 ms, 4 ms in each stage
    twins = Trace(np.zeros(3), np.full(3, 100), np.full(3, 50))
    finish = play(twins, Engine(flat, 400)).requests["finish"]
    # the second micro-batch enters when the first stage is free, half an iteration later; the third request joins
    # the first micro-batch
    np.testing.assert_allclose(finish, 0.4 + np.array([0.0, 0.004, 0.0]), rtol=1e-12)
    piped = StepTable.linear(pp=2)
    # two independent engines with as much memory and as many slots are never slower
    a = play(workload(), Engine(piped, 400, max_num_seqs=64), Router("round_robin"))
    b = play(workload(), Engine(TABLE, 200, max_num_seqs=32, count=2), Router("round_robin"))
    assert b.e2e_s.mean() <= a.e2e_s.mean() < 2 * b.e2e_s.mean()


def test_ranks_wait_for_the_longest():
    # one rank decodes, the other works through prompts: the decodes take as long as the prompts
    trace = Trace(np.zeros(2), np.array([10, 4000]), np.array([5, 2]))
    engine = Engine(TABLE, 1000, count=2, max_num_batched_tokens=1000)
    apart, together = (
        play(trace, dataclasses.replace(engine, ranks=r), Router("round_robin"), log=True) for r in (1, 2)
    )
    own = TABLE.step_s([(10, 0)], 0, 0, 1)
    prefill = [TABLE.step_s([(1000, past)], 0, 0, int(past == 3000)) for past in range(0, 4000, 1000)]
    assert apart.ttft_s[0] == pytest.approx(own, rel=1e-12)
    np.testing.assert_allclose(together.steps["end"][::2][:4], np.cumsum(prefill), rtol=1e-12)
    assert together.ttft_s[1] == pytest.approx(apart.ttft_s[1], rel=1e-12)
    # what is in the experts follows the mean of both ranks' tokens
    shared = dataclasses.replace(engine, table=dataclasses.replace(TABLE, experts_s=TABLE.tokens_s), ranks=2)
    first = play(trace, shared, Router("round_robin"), log=True).steps["end"][0]
    assert first == pytest.approx(prefill[0] - 2e-5 * (1000 - 505), rel=1e-9)
    with pytest.raises(ValueError, match="multiple of the 2 ranks"):
        play(trace, dataclasses.replace(engine, count=3, ranks=2))


def test_an_engine_that_schedules_ahead_starts_a_request_one_iteration_later():
    prompts, answers = np.array([100, 50, 30]), np.array([40, 5, 5])
    trace = Trace(np.array([0.0, 0.0301, 0.0302]), prompts, answers)
    for slots, second in ((3, 1), (2, 2)):
        now, ahead = (
            play(trace, Engine(TABLE, 1000, max_num_seqs=slots, ahead=x), log=True) for x in (False, True)
        )
        assert now.ttft_s[0] == ahead.ttft_s[0]  # an idle engine starts at once
        first = {}
        for p, name in ((now, "now"), (ahead, "ahead")):
            ends = p.steps["end"]
            first[name] = [int(np.searchsorted(ends, t + 1e-9)) for t in p.requests["first"]]
            assert p.steps["prefill"].sum() == prompts.sum()
            assert p.steps["decodes"].sum() == (answers - 1).sum()
        assert first["ahead"][1] == first["now"][1] + 1
        # the second wait is for a slot that comes an iteration later, and is filled an iteration later
        assert first["ahead"][2] == first["now"][2] + second


def test_ahead_keeps_to_the_budget_and_to_memory():
    trace = workload(400, 20.0)
    p = play(trace, Engine(TABLE, 90, max_num_batched_tokens=512, max_num_seqs=64, ahead=True), log=True)
    assert np.all(p.status == 0)
    assert p.requests["preemptions"].sum() > 0
    assert np.max(p.steps["prefill"] + p.steps["decodes"]) <= 512
    assert np.max(p.steps["blocks"]) <= 90
    assert p.steps["prefill"].sum() == p.requests["computed_total"].sum()
    assert inter_token_latencies(p)[1].size == (trace.output_tokens - 1).sum()


def test_decodes_beside_prompts_have_a_time_of_their_own():
    slow = dataclasses.replace(TABLE, mixed_s=3.0 * TABLE.decode_s)
    trace = Trace(np.array([0.0, 0.02]), np.array([600, 600]), np.array([20, 20]))
    a, b = (play(trace, Engine(t, 1000), log=True) for t in (TABLE, slow))
    took = [p.steps["end"] - p.steps["start"] for p in (a, b)]
    mixed = (a.steps["prefill"] > 0) & (a.steps["decodes"] > 0)
    assert mixed.sum() == 1
    step = int(np.argmax(mixed))
    context = 600 + step
    extra = slow.step_s([(600, 0)], 1, context, 2) - TABLE.step_s([(600, 0)], 1, context, 2)
    assert took[1][step] - took[0][step] == pytest.approx(extra, rel=1e-9)
    np.testing.assert_allclose(took[1][~mixed], took[0][~mixed], rtol=1e-9)


def test_a_long_log_is_not_cut():
    trace = workload(3000)
    p = play(trace, Engine(StepTable.linear(1e-4, 0.0, 0.0, 0.0, 0.0), 10**5), log=True)
    assert p.steps.size == p.clients["steps"].sum() > 100_000


def test_table_interpolates_linearly_and_goes_on():
    grid = octave_grid(1, 1000, 8, zero=True)
    assert grid[0] == 0
    assert np.all(np.isin(np.arange(17), grid))
    assert grid[-1] >= 1000
    t = StepTable.linear(max_tokens=512, max_context=2048)
    for n, past, d, ctx in ((100, 77, 3, 900.5), (5000, 9000, 2000, 50000.0)):
        p = n * (past + n / 2) * 1e-9
        want = 5e-3 + 2e-5 * (n + d) + 1e-5 * (d + 1) + p + 2e-8 * d * ctx
        # the square of the chunk is the only term that is not bilinear; beyond the grid its slope is kept
        assert t.step_s([(n, past)], d, ctx, d + 1) == pytest.approx(want, rel=3e-4 if n <= 512 else 0.2)
    with pytest.raises(ValueError, match="increasing"):
        StepTable(**{**{f: getattr(t, f) for f in t.__dataclass_fields__}, "seqs_grid": t.seqs_grid[::-1]})


def test_timeline(tmp_path):
    p = play(workload(30), Engine(TABLE, 1000, count=2), Router("round_robin"), log=True)
    events = timeline(p)["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert sum(e["tid"] == 0 for e in spans) == p.steps.size
    assert sum(e["name"] == "decode" and e["tid"] > 0 for e in spans) == 30
    assert all(e["dur"] >= 0 for e in spans)
    write_timeline(p, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["displayTimeUnit"] == "ms"
    with pytest.raises(ValueError, match="log=True"):
        timeline(play(workload(3), Engine(TABLE, 1000)))
    assert summarize(p)["served"] == 30


def test_ahead_computes_a_shared_prompt_once():
    """Branches that arrive together while an iteration runs: the first computes the prompt, the others find it."""
    trace = Trace(
        np.array([0.0, 0.02, 0.02, 0.02]), np.array([64, 320, 320, 320]), np.array([40, 5, 5, 5]),
        units=np.concatenate([np.arange(100, 104), *[np.arange(20)] * 3]), unit_offsets=[0, 4, 24, 44, 64],
    )  # fmt: skip
    p = play(trace, Engine(TABLE, 1000, prefix_caching=True, ahead=True), log=True)
    assert p.steps["prefill"].sum() == 64 + 320 + 2 * 16  # a hit leaves one token, here the last unit
    assert len(set(p.requests["first"][1:])) == 1
