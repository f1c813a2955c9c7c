"""Laws of `step_time`: bounds, monotony, additivity; one compiled program for every model and chip."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from programs import HARDWARE, MODELS, make_batch, make_system, operators, quick, step

from mist_jax import build, load
from mist_jax.physics.operators import OPERATORS
from mist_jax.physics.resolve import resolve
from mist_jax.physics.step import STEP_PARTS, step_seconds, step_time
from mist_jax.pytree import replace

#: One of each family: dense, MoE, MLA + MoE, sliding window, recurrent hybrid, sparse indexer, compressed.
FAMILIES = (
    "llama3_1_8b",
    "mixtral_8x7b",
    "deepseek_v3",
    "gpt_oss_120b",
    "qwen3_5_35b_a3b",
    "deepseek_v3_2",
    "deepseek_v4_flash",
    "kimi_k3",
    "nemotron_nano_9b_v2",
)
MIXED = make_batch(prefill=1000, past=500, decode=24, context=2500)


def seconds(system, batch) -> float:
    return float(step(system, batch).seconds)


def with_hardware(system, **factors: float):
    chip = {name: np.asarray(getattr(system.hardware, name) * f) for name, f in factors.items()}
    return replace(system, hardware=replace(system.hardware, **chip))


def test_one_program_serves_all_models_and_chips() -> None:
    """Every model on several chips, and every chip with several models: traced once."""
    chips = ("h100_sxm", "mi355x", "tpu_v6e", "epyc_9654")
    pairs = [(m, h) for m in MODELS for h in chips] + [(m, h) for h in HARDWARE for m in FAMILIES[:3]]
    for model, hardware in pairs:
        out = step(make_system(model, hardware), MIXED)
        assert np.isfinite(out.seconds), (model, hardware)
        assert out.seconds > 0, (model, hardware)
        assert np.all(out.by_operator >= 0), (model, hardware)
    assert step.traces == 1


def test_parallelism_and_engine_do_not_retrace() -> None:
    for kwargs in (
        {"tp": 8},
        {"tp": 4, "pp": 2},
        {"dp": 8, "ep": 8},
        {"tp": 8, "ep": 8, "cuda_graphs": False},
    ):
        step(make_system("deepseek_v3", **kwargs), MIXED)
    assert step.traces == 1


@pytest.mark.parametrize("model", FAMILIES)
def test_breakdown_sums_to_the_whole(model: str) -> None:
    out = step(make_system(model), MIXED)
    assert out.by_operator.shape == (len(STEP_PARTS),)
    assert out.by_operator.sum() == pytest.approx(float(out.seconds), rel=1e-12)


@pytest.mark.parametrize("model", FAMILIES)
def test_no_operator_beats_the_roofline(model: str) -> None:
    """Seconds >= FLOPs over the fastest unit, and >= bytes over the memory bandwidth."""
    for batch in (MIXED, make_batch(decode=1, context=100), make_batch(prefill=8192)):
        system = make_system(model)
        for name, cost in operators(system, batch).items():
            if name == "host":
                continue
            fastest = float(np.max(system.hardware.peak_flops))
            assert cost["seconds"] >= cost["flops"] / fastest, name
            assert cost["seconds"] >= cost["bytes"] / float(system.hardware.memory_bandwidth) * (1 - 1e-9), (
                name
            )


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    "rates",
    [
        ("memory_bandwidth",),
        ("peak_flops",),
        ("scale_up_bandwidth",),
        ("scale_out_bandwidth",),
        ("clock",),
        ("memory_capacity",),
        ("host_bandwidth",),
        ("memory_bandwidth", "peak_flops", "scale_up_bandwidth", "cache_bandwidth"),
    ],
)
def test_faster_chips_are_never_slower(model: str, rates: tuple[str, ...]) -> None:
    system = make_system(model, tp=8)
    before = seconds(system, MIXED)
    for factor in (1.05, 2.0, 10.0):
        after = seconds(with_hardware(system, **dict.fromkeys(rates, factor)), MIXED)
        assert after <= before * (1 + 1e-12), factor
        before = after


@pytest.mark.parametrize("model", FAMILIES)
def test_slower_links_are_never_faster(model: str) -> None:
    # eight chips in two domains
    system = with_hardware(make_system(model, tp=8), scale_up_domain=0.5)
    for name in ("scale_up_latency", "scale_out_latency"):
        assert seconds(with_hardware(system, **{name: 3.0}), MIXED) >= seconds(system, MIXED), name


@pytest.mark.parametrize("model", FAMILIES)
def test_more_work_is_never_faster(model: str) -> None:
    """Tokens, past, sequences and context one by one, at random batches."""
    system = make_system(model)
    rng = np.random.default_rng(7)
    for _ in range(20):
        base = {
            "prefill": float(rng.integers(1, 4096)),
            "past": float(rng.integers(0, 20000)),
            "decode": float(rng.integers(1, 256)),
            "context": float(rng.integers(1, 30000)),
        }
        before = seconds(system, make_batch(**base))
        for key in base:
            more = {**base, key: base[key] + float(rng.integers(1, 1000))}
            assert seconds(system, make_batch(**more)) >= before * (1 - 1e-12), (key, base)


@pytest.mark.parametrize("model", FAMILIES)
def test_prefill_and_decode_attention_are_separable(model: str) -> None:
    """A mixed iteration = its token terms at the sum of tokens + each attention alone (the step table's premise)."""
    system = make_system(model)
    mixed = operators(system, MIXED)
    alone = operators(system, make_batch(prefill=1000, past=500))
    decode = operators(system, make_batch(decode=24, context=2500))
    for name in ("attention_prefill", "attention_decode", "attention_index", "recurrence"):
        assert mixed[name]["seconds"] == pytest.approx(
            alone[name]["seconds"] + decode[name]["seconds"], rel=1e-9
        ), name
    tokens = operators(system, make_batch(decode=1024, context=1))
    for name in (
        "attention_in",
        "attention_out",
        "ffn_dense",
        "ffn_shared",
        "router",
        "experts",
        "elementwise",
    ):
        assert mixed[name]["seconds"] == pytest.approx(tokens[name]["seconds"], rel=1e-12), name


def test_an_empty_iteration_takes_nothing() -> None:
    for model in FAMILIES:
        out = step(make_system(model, tp=8), make_batch())
        assert float(out.seconds) == 0.0, model
        assert float(out.flops.sum() + out.bytes.sum() + out.sent.sum()) == 0.0, model


def test_emitting_costs_the_lm_head_alone() -> None:
    system = make_system("llama3_1_8b")
    quiet, loud = (operators(system, make_batch(prefill=512, emitting=e)) for e in (0, 1))
    changed = {n for n in OPERATORS if quiet[n]["seconds"] != loud[n]["seconds"]}
    assert changed == {"lm_head"}


def test_large_prefill_approaches_the_compute_roof() -> None:
    """8,192 tokens of Llama-3.1-8B on one H100: between the 0.5 and 0.8 of the peak that products reach."""
    system = make_system("llama3_1_8b")
    out = step(system, make_batch(prefill=8192))
    used = float(out.flops.sum() / out.seconds / system.hardware.peak_flops[1])
    assert 0.5 < used < 0.8


def test_pipeline_sends_cross_the_network_between_domains() -> None:
    """TP8 PP2 in domains of 8: the one border lies between domains; TP4 PP2: inside of one."""
    batch = make_batch(prefill=4096)
    far, near = (make_system("llama3_1_70b", tp=tp, pp=2) for tp in (8, 4))
    for system, link in ((far, "scale_out_bandwidth"), (near, "scale_up_bandwidth")):
        before = operators(system, batch)["pipeline_send"]["seconds"]
        for name in ("scale_up_bandwidth", "scale_out_bandwidth"):
            after = operators(with_hardware(system, **{name: 0.5}), batch)["pipeline_send"]["seconds"]
            assert (after > 1.5 * before) == (name == link)


def test_single_decode_approaches_the_memory_roof() -> None:
    """One sequence of Llama-3.1-70B on one (hypothetical, large) chip: bandwidth utilization above 0.7."""
    system = make_system("llama3_1_70b")
    out = step(system, make_batch(decode=1, context=1000))
    used = float(out.bytes.sum() / out.seconds / system.hardware.memory_bandwidth)
    assert 0.7 < used < 1.0


@pytest.mark.parametrize("model", ["llama3_1_8b", "deepseek_v4_flash"])
def test_jit_equals_eager(model: str) -> None:
    system = make_system(model, tp=2)
    eager, jitted = step_time(system, MIXED), step(system, MIXED)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-10)


