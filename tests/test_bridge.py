"""The steady state against the exact playback: one engine, Poisson arrivals, moderate load."""

from __future__ import annotations

import numpy as np
import pytest

import mist_jax as mist
from mist_jax import build
from mist_jax.queueing.admission import admission_lag
from mist_jax.queueing.bridge_error import bridge_error
from mist_jax.queueing.gated import expected_chunks, gated_ttft, others_seen


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


def test_others_that_one_sees():
    counts = np.linspace(0.0, 40.0, 200)
    np.testing.assert_allclose(others_seen(counts, 1.0), counts)  # PASTA: as many as there are
    even = np.asarray(others_seen(counts, 0.0))
    assert even[0] == 0
    assert (np.diff(even) > 0).all()
    assert even[-1] == pytest.approx(39.0)  # a fixed number less oneself
    # drawn: a binomial has a variance of 0.75 of its mean, and its size-biased mean is that of the others plus one
    drawn = np.random.default_rng(0).binomial(80, 0.25, 200_000).astype(float)
    assert float(others_seen(20.0, 0.75)) == pytest.approx((drawn**2).mean() / drawn.mean() - 1.0, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_several_replicas_as_played(engine: str, replicas: int):
    """Lanes that a router evens out: TTFT within 5 %, TPOT within 2 % of the playback's."""
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", f"engine={engine}"]
    base += [f"parallelism.replicas={replicas}", "workload.arrivals=poisson", "workload.isl=2048"]
    base += ["workload.isl_cv=0.5", "workload.osl=256", "workload.osl_cv=0.5", "workload.requests=6000"]
    idle = mist.evaluate(mist.load([*base, "workload.rate=1"]), elasticities=False)
    for load in (0.1, 0.3, 0.6):
        scenario = mist.load([*base, f"workload.rate={load / float(idle['load'])}"])
        steady, played = mist.evaluate(scenario, elasticities=False), mist.play(scenario)
        ttft = float(steady.ttft_s / played.ttft_s[600:].mean()) - 1.0
        tpot = float(steady.tpot_s / played.tpot_s[600:].mean()) - 1.0
        print(f"{engine} {replicas} replicas, load {load}: TTFT {ttft:+.3f}, TPOT {tpot:+.3f}")
        assert abs(ttft) < 0.05
        assert abs(tpot) < 0.02


def test_expected_chunks_of_a_lognormal_prompt():
    rng = np.random.default_rng(0)
    mean, cv, room = 3000.0, 0.9, 2048.0
    s = np.sqrt(np.log1p(cv**2))
    sample = rng.lognormal(np.log(mean) - s**2 / 2, s, 400_000)
    assert float(expected_chunks(mean, cv, room)) == pytest.approx(np.ceil(sample / room).mean(), rel=0.01)


def test_the_stated_error_is_that_of_the_table():
    for load in (0.1, 0.5):
        row = bridge_error(load)
        for low, middle, high in row.values():
            assert low <= middle <= high
        assert abs(row["ttft"][1]) < 0.1, load  # half loaded and less the closed form is close
    assert bridge_error(0.0) == bridge_error(0.1)
    between = bridge_error(0.6)["ttft"][1]
    assert between == pytest.approx(0.5 * (bridge_error(0.5)["ttft"][1] + bridge_error(0.7)["ttft"][1]))


def test_open_loops_state_their_error_and_closed_ones_do_not():
    few = ["model=llama3_1_8b", "parallelism=tp1", "workload.rate=4"]
    ds = mist.evaluate(mist.load([*few, "workload.arrivals=poisson"]))
    error = ds.ttft_bridge_error
    assert error.attrs["low"] <= float(error) <= error.attrs["high"]
    assert int(ds.kv_bound) == 0
    assert "warning" not in ds.attrs
    assert "ttft_bridge_error" not in mist.evaluate(mist.load([*few, "workload.arrivals=closed"]))


def test_memory_that_binds_is_marked():
    spec = [
        "model=llama3_1_8b",
        "parallelism=tp1",
        "workload.arrivals=poisson",
        "engine.memory_utilization=0.3",
    ]
    capacity = 0.1 / float(mist.evaluate(mist.load([*spec, "workload.rate=0.1"]))["load"])
    for share, bound in ((0.3, 0), (0.8, 1)):
        ds = mist.evaluate(mist.load([*spec, f"workload.rate={share * capacity}"]))
        assert int(ds.kv_bound) == bound
        assert ("warning" in ds.attrs) == bool(bound)


def test_prompts_of_one_iteration_share_what_it_costs_to_have_any():
    args = (1000.0, 0.0, 1e9, 1.0)
    alone = float(gated_ttft(1e-9, 0.02, 0.03, *args[:3], 0.0, 0.02))
    assert alone == pytest.approx(0.07, rel=1e-3)
    # simulated: an iteration lasts 20 ms, 20 ms more if it has prompts, and 30 ms more for each
    rng = np.random.default_rng(2)
    rate, own, fixed, decode = 12.0, 0.03, 0.02, 0.02
    arrivals = np.cumsum(rng.exponential(1.0 / rate, 60_000))
    clock, i, total, n = 0.0, 0, 0.0, arrivals.size
    while i < n:
        j = int(np.searchsorted(arrivals, clock, side="right"))
        end = clock + decode + (fixed + own * (j - i) if j > i else 0.0)
        total += np.sum(end - arrivals[i:j])
        i, clock = j, end
    simulated = total / n
    predicted = float(gated_ttft(rate, decode, own, *args, fixed))
    assert predicted == pytest.approx(simulated, rel=0.015)
    # each paying for itself would be far too long
    assert float(gated_ttft(rate, decode, own + fixed, *args)) > 1.2 * simulated


def budgeted(isl: float, room: float, cv: float, load: float, beside: float, n: int = 40_000) -> float:
    """Formula over simulation, less 1: iterations of at most `room` prompt tokens in order of arrival.

    `load` is that of full iterations; decodes run in each iteration (`beside` 1) or between those of prompts (0).
    """
    rng = np.random.default_rng(3)
    decode, fixed, token = 0.015, 0.004, 2.5e-5
    busy = beside * decode + fixed
    rate = load / (token * isl + busy * isl / room)
    arrivals = np.cumsum(rng.exponential(1.0 / rate, n))
    spread = np.sqrt(np.log1p(cv**2))
    left = rng.lognormal(np.log(isl) - spread**2 / 2, spread, n)
    mean, over = left.mean(), left.std() / left.mean()
    clock, head, total = 0.0, 0, 0.0
    while head < n:
        came, budget, end = int(np.searchsorted(arrivals, clock, side="right")), room, head
        while end < came and left[end] <= budget:
            budget -= left[end]
            end += 1
        if end < came:
            left[end] -= budget
            budget = 0.0
        clock += busy + token * (room - budget) if came > head else decode
        total += float(np.sum(clock - arrivals[head:end]))
        head = end
    return (
        float(gated_ttft(rate, decode, token * mean, mean, over, room, 1.0, fixed, beside)) / (total / n)
        - 1.0
    )


@pytest.mark.parametrize(
    ("isl", "room", "beside"), [(1000.0, 2000.0, 1.0), (4000.0, 1000.0, 1.0), (300.0, 2000.0, 0.0)]
)
def test_a_budget_makes_prompts_wait_and_leaves_fewer_behind(isl: float, room: float, beside: float):
    assert budgeted(isl, room, 0.5, 0.7, beside) == pytest.approx(0.0, abs=0.06)  # sampling error about 2 %


@pytest.mark.slow
def test_waits_under_a_budget_over_its_range():
    """The figures of the docstring of `queueing.gated`."""
    rooms, loads = (0.5, 2.0, 8.0), (0.3, 0.6, 0.8)
    errors = np.array(
        [
            budgeted(1000.0, 1000.0 * k, cv, load, beside, n=30_000)
            for k in rooms
            for cv in (0.1, 1.0, 2.0)
            for load in loads
            for beside in (1.0, 0.0)
        ]
    )
    print(f"{errors.size} cases: median {np.median(abs(errors)):.4f}, most {abs(errors).max():.3f}")
    assert np.median(abs(errors)) < 0.03
    assert abs(errors).max() < 0.2  # cv 2 with room for 8 prompts at load 0.8


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_what_engines_wait_before_they_look_at_a_request_is_played_too(engine: str):
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload.arrivals=poisson"]
    base += [f"engine={engine}", "workload.requests=3000", "workload.isl=1024", "workload.osl=256"]
    base += ["workload.isl_cv=0.5", "workload.osl_cv=0.5"]
    half = 0.5 / float(mist.evaluate(mist.load([*base, "workload.rate=1"]))["load"])
    scenario = mist.load([*base, f"workload.rate={half}"])
    steady, played = mist.evaluate(scenario), mist.play(scenario)
    # a lag of part of an iteration (SGLang 0.3) costs the playback less than its mean, as requests that came in other
    # iterations meet at one look: +3.4 % here, +1.4 % with a lag of 0, 1 or 2 (docs/not_modelled.md)
    lag = float(admission_lag(build.build_system(scenario)))
    whole = abs(lag - round(lag)) < 0.2
    for name in ("ttft_s", "tpot_s"):
        mean = float(played[name][300:].mean())
        assert float(steady[name]) == pytest.approx(mean, rel=0.03 if whole or name == "tpot_s" else 0.05), (
            name
        )


@pytest.mark.slow
@pytest.mark.parametrize("isl", [1024, 4096])
def test_waits_between_looks_over_their_range(isl: int):
    """Mean TTFT within 7 % up to a load of 0.4 (2 % of it by a lag of part of an iteration, as above), and 15 % at 0.7,
    where gathered prompts exceed the budget."""
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "engine=sglang", "workload.arrivals=poisson"]
    base += ["workload.requests=3000", f"workload.isl={isl}", f"workload.osl={512 if isl == 1024 else 256}"]
    for rate in (1, 8, 16):
        for interval in (1, 10, 30):
            scenario = mist.load(
                [*base, f"workload.rate={rate}", f"engine.scheduler_recv_interval={interval}"]
            )
            steady = mist.evaluate(scenario, elasticities=False)
            error = float(steady.ttft_s / mist.play(scenario).ttft_s[300:].mean()) - 1.0
            print(f"ISL {isl} rate {rate} interval {interval} load {float(steady['load']):.2f}: {error:+.3f}")
            assert abs(error) < (0.07 if float(steady["load"]) < 0.4 else 0.15)


