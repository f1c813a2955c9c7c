"""The typed description of a scenario, with validation. Knows units, knows no JAX.

Every class here mirrors one section of `conf/`. `parse_scenario` turns the composed mapping into a `Scenario`
or raises a `ConfigError` that names the key, the value, what is allowed and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar

from mist_jax.errors import ConfigError, nearest
from mist_jax.units import to_si

T = TypeVar("T")


def quantity(
    dimension: str, default: Any = dataclasses.MISSING, *, low: float = 0.0, high: float = float("inf")
) -> Any:
    """A field that holds a number in SI; configs may write it with a unit. `low` and `high` are inclusive."""
    return dataclasses.field(default=default, metadata={"dimension": dimension, "low": low, "high": high})


def number(default: Any = dataclasses.MISSING, *, low: float = 0.0, high: float = float("inf")) -> Any:
    """A field that holds a plain count or ratio."""
    return quantity("count", default, low=low, high=high)


@dataclasses.dataclass(frozen=True)
class PeakSpec:
    """Dense arithmetic rates in FLOP/s (OP/s for integers); None where the chip has no such unit."""

    bf16: float = quantity("flops", low=1.0)
    fp32: float | None = quantity("flops", None, low=1.0)
    fp8: float | None = quantity("flops", None, low=1.0)
    int8: float | None = quantity("flops", None, low=1.0)
    fp4: float | None = quantity("flops", None, low=1.0)


@dataclasses.dataclass(frozen=True)
class MemorySpec:
    """One memory: capacity in bytes, bandwidth in bytes/s."""

    capacity: float = quantity("bytes", low=1.0)
    bandwidth: float = quantity("bandwidth", low=1.0)


@dataclasses.dataclass(frozen=True)
class ScaleUpSpec:
    """Links inside the scale-up domain, per direction and chip."""

    bandwidth: float | None = quantity("bandwidth", low=1.0)
    latency: float = quantity("time", 1e-6, high=1.0)
    domain: float = number(1.0, low=1)


@dataclasses.dataclass(frozen=True)
class ScaleOutSpec:
    """Network out of the scale-up domain, per direction and chip."""

    bandwidth: float | None = quantity("bandwidth", low=1.0)
    latency: float = quantity("time", 5e-6, high=1.0)


@dataclasses.dataclass(frozen=True)
class HostSpec:
    """The link to host memory, per direction, and the host memory of one chip."""

    bandwidth: float = quantity("bandwidth", low=1.0)
    latency: float = quantity("time", 1e-6, high=1.0)
    memory_capacity: float = quantity("bytes", 0.0)
    memory_bandwidth: float = quantity("bandwidth", 1.0, low=1.0)


@dataclasses.dataclass(frozen=True)
class PowerSpec:
    """Board power in watts."""

    tdp: float = quantity("power", low=0.1)
    idle: float = quantity("power", 0.0)


@dataclasses.dataclass(frozen=True)
class PriceSpec:
    """Rental price of one chip with its date."""

    usd_per_hour: float = number(0.0)
    date: str | None = None


@dataclasses.dataclass(frozen=True)
class DieSpec:
    """Silicon, for design questions."""

    area_mm2: float | None = number(None)
    process_nm: float | None = number(None)


@dataclasses.dataclass(frozen=True)
class HardwareSpec:
    """One chip of the catalogue (`conf/hardware/`)."""

    peak: PeakSpec
    memory: MemorySpec
    host: HostSpec
    power: PowerSpec
    units: float = number(low=1)
    clock: float = quantity("frequency", low=1.0)
    name: str = "custom"
    id: str | None = None
    vendor: str = "custom"
    kind: Literal["gpu", "tpu", "npu", "cpu"] = "gpu"
    generation: str | None = None
    year: int | None = None
    cache: MemorySpec | None = None
    scale_up: ScaleUpSpec | None = None
    scale_out: ScaleOutSpec | None = None
    price: PriceSpec = PriceSpec()
    die: DieSpec | None = None
    sources: dict = dataclasses.field(default_factory=dict)
    notes: Any = None


PRECISIONS = ("bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp4", "nvfp4")
Precision = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp4", "nvfp4"]


@dataclasses.dataclass(frozen=True)
class PrecisionSpec:
    """Formats; None means what the checkpoint says."""

    weights: Precision | None = None
    experts: Precision | None = None
    attention: Precision | None = None
    activations: Precision | None = None
    kv: Precision | None = None
    group_size: float | None = number(None, low=1)  # weights that share a scale; None: the format's usual


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model: either `config` (a Hugging Face config.json) or `architecture` (its numbers)."""

    name: str = "custom"
    id: str | None = None
    source: str | None = None
    config: str | None = None
    architecture: dict | None = None
    precision: PrecisionSpec = PrecisionSpec()
    notes: Any = None