def test_vmap_equals_loop() -> None:
    systems = [
        make_system(m, h, tp=t)
        for m, h, t in zip(FAMILIES, HARDWARE, (1, 2, 4, 8, 1, 2, 4, 1, 2), strict=False)
    ]
    batches = [
        make_batch(prefill=100 * i, past=50, decode=3 * i + 1, context=900) for i in range(len(systems))
    ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *zip(systems, batches, strict=True))
    together = np.asarray(quick(jax.vmap(step_seconds))(*stacked))
    one_by_one = [seconds(s, b) for s, b in zip(systems, batches, strict=True)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-10)


def test_resolving_changes_nothing() -> None:
    system = make_system("deepseek_v3", "a100_sxm", dp=8, ep=8)
    ready = resolve(resolve(system))
    assert float(step_seconds(ready, MIXED)) == pytest.approx(seconds(system, MIXED), rel=1e-12)


def test_products_in_one_call_take_the_same_time() -> None:
    together = quick(lambda system, batch: step_time(system, batch, together=True))
    for model in FAMILIES:
        system = make_system(model, tp=2)
        apart, at_once = step(system, MIXED), together(system, MIXED)
        for name in ("seconds", "by_operator", "flops", "bytes", "sent"):
            np.testing.assert_allclose(getattr(at_once, name), getattr(apart, name), rtol=1e-12, err_msg=name)


