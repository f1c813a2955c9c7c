"""Validation cases that need no LLM step: retrieval, network, caches, guards, power, encoders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from calibration.validate import Case, Row, Skip, row


def rago() -> Iterator[Row]:
    """RAGO's large database, 64e9 vectors on 16 servers, and its small one."""
    from mist_jax.physics.demand import machine, seconds
    from mist_jax.stages.protocol import Work
    from mist_jax.stages.registry import get_stage

    stage, on = get_stage("vector_search_tree"), machine(cpu=96.0, host_memory=400e9)
    source = "google/rago retrieval_sim/perf_results/retrieval_perf.csv (arXiv 2503.14649)"
    small = {
        "vectors": 1e5,
        "branches": 0,
        "leaves": 1,
        "leaf_code_bytes": 1536,
        "rerank_bytes": 1536,
        "servers": 1,
    }
    published = [({}, 16, 45.08181333), ({}, 64, 128.237568), ({}, 256, 512.950272), (small, 16, 8.54869333)]
    for config, batch, ms in published:
        time = seconds(stage.function(stage.build(config), Work(batch=float(batch))), on.rate)
        name = "small" if config else "large"
        yield row(f"{name} database, batch {batch}", ms, 1e3 * time, "ms", source, "exact")


def faiss_bigann() -> Iterator[Row]:
    """Queries/s of FAISS IVF-HNSW-PQ on one Azure F32s_v2, median over the runs of a setting."""
    from calibration.datasets import retrieval
    from calibration.retrieval import predict

    data = retrieval.read()
    base = data[data["algorithm"] == "faiss-t1"]
    for (nprobe, ef), part in base.groupby(["nprobe", "ef"]):
        if (nprobe, ef) not in {(8, 32), (16, 64), (64, 64), (128, 256)}:
            continue
        yield row(
            f"bigann-1B, nprobe {nprobe}, ef {ef}", 1 / part["seconds"].median(),
            1 / np.median(predict(part, measured_distances=False)), "queries/s", retrieval.SOURCE, "fitted",
        )  # fmt: skip
    other = data[data["algorithm"] == "kst_ann_t1"]
    for index in other.index:
        part = other.loc[[index]]
        yield row(
            f"48-byte codes, nprobe {part['nprobe'].item()}, ef {part['ef'].item()}",
            1 / part["seconds"].item(), 1 / predict(part)[0], "queries/s", retrieval.SOURCE,
        )  # fmt: skip


def collectives() -> Iterator[Row]:
    """All-reduce and send/recv of DGX A100 and H100 at a few sizes."""
    from calibration.datasets import collectives as data
    from calibration.network import predict
    from mist_jax.physics.network import packaged_links

    for system in data.SYSTEMS:
        for operation in data.OPERATIONS:
            table = data.read(system, operation)
            links = packaged_links(f"{system}_{operation}")
            for (workers, per_node), part in table.groupby(["workers", "per_node"]):
                for size in (1e6, 16e6, 64e6):
                    near = part.iloc[[int(np.abs(part["bytes"] - size).argmin())]]
                    yield row(
                        f"{system} {operation} {workers} ranks {per_node} a node {size / 1e6:.0f} MB",
                        1e3 * near["seconds"].item(), 1e3 * predict(system, operation, links, near)[0], "ms",
                        data.SOURCE, "fitted",
                    )  # fmt: skip


def mooncake_hits() -> Iterator[Row]:
    """Blocks of the Mooncake traces that an infinite cache would hold."""
    from mist_jax.paths import data_dir
    from mist_jax.physics.memory_tiers import lru_hits

    for name, percent in (("conversation", 36.6), ("synthetic", 64.0)):
        file = data_dir() / "traces" / f"mooncake_{name}.jsonl"
        if not file.exists():
            raise Skip(f"{file} is missing (kvcache-ai/Mooncake, FAST25 release)")
        with file.open() as lines:
            blocks = [json.loads(line)["hash_ids"] for line in lines]
        hits, total = lru_hits(blocks)
        yield row(f"{name}: hits", percent, 100 * hits / total, "%", "Mooncake FAST25 traces", "exact")


def mooncake_break_even() -> Iterator[Row]:
    """Bandwidth above which loading an 8K prefix of Llama-3-70B beats computing it."""
    from mist_jax.physics.memory_tiers import break_even_bandwidth

    for chip, flops, gbps in (("A800", 312e12, 6.0), ("H800", 989e12, 19.0)):
        value = break_even_bandwidth(8192.0, 2.0, 8.0, 8192.0, 8 * flops)
        yield row(
            f"8 {chip}, prefix 8192", gbps, value / 1e9, "GB/s", "Mooncake, FAST 2025, section 3.3", "exact"
        )


def pcie_both_ways() -> Iterator[Row]:
    """DMA over PCIe 5 in both directions at once, by the shared-link model."""
    from mist_jax.physics.demand import demand, machine_of, seconds_together
    from mist_jax.system.hardware import Hardware

    zero: dict[str, Any] = dict.fromkeys(Hardware.__dataclass_fields__, 0.0)
    host = Hardware(
        **{**zero, "peak_flops": np.zeros(5), "host_bandwidth": 100e9}
    )  # both directions together
    one = demand(host_link=50e9, caps={"host_link": 50e9})
    time = seconds_together([one, one], machine_of(host))
    yield row("two directions", 83.4, 100 / float(time[0]), "GB/s", "vLLM blog, 2026-01-08", "fitted")


