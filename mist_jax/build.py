"""Schema → pytrees: the only place where units and dtypes are converted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.pytree import replace
from mist_jax.queueing.policies import policy
from mist_jax.queueing.state import RESERVE_ALL, RESERVE_PROMPT
from mist_jax.schema import EngineSpec, HardwareSpec, ModelSpec, ParallelismSpec, PoolSpec, Scenario
from mist_jax.system.calibration import Calibration
from mist_jax.system.deployment import System, Transfer, Workload
from mist_jax.system.engine import Engine
from mist_jax.system.hardware import COMPUTE_PRECISIONS, Hardware
from mist_jax.system.model import Model
from mist_jax.system.parallel import Parallel

HOUR = 3600.0


def build_hardware(spec: HardwareSpec) -> Hardware:
    """The chip's numbers; links that it lacks get bandwidth 0 (collectives then go through the host)."""
    peak = spec.peak
    rates = np.array([getattr(peak, name) or 0.0 for name in COMPUTE_PRECISIONS])
    up, out = spec.scale_up, spec.scale_out
    cache = spec.cache or spec.memory
    return Hardware(
        peak_flops=rates,
        units=spec.units,
        clock=spec.clock,
        memory_capacity=spec.memory.capacity,
        memory_bandwidth=spec.memory.bandwidth,
        cache_capacity=cache.capacity,
        cache_bandwidth=cache.bandwidth,
        scale_up_bandwidth=(up.bandwidth or 0.0) if up else 0.0,
        scale_up_latency=up.latency if up else spec.host.latency,
        scale_up_domain=up.domain if up else 1.0,
        scale_out_bandwidth=(out.bandwidth or 0.0) if out else 0.0,
        scale_out_latency=out.latency if out else 5e-6,
        host_bandwidth=spec.host.bandwidth,
        host_latency=spec.host.latency,
        host_memory_capacity=spec.host.memory_capacity,
        host_memory_bandwidth=spec.host.memory_bandwidth,
        tdp=spec.power.tdp,
        idle_power=spec.power.idle,
        price=spec.price.usd_per_hour / HOUR,
    )


def build_model(spec: ModelSpec) -> Model:
    """The architecture as numbers, with the precisions asked for (null: what the checkpoint says).

    Raises:
        ConfigError: neither or both of `config` and `architecture` given, or an unreadable config.json.
    """
    from mist_jax.io import huggingface
    from mist_jax.system import model_build

    if (spec.config is None) == (spec.architecture is None):
        both = "both are given; set the other to null" if spec.config is not None else "both are null"
        raise ConfigError(
            f"model: give either `config` (path of a config.json) or `architecture` (its numbers); {both}"
        )
    try:
        if spec.config is not None:
            architecture, checkpoint = huggingface.read_config(spec.config)
        else:
            architecture = huggingface.architecture_from_mapping(spec.architecture or {})
            checkpoint = huggingface.CheckpointPrecision()
    except ConfigError as exc:
        # the readers of models know their own part of the path
        text = str(exc)
        raise ConfigError(text if text.startswith("model") else f"model.{text}") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"model: {exc}") from None
    return model_build.build_model(architecture, model_build.resolve_precision(checkpoint, spec.precision))


#: Copies of experts that fill up expert-parallel ranks, over the experts (DeepSeek-V3: 32 beside 256).
MOST_REDUNDANT = 0.25