def test_tokens_cross_to_another_domain_once():
    from mist_jax.physics.collectives import group_all_to_all

    system = build.build_system(load(["model=qwen3_235b_a22b", "hardware=h100_sxm", "parallelism=tp8"]))
    kern, hw = system.calibration.kernels, system.hardware
    nbytes = 1e9

    def seconds(ranks, copies):
        return float(group_all_to_all(kern, hw, nbytes, ranks, copies)[0])

    assert seconds(32.0, 8.0) < 0.7 * seconds(32.0, 1.0)  # 4 domains: 0.45 of the bytes cross
    assert seconds(4096.0, 8.0) == pytest.approx(
        seconds(4096.0, 1.0), rel=0.2
    )  # all copies go to domains of their own
    grad = jax.grad(lambda c: group_all_to_all(kern, hw, nbytes, 8.0, c)[0])(8.0)
    assert np.isfinite(grad)


def test_copies_of_experts_fill_up_the_ranks():
    base = ["model=deepseek_v3", "hardware=h100_sxm", "parallelism.tp=1"]
    even, odd = (
        build.build_system(load([*base, f"parallelism.dp={n}", f"parallelism.ep={n}"])) for n in (64, 72)
    )
    assert float(even.parallel.redundant) == 0
    assert float(odd.parallel.redundant) == 32
    from mist_jax.physics.memory import weight_bytes_per_chip

    one, other = (float(weight_bytes_per_chip(s.model, s.parallel)) for s in (even, odd))
    assert other == pytest.approx(one, rel=1e-9)  # 4 experts a rank either way