def halugate() -> Iterator[Row]:
    """P50 and P99 of the guard chain from its steps."""
    import jax.numpy as jnp

    from mist_jax.stages.guard import HALUGATE, chain_quantiles

    p50, p99 = (jnp.array([v[k] for v in HALUGATE.values()]) for k in (0, 1))
    median, tail = chain_quantiles(p50, p99)
    source = "vLLM semantic router, HaluGate"
    yield row("chain P50", 76.0, 1e3 * median, "ms", source, steps="independent log-normal steps")
    yield row("chain P99", 162.0, 1e3 * tail, "ms", source, note="published total adds the steps' P99")


def bge_large_l4() -> Iterator[Row]:
    """Embedding throughput of bge-large on one NVIDIA L4."""
    from mist_jax import build, load
    from mist_jax.physics.demand import machine_of, seconds
    from mist_jax.stages.protocol import Work
    from mist_jax.stages.registry import get_stage

    chip = build.build_hardware(load(["hardware=l4", "parallelism=tp1", "model=qwen3_0_6b"]).hardware)
    stage = get_stage("embed")
    batch, tokens = 32.0, 512.0  # long inputs: infinity's benchmark embeds texts of up to 512 tokens
    params = stage.build({"tokens": tokens})
    time = seconds(stage.function(params, Work(batch=batch)), machine_of(chip).rate)
    source = "infinity documentation, benchmarking"
    setting = {"batch": batch, "tokens": tokens}
    # 1.15 M tokens; the stage's efficiency was fitted to the first
    yield row(
        "bge-large throughput, TEI",
        1.15e6 / 18.49,
        batch * tokens / time,
        "tokens/s",
        source,
        "fitted",
        **setting,
    )
    yield row(
        "bge-large throughput, torch", 1.15e6 / 19.56, batch * tokens / time, "tokens/s", source, **setting
    )


def link_rates() -> Iterator[Row]:
    """40 GB of KV cache over one or several adapters, by the transfer stage as it comes (90 % of the links)."""
    from mist_jax.physics.demand import machine, seconds
    from mist_jax.stages.protocol import Work
    from mist_jax.stages.registry import get_stage

    stage, nbytes = get_stage("kv_transfer"), 40e9
    work = Work(prompt_tokens=1.0, kv_bytes_per_token=nbytes, kv_layers=1.0)
    blog, paper = "llm-d blog, 2026-06-23", "Mooncake, FAST 2025, Figure 12"
    table = (
        ("one 100G RoCE", 12.5e9, 12.1, blog),
        ("one 400G InfiniBand, UCX", 50e9, 49.5, blog),
        ("one 400G InfiniBand, Mooncake", 50e9, 40.0, blog),
        ("four 200G, Transfer Engine", 100e9, 87.0, paper),
        ("eight 400G, Transfer Engine", 400e9, 190.0, paper),
    )
    for name, rate, measured, source in table:
        time = seconds(stage.function(stage.build({}), work), machine(network=rate).rate)
        # the stage's efficiency is between the first two and the third
        yield row(
            name, measured, nbytes / 1e9 / time, "GB/s", source, "predicted" if rate > 50e9 else "fitted"
        )


def draft_without_cache() -> Iterator[Row]:
    """A draft model whose KV cache is missing after a store hit: time of the whole run, after over before.

    Decoding is taken to be all of the run: an upper bound. The tokens a step are the report's.
    """
    from mist_jax.stages.registry import get_stage
    from mist_jax.stages.speculate import mean_tokens_per_step

    # all of about five drafts accepted: 5.94 tokens a step
    drafted = {"length": 4.94, "alpha": 1.0, "decay": 1.0}
    stage = get_stage("speculate")
    whole, lost = (
        float(mean_tokens_per_step(stage.build({**drafted, "lost_share": share}))) for share in (0.0, 1.0)
    )
    yield row(
        "time of the run, without the draft's cache over with", 153 / 99, whole / lost, "x",
        "sgl-project/sglang issue 31600", tokens_a_step=[whole, lost],
    )  # fmt: skip


def power_cap() -> Iterator[Row]:
    """DGX H100 capped at 70 %: prompts 1.30 times longer, tokens 1.00."""
    from mist_jax.physics.demand import demand, machine
    from mist_jax.physics.energy import capped_seconds, dynamic_joules, energy_rates

    on = machine(accelerator=700e12, device_memory=3e12)
    prompt, token = (
        demand(accelerator=700e12, device_memory=1e11),
        demand(accelerator=70e12, device_memory=3e12),
    )
    peak, idle = 10200.0 / 8, 0.30 * 10200.0 / 8
    memory = float(dynamic_joules(prompt, energy_rates(idle))[1])
    rates = energy_rates(idle - memory, accelerator=(peak - idle) / 700e12)
    source = "splitwise-sim, SKU dgx-h100-pcap"
    for name, work, measured in (("prompt", prompt, 1.30), ("token", token, 1.00)):
        yield row(
            f"{name} time at 70 % of the power", measured,
            capped_seconds(work, on.rate, rates, 0.7 * peak)[0], "x", source, "fitted", idle_share=0.30,
        )  # fmt: skip


CASES: dict[str, Case] = {
    "rago": rago,
    "faiss_bigann": faiss_bigann,
    "collectives": collectives,
    "mooncake_hits": mooncake_hits,
    "mooncake_break_even": mooncake_break_even,
    "pcie_both_ways": pcie_both_ways,
    "halugate": halugate,
    "bge_large_l4": bge_large_l4,
    "link_rates": link_rates,
    "draft_without_cache": draft_without_cache,
    "power_cap": power_cap,
}
