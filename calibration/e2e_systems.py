"""Rows of the serving table as batched pytrees: systems of both pools, transfer and workload, built once a setting."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mist_jax import build
from mist_jax.calibrations import has_experts
from mist_jax.schema import HardwareSpec, ModelSpec, ParallelismSpec, PrecisionSpec, parse
from mist_jax.system.deployment import System, Transfer, Workload
from mist_jax.system.engine import Engine

CONF = Path(__file__).resolve().parents[1] / "conf"


@functools.cache
def hardware_spec(system: str) -> HardwareSpec | None:
    """The chip's description, None if conf/hardware does not have it."""
    import yaml

    path = CONF / "hardware" / f"{system}.yaml"
    if not path.exists():
        return None
    return dataclasses.replace(parse(HardwareSpec, yaml.safe_load(path.read_text()), "hardware"), id=system)


@functools.cache
def model_spec(name: str, model_file: str = "") -> ModelSpec | None:
    """The model's description, from conf/model or else from its public config.json; None if neither is there."""
    import yaml

    from calibration.datasets.serving import data_dir

    path = CONF / "model" / f"{name}.yaml"
    if path.exists():
        return parse(ModelSpec, yaml.safe_load(path.read_text()), "model")
    config = data_dir() / "models" / f"{model_file}.json"
    return ModelSpec(name=name, config=str(config)) if model_file and config.exists() else None


@functools.cache
def routes_experts(name: str, model_file: str) -> bool:
    """Whether a known model has routed experts."""
    spec = model_spec(name, model_file)
    assert spec is not None
    return has_experts(spec)


ATTENTION_NVFP4 = "bf16"


def precision_spec(
    weights: str, experts: str, kv: str, generation: str | None, moe: bool = False
) -> PrecisionSpec:
    """Formats of a row; mxfp4 experts take 8-bit activations on Blackwell, 16-bit ones before."""
    activations = None
    if experts == "mxfp4":
        activations = "fp8" if (generation or "").startswith("blackwell") else "bf16"
    # NVFP4 checkpoints of mixture-of-experts models keep attention in 16 bits (nvidia/DeepSeek-R1-FP4 and its like)
    attention = ATTENTION_NVFP4 if experts == "nvfp4" and moe and weights == "nvfp4" else None
    return PrecisionSpec(
        weights=weights, experts=experts, kv=kv, activations=activations, attention=attention
    )


@functools.cache
def build_model(name: str, model_file: str, precision: PrecisionSpec) -> Any:
    """The `Model` pytree with these formats."""
    spec = model_spec(name, model_file)
    assert spec is not None
    return build.as_float64(build.build_model(dataclasses.replace(spec, precision=precision)))


@functools.cache
def build_hardware(system: str) -> Any:
    """The `Hardware` pytree of conf/hardware."""
    spec = hardware_spec(system)
    assert spec is not None
    return build.as_float64(build.build_hardware(spec))


def chunk_per_rank(row: Any, dp: float) -> float:
    """Prompt tokens of an iteration of one attention-DP rank in disaggregated SGLang launches.

    SGLang divides `--chunked-prefill-size` by the ranks (sgl-project/sglang, server_args.py). The launches ask for
    131,072 on racks (65,536 in FP4) and for 32,768 on B200 (65,536 for FP8 prompts of 8,192): ishandhanani/srt-slurm,
    recipes/gb200-fp8, gb200-fp4, b200-fp8, b200-fp4.
    """
    four_bit = row.expert_precision == "nvfp4"
    if row.system in ("gb200", "gb300"):
        return (65536.0 if four_bit else 131072.0) / dp
    return (65536.0 if row.isl >= 8192 and not four_bit else 32768.0) / dp


def recv_interval(row: Any) -> float:
    """SGLang's `--scheduler-recv-interval` of the aggregated launches on B200: 10, from 16 requests in flight on 30.

    SemiAnalysisAI/InferenceX (Apache-2.0), benchmarks/single_node: {dsr1_fp8,dsr1_fp4,qwen3.5_bf16,qwen3.5_fp8}_b200.sh
    and dsr1_fp8_b200_mtp.sh; always 10 in dsr1_fp8_b200.sh for TP4 and in glm5_fp4_b200.sh, 30 in qwen3.5_fp4_b200.sh;
    not set in glm5_fp8_b200.sh and in {dsr1_fp8,qwen3.5_fp8,glm5_fp8}_h200.sh. 1, SGLang's default, for other models;
    and for workers of two pools, whose scripts were not looked at for it.
    """
    if row.mode != "agg" or row.system != "b200_sxm":
        return 1.0
    four_bit = row.expert_precision == "nvfp4"
    if "glm_5" in row.model:
        return 10.0 if four_bit else 1.0
    if "qwen3_5" in row.model and four_bit:
        return 30.0
    if "deepseek" in row.model and not four_bit and row.decode_tp == 4:
        return 10.0
    if "deepseek" in row.model or "qwen3_5" in row.model:
        return 30.0 if row.concurrency >= 16 else 10.0
    return 1.0


