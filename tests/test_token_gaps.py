"""Inter-token latencies of a playback: all of them, as a user has them."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import mist_jax as mist
from mist_jax.queueing.trace import Trace

CHAT = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=chat"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["prefill=pool", "parallelism@prefill.parallelism=tp1"],
        ["engine.num_gpu_blocks=700"],  # some are preempted
        ["engine=sglang"],
    ],
)
def test_gaps_of_a_request_add_up_to_its_answer(overrides: list[str]) -> None:
    ds = mist.play(mist.load([*CHAT, *overrides, "workload.rate=8", "workload.requests=120"]))
    many = ds.output_tokens.values > 1
    decode = (ds.e2e_s - ds.ttft_s).values
    count = (ds.output_tokens.values - 1)[many].sum()
    assert ds.attrs["itl_mean_s"] * count == pytest.approx(decode[many].sum(), rel=1e-9)
    # the longest is at least the mean and at most all of them
    assert np.all(ds.itl_max_s.values[many] >= ds.tpot_s.values[many] * (1 - 1e-9))
    assert np.all(ds.itl_max_s.values[many] <= decode[many] * (1 + 1e-9))
    assert np.isnan(ds.itl_max_s.values[~many]).all()
    marks = [ds.attrs[f"itl_p{p}_s"] for p in (50, 90, 95, 99)]
    assert marks == sorted(marks)
    assert marks[-1] <= ds.itl_max_s.max()


def test_long_prompts_show_in_the_tail_alone() -> None:
    scenario, count = mist.load(CHAT), 400
    arrival = np.arange(count) * 0.1
    tails = []
    for every in (count + 1, 4):
        prompt = np.where(np.arange(1, count + 1) % every == 0, 8000, 200)
        tails.append(mist.play(scenario, Trace(arrival, prompt, np.full(count, 100))).attrs)
    assert tails[1]["itl_p99_s"] > 5 * tails[0]["itl_p99_s"]
    assert tails[1]["itl_p50_s"] < 1.3 * tails[0]["itl_p50_s"]


def test_a_long_trace_keeps_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = mist.load([*CHAT, "workload.rate=8", "workload.requests=50"])
    whole = mist.play(scenario)
    monkeypatch.setattr(importlib.import_module("mist_jax.play"), "GAPS_UP_TO", 100)
    short = mist.play(scenario)
    assert "itl_max_s" not in short
    assert not [name for name in short.attrs if str(name).startswith("itl")]
    np.testing.assert_array_equal(short.e2e_s, whole.e2e_s)