@dataclasses.dataclass(frozen=True)
class ParallelismSpec:
    """Degrees of parallelism of one replica, and the number of replicas."""

    tp: float = number(1, low=1)
    pp: float = number(1, low=1)
    dp: float = number(1, low=1)
    ep: float = number(1, low=1)
    moe_tp: float | None = number(None, low=1)  # None: tp * dp / ep
    replicas: float = number(1, low=1)


@dataclasses.dataclass(frozen=True)
class EngineSpec:
    """The serving engine and its settings (vLLM names where they exist)."""

    name: Literal["vllm", "sglang", "trtllm", "generic"] = "vllm"
    version: str | None = None
    policy: Literal["vllm", "sarathi", "sglang", "trtllm", "orca", "static", "mixed"] = "vllm"
    max_num_batched_tokens: float = number(8192, low=1)
    max_num_seqs: float = number(256, low=1)
    block_size: float = number(16, low=1)
    memory_utilization: float = number(0.9, low=0.01, high=1.0)
    kv_free_fraction: float = number(1.0, low=0.01, high=1.0)  # of what weights and reserves leave
    reserve: float = quantity("bytes", 2e9)
    num_gpu_blocks: float | None = number(None, low=1)
    cuda_graphs: bool = True
    prefix_hit_rate: float = number(0.0, high=1.0)
    prefix_caching: bool = False  # mode=play: keep the KV of the prefixes that the trace names
    scheduler_recv_interval: float = number(1, low=1)  # decode iterations between two looks at new requests
    overlap_exchange: bool | None = None  # two micro-batches; None: where `build.LARGE_EP` says
    draft_tokens: float = number(0.0, high=8.0)  # speculative decoding; at most queueing.lane.MAX_DRAFT
    acceptance: float | None = number(None, low=0.01, high=1.0)  # of the first draft; None: as calibrated
    acceptance_decay: float | None = number(None, low=0.01, high=1.0)  # per further draft


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """The prefill pool of a disaggregated deployment."""

    hardware: HardwareSpec
    parallelism: ParallelismSpec
    engine: EngineSpec


@dataclasses.dataclass(frozen=True)
class TransferSpec:
    """KV transfer between a prefill replica and a decode replica; bandwidth None: the slower NIC of the two."""

    bandwidth: float | None = quantity("bandwidth", None, low=1.0)
    latency: float = quantity("time", 1e-3)
    overlap: float = number(0.0, high=1.0)  # 1: layer-wise, only the last layer shows