def launch_settings(row: Any, pool: str = "decode") -> dict[str, float]:
    """The engine's settings as the public launch scripts of the runs set them; the rest by the engine's defaults.

    SemiAnalysisAI/InferenceX, benchmarks/*.sh (Apache-2.0), which hold no measurement: vLLM batches 8,192 tokens at
    0.9 of the memory; TensorRT-LLM gives 0.8 of the free memory to the KV cache (0.85 for gpt-oss, default 0.9) and
    batches max(8,192, ISL + concurrency) tokens (20,000 for gpt-oss, ISL + (1 + drafts) batch with speculation);
    SGLang runs prompts apart from decodes, 32,768 tokens at 0.82 (16,384 at 0.85 in FP4, 8,192 at 0.95 for TP4), and
    on B200 looks at new requests every 10 or 30 decode iterations (`recv_interval`).
    """
    out = {
        "max_num_batched_tokens": 8192.0,
        "max_num_seqs": 4096.0,
        "block_size": 16.0,
        "memory_utilization": 0.9,
        "kv_free_fraction": 1.0,
        "separate_prefill": 0.0,
    }
    isl, requests = row.isl, row.concurrency
    if row.engine == "trtllm" and row.dump == "gap-analysis" and row.model == "llama3_1_8b":
        # one of the requests always waits for a slot in these runs (DATA.md, point 6)
        out["max_num_seqs"] = max(requests / (row.decode_dp * row.decode_replicas) - 1.0, 1.0)
    if row.engine == "trtllm":
        gpt_oss = "gpt_oss" in row.model
        tokens = 20000.0 if gpt_oss else max(8192.0, isl + requests + 64.0)
        if row.mtp >= 0.5 and row.mode == "agg":
            depth = row.mtp_depth if row.mtp_depth > 0 else 3.0
            tokens = isl + (1.0 + depth) * requests / row.decode_dp + 64.0
        out |= {"memory_utilization": 0.97, "kv_free_fraction": 0.85 if gpt_oss else 0.8, "block_size": 32.0}
        if "llama" in row.model:
            out |= {"kv_free_fraction": 0.9}
            tokens = max(8192.0, isl + row.osl)
        out["max_num_batched_tokens"] = tokens
    elif row.engine == "sglang":
        out |= {"memory_utilization": 0.82, "max_num_batched_tokens": 32768.0, "separate_prefill": 1.0}
        out["block_size"] = 1.0
        if row.expert_precision == "nvfp4":
            out |= {"memory_utilization": 0.85, "max_num_batched_tokens": 16384.0}
        if row.decode_tp == 4 and row.expert_precision == "fp8" and row.mode == "agg":
            out |= {"memory_utilization": 0.95, "max_num_batched_tokens": 8192.0}
        if row.mode == "disagg" and row.decode_tp * row.decode_dp <= 4:
            out |= {"memory_utilization": 0.95}
        out["scheduler_recv_interval"] = recv_interval(row)
        dp = getattr(row, f"{pool}_dp")
        if row.mode == "disagg" and dp > 1:
            out["max_num_batched_tokens"] = chunk_per_rank(row, dp)
    return out


def launched_batch(per_rank: float) -> float:
    """Largest decode batch of a rank where the launch does not state it: TensorRT-LLM launches name powers of two, and
    send about a tenth more requests than that (the known ones in datasets/recipes.txt); far from it: no limit.
    """
    power = 2.0 ** math.floor(math.log2(max(per_rank, 1.0) * 1.0001))
    return power if 1.03 < per_rank / power <= 1.2 else 4096.0


def _engine(row: Any, pool: str, drafts: float) -> Engine:
    values = launch_settings(row, pool)
    if pool == "decode" and row.max_batch > 0 and row.mode == "disagg":
        values["max_num_seqs"] = float(row.max_batch)
    elif pool == "decode" and row.mode == "disagg" and row.engine == "trtllm":
        values["max_num_seqs"] = launched_batch(row.concurrency / (row.decode_dp * row.decode_replicas))
    if row.mode == "disagg":
        values["separate_prefill"] = 0.0
    spec = hardware_spec(row.system)
    assert spec is not None
    return Engine(
        reserve_bytes=2e9,
        activation_bytes_per_token=0.0,
        eager=0.0,
        prefix_hit_rate=0.0,
        draft_tokens=drafts,
        query_tile=build.query_tile(row.engine, spec.generation),
        uneven_exchange=build.uneven_exchange(row.engine),
        gathers_prompts=build.gathers_prompts(row.engine),
        tokenizes_again=build.tokenizes_again(row.engine),
        activations_apart=build.activations_apart(row.engine),
        reserves_prompt=float(row.engine != "vllm"),
        reserves_answer=float(row.engine == "trtllm"),
        **values,
    )


