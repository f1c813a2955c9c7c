"""Stages around the LLM: KV tiers, transfers, speculation, reasoning, cascades, guards, adapters, tools."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mist_jax.physics.demand import machine, seconds
from mist_jax.physics.memory_tiers import (
    break_even_bandwidth,
    effective_bandwidth,
    lru_hits,
    overlapped_seconds,
    tier_walk,
)
from mist_jax.pytree import replace
from mist_jax.stages.attention_ffn import AttentionFfn, hides_communication, hop_seconds, iteration_seconds
from mist_jax.stages.calls import call_seconds, kv_blocks, plain_call
from mist_jax.stages.guard import HALUGATE, chain_quantiles
from mist_jax.stages.kv_cache import load_alone_seconds, loads, prefix_tokens
from mist_jax.stages.lora import distinct
from mist_jax.stages.protocol import Work
from mist_jax.stages.reason import mean_of_longest, tree_tokens
from mist_jax.stages.registry import get_stage
from mist_jax.stages.route import cascade_mean, router_mean
from mist_jax.stages.speculate import PRESETS, Speculate, mean_tokens_per_step, speedup, tokens_per_step
from mist_jax.stages.tool import Tool, mean_seconds

LLAMA_70B_TOKEN = 2 * 80 * 8 * 128 * 2.0  # bytes of KV per token, bf16: 2 L H_kv d_h s
WORK = Work(prompt_tokens=4096.0, kv_bytes_per_token=LLAMA_70B_TOKEN, kv_layers=80.0, prefill_s=0.152)


# --- KV tiers ---


def test_break_even_bandwidth_of_mooncake():
    """FAST 2025, 3.3: LLaMA3-70B, prefix 8192: 6 GB/s on 8 A800, 19 GB/s on 8 H800."""
    for flops, expected in ((8 * 312e12, 6e9), (8 * 989e12, 19e9)):
        bandwidth = float(break_even_bandwidth(8192.0, 2.0, 8.0, 8192.0, flops))
        assert bandwidth == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("tier", "ms"), [("host", 27.1), ("nvme", 207.0), ("remote_rdma", 28.1)])
def test_loading_4k_tokens_of_a_70b_model(tier, ms):
    """alpha + S (1 + b_half / b) / BW with S = 1.342 GB in blocks of 84 MB."""
    stage = get_stage("kv_load")
    params = stage.build({"tier": tier, "hit_rate": 1.0})
    assert 1e3 * float(load_alone_seconds(params, WORK)) == pytest.approx(ms, rel=0.02)


def test_recompute_wins_on_slow_tiers_and_loading_on_fast_ones():
    """Near 4K tokens the two compete: NVMe (207 ms) loses against 152 ms of prefill, DRAM (27 ms) wins."""
    stage = get_stage("kv_load")
    choice = {
        tier: float(loads(stage.build({"tier": tier, "policy": "cheaper"}), WORK))
        for tier in ("host", "nvme")
    }
    assert choice == {"host": 1.0, "nvme": 0.0}
    slow = stage.build({"tier": "host", "policy": "cheaper", "bandwidth": "2 GB/s"})
    assert float(loads(slow, WORK)) == 0.0


def test_small_blocks_cost_bandwidth():
    """vLLM 0.11 to 0.12: blocks of 16-72 KB became 0.5-2 MB, about ten times faster."""
    gain = effective_bandwidth(50e9, 1e6, 0.3e6) / effective_bandwidth(50e9, 32e3, 0.3e6)
    assert 5 < gain < 15


def test_partial_prefixes_are_whole_blocks_and_never_more_than_the_prompt():
    stage = get_stage("kv_load")
    params = stage.build({"prefix_share": 0.5, "block_tokens": 300, "hit_rate": 1.0})
    assert float(prefix_tokens(params, WORK)) == 1800.0  # floor(2048 / 300) blocks
    after = stage.update(params, WORK)
    assert float(after.cached_tokens) == 1800.0
    again = stage.update(params, after)
    assert float(again.cached_tokens) == 1800.0  # nothing is loaded twice


def test_overlap_hides_the_smaller_of_load_and_compute():
    total, visible = overlapped_seconds(0.08, 0.2, 80.0)
    assert float(total) == pytest.approx(0.2 + 0.08 / 80)
    assert float(visible) == pytest.approx(0.001)
    total, _ = overlapped_seconds(0.2, 0.08, 80.0)
    assert float(total) == pytest.approx(0.2 + 0.08 / 80)
    serial, _ = overlapped_seconds(0.2, 0.08, 1.0)
    assert float(serial) == pytest.approx(0.28)


def test_layerwise_load_shows_less_than_a_serial_one():
    stage = get_stage("kv_load")
    on = machine(host_memory=3e11, host_link=6e10)
    half = {"hit_rate": 1.0, "prefix_share": 0.5}
    serial = float(seconds(stage.function(stage.build(half), WORK), on.rate))
    layered = float(seconds(stage.function(stage.build({**half, "overlap": 1.0}), WORK), on.rate))
    assert layered < 0.1 * serial


def test_tier_walk_is_an_expectation():
    value = tier_walk(jnp.array([0.5, 0.25]), jnp.array([1.0, 2.0]), 10.0)
    assert float(value) == pytest.approx(0.5 + 0.5 + 2.5)


def test_lru_counts_prefixes_only():
    assert lru_hits([[1, 2, 3], [1, 2, 4], [9, 2, 3]]) == (2, 9)  # the last request's first block is new
    assert lru_hits([[1, 2], [1, 2]], capacity=1) == (0, 4)


# --- prefill to decode transfer ---

GAP = 0.21e-6  # s between two messages


def test_transfer_serial_pushed_and_pulled():
    stage = get_stage("kv_transfer")
    on = machine(network=8 * 50e9)
    alone = LLAMA_70B_TOKEN * 4096 / (0.9 * 8 * 50e9)
    serial = float(seconds(stage.function(stage.build(), WORK), on.rate))
    assert serial == pytest.approx(alone + 0.5e-3 + GAP)
    pulled = float(seconds(stage.function(stage.build({"mode": "pull", "overlap": 1.0}), WORK), on.rate))
    assert pulled == pytest.approx(serial + 0.5e-3)
    layered = float(seconds(stage.function(stage.build({"overlap": 1.0}), WORK), on.rate))
    assert layered == pytest.approx(alone / 80 + 0.5e-3 + GAP)
    # A link slower than the prefill shows what sticks out.
    slow = stage.build({"overlap": 1.0, "bandwidth": "2 GB/s", "efficiency": 1.0})
    nbytes = LLAMA_70B_TOKEN * 4096
    assert float(seconds(stage.function(slow, WORK), on.rate)) == pytest.approx(
        nbytes / 2e9 - 0.152 * 79 / 80 + 0.5e-3 + GAP
    )


# --- speculation ---


def test_without_decay_it_is_leviathan():
    for alpha in (0.3, 0.8):
        for k in (1, 4, 7):
            expected = (1 - alpha ** (k + 1)) / (1 - alpha)
            assert float(tokens_per_step(alpha, 1.0, float(k))) == pytest.approx(expected)


def test_limits_of_acceptance():
    assert float(tokens_per_step(0.0, 0.9, 5.0)) == pytest.approx(1.0)
    assert float(tokens_per_step(1.0, 1.0, 5.0)) == pytest.approx(6.0)
    assert float(tokens_per_step(0.8, 0.9, 0.0)) == 1.0
    assert np.isfinite(jax.grad(tokens_per_step)(0.0, 0.9, 3.0))
    # by hand: 1 + a + a (a r) + a (a r) (a r^2)
    a, r = 0.79, 0.75
    assert float(tokens_per_step(a, r, 3.0)) == pytest.approx(1 + a + a * a * r + a**3 * r**3)
    # a fractional length lies between its neighbours
    assert tokens_per_step(a, r, 2.0) < tokens_per_step(a, r, 2.5) < tokens_per_step(a, r, 3.0)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_gain_with_length_ever_less(preset):
    values = [float(mean_tokens_per_step(Speculate(preset=preset, length=float(k)))) for k in range(9)]
    gains = np.diff(values)
    assert np.all(gains > 0)
    assert np.all(np.diff(gains) <= 1e-12)


def test_a_store_hit_without_draft_kv_costs_speed():
    """sglang issue 31600: 5.94 tokens a step fell to 2.87 where the draft had not seen the prefix."""
    base = Speculate(alpha=0.95, decay=0.99, length=7.0)
    whole = float(mean_tokens_per_step(base))
    lost = float(mean_tokens_per_step(replace(base, lost_share=1.0)))
    assert (lost - 1) / (whole - 1) == pytest.approx(0.375)
    some = float(mean_tokens_per_step(replace(base, lost_share=0.5)))
    assert lost < some < whole


def test_speculation_stops_paying_when_the_check_is_dear():
    params = Speculate(length=3.0)
    assert float(speedup(params, 10e-3, 10.5e-3, 1e-3)) > 1.5
    assert float(speedup(params, 10e-3, 40e-3, 1e-3)) < 1.0


# --- reasoning ---


@pytest.mark.parametrize("samples", [1, 4, 16, 64])
def test_longest_of_n_against_simulation(samples):
    mean, median = 2133.0, 1014.0
    rng = np.random.default_rng(0)
    sigma = np.sqrt(2 * np.log(mean / median))
    draws = np.minimum(median * np.exp(sigma * rng.standard_normal((200_000 // samples, samples))), 32768.0)
    exact = draws.max(axis=1)
    error = exact.std() / np.sqrt(len(exact))
    value = float(mean_of_longest(mean, median, float(samples), 32768.0))
    assert abs(value - exact.mean()) < 4 * error + 0.01 * exact.mean()


def test_equal_lengths_have_no_longest():
    assert float(mean_of_longest(500.0, 500.0, 16.0, 1e9)) == pytest.approx(500.0, rel=1e-3)
    assert np.isfinite(jax.grad(mean_of_longest)(500.0, 500.0, 16.0, 1e9))


def test_best_of_n_shares_the_prompt():
    stage = get_stage("reason")
    work = Work(prompt_tokens=1000.0)
    one = stage.function(stage.build(), work)
    four = stage.function(stage.build({"method": "best_of_n", "samples": 4}), work)
    assert float(four.longest_output) > float(one.longest_output)
    assert float(kv_blocks(four, 16.0)) < 4 * float(kv_blocks(one, 16.0))

    def prefill(new, past):
        return 1e-5 * new

    def decode(sequences, context):
        return 10e-3 + 1e-9 * sequences * context * 1e3

    shared = call_seconds(four, prefill, decode)
    apart = call_seconds(replace(four, shared_prefix=0.0), prefill, decode)
    assert float(shared) < float(apart)


def test_a_tree_with_shared_stems_is_smaller():
    assert tree_tokens(2, 3, 10, True) == 10 * (2 + 4 + 8)
    assert tree_tokens(2, 3, 10, False) == 10 * 8 * 3


def test_plain_call_time():
    call = plain_call(1000.0, 200.0, 50.0)
    time = call_seconds(call, lambda new, past: 1e-4 * new, lambda seqs, context: 2e-3)
    assert float(time) == pytest.approx(0.08 + 0.1)


# --- routes, guards, tools, adapters ---


def test_cascade_and_router_costs():
    assert float(cascade_mean([1.0, 10.0, 100.0], [0.5, 0.2])) == pytest.approx(1 + 5 + 10)
    assert float(router_mean(0.1, [1.0, 10.0], [0.75, 0.25])) == pytest.approx(0.1 + 0.75 + 2.5)


def test_halugate_chain():
    """P50 76 ms from the steps (12 + 1 + 45 + 18); the published P99 of 162 adds the steps' tails."""
    p50, p99 = (jnp.array([v[k] for v in HALUGATE.values()]) for k in (0, 1))
    median, tail = chain_quantiles(p50, p99)
    assert 1e3 * float(median) == pytest.approx(76, rel=0.08)
    assert 110 < 1e3 * float(tail) < 162
    rng = np.random.default_rng(0)
    sigma = np.log(np.asarray(p99 / p50)) / 2.326
    total = (np.asarray(p50) * np.exp(sigma * rng.standard_normal((200_000, 4)))).sum(axis=1)
    assert float(median) == pytest.approx(np.median(total), rel=0.01)
    assert float(tail) == pytest.approx(np.quantile(total, 0.99), rel=0.05)