def build_parallel(spec: ParallelismSpec, model: Model, where: str = "parallelism") -> Parallel:
    """The degrees, checked against the model.

    Raises:
        ConfigError: a degree is not whole, or does not divide what it splits.
    """
    for name in ("tp", "pp", "dp", "ep", "moe_tp", "replicas"):
        value = getattr(spec, name)
        if value is not None and value != int(value):
            raise ConfigError(f"{where}.{name}: got {value:g}; must be a whole number")
    moe_tp = spec.tp * spec.dp / spec.ep if spec.moe_tp is None else spec.moe_tp
    is_moe = float(model.moe_layers) > 0
    if not is_moe:
        if spec.ep > 1:
            raise ConfigError(f"{where}.ep: got {spec.ep:g}; the model has no experts, so it must be 1")
        moe_tp = spec.tp * spec.dp
    elif spec.tp * spec.dp != moe_tp * spec.ep or moe_tp < 1:
        raise ConfigError(
            f"{where}: tp * dp = {spec.tp * spec.dp:g} chips hold attention, moe_tp * ep = {moe_tp * spec.ep:g} "
            "hold the experts; they are the same chips, so the products must be equal"
        )
    redundant = float(-model.experts % spec.ep) if is_moe else 0.0
    if redundant > MOST_REDUNDANT * float(model.experts):
        raise ConfigError(
            f"{where}.ep: got {spec.ep:g}; does not divide the {float(model.experts):g} experts, and filling up the "
            f"ranks takes {redundant:g} copies"
        )
    att = model.attention
    for heads, layers in zip(np.asarray(att.heads), np.asarray(att.layers), strict=True):
        if layers > 0 and heads % spec.tp:
            raise ConfigError(
                f"{where}.tp: got {spec.tp:g}; does not divide the {heads:g} attention heads; "
                f"allowed: {', '.join(str(d) for d in _divisors(int(heads)))}"
            )
    if spec.pp > float(model.layers):
        raise ConfigError(f"{where}.pp: got {spec.pp:g}; the model has only {float(model.layers):g} layers")
    ep = spec.ep if is_moe else 1.0
    return Parallel(tp=spec.tp, pp=spec.pp, dp=spec.dp, ep=ep, moe_tp=moe_tp, redundant=redundant)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


#: Chips on which vLLM's attention is FlashAttention-2 (vllm/platforms/cuda.py: Hopper has version 3, data-centre
#: Blackwell FlashInfer), and rows of its query tile: a batch that holds prompts and decodes is one launch, whose grid
#: has a tile of 64 rows for each decode and query head, without packed groups (vllm-project/vllm#58013).
ONE_LAUNCH_GENERATIONS = ("ampere", "ada", "blackwell_rtx")
ONE_LAUNCH_TILE = 64.0


#: Ranks of experts from which on, beyond a scale-up domain, the exchange of tokens is taken to overlap: deployments of
#: that size run two micro-batches in turn (DeepSeek-V3, arXiv 2412.19437, 3.2.1 and 3.4, from EP32; SGLang
#: `--enable-two-batch-overlap`; vLLM `--enable-dbo`).
LARGE_EP = 32.0


def overlaps_exchange(spec: EngineSpec, hardware: HardwareSpec, parallel: Parallel) -> bool:
    """Whether two micro-batches hide the exchange between experts: as asked, else by `LARGE_EP`."""
    if spec.overlap_exchange is not None:
        return spec.overlap_exchange
    domain = hardware.scale_up.domain if hardware.scale_up else 1.0
    return float(parallel.ep) >= LARGE_EP and float(parallel.ep) > domain and float(parallel.dp) > 1


def query_tile(engine: str, generation: str | None) -> float:
    """Rows of the query tile of an engine's attention where prompts and decodes share a launch, else 0."""
    return ONE_LAUNCH_TILE if engine == "vllm" and generation in ONE_LAUNCH_GENERATIONS else 0.0


def uneven_exchange(engine: str) -> float:
    """1 where attention-DP ranks exchange the tokens of prompts in parts of unequal size (`physics.operators`)."""
    return 1.0 if engine == "vllm" else 0.0


def gathers_prompts(engine: str) -> float:
    """1 where attention-DP ranks hold prompts back until the others have some as well, so as to run them together.

    TensorRT-LLM's `attention_dp_config` does (`batching_wait_iters`, `timeout_iters`), and its rows alone tell how
    long. vLLM does not: in its logs of two ranks (`engine_runs`) requests wait 4 ms by the median to be scheduled.
    """
    return 1.0 if engine == "trtllm" else 0.0


def tokenizes_again(engine: str) -> float:
    """1 where the engine that decodes gets the prompt as text only when the one that prefills has answered.

    So do the proxies of vLLM (its examples, and llm-d's sidecar): with it the TTFT of 32,768 tokens in Mooncake's table
    of one prefill and one decode engine is 5 % too long, without it 13 % too short (`calibration.validate`,
    mooncake_1p1d). SGLang's router sends to both at once, TensorRT-LLM's passes on token ids.
    """
    return 1.0 if engine == "vllm" else 0.0