def _parallel(row: Any, pool: str, model: Any) -> Any:
    spec = ParallelismSpec(
        **{k: float(getattr(row, f"{pool}_{k}")) for k in ("tp", "pp", "dp", "ep", "moe_tp")}
    )
    moe = float(model.moe_layers) > 0
    from mist_jax.system.parallel import Parallel

    ep = spec.ep if moe else 1.0
    return Parallel(tp=spec.tp, pp=spec.pp, dp=spec.dp, ep=ep, moe_tp=spec.tp * spec.dp / ep)


@functools.cache
def _calibration(system: str, engine: str, experts: str | None, weights: str, dp: float, kernels: str) -> Any:
    from mist_jax.calibrations import Calibration, packaged_kernels
    from mist_jax.physics.kernels import default_coefficients
    from mist_jax.physics.step_energy import default_energy_coefficients
    from mist_jax.system.calibration import default_step_coefficients

    spec = hardware_spec(system)
    assert spec is not None
    chosen = default_coefficients()
    if kernels != "none":
        chosen = packaged_kernels(system, spec.generation, engine, experts, weights, dp)[0]
    return build.as_float64(
        Calibration(kernels=chosen, step=default_step_coefficients(), energy=default_energy_coefficients())
    )


@dataclasses.dataclass(frozen=True)
class Point:
    """One row as the physics sees it; leaves are scalars."""

    decode: System
    prefill: System
    transfer: Transfer
    workload: Workload
    decode_replicas: float
    prefill_replicas: float


def build_point(row: Any, speculates: bool, kernels: str = "default") -> Point:
    """One canonical row (attributes as the columns of `read_serving`) as pytrees.

    Args:
        row: needs an architecture and a chip that are known (`resolvable`).
        speculates: with speculative decoding or not.
        kernels: "none" for the kernels' priors, else the packaged fit.
    """
    spec = hardware_spec(row.system)
    assert spec is not None
    routes = routes_experts(row.model, row.model_file)
    formats = precision_spec(
        row.weight_precision, row.expert_precision, row.kv_precision, spec.generation, routes
    )
    model = build_model(row.model, row.model_file, formats)
    routed = row.expert_precision if float(model.moe_layers) > 0 else None
    depth = row.mtp_depth if row.mtp_depth > 0 else 3.0
    drafts = depth if speculates else 0.0
    systems = {
        pool: System(
            hardware=build_hardware(row.system),
            model=model,
            parallel=_parallel(row, pool, model),
            engine=_engine(row, pool, drafts if pool == "decode" else 0.0),
            calibration=_calibration(
                row.system,
                row.engine,
                routed,
                row.weight_precision,
                float(getattr(row, f"{pool}_dp")),
                kernels,
            ),
        )
        for pool in ("decode", "prefill")
    }
    mean = row.length_mean
    uniform = mean < 1.0  # lengths uniform in 0.8 to 1.0 of the nominal: standard deviation 0.2 / sqrt(12)
    cv = 0.2 / np.sqrt(12.0) / mean if uniform else 0.0
    workload = Workload(
        isl=mean * row.isl,
        osl=mean * row.osl,
        concurrency=row.concurrency,
        rate=1.0,
        isl_cv=cv,
        osl_cv=cv,
        burst_share=0.1,
    )
    links = spec.scale_out.bandwidth if spec.scale_out and spec.scale_out.bandwidth else spec.host.bandwidth
    if spec.scale_up and spec.scale_up.bandwidth and spec.scale_up.domain >= 32:
        links = spec.scale_up.bandwidth  # a rack: the cache crosses NVLink
    chips = min(row.prefill_tp * row.prefill_dp, row.decode_tp * row.decode_dp)
    transfer = Transfer(bandwidth=links * chips, latency=1e-3, overlap=0.0)
    return Point(
        decode=systems["decode"],
        prefill=systems["prefill"],
        transfer=transfer,
        workload=workload,
        decode_replicas=float(row.decode_replicas),
        prefill_replicas=float(row.prefill_replicas),
    )


def resolvable(row: Any) -> str:
    """'' if the row can be built, else the reason."""
    if hardware_spec(row.system) is None:
        return f"no hardware description of {row.system}"
    if model_spec(row.model, row.model_file) is None:
        return f"no architecture of {row.model}"
    return ""


def stack(points: list[Any]) -> Any:
    """Pytrees of equal structure as one with a leading axis on every leaf, float64."""
    import jax

    trees = [{f.name: getattr(p, f.name) for f in dataclasses.fields(p)} for p in points]
    return jax.tree.map(lambda *x: np.stack([np.asarray(v, dtype=np.float64) for v in x]), *trees)


def speculation(frame: pd.DataFrame, fitted: bool = False) -> np.ndarray:
    """Whether each row is taken to speculate: what is known without measuring, or (`fitted`) with it.

    Where both are equally likely by the launches, three of four settled runs of TensorRT-LLM do, and half of SGLang's:
    of those the plain mode is taken, which needs no rate of acceptance (it differs most from run to run).
    """
    chance = frame["mtp_fit" if fitted else "mtp"].to_numpy()
    return (chance > 0.5) | ((chance == 0.5) & (frame.engine != "sglang").to_numpy())
