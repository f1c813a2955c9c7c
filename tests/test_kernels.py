"""Laws of the kernel models: roofline limits, monotonicity, gradients, no work no time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_jax.physics import kernels as k
from mist_jax.pytree import replace
from mist_jax.system.hardware import Hardware

FP32, BF16, FP8, INT8, FP4 = (float(i) for i in range(5))


def chip(**changes: Any) -> Hardware:
    """A chip of round numbers, near an H100."""
    values = {
        "peak_flops": np.array([60e12, 1000e12, 2000e12, 2000e12, 0.0]),
        "units": 132.0,
        "clock": 1.8e9,
        "memory_capacity": 80e9,
        "memory_bandwidth": 3.35e12,
        "cache_capacity": 50e6,
        "cache_bandwidth": 5.5e12,
        "scale_up_bandwidth": 450e9,
        "scale_up_latency": 1e-6,
        "scale_up_domain": 8.0,
        "scale_out_bandwidth": 50e9,
        "scale_out_latency": 5e-6,
        "host_bandwidth": 64e9,
        "host_latency": 1e-6,
        "host_memory_capacity": 256e9,
        "host_memory_bandwidth": 75e9,
        "tdp": 700.0,
        "idle_power": 70.0,
        "price": 8e-4,
    }
    # arrays throughout: a Python float is a type of its own to jit, and would compile again
    return Hardware(**{name: np.asarray(value, float) for name, value in {**values, **changes}.items()})


COEF = k.default_coefficients()

#: name -> (time as a function of (hardware, work), a typical amount of work)
CASES: dict[str, tuple[Callable[[Hardware, Any], Any], float]] = {
    "gemm few rows": (lambda hw, m: k.gemm_time(COEF.gemm, hw, m, 8192.0, 4096.0, 2.0, 2.0, 2.0, BF16), 7.0),
    "gemm many rows": (
        lambda hw, m: k.gemm_time(COEF.gemm, hw, m, 8192.0, 4096.0, 1.0, 2.0, 2.0, FP8),
        3000.0,
    ),
    "gemm columns": (lambda hw, n: k.gemm_time(COEF.gemm, hw, 64.0, n, 4096.0, 2.0, 2.0, 2.0, BF16), 2000.0),
    "gemm warm": (
        lambda hw, n: k.gemm_time(COEF.gemm, hw, 64.0, n, 4096.0, 2.0, 2.0, 2.0, BF16, warm=1.0),
        4000.0,
    ),
    "moe": (
        lambda hw, b: k.moe_time(COEF.moe, hw, b, 256.0, 32.0, 8.0, 7168.0, 2048.0, 1.0, 2.0, FP8),
        90.0,
    ),
    "moe all experts": (
        lambda hw, b: k.moe_time(COEF.moe, hw, b, 8.0, 8.0, 8.0, 4096.0, 1024.0, 2.0, 2.0, BF16),
        90.0,
    ),
    "prefill": (
        lambda hw, q: k.attention_prefill_time(
            COEF.prefill_attention, hw, q, 512.0, 32.0, 8.0, 128.0, 128.0, 2.0, BF16
        ),
        700.0,
    ),
    "prefill window": (
        lambda hw, q: k.attention_prefill_time(
            COEF.prefill_attention, hw, q, 50.0, 32.0, 8.0, 64.0, 64.0, 2.0, BF16, 128.0, 3.0
        ),
        700.0,
    ),
    "prefill past": (
        lambda hw, p: k.attention_prefill_time(
            COEF.prefill_attention, hw, 256.0, p, 32.0, 8.0, 128.0, 128.0, 2.0, BF16
        ),
        3000.0,
    ),
    "decode": (
        lambda hw, b: k.attention_decode_time(
            COEF.decode_attention, hw, b, 3000.0, 32.0, 8.0, 128.0, 128.0, 2.0
        ),
        20.0,
    ),
    "decode context": (
        lambda hw, c: k.attention_decode_time(
            COEF.decode_attention, hw, 20.0, c, 32.0, 8.0, 128.0, 128.0, 2.0, BF16, 1024.0
        ),
        500.0,
    ),
    "decode latent": (
        lambda hw, b: k.attention_decode_time(
            COEF.decode_mla, hw, b, 3000.0, 128.0, 1.0, 576.0, 512.0, 1.0, BF16, jnp.inf, 1.0
        ),
        20.0,
    ),
    "recurrence": (
        lambda hw, n: k.recurrent_time(COEF.recurrent, hw, n, 2.0, 32.0, 16.0, 128.0, 128.0),
        900.0,
    ),
    "recurrence decode": (
        lambda hw, b: k.recurrent_decode_time(COEF.recurrent, hw, b, 32.0, 16.0, 128.0, 128.0),
        30.0,
    ),
    "elementwise": (lambda hw, n: k.elementwise_time(COEF.elementwise, hw, n), 1e7),
    "all_reduce": (
        lambda hw, n: k.all_reduce_time(COEF.all_reduce, n, 8.0, hw.scale_up_bandwidth, hw.scale_up_latency),
        1e6,
    ),
    "all_gather": (
        lambda hw, n: k.all_gather_time(COEF.all_gather, n, 4.0, hw.scale_up_bandwidth, hw.scale_up_latency),
        1e6,
    ),
    "reduce_scatter": (
        lambda hw, n: k.reduce_scatter_time(
            COEF.reduce_scatter, n, 4.0, hw.scale_up_bandwidth, hw.scale_up_latency
        ),
        1e6,
    ),
    "all_to_all": (
        lambda hw, n: k.all_to_all_time(
            COEF.all_to_all, n, 8.0, hw.scale_out_bandwidth, hw.scale_out_latency
        ),
        1e6,
    ),
    "p2p": (lambda hw, n: k.p2p_time(COEF.p2p, n, hw.scale_up_bandwidth, hw.scale_up_latency), 1e6),
}
NAMES = list(CASES)
OVERLAP = jax.jit(k.overlap)
COMPILED = {name: jax.jit(time) for name, (time, _) in CASES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_more_work_is_never_faster(name: str) -> None:
    time, typical = CASES[name]
    work = typical * np.geomspace(0.01, 300.0, 400)
    seconds = np.asarray(jax.jit(jax.vmap(time, in_axes=(None, 0)))(chip(), work))
    assert np.all(np.isfinite(seconds))
    assert np.all(seconds > 0)
    assert np.all(np.diff(seconds) >= -1e-12 * seconds[1:])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prefill past"])
def test_no_work_takes_no_time(name: str) -> None:
    time = COMPILED[name]
    if name == "decode context":
        assert float(time(chip(), 0.0)) > 0  # a launch over an empty context is still a launch
        return
    assert float(time(chip(), 0.0)) == 0.0
    assert np.isfinite(float(jax.grad(time, argnums=1)(chip(), 0.0)))


@pytest.mark.parametrize("name", NAMES)
def test_better_hardware_is_never_slower(name: str) -> None:
    time, typical = COMPILED[name], CASES[name][1]
    for field in ("peak_flops", "memory_bandwidth", "clock", "scale_up_bandwidth", "scale_out_bandwidth"):
        for work in typical * np.array([0.02, 0.3, 1.0, 10.0, 100.0]):
            better = chip(**{field: 1.5 * np.asarray(getattr(chip(), field))})
            assert float(time(better, work)) <= float(time(chip(), work)) * (1 + 1e-12), field


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_finite_differences(name: str) -> None:
    run, typical = COMPILED[name], CASES[name][1]
    slopes = jax.jit(jax.grad(run, argnums=(0, 1)))
    by_hardware, by_work = slopes(chip(), typical)
    step = 1e-5
    central = (run(chip(), typical * (1 + step)) - run(chip(), typical * (1 - step))) / (2 * step * typical)
    assert float(by_work) == pytest.approx(float(central), rel=1e-5, abs=1e-20)
    for field in Hardware.__dataclass_fields__:
        base = np.asarray(getattr(chip(), field), float)
        slope = np.asarray(getattr(by_hardware, field))
        assert np.all(np.isfinite(slope)), field
        up = run(chip(**{field: base * (1 + step)}), typical)
        down = run(chip(**{field: base * (1 - step)}), typical)
        directional = float((up - down) / (2 * step))  # along a relative change of the field
        assert float(np.sum(slope * base)) == pytest.approx(directional, rel=1e-4, abs=1e-14), field


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_vmap_change_nothing(name: str) -> None:
    time, typical = CASES[name]
    work = typical * np.array([0.1, 1.0, 7.0])
    loop = [float(time(chip(), w)) for w in work]
    mapped = jax.jit(jax.vmap(time, in_axes=(None, 0)))(chip(), work)
    assert np.asarray(mapped) == pytest.approx(loop, rel=1e-12)


#: s: from nothing at all to a long kernel; below 1e-150 s the squares underflow, which no kernel comes near
SECONDS = st.just(0.0) | st.floats(1e-12, 1e-2)


@given(first=SECONDS, second=SECONDS, share=st.floats(0, 1), grow=st.floats(1e-9, 1e-3))
@settings(max_examples=80, deadline=None)
def test_overlap_lies_between_maximum_and_sum(first: float, second: float, share: float, grow: float) -> None:
    both = float(OVERLAP(first, second, share))
    assert max(first, second) * (1 - 1e-9) <= both <= (first + second) * (1 + 1e-9)
    assert float(OVERLAP(first + grow, second, share)) >= both - 1e-18


def test_overlap_ends() -> None:
    assert float(k.overlap(2.0, 3.0, 0.0)) == pytest.approx(3.0)
    assert float(k.overlap(2.0, 3.0, 1.0)) == pytest.approx(5.0)


def test_large_products_approach_the_peak_and_skinny_ones_the_bandwidth() -> None:
    hw = chip()
    square = float(k.gemm_time(COEF.gemm, hw, 65536.0, 65536.0, 65536.0, 2.0, 2.0, 2.0, BF16))
    ideal = 2.0 * 65536.0**3 / (1000e12 * COEF.gemm.compute_efficiency[1])
    assert square == pytest.approx(ideal, rel=0.1)
    vector = float(k.gemm_time(COEF.gemm, hw, 1.0, 65536.0, 65536.0, 2.0, 2.0, 2.0, BF16))
    ideal = 2.0 * 65536.0**2 / (3.35e12 * COEF.gemm.memory_efficiency[1])
    assert ideal <= vector <= 1.2 * ideal


def test_missing_precision_computes_in_bf16_and_still_reads_narrow_weights() -> None:
    hw = chip()
    fp4 = k.gemm_time(COEF.gemm, hw, 2.0, 32768.0, 32768.0, 0.5, 2.0, 2.0, FP4)
    bf16 = k.gemm_time(COEF.gemm, hw, 2.0, 32768.0, 32768.0, 2.0, 2.0, 2.0, BF16)
    assert float(fp4) < 0.6 * float(bf16)  # memory-bound: a quarter of the bytes
    big = (8192.0, 8192.0, 8192.0)
    widened = k.gemm_time(COEF.gemm, hw, *big, 0.5, 2.0, 2.0, FP4)
    assert float(widened) == pytest.approx(
        float(k.gemm_time(COEF.gemm, hw, *big, 2.0, 2.0, 2.0, BF16)), rel=0.05
    )
    assert float(k.peak_flops(replace(hw, peak_flops=np.array([60e12, 0, 0, 0, 0])), FP8)) == 60e12


def test_causal_pairs_equal_the_sum_over_queries() -> None:
    for q, past, window in ((100, 0, 1e9), (100, 40, 1e9), (100, 40, 64), (30, 200, 64), (100, 0, 30)):
        exact = sum(min(past + i + 0.5, window) for i in range(q))
        assert float(k.causal_pairs(q, past, window)) == pytest.approx(exact, rel=1e-3)
    assert float(k.causal_pairs(8.0, 2.0)) == 8 * 2 + 32


def test_chunked_prefill_does_the_work_of_the_whole_prompt() -> None:
    whole = float(k.causal_pairs(4096.0, 0.0, 1000.0))
    parts = sum(float(k.causal_pairs(512.0, 512.0 * i, 1000.0)) for i in range(8))
    assert parts == pytest.approx(whole)


def test_experts_touched_limits() -> None:
    assert float(k.experts_touched(1.0, 256.0, 32.0, 8.0)) == pytest.approx(1.0, rel=1e-9)
    assert float(k.experts_touched(1e6, 256.0, 32.0, 8.0)) == pytest.approx(32.0)
    assert float(k.experts_touched(5.0, 8.0, 8.0, 8.0)) == pytest.approx(8.0, rel=1e-4)
    rng = np.random.default_rng(0)
    drawn = [len({e for _ in range(20) for e in rng.choice(64, 6, replace=False)}) for _ in range(400)]
    assert float(k.experts_touched(20.0, 64.0, 64.0, 6.0)) == pytest.approx(np.mean(drawn), rel=0.01)


def test_decode_reads_shared_latent_cache_once() -> None:
    args = (COEF.decode_mla, chip(), 64.0, 100000.0, 16.0, 1.0, 576.0, 512.0, 2.0, BF16, jnp.inf)
    twice, once = float(k.attention_decode_time(*args, 0.0)), float(k.attention_decode_time(*args, 1.0))
    assert once / twice == pytest.approx(576.0 / 1088.0, rel=0.15)


def test_one_rank_communicates_nothing() -> None:
    for time in (k.all_reduce_time, k.all_gather_time, k.reduce_scatter_time, k.all_to_all_time):
        assert float(time(COEF.all_reduce, 1e6, 1.0, 450e9, 1e-6)) == 0.0
        slope = jax.grad(lambda n, time=time: time(COEF.all_reduce, 1e6, n, 450e9, 1e-6))(1.0)
        assert np.isfinite(float(slope))


def test_large_all_reduce_approaches_link_bandwidth() -> None:
    seconds = float(k.all_reduce_time(COEF.all_reduce, 1e10, 8.0, 450e9, 1e-6))
    ideal = 2 * 7 / 8 * 1e10 / (450e9 * COEF.all_reduce.bandwidth_efficiency)
    assert seconds == pytest.approx(ideal, rel=0.1)


def test_warm_operands_are_read_faster_only_below_the_cache() -> None:
    def ratio(n: float) -> float:
        args = (COEF.gemm, chip(), 1.0, n, 4096.0, 2.0, 2.0, 2.0, BF16)
        return float(k.gemm_time(*args, warm=1.0)) / float(k.gemm_time(*args))

    assert ratio(2000.0) < 0.97
    assert ratio(50000.0) == pytest.approx(1.0, abs=0.01)
    bare = chip(cache_capacity=0.0)
    args = (COEF.gemm, bare, 1.0, 2000.0, 4096.0, 2.0, 2.0, 2.0, BF16)
    assert float(k.gemm_time(*args, warm=1.0)) == pytest.approx(float(k.gemm_time(*args)))
