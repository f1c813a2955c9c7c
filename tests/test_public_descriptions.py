"""The public descriptions ask the physics for what the coefficients were fitted with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import mist_jax as mist
from calibration.e2e_systems import build_point, launch_settings
from mist_jax import build

#: Not launch settings of single runs: how an engine forms its batches and runs its kernels.
SCHEDULING = ("separate_prefill", "uneven_exchange", "query_tile", "draft_tokens", "eager", "reserve_bytes")


def row(engine: str, system: str, mode: str, drafts: float) -> SimpleNamespace:
    pools = {
        f"{pool}_{k}": v
        for pool in ("prefill", "decode")
        for k, v in {"tp": 1, "pp": 1, "dp": 8, "ep": 8, "moe_tp": 1, "replicas": 1}.items()
    }
    return SimpleNamespace(
        engine=engine, system=system, mode=mode, model="deepseek_r1", model_file="", dump="", weight_precision="fp8",
        expert_precision="fp8", kv_precision="fp8", isl=1024.0, osl=1024.0, length_mean=1.0, concurrency=64.0,
        mtp=1.0, mtp_depth=drafts, max_batch=0.0, **pools,
    )  # fmt: skip


def test_intervals_between_looks_are_those_of_the_launch_scripts() -> None:
    def interval(engine="sglang", system="b200_sxm", mode="agg", **changes) -> float:
        changed = SimpleNamespace(**{**vars(row(engine, system, mode, 0.0)), **changes})
        return float(launch_settings(changed).get("scheduler_recv_interval", 1.0))

    assert [interval(concurrency=c) for c in (8.0, 16.0)] == [10.0, 30.0]
    assert interval(decode_tp=4, decode_dp=1) == 10.0
    assert interval(decode_tp=4, decode_dp=1, expert_precision="nvfp4") == 30.0
    assert interval(model="qwen3_5_397b_a17b", expert_precision="nvfp4", concurrency=4.0) == 30.0
    assert interval(model="glm_5") == interval(model="gpt_oss_120b") == 1.0
    assert interval(model="glm_5", expert_precision="nvfp4") == 10.0
    assert interval(system="h200_sxm") == interval(mode="disagg") == interval(engine="vllm") == 1.0


@pytest.mark.parametrize("mode", ["agg", "disagg"])
@pytest.mark.parametrize("system", ["h200_sxm", "gb200"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_engines_and_links_as_fitted(engine: str, system: str, mode: str) -> None:
    point = build_point(row(engine, system, mode, 2.0), speculates=True)
    overrides = [f"hardware={system}", "model=deepseek_r1", "parallelism=dp8_ep8", f"engine={engine}"]
    overrides += ["engine.draft_tokens=2", "workload=closed_1k_1k", "model.precision.kv=fp8"]
    if mode == "disagg":
        overrides += [
            "prefill=pool",
            f"hardware@prefill.hardware={system}",
            "parallelism@prefill.parallelism=dp8_ep8",
        ]
        overrides += [f"engine@prefill.engine={engine}"]
    scenario = mist.load(overrides)
    system_of = build.build_system(scenario)
    for name in SCHEDULING:
        assert float(getattr(system_of.engine, name)) == float(getattr(point.decode.engine, name)), name
    assert float(build.build_workload(scenario).burst_share) == point.workload.burst_share
    if mode == "disagg":
        assert float(build.build_transfer(scenario).bandwidth) == pytest.approx(point.transfer.bandwidth)
    for name in ("attention_weight_bytes", "ffn_weight_bytes", "expert_weight_bytes", "kv_bytes"):
        assert float(getattr(system_of.model, name)) == float(getattr(point.decode.model, name)), name