@dataclasses.dataclass(frozen=True)
class WorkloadSpec:
    """What arrives: lengths in tokens, and how requests come."""

    arrivals: Literal["closed", "poisson", "gamma", "diurnal", "trace"] = "poisson"
    isl: float = number(1024, low=1)
    osl: float = number(256, low=1)
    isl_cv: float = number(0.0)
    osl_cv: float = number(0.0)
    concurrency: float = number(64, low=1)
    rate: float = quantity("frequency", 1.0)
    burstiness: float = number(1.0)  # coefficient of variation of the gaps (gamma)
    swing: float = number(0.5, high=0.99)  # diurnal: the rate goes from rate (1 - swing) to rate (1 + swing)
    period: float = quantity("time", 86400.0, low=1e-3)  # of diurnal; lowest at 0
    ramp: float = quantity("time", 0.0)  # closed: the first requests start evenly over this time
    burst_share: float = number(
        0.0, high=1.0
    )  # closed, steady state: share of the requests that start at once
    think: float = quantity("time", 0.0)  # from an answer to the next turn; closed: to the next request
    turns: float = number(1, low=1)  # per session; isl and osl are then those of a message and its answer
    system_tokens: float = number(0)  # before the first turn, the same in all sessions
    samples: float = number(1, low=1)  # answers to each prompt, side by side
    cache_sizes: list | None = None  # tokens; mode=play: hit rates of LRU caches, from the trace alone
    requests: float = number(1000, low=1)
    trace: str | None = None  # path, or a name: azure_2023_conversation, azure_2023_code, ...
    trace_format: str | None = None
    rate_scale: float = number(1.0, low=1e-9)
    limit: float | None = number(None, low=1)  # play only the first so many requests
    name: str = "custom"


@dataclasses.dataclass(frozen=True)
class SLOSpec:
    """Service level objective; a request is good if it meets all that are set."""

    ttft: float | None = quantity("time", None, low=1e-9)
    tpot: float | None = quantity("time", None, low=1e-9)
    e2e: float | None = quantity("time", None, low=1e-9)
    target: float = number(0.9, high=1.0)  # share of requests that must be good
    name: str = "custom"


@dataclasses.dataclass(frozen=True)
class PipelineSpec:
    """The stages of a request and the clients they run on (`mist_jax.pipelines`); no stages: prefill and decode."""

    name: str = "chat"
    clients: dict = dataclasses.field(default_factory=dict)
    stages: dict = dataclasses.field(default_factory=dict)
    loops: dict = dataclasses.field(default_factory=dict)
    answer: str | None = None  # stage whose first token counts for TTFT; default: the last LLM call
    query_tokens: float | None = number(
        None, low=1
    )  # of the question inside the prompt; default: the whole prompt
    images: float = number(0.0)  # per request


@dataclasses.dataclass(frozen=True)
class RoutingSpec:
    """How requests are spread over the engines of a pool when a trace is played (`queueing.clients.Router`)."""

    rule: Literal[
        "round_robin",
        "random",
        "least_requests",
        "least_tokens",
        "least_kv",
        "power_of_two",
        "heavy_light",
        "prefix_affinity",
        "session",
    ] = "least_requests"
    fallback: Literal[
        "round_robin", "random", "least_requests", "least_tokens", "least_kv", "power_of_two"
    ] = "least_requests"
    heavy_tokens: float = number(4096, low=1)
    backlog_cap_tokens: float = number(35 * 8192, low=0)
    retry_delay: float = quantity("time", 0.0)  # until a request of a failed engine is sent again