@pytest.mark.parametrize("interval", [10, 30])
def test_looks_at_new_requests_are_apart_in_both(interval: int):
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "engine=sglang", "workload.arrivals=poisson"]
    base += ["workload.requests=3000", "workload.isl=1024", "workload.osl=512", "workload.rate=5"]
    scenario = mist.load([*base, f"engine.scheduler_recv_interval={interval}"])
    steady, played = mist.evaluate(scenario), mist.play(scenario)
    each = mist.evaluate(mist.load(base))
    for name in ("ttft_s", "tpot_s"):
        mean = float(played[name][300:].mean())
        assert float(steady[name]) == pytest.approx(mean, rel=0.03), name
    # half of the iterations between two looks, for all but those who come while prompts run
    more = float(steady.ttft_s - each.ttft_s) / float(steady.step_s)
    assert 0.4 * (interval - 1) < more < 0.6 * (interval - 1)
    # which share an iteration then: fewer hold decodes up
    assert float(steady.prefill_share) < float(each.prefill_share)
    assert float(steady.tpot_s) < float(each.tpot_s)


def test_only_ranks_that_hold_prompts_back_let_them_wait():
    ranks = ["model=qwen3_30b_a3b", "hardware=h200_sxm", "parallelism=tp1"]
    lag = {}
    for engine in ("vllm", "sglang", "trtllm"):
        one, four = (
            build.build_system(mist.load([*ranks, f"engine={engine}", f"parallelism.dp={n}"])) for n in (1, 4)
        )
        lag[engine] = [float(admission_lag(x)) for x in (one, four)]
    assert lag["vllm"][0] == lag["vllm"][1] < 0.2
    assert lag["sglang"][0] == lag["sglang"][1]
    assert lag["trtllm"][1] > lag["trtllm"][0] + 10.0


def test_the_iteration_scheduled_ahead_counts_in_both():
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload.arrivals=poisson"]
    base += ["workload.rate=4", "workload.requests=3000", "workload.isl=512", "workload.osl=256"]
    steady, played = {}, {}
    for version in ("0.12", "0.19"):
        scenario = mist.load([*base, f"engine.version='{version}'"])
        steady[version] = mist.evaluate(scenario)
        played[version] = mist.play(scenario)
        assert float(steady[version].ttft_s) == pytest.approx(float(played[version].ttft_s.mean()), rel=0.04)
    # coefficients of the versions differ; what is outside of iterations is taken off by the play
    outside = {v: float(p.stage_s.sel(stage="request").mean()) for v, p in played.items()}
    more = {v: float(steady[v].ttft_s) - outside[v] for v in steady}
    iteration = float(steady["0.19"].step_s)
    assert more["0.19"] - more["0.12"] == pytest.approx(iteration, rel=0.25)
