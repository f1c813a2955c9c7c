"""Closed loops that the KV cache limits: who waits for what, in the steady state and in the playback."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import closed, make_system, make_workload, opened, quick

import mist_jax as mist
from mist_jax.physics.memory import memory_use
from mist_jax.pipelines.queue import erlang_c
from mist_jax.pytree import replace
from mist_jax.queueing.lane import make_lane
from mist_jax.queueing.places import waits_probability
from mist_jax.queueing.steady import closed_loop

BLOCK = {"vllm": 16, "sglang": 1, "trtllm": 32}


@pytest.mark.parametrize(("policy", "share"), [("vllm", 0.5), ("sglang", 0.5), ("trtllm", 1.0)])
def test_the_limit_is_of_answers_half_done_or_of_whole_ones(policy: str, share: float) -> None:
    system = make_system("llama3_1_8b", "l4", name=policy, policy=policy)
    lane = make_lane(system, make_workload(isl=500, osl=2000))
    tokens = float(memory_use(system).kv_tokens)
    assert float(lane.limit) == pytest.approx(tokens / (500 + share * 2000), rel=1e-12)
    assert (float(lane.evicted) > 0) == (policy != "trtllm")
    # long answers are seen longer: E[O^2] / E[O]
    spread = make_lane(system, make_workload(isl=500, osl=2000, osl_cv=1.0))
    assert float(spread.limit) == pytest.approx(tokens / (500 + share * 4000), rel=1e-12)
    # slots are no memory: nobody is preempted for one
    few = make_lane(make_system("llama3_1_8b", "l4", max_num_seqs=2), make_workload(isl=500, osl=500))
    assert float(few.limit) == 2
    assert float(few.evicted) == 0


@pytest.mark.parametrize("policy", ["vllm", "trtllm"])
@pytest.mark.parametrize("clients", [4.0, 12.0, 60.0])
def test_everybody_is_somewhere(policy: str, clients: float) -> None:
    """Little's law over the whole loop: clients = rate x (TTFT + decoding), stalls included."""
    system = make_system("llama3_1_8b", "l4", name=policy, policy=policy)
    state = closed(system, make_workload(isl=500, osl=2000, concurrency=clients), 1.0)
    assert float(state.rate * state.e2e) == pytest.approx(clients, rel=1e-6)


def scenario(engine: str, isl: int, osl: int, clients: int, half_done: float = 40.0) -> mist.Scenario:
    """Memory for `half_done` requests with half of their answers; coefficients of the physics alone."""
    blocks = int(half_done * (isl + osl / 2) / BLOCK[engine])
    overrides = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", f"engine={engine}"]
    overrides += ["calibration=none", "workload=closed_1k_1k", f"engine.num_gpu_blocks={blocks}"]
    numbers = {"isl": isl, "osl": osl, "concurrency": clients, "requests": 10 * clients}
    numbers |= {"isl_cv": 0.06, "osl_cv": 0.06}
    return mist.load([*overrides, *(f"workload.{k}={v}" for k, v in numbers.items())])


@pytest.mark.parametrize(
    ("isl", "osl"), [(1024, 1024), pytest.param(1024, 8192, marks=pytest.mark.slow), (4096, 512)]
)
@pytest.mark.parametrize("clients", [48, 120])
@pytest.mark.parametrize("engine", ["vllm", pytest.param("sglang", marks=pytest.mark.slow), "trtllm"])
def test_as_played(engine: str, isl: int, osl: int, clients: int) -> None:
    """E2E within 10 % (the work done again by the preempted is not counted), 5 % where none is preempted."""
    what = scenario(engine, isl, osl, clients)
    state, played = mist.evaluate(what), mist.play(what)
    near = {"rel": 0.05 if engine == "trtllm" else 0.10}
    assert float(state.e2e_s) == pytest.approx(float(played.e2e_s.mean()), **near)
    assert bool((played.preemptions > 0).any()) == (engine != "trtllm")
    if engine == "trtllm":
        assert float(state.tpot_s) == pytest.approx(float(played.tpot_s.mean()), rel=0.02)
    else:
        # preempted requests wait after their first token: TPOT exceeds that of the batch that fits
        plain = mist.evaluate(mist.with_overrides(what, {"engine.policy": "trtllm"}))
        assert float(state.tpot_s) > float(plain.tpot_s)
        assert float(state.ttft_s) < float(plain.ttft_s)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1024, 2048])