@dataclasses.dataclass(frozen=True)
class FailureSpec:
    """mode=play: an engine is lost with its KV cache, and comes back empty; its requests start again elsewhere."""

    at: float = quantity("time")
    client: float = number(0)  # in the order of the result's `client`
    until: float | None = quantity("time", None)  # None: it does not come back


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Everything that is needed to evaluate, play, sweep or search one deployment."""

    hardware: HardwareSpec
    model: ModelSpec
    parallelism: ParallelismSpec
    engine: EngineSpec
    workload: WorkloadSpec
    slo: SLOSpec = SLOSpec()
    prefill: PoolSpec | None = None
    transfer: TransferSpec = TransferSpec()
    routing: RoutingSpec = RoutingSpec()
    pipeline: PipelineSpec = PipelineSpec()
    failures: list = dataclasses.field(default_factory=list)  # of FailureSpec
    calibration: str = "default"  # default | none | path of a calibration file
    seed: int = 0
    #: the composed mapping it came from: what sweeps override and reports show
    config: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)


# `typing` compiles the text of a dataclass's types anew each time
hints_of = lru_cache(maxsize=256)(typing.get_type_hints)


def parse(cls: type[T], mapping: Any, path: str) -> T:
    """The dataclass `cls` from `mapping`, checked field by field; `path` is the dotted key for messages.

    Raises:
        ConfigError: unknown key, missing key, wrong type or unit, number out of range, value not among the choices.
    """
    if not isinstance(mapping, Mapping):
        group = path.rpartition(".")[2]
        named = isinstance(mapping, str) and group in ("hardware", "model", "parallelism", "engine")
        hint = f"; to choose an option write {group}@{path}={mapping}" if named and group != path else ""
        raise ConfigError(f"{path}: got {mapping!r}; expected a section with keys{hint}")
    hints = hints_of(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise ConfigError(
                f"{join(path, str(key))}: unknown key{nearest(str(key), fields)}; allowed: {', '.join(fields)}"
            )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = join(path, name)
        if name not in mapping:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{key}: missing; it has no default")
            continue
        values[name] = _value(mapping[name], hints[name], field.metadata, key)
    return cls(**values)


def join(path: str, key: str) -> str:
    """The dotted key of `key` inside `path`."""
    return f"{path}.{key}" if path else key


def _value(value: Any, hint: Any, metadata: Mapping[str, Any], key: str) -> Any:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(options) < len(typing.get_args(hint))
        hint = options[0]
    if value is None:
        if optional or hint is Any:
            return None
        raise ConfigError(f"{key}: got null; expected {_expected(hint, metadata)}")
    if "dimension" in metadata:
        return _number(value, metadata, key)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            allowed = ", ".join(map(str, choices))
            raise ConfigError(f"{key}: got {value!r}{nearest(str(value), choices)}; allowed: {allowed}")
        return value
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, key)  # type: ignore[arg-type]
    if hint in (dict, list):
        if not isinstance(value, Mapping if hint is dict else list):
            raise ConfigError(f"{key}: got {value!r}; expected a {'section' if hint is dict else 'list'}")
        return value
    if hint is Any:
        return value
    if hint is str:
        if isinstance(value, Mapping | list):
            raise ConfigError(f"{key}: got {value!r}; expected text")
        return str(value)
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{key}: got {value!r}; expected {_expected(hint, metadata)}")
    return value


def _expected(hint: Any, metadata: Mapping[str, Any]) -> str:
    if "dimension" in metadata:
        from mist_jax.units import DIMENSIONS

        return f"a number or a quantity such as {DIMENSIONS[metadata['dimension']][1]}"
    return {bool: "true or false", int: "a whole number", str: "text"}.get(hint, "a section")


def _number(value: Any, metadata: Mapping[str, Any], key: str) -> float:
    try:
        out = to_si(value, metadata["dimension"])
    except ConfigError as exc:
        raise ConfigError(f"{key}: {exc}") from None
    low, high = metadata["low"], metadata["high"]
    if not low <= out <= high:
        bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ConfigError(f"{key}: got {value!r}; must be {bound}")
    if out == float("inf"):
        raise ConfigError(f"{key}: got {value!r}; must be finite")
    return out


#: Keys of the composed mapping that steer the application and are not part of the scenario.
APPLICATION_KEYS = (
    "mode",
    "output",
    "sweep",
    "executor",
    "search",
    "experiment",
    "report",
    "quiet",
    "calibrate",
    "compare",
    "recommend",
)


def parse_scenario(config: Mapping[str, Any]) -> Scenario:
    """The validated `Scenario` of a composed mapping (plain dicts, interpolations resolved).

    Raises:
        ConfigError: see `parse`; also for combinations that cannot be, such as TP that does not divide the heads.
    """
    scenario_keys = {k: v for k, v in config.items() if k not in APPLICATION_KEYS}
    known = {f.name for f in dataclasses.fields(Scenario)} - {"config"}
    for key in scenario_keys:
        if key not in known:
            raise ConfigError(
                f"{key}: unknown key{nearest(key, [*known, *APPLICATION_KEYS])}; "
                f"allowed: {', '.join(sorted([*known, *APPLICATION_KEYS]))}"
            )
    scenario = parse(Scenario, scenario_keys, "")
    failures = [parse(FailureSpec, f, f"failures[{i}]") for i, f in enumerate(scenario.failures)]
    return dataclasses.replace(scenario, failures=failures, config=dict(config))
