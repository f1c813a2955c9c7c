"""Speculative decoding as a setting of the engine: limits, the playback against the steady state, sweeps, messages."""

from __future__ import annotations

import numpy as np
import pytest
from programs import make_batch, make_system

import mist_jax as mist
from mist_jax import build
from mist_jax.errors import ConfigError
from mist_jax.pytree import replace
from mist_jax.queueing.lane import MAX_DRAFT
from mist_jax.queueing.speculation import in_verified_steps, tokens_per_step
from mist_jax.queueing.step_table import build_step_table
from mist_jax.queueing.trace import Trace
from mist_jax.schema import EngineSpec

BASE = ["model=llama3_1_8b", "hardware=h100_sxm", "workload=closed_1k_1k", "workload.concurrency=16"]


def evaluated(*more: str) -> float:
    return float(mist.evaluate(mist.load([*BASE, *more])).tpot_s)


def test_acceptance_and_drafts() -> None:
    """Every draft accepted: k + 1 tokens an iteration; hardly any: a loss; the more are accepted the better."""
    scenario = mist.load([*BASE, "engine.draft_tokens=3", "engine.acceptance=1", "engine.acceptance_decay=1"])
    assert tokens_per_step(build.build_system(scenario)) == pytest.approx(4.0)
    sure = "engine.acceptance_decay=1"
    times = [
        evaluated("engine.draft_tokens=3", f"engine.acceptance={a}", sure) for a in (0.01, 0.5, 0.9, 1.0)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > evaluated()
    assert times[-1] < 0.5 * evaluated()


def test_gain_shrinks_with_the_batch() -> None:
    """Verification is free while weights bound an iteration, and costs where computation does."""
    gains = []
    for users in (1, 64, 512):
        load = ["workload.isl=128", "workload.osl=512", f"workload.concurrency={users}"]
        gains.append(evaluated(*load) / evaluated(*load, "engine.draft_tokens=3"))
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize("drafts", [0, 1, 3])
def test_played_as_evaluated(drafts: int) -> None:
    """End to end, one client after another: the same iterations, counted one by one and by their means."""
    load = [
        "workload.concurrency=8",
        "workload.requests=64",
        "workload.osl=2048",
        f"engine.draft_tokens={drafts}",
    ]
    scenario = mist.load([*BASE, *load])
    steady, played = mist.evaluate(scenario), mist.play(scenario)
    assert float(played.e2e_s.mean()) == pytest.approx(float(steady.e2e_s), rel=0.015)
    assert (played.output_tokens.values == 2048).all()
    assert (played.prompt_tokens.values == 1024).all()


def test_step_table_of_drafts() -> None:
    """A decode iteration by the table is that of `step_time` with the drafts in it."""
    from programs import step

    system = make_system("qwen3_30b_a3b", tp=2)
    system = replace(system, engine=replace(system.engine, draft_tokens=np.float64(3.0)))
    table = build_step_table(system, max_seqs=256, max_context=8192)
    for seqs, context in ((1, 100), (7, 3000), (33, 777), (200, 5000)):
        batch = replace(make_batch(decode=seqs, context=context), decode_width=np.float64(4.0))
        true = float(step(system, batch).seconds)
        assert table.step_s([], seqs, context, seqs) == pytest.approx(true, rel=0.005)


def test_the_steps_of_an_answer() -> None:
    """Counted in steps an answer keeps its mean KV; what is no answer stays what it is."""
    trace = Trace(np.zeros(4), np.array([100, 100, 100, 50]), np.array([101.0, 1.0, np.nan, 1001.0]))
    out = in_verified_steps(trace, 2.5)
    np.testing.assert_array_equal(out.output_tokens, [41.0, 1.0, np.nan, 401.0])
    mean_kv = out.prompt_tokens + 0.5 * out.output_tokens
    np.testing.assert_allclose(
        mean_kv[[0, 1, 3]], (trace.prompt_tokens + 0.5 * trace.output_tokens)[[0, 1, 3]], atol=1
    )
    np.testing.assert_array_equal((out.prompt_tokens - out.cached)[[0, 1, 3]], [100, 100, 50])


def test_disaggregated_drafts() -> None:
    """The decode pool drafts; a prompt's time stays within what its handover and its first iteration add."""
    pair = [*BASE, "workload=chat", "prefill=pool", "workload.rate=0.2"]
    plain, fast = mist.load(pair), mist.load([*pair, "engine.draft_tokens=2"])
    assert float(mist.evaluate(fast).tpot_s) < float(mist.evaluate(plain).tpot_s)
    assert float(mist.play(fast).tpot_s.mean()) == pytest.approx(float(mist.evaluate(fast).tpot_s), rel=0.05)


def test_pipelines_gain_from_the_drafts_of_their_engine() -> None:
    """Decoding shrinks by the same factor in both modes: the engine's drafts are neither lost nor paid twice."""
    ratios = []
    for run in (mist.evaluate, mist.play):
        times = []
        for drafts in (0, 3):
            load = [
                "pipeline=rag",
                "workload.rate=0.5",
                "workload.requests=200",
                f"engine.draft_tokens={drafts}",
            ]
            times.append(float(run(mist.load(["hardware=h100_sxm", *load])).e2e_s.mean()))
        ratios.append(times[1] / times[0])
    assert ratios[0] < 0.8
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)


def test_swept() -> None:
    """An axis of drafts gives what `evaluate` gives."""
    scenario = mist.load(BASE)
    ds = mist.sweep(scenario, {"engine.draft_tokens": [0, 1, 2, 5]}, progress=False)
    one = [evaluated(f"engine.draft_tokens={k}") for k in (0, 1, 2, 5)]
    np.testing.assert_allclose(ds.tpot_s.values, one, rtol=1e-9)


def test_messages() -> None:
    assert EngineSpec.__dataclass_fields__["draft_tokens"].metadata["high"] == MAX_DRAFT
    for text in ("engine.draft_tokens=9", "engine.acceptance=1.2"):
        with pytest.raises(ConfigError, match=text.partition("=")[0]):
            mist.load([*BASE, text])