def test_guard_grows_with_the_context():
    """The detector: about 125 ms at 4K, 365 ms at 16K tokens, so 240 ms more."""
    stage = get_stage("guard")
    on = machine(cpu=64.0)
    short, long = (
        float(seconds(stage.function(stage.build(), Work(prompt_tokens=n)), on.rate))
        for n in (4000.0, 16000.0)
    )
    assert 1e3 * (long - short) == pytest.approx(240, rel=0.01)


def test_tool_times_of_agent_traces():
    """Median 5.2 s, P99 81.4 s."""
    tool = Tool()
    assert tool.median_s * np.exp(2.326 * tool.sigma) == pytest.approx(81.4, rel=0.01)
    assert float(mean_seconds(tool)) > tool.median_s


def test_distinct_adapters():
    assert float(distinct(8.0, 0.0, 1.0)) == pytest.approx(1.0)
    assert float(distinct(8.0, 0.0, 1000.0)) == pytest.approx(8.0)
    assert float(distinct(8.0, 2.0, 4.0)) < float(distinct(8.0, 0.0, 4.0))


def test_pipelined_attention_and_experts():
    params = AttentionFfn(micro_batches=3.0, layers=61.0, latency=10e-6)
    hop = float(hop_seconds(params, 64.0))
    t = float(iteration_seconds(params, 200e-6, 200e-6, 64.0))
    assert float(hides_communication(params, 200e-6, 200e-6, 64.0)) == 1.0
    assert t == pytest.approx((200e-6 * (3 * 61 - 1)) + 400e-6 + 2 * hop)
    one = replace(params, micro_batches=1.0)
    assert float(hides_communication(one, 200e-6, 200e-6, 64.0)) == 0.0
    assert float(iteration_seconds(one, 200e-6, 200e-6, 64.0)) == pytest.approx(61 * (400e-6 + 2 * hop))


def test_small_messages_are_limited_by_their_number():
    stage, on = get_stage("kv_transfer"), machine(network=50e9)
    whole = float(seconds(stage.function(stage.build(), WORK), on.rate))
    paged = [stage.build({"block_bytes": b, "message_s": 2e-6}) for b in (16e3, 32e3)]
    small, double = (float(seconds(stage.function(p, WORK), on.rate)) for p in paged)
    messages = LLAMA_70B_TOKEN * 4096 / 16e3
    assert small == pytest.approx(messages * 2e-6 + 0.5e-3 + 2e-6)
    assert double - 0.502e-3 == pytest.approx((small - 0.502e-3) / 2)
    # pages of 4 KB do not fill the wire of an adapter, those of 16 KB do
    few, large = (
        float(seconds(stage.function(stage.build({"block_bytes": b}), WORK), on.rate)) for b in (4096, 16e3)
    )
    assert few - 0.5e-3 - GAP == pytest.approx(LLAMA_70B_TOKEN * 4096 / 4096 * GAP)
    assert large == pytest.approx(whole)
