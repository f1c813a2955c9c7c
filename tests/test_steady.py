"""Laws of the steady state: no-load limits, Little's law, monotony, capacity, conservation of work."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from programs import HARDWARE, MODELS, closed, compact, make_batch, make_system, make_workload, opened, step

from mist_jax.errors import Status
from mist_jax.pytree import replace
from mist_jax.queueing import steady

FAMILIES = (
    ("llama3_1_8b", {}),
    ("llama3_1_70b", {"tp": 8}),
    ("llama3_1_70b", {"tp": 8, "pp": 2}),
    ("qwen3_30b_a3b", {"tp": 2}),
    ("deepseek_v3", {"dp": 16, "ep": 16}),
    ("qwen3_5_35b_a3b", {"tp": 2}),
)


def chips(system) -> float:
    par = system.parallel
    return float(par.tp * par.pp * par.dp)


def lanes(system) -> float:
    return float(system.parallel.dp * system.parallel.pp)


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
def test_no_load_is_one_request_alone(model: str, parallel: dict) -> None:
    """TTFT = request overhead + its prefill iteration, TPOT = decode of one sequence at its mean context."""
    system = make_system(model, **parallel)
    workload = make_workload(isl=1000, osl=200, concurrency=lanes(system), rate=1e-7)
    # the prompt is prefilled beside the place that it decodes in itself: at most one decoding token more
    prefill = float(step(system, make_batch(prefill=1000, decode=1, context=1100)).seconds)
    alone = float(step(system, make_batch(prefill=1000)).seconds)
    decode = float(step(system, make_batch(decode=1, context=1100)).seconds)
    request = float(system.calibration.step.request_s)
    for state in (closed(system, workload, 1.0), opened(system, workload, 1.0)):
        assert int(state.status) == Status.OK
        assert float(state.tpot) == pytest.approx(decode, rel=2e-3)
        assert alone + request <= float(state.ttft) <= (prefill + request) * 1.001
        assert float(state.ttft) == pytest.approx(alone + request, rel=0.03)
        assert float(state.e2e) == pytest.approx(float(state.ttft) + 199 * float(state.tpot), rel=1e-12)


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
@pytest.mark.parametrize("users", [1, 7, 64, 400, 5000])
def test_littles_law(model: str, parallel: dict, users: int) -> None:
    """Requests in flight = rate x time in the system = those that decode + those that wait for a first token."""
    system = make_system(model, **parallel)
    concurrency = users * lanes(system)
    state = closed(system, make_workload(isl=500, osl=100, concurrency=concurrency), 1.0)
    assert float(state.rate) * float(state.e2e) == pytest.approx(concurrency, rel=1e-6)
    in_flight = (float(state.running) + float(state.waiting)) * lanes(system)
    assert in_flight == pytest.approx(concurrency, rel=1e-6)


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
def test_more_users_more_throughput_slower_tokens(model: str, parallel: dict) -> None:
    system = make_system(model, **parallel)
    states = [
        closed(system, make_workload(concurrency=c * lanes(system)), 1.0)
        for c in (1, 2, 4, 8, 16, 32, 64, 128)
    ]
    for name in ("rate", "tpot", "ttft", "kv_occupancy"):
        values = [float(getattr(s, name)) for s in states]
        assert values == sorted(values), name


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
def test_higher_rate_slower_answers(model: str, parallel: dict) -> None:
    system = make_system(model, **parallel)
    top = float(opened(system, make_workload(rate=1.0), 1.0).load)
    states = [opened(system, make_workload(rate=x / top), 1.0) for x in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)]
    for name in ("tpot", "ttft", "load", "running"):
        values = [float(getattr(s, name)) for s in states]
        assert values == sorted(values), name


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
@pytest.mark.parametrize("name", ["memory_bandwidth", "peak_flops", "scale_up_bandwidth", "memory_capacity"])
def test_faster_chips_serve_no_worse(model: str, parallel: dict, name: str) -> None:
    system = make_system(model, **parallel)
    chip = replace(system.hardware, **{name: np.asarray(getattr(system.hardware, name) * 1.5)})
    better = replace(system, hardware=chip)
    for users in (1, 30, 300):
        workload = make_workload(concurrency=users * lanes(system))
        before, after = (closed(s, workload, 1.0) for s in (system, better))
        assert float(after.rate) >= float(before.rate) * (1 - 1e-6), users


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
def test_offered_rate_is_served_below_capacity_and_refused_above(model: str, parallel: dict) -> None:
    system = make_system(model, **parallel)
    capacity = 1.0 / float(opened(system, make_workload(rate=1.0), 1.0).load)
    below = opened(system, make_workload(rate=0.95 * capacity), 1.0)
    assert int(below.status) == Status.OK
    assert float(below.rate) == pytest.approx(0.95 * capacity, rel=1e-4)
    above = opened(system, make_workload(rate=1.05 * capacity), 1.0)
    assert int(above.status) == Status.UNSTABLE
    assert float(above.load) == pytest.approx(1.05, rel=1e-6)
    assert float(above.rate) <= capacity * (1 + 1e-6)
    # no number of users gets more out of it
    crowd = closed(system, make_workload(concurrency=1e6), 1.0)
    assert float(crowd.rate) == pytest.approx(capacity, rel=0.02)


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_closed_and_open_loop_agree(model: str, parallel: dict, share: float) -> None:
    """The rate of a closed loop of many users, offered open, gives nearly the same decoding batch and TPOT."""
    system = make_system(model, **parallel)
    capacity = 1.0 / float(opened(system, make_workload(rate=1.0), 1.0).load)
    start = opened(system, make_workload(rate=share * capacity), 1.0)
    users = float(start.running + start.waiting) * lanes(system)
    loop = closed(system, make_workload(concurrency=users), 1.0)
    assert float(loop.rate) == pytest.approx(share * capacity, rel=0.06)
    assert float(loop.tpot) == pytest.approx(float(start.tpot), rel=0.06)


@pytest.mark.parametrize(("model", "parallel"), FAMILIES)
def test_work_is_conserved(model: str, parallel: dict) -> None:
    """FLOPs that the chips do a second = rate x FLOPs of a request (prefill + every decode step)."""
    system = make_system(model, **parallel)
    isl, osl, users = 1000, 101, 200
    state = closed(system, make_workload(isl=isl, osl=osl, concurrency=users * lanes(system)), 1.0)
    done = float(state.flops_utilization) * float(system.hardware.peak_flops[1]) * chips(system)
    # FLOPs of a rank's batch: x tp chips x pp stages; the experts of all ranks are in every chip's share
    per_rank = float(system.parallel.tp * system.parallel.pp)
    prefill = float(step(system, make_batch(prefill=isl)).flops.sum()) * per_rank
    decode = float(step(system, make_batch(decode=1, context=isl + osl / 2)).flops.sum()) * per_rank
    assert done == pytest.approx(float(state.rate) * (prefill + (osl - 1) * decode), rel=0.03)


def test_replicas_share_the_load() -> None:
    system = make_system("llama3_1_8b")
    one = closed(system, make_workload(concurrency=20), 1.0)
    four = closed(system, make_workload(concurrency=80), 4.0)
    assert float(four.rate) == pytest.approx(4 * float(one.rate), rel=1e-9)
    assert float(four.tpot) == pytest.approx(float(one.tpot), rel=1e-9)


def test_sequences_beyond_the_limit_wait() -> None:
    """max_num_seqs = 8 with 64 users: 8 decode at once, and the rest waits for its first token."""
    system = make_system("llama3_1_8b", max_num_seqs=8)
    state = closed(system, make_workload(isl=500, osl=300, concurrency=64), 1.0)
    assert float(state.running) == pytest.approx(8, rel=1e-9)
    assert float(state.waiting) == pytest.approx(56, rel=1e-6)


def test_kv_memory_limits_the_batch() -> None:
    """A chip with memory for few long requests: what decodes holds no more than the cache."""
    system = make_system("llama3_1_8b", "l4")
    state = closed(system, make_workload(isl=6000, osl=500, concurrency=100), 1.0)
    assert 0.9 < float(state.kv_occupancy) <= 1.001
    assert float(state.running) < 20
    assert float(state.ttft) > 10 * float(
        closed(system, make_workload(isl=6000, osl=500, concurrency=1), 1.0).ttft
    )


@pytest.mark.parametrize(
    ("system", "workload", "status"),
    [
        (lambda: make_system("llama3_1_70b"), {}, Status.OUT_OF_MEMORY),
        (lambda: make_system("llama3_1_8b", "l4"), {"isl": 60000}, Status.KV_TOO_SMALL),
        (lambda: make_system("mixtral_8x7b", tp=8), {"isl": 40000}, Status.CONTEXT_TOO_LONG),
    ],
)
def test_what_cannot_be_gets_a_code_and_no_numbers(system, workload: dict, status: Status) -> None:
    for program in (closed, opened):
        state = program(system(), make_workload(**workload), 1.0)
        assert int(state.status) == status
        assert np.isnan(state.ttft)
        assert np.isnan(state.rate)


def test_one_program_serves_all_models_and_chips() -> None:
    for model in MODELS:
        for hardware in ("h100_sxm", "tpu_v5e"):
            closed(make_system(model, hardware), make_workload(), 1.0)
            opened(make_system(model, hardware), make_workload(), 1.0)
    for hardware in HARDWARE:
        state = closed(make_system("qwen3_0_6b", hardware), make_workload(), 1.0)
        assert int(state.status) == Status.OK, hardware
        assert np.isfinite(float(state.tpot)), hardware
    assert closed.traces == 1
    assert opened.traces == 1


def test_vmap_equals_loop() -> None:
    systems = [make_system(m, **p) for m, p in FAMILIES]
    workloads = [make_workload(concurrency=10 * (i + 1), isl=300 * (i + 1)) for i in range(len(systems))]
    stacked = jax.tree.map(lambda *x: np.stack(x), *zip(systems, workloads, strict=True))
    together = compact(jax.vmap(lambda s, w: steady.closed_loop(s, w, 1.0)))(*stacked)
    for i, (system, workload) in enumerate(zip(systems, workloads, strict=True)):
        alone = closed(system, workload, 1.0)
        for name in ("ttft", "tpot", "rate", "running", "breakdown", "power"):
            got = np.asarray(getattr(together, name))[i]
            np.testing.assert_allclose(got, getattr(alone, name), rtol=1e-8, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(
    ("apart", "isl_cv", "kept"), [(1.0, 0.0, True), (0.0, 0.0, False), (1.0, 0.5, False)]
)
def test_equal_prompts_keep_their_rounds_only_where_they_run_before_decodes(
    apart: float, isl_cv: float, kept: bool
) -> None:
    system = make_system("llama3_1_8b")
    system = replace(system, engine=replace(system.engine, separate_prefill=np.float64(apart)))
    workload = replace(make_workload(concurrency=32, isl_cv=isl_cv), burst_share=np.float64(0.1))

    def ttft(lockstep: float) -> float:
        coefficients = replace(system.calibration.step, lockstep=np.float64(lockstep))
        calibration = replace(system.calibration, step=coefficients)
        return float(closed(replace(system, calibration=calibration), workload).ttft)

    loose, locked = ttft(0.0), ttft(1.0)
    if kept:
        assert locked > 1.5 * loose
    else:
        assert locked == pytest.approx(loose, rel=1e-9)


#: Programs of their own, traced only while the test below takes more steps.
TO_THE_END = tuple(compact(lambda s, w, f=f: f(s, w)) for f in (steady.open_loop, steady.closed_loop))


@pytest.mark.slow  # two programs of its own
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.98, 0.995])
@pytest.mark.parametrize("family", [0, 4])
def test_the_root_is_found_in_few_steps(monkeypatch, family: int, share: float) -> None:
    """The steps that `solve_load` takes suffice: 25 change no figure by more than 1e-5, near saturation too."""
    from mist_jax.queueing import root

    model, parallel = FAMILIES[family]
    system = make_system(model, **parallel)
    capacity = float(opened(system, make_workload(isl=1500, osl=150, rate=1e9), 1.0).rate)
    workload = make_workload(
        isl=1500, osl=150, rate=share * capacity, concurrency=400 * share * lanes(system)
    )
    found = [opened(system, workload, 1.0), closed(system, workload, 1.0)]
    monkeypatch.setattr(root, "POLISH", 25)
    exact = [f(system, workload) for f in TO_THE_END]
    for state, true in zip(found, exact, strict=True):
        np.testing.assert_allclose(
            [state.ttft, state.tpot, state.rate], [true.ttft, true.tpot, true.rate], rtol=1e-5
        )


@pytest.mark.slow  # four programs of its own
@pytest.mark.parametrize(
    ("workload", "axis", "loads"),
    [("chat", "rate", np.geomspace(0.05, 60, 8)), ("closed_1k_1k", "concurrency", np.geomspace(1, 1000, 8))],
)
def test_the_root_is_found_all_over_a_design_space(monkeypatch, tmp_path, workload, axis, loads) -> None:
    """Against 25 steps: no figure of 2,592 deployments is further off than 1e-3, and hardly any than 1e-6."""
    import mist_jax as mist
    from mist_jax.explore import block
    from mist_jax.queueing import root

    axes = {
        "model": ["llama3_1_8b", "llama3_1_70b", "gpt_oss_120b"],
        "hardware": ["h100_sxm", "l40s", "mi300x"],
        "parallelism": ["tp1", "tp2", "tp8"],
        f"workload.{axis}": loads,
        "workload.isl": [256, 2048, 16000],
        "workload.osl": [64, 512, 2048, 4096],
    }
    swept = []
    for polish in (root.POLISH, 25):
        monkeypatch.setattr(root, "POLISH", polish)
        monkeypatch.setattr(block, "PROGRAMS", block.Programs())
        monkeypatch.setenv(
            "MIST_CACHE_DIR", str(tmp_path / str(polish))
        )  # kept programs do not know of the patch
        scenario = mist.load([f"workload={workload}"])
        swept.append(mist.sweep(scenario, axes, variables=["ttft_s", "tpot_s"], progress=False))
    few, many = swept
    np.testing.assert_array_equal(few.status, many.status)
    works = (many.status == 0).values
    assert works.sum() > 800
    for name in ("ttft_s", "tpot_s"):
        off = np.abs(few[name].values / many[name].values - 1.0)[works]
        assert off.max() < 1e-3
        assert np.quantile(off, 0.99) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "near"), [("trtllm", 0.10), ("vllm", 0.22)])
def test_the_end_of_a_prompt_meets_the_next_one(engine: str, near: float) -> None:
    """Prompts a bit longer than what decodes leave of a chunk end in an iteration that the next one fills."""
    import mist_jax as mist

    overrides = ["model=llama3_1_70b", "hardware=h100_sxm", "parallelism=tp8", f"engine={engine}"]
    overrides += ["workload=closed_1k_1k", "workload.isl=8192", "workload.osl=256", "workload.burst_share=0"]
    overrides += [
        "workload.isl_cv=0",
        "workload.osl_cv=0.3",
        "workload.concurrency=64",
        "workload.requests=768",
    ]
    scenario = mist.load(overrides)
    steady, played = mist.evaluate(scenario), mist.play(scenario).isel(request=slice(150, None))
    assert float(steady.ttft_s) == pytest.approx(float(played.ttft_s.mean()), rel=near)
    assert float(steady.e2e_s) == pytest.approx(float(played.e2e_s.mean()), rel=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["vllm", "sglang"])
def test_prompts_apart_as_played(policy: str) -> None:
    """SGLang's iterations of prompts alone: what the closed form says is what the playback counts.

    But for `queue_scale`, by which the fit lengthens the wait behind a burst of prompts; it is not played.
    """
    import mist_jax as mist
    from mist_jax import build

    overrides = ["model=llama3_1_8b", "hardware=h100_sxm", "engine=sglang", "workload=closed_1k_1k"]
    overrides += ["workload.concurrency=32", "workload.requests=320", "workload.isl=2048", "workload.osl=256"]
    overrides += ["workload.isl_cv=0.1", "workload.osl_cv=0.1", f"engine.policy={policy}"]
    scenario = mist.load(overrides)
    assert float(build.build_system(scenario).engine.separate_prefill) == (policy == "sglang")
    assert mist.load(["engine=sglang"]).engine.policy == "sglang"
    played, system = mist.play(scenario), build.build_system(scenario)
    step = replace(system.calibration.step, queue_scale=1.0)
    system = replace(system, calibration=replace(system.calibration, step=step))
    steady = closed(system, build.build_workload(scenario))
    assert float(played.ttft_s.mean()) == pytest.approx(float(steady.ttft), rel=0.06)
    assert float(played.e2e_s.mean()) == pytest.approx(float(steady.e2e), rel=0.03)
    pooled = build.build_system(mist.load([*overrides, "prefill=pool"]))
    assert float(pooled.engine.separate_prefill) == 0.0