def test_unlike_ranks_gather_by_broadcasts():
    base = ["model=qwen3_30b_a3b", "hardware=rtx_pro_6000_server", "parallelism.dp=2", "parallelism.ep=2"]
    base += ["parallelism.tp=1"]
    dispatch = OPERATORS.index("expert_dispatch")

    def times(engine):
        system = build.build_system(load([*base, f"engine={engine}"]))
        coefficients = replace(system.calibration.step, dispatch_scale=np.float64(1.0))
        system = replace(system, calibration=replace(system.calibration, step=coefficients))
        batches = [
            make_batch(decode=100, context=500),
            make_batch(prefill=2000, past=0, decode=100, context=500),
        ]
        return [float(step_time(system, b).by_operator[dispatch]) for b in batches]

    vllm, generic = times("vllm"), times("generic")
    assert vllm[0] == pytest.approx(generic[0])  # padded to one size within captured graphs
    assert vllm[1] == pytest.approx(2.0 * generic[1])  # n / (n - 1) for two ranks


def test_decodes_beside_prompts_take_tiles_where_they_share_a_launch():
    decode = OPERATORS.index("attention_decode")
    alone, beside = make_batch(decode=128, context=1200), make_batch(prefill=300, decode=128, context=1200)

    def times(chip, engine="vllm", model="llama3_1_8b"):
        system = build.build_system(
            load([f"model={model}", f"hardware={chip}", f"engine={engine}", "parallelism=tp1"])
        )
        return [float(step_time(system, b).by_operator[decode]) for b in (alone, beside)]

    one = times("rtx_pro_6000_server")
    assert one[1] > 1.2 * one[0]
    # the tiles of more query heads on as many KV heads take longer, the read of the cache does not
    wide = times("rtx_pro_6000_server", model="qwen3_32b")
    assert wide[1] / wide[0] > 1.5 * one[1] / one[0]
    for apart in (times("h100_sxm"), times("rtx_pro_6000_server", "trtllm")):
        assert apart[1] == pytest.approx(apart[0])


def test_experts_in_triton_slow_down_with_tokens():
    experts = OPERATORS.index("experts")

    def ratio(*overrides):
        base = ["model=qwen3_30b_a3b", "hardware=rtx_pro_6000_server", "parallelism=tp1", *overrides]
        system = build.build_system(load(base))
        few, many = (make_batch(decode=n, context=500) for n in (64, 256))
        times = [float(step_time(system, b).by_operator[experts]) for b in (few, many)]
        return times[1] / times[0]

    new, old = ratio("engine=vllm", "engine.version='0.24'"), ratio("engine=vllm", "engine.version='0.19'")
    assert old > new > 1.0
    fp8 = [ratio("model.precision.experts=fp8", f"engine.version='{v}'") for v in ("0.19", "0.24")]
    assert fp8[0] == fp8[1]


def test_two_micro_batches_hide_the_exchange_between_experts():
    base = ["model=deepseek_v3", "hardware=h100_sxm", "engine=sglang", "parallelism.tp=1"]
    dispatch = OPERATORS.index("expert_dispatch")

    def times(ranks, overlap, tokens=256.0):
        asked = f"engine.overlap_exchange={overlap}"
        system = build.build_system(
            load([*base, f"parallelism.dp={ranks}", f"parallelism.ep={ranks}", asked])
        )
        return step_time(system, make_batch(decode=tokens, context=2000))

    for tokens in (16.0, 256.0):
        plain, hidden = times(64, "false", tokens), times(64, "true", tokens)
        gained = float(plain.seconds - hidden.seconds)
        before, after = float(plain.by_operator[dispatch]), float(hidden.by_operator[dispatch])
        assert 0.0 <= after < before
        assert gained == pytest.approx(before - after, rel=1e-9)
        # no more is hidden than there is to hide it behind
        assert gained <= float(plain.seconds) - before
    assert float(times(64, "null").seconds) == float(times(64, "true").seconds)
    assert float(times(8, "null").seconds) == float(times(8, "false").seconds)