def activations_apart(engine: str) -> float:
    """1 where the engine's share of the memory is of weights and KV cache alone.

    So SGLang counts (python/sglang/srt/model_executor, the profile of its memory pool): tokens of the cache = (memory
    that is free once the weights are loaded - (1 - mem_fraction_static) of what was free before) / bytes of a token.
    vLLM and TensorRT-LLM run a batch of prompts first and take its activations off.
    """
    return 1.0 if engine == "sglang" else 0.0


def schedules_ahead(engine: EngineSpec, pp: float = 1.0) -> bool:
    """Whether the engine forms an iteration while the one before it runs, so that a new request waits for both.

    vLLM from v0.14 on (vllm-project/vllm#27614; the unversioned default is taken to be newer), without pipeline stages.
    """
    if engine.name != "vllm" or engine.policy != "vllm" or pp > 1.0:
        return False
    parts = (engine.version or "").lstrip("v").split(".")
    return not parts[0].isdigit() or [int(x) for x in parts[:2] if x.isdigit()] >= [0, 14]


def build_engine(
    spec: EngineSpec, hardware: HardwareSpec, parallel: Parallel, *, pooled: bool = False
) -> Engine:
    """The engine's numbers on a chip; `pooled`: prompts and decodes have engines of their own."""
    return Engine(
        max_num_batched_tokens=spec.max_num_batched_tokens,
        max_num_seqs=spec.max_num_seqs,
        block_size=spec.block_size,
        memory_utilization=spec.memory_utilization,
        reserve_bytes=spec.reserve,
        activation_bytes_per_token=0.0,
        eager=0.0 if spec.cuda_graphs else 1.0,
        prefix_hit_rate=spec.prefix_hit_rate,
        draft_tokens=spec.draft_tokens,
        separate_prefill=float(spec.policy == "sglang" and not pooled),
        kv_free_fraction=spec.kv_free_fraction,
        kv_blocks=spec.num_gpu_blocks or 0.0,
        uneven_exchange=uneven_exchange(spec.name),
        gathers_prompts=gathers_prompts(spec.name),
        tokenizes_again=tokenizes_again(spec.name),
        activations_apart=activations_apart(spec.name),
        reserves_prompt=float(policy(spec.policy).reserve >= RESERVE_PROMPT),
        reserves_answer=float(policy(spec.policy).reserve == RESERVE_ALL),
        scheduler_recv_interval=spec.scheduler_recv_interval,
        query_tile=query_tile(spec.name, hardware.generation),
        two_batches=float(overlaps_exchange(spec, hardware, parallel)),
        ahead=float(schedules_ahead(spec, parallel.pp)),
    )


def build_system(
    scenario: Scenario, pool: PoolSpec | None = None, where: str = "", model: Model | None = None
) -> System:
    """One replica of the scenario's (decode) pool, or of `pool`, calibrated.

    Leaves are float64 NumPy scalars or arrays. `model` is the built model where the caller has it already.

    Raises:
        ConfigError: see `build_model` and `build_parallel`.
    """
    return as_float64(assemble_system(scenario, pool, where, model))


def assemble_system(
    scenario: Scenario,
    pool: PoolSpec | None = None,
    where: str = "",
    model: Model | None = None,
    calibration: Calibration | None = None,
) -> System:
    """`build_system` with numbers of any type; `calibration` is that of `pool_calibration` where it is known."""
    part = pool or scenario
    model = build_model(scenario.model) if model is None else model
    parallel = build_parallel(part.parallelism, model, where + "parallelism")
    return System(
        hardware=build_hardware(part.hardware),
        model=model,
        parallel=parallel,
        engine=build_engine(part.engine, part.hardware, parallel, pooled=scenario.prefill is not None),
        calibration=pool_calibration(scenario, part) if calibration is None else calibration,
    )


def pool_calibration(scenario: Scenario, part: Scenario | PoolSpec) -> Calibration:
    """The coefficients of the decode pool (`part` is the scenario) or of a prefill pool."""
    from mist_jax.calibrations import load_calibration

    loaded = load_calibration(
        scenario.calibration, part.hardware, part.engine, scenario.model, part.parallelism.dp
    )
    return with_acceptance(loaded, part.engine)


