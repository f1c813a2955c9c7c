"""Validation cases that need the LLM step: KV transfer and offload, disaggregation, offline latency."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from calibration.validate import Case, Row, row
from mist_jax import build, load
from mist_jax.physics.demand import machine, seconds
from mist_jax.queueing.steady_disaggregated import again_s
from mist_jax.stages.protocol import Work
from mist_jax.stages.registry import get_stage


@lru_cache(maxsize=1)
def _step() -> Any:
    import jax

    from mist_jax.physics.step import step_seconds

    return jax.jit(step_seconds)


class Engine:
    """One replica from configuration overrides: prefill and decode seconds from `physics.step`."""

    def __init__(self, *overrides: str) -> None:
        self.scenario = load([*overrides, "prefill=none"])
        self.system = build.build_system(self.scenario)

    def prefill(self, new: float, past: float = 0.0, seqs: float = 1.0) -> float:
        """Seconds to prefill `seqs` prompts of `new` tokens behind `past` cached ones, chunk by chunk."""
        from mist_jax.system.batch import prefill_batch

        budget, done, time = self.scenario.engine.max_num_batched_tokens, 0.0, 0.0
        total = new * seqs
        while done < total:
            chunk = min(budget, total - done)
            # Several prompts fill a chunk one after another: those that share it, and how far the one has
            # come.
            share = max(chunk / new, 1.0)
            start = past if seqs > 1 else past + done
            time += float(_step()(self.system, prefill_batch(chunk, share, start)))
            done += chunk
        return time

    def decode(self, seqs: float, context: float) -> float:
        """Seconds of one decode iteration."""
        from mist_jax.system.batch import decode_batch

        return float(_step()(self.system, decode_batch(seqs, context)))

    def request_s(self, prompt: float) -> float:
        """Seconds of a request of `prompt` tokens (cached ones too) outside of iterations, as in the steady state."""
        step = self.system.calibration.step
        return float(step.request_s + step.prompt_token_s * prompt)

    def batch_seconds(self, isl: float, osl: float, batch: float) -> float:
        """Offline latency of a batch: prefill of all, then osl - 1 decode steps (context grows)."""
        contexts = isl + np.linspace(1, osl - 1, 8)
        steps = np.mean([self.decode(batch, c) for c in contexts])
        return self.request_s(isl) + self.prefill(isl, 0.0, batch) + (osl - 1) * steps

    def kv_token_bytes(self) -> float:
        """KV bytes per token, all layers, not sharded (long context)."""
        from mist_jax.physics.memory import kv_bytes_total

        length = np.array([8192.0, 16384.0])
        return float(np.diff([float(kv_bytes_total(self.system.model, n)) for n in length])[0] / 8192.0)

    def layers(self) -> float:
        """Decoder layers."""
        return float(self.system.model.layers)


def mooncake_1p1d() -> Iterator[Row]:
    """vLLM 1P1D with Mooncake, Qwen3-8B, H800 TP8, 8 ConnectX-7, one request at a time."""
    engine = Engine("hardware=h800_sxm", "model=qwen3_8b", "parallelism=tp8")
    # One chip's keys or values of a layer and 16 tokens are 4 KB here: the number of messages limits the eight NICs to
    # 155 of 400 GB/s, the rate of this table's longest prompt, to which `message_s` is fitted.
    stage, on = get_stage("kv_transfer"), machine(network=8 * 50e9)
    params = stage.build({"block_bytes": 16.0 * engine.kv_token_bytes() / engine.layers() / 2.0})
    source = "Mooncake documentation, vLLM v1 disaggregated benchmark"
    table = (
        (128, 46.1, 0.54),
        (512, 59.9, 0.92),
        (2048, 85.3, 2.51),
        (8192, 212.1, 8.84),
        (32768, 749.6, 31.65),
    )
    for prompt, ttft, transfer in table:
        work = Work(
            prompt_tokens=float(prompt), kv_bytes_per_token=engine.kv_token_bytes(), kv_layers=engine.layers()
        )
        moved = float(seconds(stage.function(params, work), on.rate))
        basis = "fitted" if prompt == table[-1][0] else "predicted"
        yield row(f"KV transfer, {prompt} tokens", transfer, 1e3 * moved, "ms", source, basis)
        # a proxy sends the prompt to both engines, which tokenize it; the hand-over's own time is the prior of the
        # fit, from the shortest prompt
        step = engine.system.calibration.step
        again = float(step.handover_s + again_s(engine.system, prompt))
        total = engine.request_s(prompt) + again + engine.prefill(prompt) + moved
        basis = "fitted" if prompt == table[0][0] else "predicted"
        yield row(f"TTFT, {prompt} tokens", ttft, 1e3 * total, "ms", source, basis)


def llm_d_repeat() -> Iterator[Row]:
    """llm-d: one prompt of about 10,000 tokens, twice, Qwen3-32B on two H100.

    Trend: the first request meets a cold server (kernels to be tuned or compiled), and both pass a gateway whose time
    is not stated; computing 10,000 tokens takes under a second on any description of two H100.
    """
    engine = Engine("hardware=h100_sxm", "model=qwen3_32b", "parallelism=tp2")
    source = "llm-d documentation, precise prefix-cache routing"
    yield row("TTFT, cold", 4.3, engine.request_s(10000.0) + engine.prefill(10000.0), "s", source, "trend",
              tokens=10000)  # fmt: skip
    cached = engine.request_s(10000.0) + engine.prefill(128.0, 9872.0)
    yield row("TTFT, cached", 0.6, cached, "s", source, "trend", new_tokens=128)


def llm_d_pull() -> Iterator[Row]:
    """llm-d: recompute a prefix or pull its KV from a peer, gpt-oss-120b on H200.

    Each token of the prompt costs the fitted `prompt_token_s` (tokenizing, hashing, copying), also where its KV is
    pulled.
    """
    engine = Engine("hardware=h200_sxm", "model=gpt_oss_120b", "parallelism=tp1")
    stage, on = get_stage("kv_transfer"), machine(network=50e9)
    source = "llm-d blog, P2P KV pull, 2026"
    # vLLM's paged cache: keys and values apart, for 16 tokens of a layer; half of the layers keep a window only
    block = 16.0 * engine.kv_token_bytes() / (engine.layers() / 2.0) / 2.0
    params = stage.build({"mode": "pull", "block_bytes": block})
    for prefix, recompute, pull in ((2048, 78.0, 35.0), (16384, 510.0, 86.0), (49152, 1988.0, 235.0)):
        work = Work(
            prompt_tokens=float(prefix), kv_bytes_per_token=engine.kv_token_bytes(), kv_layers=engine.layers()
        )
        moved = float(seconds(stage.function(params, work), on.rate))
        fixed = engine.request_s(prefix + 64.0) + engine.prefill(64.0, prefix)
        again = engine.request_s(prefix) + engine.prefill(prefix)
        yield row(f"recompute {prefix} tokens", recompute, 1e3 * again, "ms", source)
        yield row(f"pull {prefix} tokens", pull, 1e3 * (fixed + moved), "ms", source, new_tokens=64)


def prefix_energy() -> Iterator[Row]:
    """Joules that a hit on a prefix of 4,096 tokens saves, Qwen3-32B; the chip is not stated: two H100 taken."""
    import jax

    from mist_jax.physics.step import step_time
    from mist_jax.physics.step_energy import iteration_energy
    from mist_jax.system.batch import prefill_batch

    engine = Engine("hardware=h100_sxm", "model=qwen3_32b", "parallelism=tp2")
    system = engine.system
    joules = jax.jit(lambda s, b: iteration_energy(s, step_time(s, b)).sum())
    saved = 2 * float(joules(system, prefill_batch(4096.0, 1.0, 0.0)))
    yield row("saved by a hit of 4096 tokens", 262.3 - 37.5, saved, "J", "Irminsul, arXiv 2605.05696", "trend",
              chips=2)  # fmt: skip


def vllm_offload() -> Iterator[Row]:
    """vLLM KV offloading, Llama-3.1-8B on H100, 10,000 prefills of 512 tokens, everything in host memory."""
    engine = Engine("hardware=h100_sxm", "model=llama3_1_8b", "parallelism=tp1")
    work = Work(prompt_tokens=512.0, kv_bytes_per_token=engine.kv_token_bytes(), kv_layers=engine.layers())
    stage = get_stage("kv_load")
    params = stage.build({"tier": "host", "hit_rate": 1.0, "block_tokens": 16, "latency": 0.0})
    load = float(seconds(stage.function(params, work), machine(host_memory=3e11, host_link=50e9).rate))
    fill = engine.scenario.engine.max_num_batched_tokens
    compute = engine.prefill(512.0, 0.0, fill / 512) / (fill / 512)
    last = engine.prefill(16.0, 496.0, 64.0) / 64  # the last block is always computed
    source = "vLLM blog, KV offloading connector, 2026-01-08"
    yield row("throughput, 100 % over 0 % hits", 9.0, compute / max(load, last), "x", source, "trend",
              note="up to 9x over the sweep of hit rates")  # fmt: skip
    # one request at a time, over its prompt; the page gives the range of the gain, not the lengths
    for tokens, gain in ((512.0, 2.0), (32768.0, 22.0)):
        kv = tokens * engine.kv_token_bytes() / 50e9
        outside, end = engine.request_s(tokens), engine.prefill(16.0, tokens - 16.0)
        times = outside + engine.prefill(tokens), outside + kv + end
        yield row(f"TTFT, no hit over all, {tokens:g} tokens", gain, times[0] / times[1], "x", source, "trend",
                  note="ends of a range; lengths assumed")  # fmt: skip


def _time_of_a_prefix(engine: Engine, prefix: float, question: float) -> tuple[float, float]:
    """Seconds of a request alone whose prefix is in device memory, and of one whose prefix is nowhere."""
    outside = engine.request_s(prefix + question)
    return outside + engine.prefill(question, prefix), outside + engine.prefill(prefix + question)


def lmcache_tiers() -> Iterator[Row]:
    """LMCache on GKE, Llama-3.3-70B on 8 H100: TTFT change by host and SSD tiers, over the prefix length.

    The seconds that a load costs beside its bytes (looking it up, gathering pages) are fitted to the shortest prefix,
    where the tiers brought nothing; the others are predicted. Shorter ones than that lose: the sign turns.
    """
    engine = Engine("hardware=h100_sxm", "model=llama3_3_70b", "parallelism=tp8")
    token, cached = engine.kv_token_bytes(), 4.2e6
    device = 0.9 * 8 * 80e9 - 141e9  # bytes of HBM left by 16-bit weights
    in_device = min(device / (cached * token), 1.0)
    in_host = min((1.1e12 / (cached * token)), 1.0 - in_device)
    stage, on = get_stage("kv_load"), machine(host_memory=6e11, host_link=8 * 50e9, storage=8 * 6.5e9)
    source = "LMCache on GKE, Google Cloud blog, 2025"

    def change(prefix: float, load_s: float) -> float:
        """Relative change of the mean TTFT by the tiers; the first of the 20 requests of a prefix finds it nowhere."""
        work = Work(prompt_tokens=prefix, kv_bytes_per_token=token, kv_layers=engine.layers())
        host, ssd = (
            float(
                seconds(
                    stage.function(stage.build({"tier": t, "hit_rate": 1.0, "bandwidth": r}), work), on.rate
                )
            )
            for t, r in (("host", "400 GB/s"), ("nvme", "52 GB/s"))
        )
        hit, miss = _time_of_a_prefix(engine, prefix, 256.0)
        loaded = in_host * (host + load_s) + (1 - in_device - in_host) * (ssd + load_s)
        before, after = in_device * hit + (1 - in_device) * miss, hit + loaded
        return (0.05 * miss + 0.95 * after) / (0.05 * miss + 0.95 * before) - 1.0

    # the change is linear in the seconds of a load
    free, slow = change(1000.0, 0.0), change(1000.0, 1.0)
    load_s = -free / (slow - free)
    for prefix, measured in ((1000, 0.0), (5000, -18.0), (10000, -44.0), (50000, -68.0), (100000, -79.0)):
        basis = "fitted" if prefix == 1000 else "trend"
        more = (
            {"load_ms": 1e3 * load_s, "change_at_500": 100 * change(500.0, load_s)} if prefix == 1000 else {}
        )
        yield row(f"TTFT change, prefix {prefix}", measured, 100 * change(prefix, load_s), "%", source, basis,
                  no_queueing=True, hits_in_hbm=round(in_device, 3), **more)  # fmt: skip


def load_or_recompute() -> Iterator[Row]:
    """A prefix of 4,096 tokens: loading against computing it over the rate of the tier, Llama-3-70B on 8 H100.

    MIST's "near 4K tokens recompute competes with loading", by a roofline at 50 % of the peak: 152 ms to compute,
    against 32 ms over 400G, 114 over 100G, 204 from one NVMe drive, 676 over a data-centre network of 2 GB/s. The sides
    must be the same: loading wins over 400G and 100G, computing over 2 GB/s, and one NVMe drive is near the tie.
    """
    engine = Engine("hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8")
    nbytes, computed = 4096.0 * engine.kv_token_bytes(), engine.prefill(4096.0)
    source = "roofline at 50 % of the peak, after MIST (arXiv 2504.09775)"
    for name, rate, ms in (
        ("400G", 42e9, 32.0), ("100G", 11.8e9, 114.0), ("one NVMe drive", 6.6e9, 204.0), ("2 GB/s", 2e9, 676.0)
    ):  # fmt: skip
        yield row(f"load over recompute, 4096 tokens, {name}", ms / 152.0, nbytes / rate / computed, "x", source,
                  "trend")  # fmt: skip
    yield row("rate at which both take as long, 4096 tokens", nbytes / 0.152 / 1e9, nbytes / computed / 1e9, "GB/s",
              source, "trend")  # fmt: skip


def oracle_mi300x() -> Iterator[Row]:
    """8 MI300X, Llama-3.1-405B FP8, TP8, vLLM offline latency, 128 in, 128 out."""
    engine = Engine(
        "hardware=mi300x", "model=llama3_1_405b", "parallelism=tp8", "model.precision.weights=fp8"
    )
    source = "Oracle Cloud blog, Llama 3.1 405B on MI300X"
    table = {
        1: 3.530,
        2: 3.583,
        4: 3.734,
        8: 3.974,
        16: 4.375,
        32: 5.130,
        64: 6.919,
        128: 10.340,
        256: 17.750,
    }
    for batch, measured in table.items():
        yield row(
            f"batch {batch}", measured, engine.batch_seconds(128.0, 128.0, batch), "s", source, "fitted"
        )


def vllm_h200() -> Iterator[Row]:
    """vLLM nightly on H200, 32 in, 128 out, batch 8."""
    source = "vLLM performance benchmark (buildkite, latency tests)"
    for model, tp, ms in (
        ("llama3_1_70b", 4, 2077.5),
        ("llama3_1_8b", 1, 833.4),
        ("mixtral_8x7b", 2, 1917.4),
    ):
        engine = Engine("hardware=h200_sxm", f"model={model}", f"parallelism=tp{tp}")
        yield row(f"{model} TP{tp}", ms, 1e3 * engine.batch_seconds(32.0, 128.0, 8.0), "ms", source)


CASES: dict[str, Case] = {
    "mooncake_1p1d": mooncake_1p1d,
    "llm_d_repeat": llm_d_repeat,
    "llm_d_pull": llm_d_pull,
    "prefix_energy": prefix_energy,
    "vllm_offload": vllm_offload,
    "lmcache_tiers": lmcache_tiers,
    "load_or_recompute": load_or_recompute,
    "oracle_mi300x": oracle_mi300x,
    "vllm_h200": vllm_h200,
}