def test_open_loops_as_played(chunk: int) -> None:
    """Prompts of 1,155 tokens (cv 0.96), memory for 68,000: to 0.7 of the capacity TTFT within 8 %, E2E 4 %."""
    overrides = ["model=llama3_1_70b", "hardware=h100_sxm", "parallelism=tp8", "engine=vllm", "workload=chat"]
    numbers = {"workload.isl": 1155, "workload.isl_cv": 0.96, "workload.osl": 211, "workload.osl_cv": 0.77}
    numbers |= {
        "workload.requests": 6000,
        "engine.max_num_batched_tokens": chunk,
        "engine.num_gpu_blocks": 4250,
    }
    numbers |= {"engine.max_num_seqs": 256}

    def at(rate: float) -> mist.Scenario:
        every = {**numbers, "workload.rate": rate}
        return mist.load([*overrides, *(f"{k}={v}" for k, v in every.items())])

    capacity = 0.1 / float(mist.evaluate(at(0.1))["load"])
    state, played = mist.evaluate(at(0.7 * capacity)), mist.play(at(0.7 * capacity))
    settled = played.isel(request=slice(1500, None))
    assert float(state.ttft_s) == pytest.approx(float(settled.ttft_s.mean()), rel=0.08)
    assert float(state.e2e_s) == pytest.approx(float(settled.e2e_s.mean()), rel=0.04)
    assert int(state.kv_bound) == 0
    assert int(mist.evaluate(at(0.9 * capacity)).kv_bound) == 1
    # beyond the capacity of such memory the queue has no end
    late = mist.play(at(1.3 * capacity)).ttft_s.values
    assert late[-500:].mean() > 3 * late[1000:1500].mean() > 20 * float(settled.ttft_s.mean())


@pytest.mark.parametrize("places", [1, 2, 8, 64, 1000])
@pytest.mark.parametrize("taken", [0.2, 0.5, 0.8, 0.95, 0.99])
def test_all_places_taken_is_erlangs_probability(places: int, taken: float) -> None:
    want = erlang_c(places, places * taken)
    got = float(waits_probability(np.asarray(float(places)), np.asarray(taken)))
    assert got == pytest.approx(want, rel=0.03, abs=1e-12)


def test_places_are_waited_for() -> None:
    """None waits where places abound; all do, a fifth of a decode and more, where nearly all are taken."""
    work = make_workload(isl=200, osl=400)
    system = make_system("llama3_1_8b", "h100_sxm", max_num_seqs=16)
    free = replace(system, engine=replace(system.engine, max_num_seqs=np.asarray(4096.0)))
    capacity = 1.0 / float(opened(system, replace(work, rate=np.asarray(1.0)), 1.0).load)
    for load, most in ((0.3, 1.001), (0.97, np.inf)):
        rate = replace(work, rate=np.asarray(load * capacity))
        few, many = (float(opened(s, rate, 1.0).ttft) for s in (system, free))
        assert many <= few <= many * most
    assert few - many > 0.2 * float(opened(system, rate, 1.0).tpot) * 400


@pytest.mark.slow
@pytest.mark.parametrize("clients", [40, 64, 128])
def test_prompts_begun_in_vain_as_played(clients: int) -> None:
    """Prompts of four chunks and vLLM's admission by the first: decodes share iterations with chunks given up again."""
    overrides = [
        "model=llama3_1_70b",
        "hardware=h100_sxm",
        "parallelism=tp8",
        "engine=vllm",
        "workload=closed_1k_1k",
    ]
    numbers = {"isl": 32768, "osl": 256, "isl_cv": 0, "osl_cv": 0.3, "burst_share": 0}
    numbers |= {"concurrency": clients, "requests": 12 * clients}
    what = mist.load([*overrides, *(f"workload.{k}={v}" for k, v in numbers.items())])
    state, played = mist.evaluate(what), mist.play(what).isel(request=slice(2 * clients, None))
    assert float(state.e2e_s) == pytest.approx(float(played.e2e_s.mean()), rel=0.03)
    assert float(state.ttft_s) == pytest.approx(float(played.ttft_s.mean()), rel=0.12)
    # whoever sets the memory of a prompt aside begins none in vain
    apart = mist.evaluate(mist.with_overrides(what, {"engine.policy": "sarathi"}))
    assert (float(apart.e2e_s) < 0.9 * float(state.e2e_s)) == (clients > 40)


@pytest.mark.slow
def test_slopes_agree_with_differences_where_the_memory_is_full() -> None:
    """With the number of clients and the memory, past the limit."""
    system, workload = make_system("llama3_1_8b", "l4"), make_workload(isl=500, osl=2000)

    def figures(logs: jax.Array) -> jax.Array:
        chip = replace(system.hardware, memory_capacity=system.hardware.memory_capacity * jnp.exp(logs[0]))
        load = replace(workload, concurrency=60.0 * jnp.exp(logs[1]))
        state = closed_loop(replace(system, hardware=chip), load, 1.0)
        return jnp.log(jnp.stack([state.ttft, state.tpot, state.rate]))

    run, h = quick(figures), 1e-4
    slopes = quick(jax.jacfwd(figures))(np.zeros(2))
    for i, step in enumerate(np.eye(2) * h):
        want = (np.asarray(run(step)) - np.asarray(run(-step))) / (2 * h)
        np.testing.assert_allclose(np.asarray(slopes)[:, i], want, rtol=1e-3, atol=1e-5)
    assert float(slopes[0, 1]) > 0.5  # more clients wait longer
    assert float(slopes[0, 0]) < -0.5  # more memory, shorter queues