def with_acceptance(calibration: Calibration, spec: EngineSpec) -> Calibration:
    """The calibration with the acceptance of drafts that the engine's description gives, if it gives one."""
    given = {"acceptance": spec.acceptance, "acceptance_decay": spec.acceptance_decay}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(calibration, step=replace(calibration.step, **given)) if given else calibration


def as_float64(tree: Any) -> Any:
    """Every leaf as a float64 NumPy array."""
    import jax

    return jax.tree.map(lambda x: np.asarray(x, dtype=np.float64), tree)


def chips(spec: ParallelismSpec) -> float:
    """Chips of one replica."""
    return spec.tp * spec.pp * spec.dp


def build_transfer(scenario: Scenario) -> Transfer:
    """KV transfer between the pools; the default bandwidth is the slower side's NICs of one replica, or the scale-up
    links of the smaller replica where both pools are in one rack."""
    spec = scenario.transfer
    bandwidth = spec.bandwidth
    if bandwidth is None and _in_one_rack(scenario):
        assert scenario.prefill is not None
        smaller = min(chips(scenario.parallelism), chips(scenario.prefill.parallelism))
        bandwidth = scenario.hardware.scale_up.bandwidth * smaller  # type: ignore[union-attr]
    if bandwidth is None:
        sides = [(scenario.hardware, scenario.parallelism)]
        if scenario.prefill is not None:
            sides.append((scenario.prefill.hardware, scenario.prefill.parallelism))
        rates = [
            ((h.scale_out.bandwidth or h.host.bandwidth) if h.scale_out else h.host.bandwidth) * chips(p)
            for h, p in sides
        ]
        bandwidth = min(rates)
    return as_float64(Transfer(bandwidth=bandwidth, latency=spec.latency, overlap=spec.overlap))


#: Chips of a scale-up domain from which on it is a rack, which the pools of a deployment can share.
RACK = 32.0


def _in_one_rack(scenario: Scenario) -> bool:
    """Whether the KV cache crosses scale-up links: both pools of one chip, and together within its domain (NVLink of
    GB200 NVL72, over which NIXL and UCX move it)."""
    up, pool = scenario.hardware.scale_up, scenario.prefill
    if pool is None or up is None or not up.bandwidth or up.domain < RACK:
        return False
    both = [(scenario.hardware, scenario.parallelism), (pool.hardware, pool.parallelism)]
    total = sum(chips(p) * p.replicas for _, p in both)
    return pool.hardware.name == scenario.hardware.name and total <= up.domain


#: Policies that the steady state describes: prompts in chunks, with the decodes or in iterations of their own.
STEADY_POLICIES = ("vllm", "sarathi", "sglang", "trtllm")


def build_workload(scenario: Scenario) -> Workload:
    """Mean lengths and load of the steady state; prompts found in the prefix cache are counted by the engine's
    `prefix_hit_rate`.

    Raises:
        ConfigError: what the steady state does not describe: some batching policies, conversations, failures.
    """
    from mist_jax.workloads import require_steady

    require_steady(scenario)
    spec = scenario.workload
    if scenario.engine.policy not in STEADY_POLICIES:
        raise ConfigError(
            f"engine.policy: got {scenario.engine.policy!r}; the steady state describes "
            f"{', '.join(STEADY_POLICIES)} alone, the others are played: mode=play, or mist.play"
        )
    return as_float64(
        Workload(
            isl=spec.isl,
            osl=spec.osl,
            concurrency=spec.concurrency,
            rate=spec.rate,
            isl_cv=spec.isl_cv,
            osl_cv=spec.osl_cv,
            burst_share=spec.burst_share,
        )
    )


def check_context(scenario: Scenario, model: Model) -> None:
    """Raises ConfigError if the mean request is longer than the model's context."""
    longest = scenario.workload.isl + scenario.workload.osl
    limit = float(model.max_context)
    if longest > limit:
        raise ConfigError(
            f"workload: isl + osl = {longest:g} tokens is longer than the context of {scenario.model.name} "
            f"({limit:g} tokens)"
        )


def human_bytes(value: float) -> str:
    """`value` bytes as text with a decimal prefix."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} B"
    power = min(int(math.log10(abs(value)) // 3), 5)
    return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"
