"""Results of serving benchmarks: vLLM, SGLang, AIPerf and InferenceX files as one small record in SI units.

Forms, with where they are published:
    vllm        `vllm bench serve --save-result [--save-detailed]`: one JSON object (vllm/benchmarks/serve.py)
    sglang      `sglang.bench_serving --output-file [--output-details]`: one JSON object a line, a line a run
                (sglang/bench_serving.py); end-to-end latency is called `e2e_latency`, not `e2el`
    aiperf      `profile_export_aiperf.json`: a block `{unit, avg, p50, ...}` a metric; `unit` is authoritative
                (AIPerf documentation, "JSON Export Schema")
                or its records one by one, `profile_export.jsonl` (`aiperf_records`)
    inferencex  aggregate of one run (InferenceX utils/process_result.py): times in seconds, throughput per GPU
    log         per-request log of an engine (`request_log`), or a folder with one

What a file does not state is NaN or None, never a guess.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.io.aiperf_records import is_record, read_aiperf_records
from mist_jax.io.request_log import is_request, log_file, read_request_log
from mist_jax.io.traces import read_benchmark
from mist_jax.queueing.trace import Trace
from mist_jax.units import to_si

PathLike = str | os.PathLike[str]
NAN = float("nan")


@dataclass(frozen=True)
class Statistics:
    """Distribution of one latency over the requests of a run, in seconds."""

    mean: float = NAN
    std: float = NAN
    percentiles: dict[float, float] = field(default_factory=dict)  #: 50.0 → median, ...

    def at(self, percentile: float) -> float:
        """The percentile, NaN if the file does not have it."""
        return self.percentiles.get(float(percentile), NAN)

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return math.isfinite(self.mean) or bool(self.percentiles)


@dataclass(frozen=True)
class BenchmarkResult:
    """One measured run: what was sent, what came back."""

    form: str  #: vllm, sglang, aiperf, inferencex or log
    source: str  #: path of the file
    model: str | None = None
    engine: str | None = None
    hardware: str | None = None
    tp: float | None = None
    ep: float | None = None
    dp_attention: bool | None = None
    chips: float | None = None  #: accelerators of the run, if the file says
    concurrency: float | None = None  #: requests in flight at most; None: not limited or not stated
    rate: float | None = None  #: requests/s offered; None: as fast as the concurrency allows, or not stated
    requests: int = 0  #: completed
    failed: int = 0
    duration_s: float = NAN
    isl: float = NAN  #: mean prompt tokens
    osl: float = NAN  #: mean answer tokens
    request_rate: float = NAN  #: requests/s completed
    output_tokens_per_s: float = NAN
    total_tokens_per_s: float = NAN
    goodput: float = NAN  #: requests/s that met the benchmark's own limits
    acceptance_length: float = NAN  #: tokens a speculative step yields, if reported
    ttft: Statistics = Statistics()
    tpot: Statistics = Statistics()
    itl: Statistics = Statistics()
    e2e: Statistics = Statistics()
    trace: Trace | None = None  #: the requests one by one, if the file has them
    settings: dict[str, Any] = field(default_factory=dict)  #: everything else the file states about the run

    @property
    def closed(self) -> bool:
        """Whether a number of requests in flight, and not a rate, set the load."""
        return self.rate is None and self.concurrency is not None


def read_benchmark_result(path: PathLike, *, run: int = -1) -> BenchmarkResult:
    """Read a benchmark's result of whichever known form.

    Args:
        path: the file.
        run: which line of a JSON-lines file (default: the last).

    Raises:
        ConfigError: no such file, not JSON, an unknown form, or a value that is missing or not a number; the
            message names the file and the key.
    """
    at = log_file(Path(path))
    data = _load(at, run)
    if is_request(data):
        return read_request_log(at)
    if is_record(data):
        return read_aiperf_records(at)
    form = detect_form(data)
    if form is None:
        keys = ", ".join(list(data)[:8]) or "none"
        raise ConfigError(
            f"{at}: not a benchmark result of a known form (vLLM, SGLang, AIPerf, InferenceX, per-request log); "
            f"its keys: {keys}"
        )
    reader: Callable[[_Source], BenchmarkResult] = {
        "vllm": _read_vllm, "sglang": _read_sglang, "aiperf": _read_aiperf, "inferencex": _read_inferencex
    }[form]  # fmt: skip
    return reader(_Source(at, data, run))


def detect_form(data: Mapping[str, Any]) -> str | None:
    """Which form a parsed file has; None if it is none of them."""
    if any(isinstance(v, Mapping) and "unit" in v for v in data.values()):
        return "aiperf"
    if "tput_per_gpu" in data:
        return "inferencex"
    if any(k.endswith("_e2e_latency_ms") for k in data):
        return "sglang"
    if "completed" in data and (
        "total_token_throughput" in data or any(k.endswith("_ttft_ms") for k in data)
    ):
        return "vllm"
    return None


def _load(path: Path, run: int) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read ({exc})") from None
    if not text:
        raise ConfigError(f"{path}: is empty")
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            data = json.loads(lines[run])
        except IndexError:
            raise ConfigError(f"{path}: has {len(lines)} runs, no number {run}") from None
        except json.JSONDecodeError:
            raise ConfigError(f"{path}: not JSON (line {whole.lineno}: {whole.msg})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}; expected an object with the run's figures")
    return data


@dataclass(frozen=True)
class _Source:
    """A parsed file that complains with its own name and the key."""

    path: Path
    data: dict[str, Any]
    run: int

    def number(self, key: str, *, need: bool = False, scale: float = 1.0, low: float = 0.0) -> float:
        """The number at `key` in SI; NaN if absent."""
        value = self.data.get(key)
        if value is None:
            if need:
                raise ConfigError(f"{self.path}: {key}: missing")
            return NAN
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ConfigError(f"{self.path}: {key}: got {value!r}; expected a number")
        try:
            out = float(value) * scale
        except ValueError:
            raise ConfigError(f"{self.path}: {key}: got {value!r}; expected a number") from None
        if out < low:
            raise ConfigError(f"{self.path}: {key}: got {value!r}; must not be negative")
        return out

    def optional(self, key: str) -> float | None:
        """The number at `key`; None where it is absent, infinite or not a number (`"inf"`: no limit)."""
        value = self.number(key)
        return value if math.isfinite(value) else None

    def text(self, key: str) -> str | None:
        value = self.data.get(key)
        return None if value is None else str(value)

    def milliseconds(self, metric: str, suffix: str = "_ms", scale: float = 1e-3) -> Statistics:
        """`{mean,median,std,pNN}_metric` of the file."""
        found: dict[float, float] = {}
        for key in self.data:
            head, _, tail = key.partition("_")
            if tail != f"{metric}{suffix}":
                continue
            if head == "median":
                found[50.0] = self.number(key, scale=scale)
            elif head.startswith("p") and _is_number(head[1:]):
                found[float(head[1:])] = self.number(key, scale=scale)
        mean, std = (self.number(f"{s}_{metric}{suffix}", scale=scale) for s in ("mean", "std"))
        return Statistics(mean, std, dict(sorted(found.items())))

    def per_request(self) -> Trace | None:
        """The requests one by one, if the file has them."""
        if not (self.data.get("input_lens") and self.data.get("output_lens")):
            return None
        sizes = {
            k: len(self.data[k]) for k in ("input_lens", "output_lens", "ttfts", "itls") if self.data.get(k)
        }
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"{self.path}: per-request lists of different lengths: {sizes}")
        if self.run != -1:
            return None  # the trace reader takes the last run of a file
        try:
            return read_benchmark(self.path)
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"{self.path}: per-request lists cannot be read ({exc})") from None

    def rest(self, *used: str) -> dict[str, Any]:
        """Scalars of the file that no field took."""
        return {
            k: v for k, v in self.data.items() if k not in used and isinstance(v, str | int | float | bool)
        }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ratio(total: float, count: float) -> float:
    return total / count if count > 0 else NAN


def _client(s: _Source, form: str, e2e: str) -> BenchmarkResult:
    """What vLLM's and SGLang's clients have in common."""
    done = s.number("completed", need=True)
    if done == 0:
        raise ConfigError(f"{s.path}: completed: got 0; no request was answered, there is nothing to compare")
    ttft = s.milliseconds("ttft")
    if not ttft.known:
        raise ConfigError(f"{s.path}: mean_ttft_ms: missing; was the benchmark run with streaming?")
    errors = [e for e in s.data.get("errors") or [] if e]
    failed = s.number("failed")
    total_in, total_out = (
        s.number("total_input_tokens", need=True),
        s.number("total_output_tokens", need=True),
    )
    output = s.number("output_throughput", need=True)
    total = s.number("total_token_throughput")
    if math.isnan(total):
        total = output + s.number("input_throughput")
    return BenchmarkResult(
        form=form,
        source=str(s.path),
        model=s.text("model_id") or s.text("model"),
        engine=s.text("endpoint_type") or s.text("backend") or form,
        tp=s.optional("tp"),
        concurrency=s.optional("max_concurrency"),
        rate=s.optional("request_rate"),
        requests=int(done),
        failed=int(failed) if math.isfinite(failed) else len(errors),
        duration_s=s.number("duration", need=True),
        isl=_ratio(total_in, done),
        osl=_ratio(total_out, done),
        request_rate=s.number("request_throughput", need=True),
        output_tokens_per_s=output,
        total_tokens_per_s=total,
        goodput=s.number("request_goodput"),
        acceptance_length=s.number("accept_length"),
        ttft=ttft,
        tpot=s.milliseconds("tpot"),
        itl=s.milliseconds("itl"),
        e2e=s.milliseconds(e2e),
        trace=s.per_request(),
        settings=s.rest(),
    )


def _read_vllm(s: _Source) -> BenchmarkResult:
    return _client(s, "vllm", "e2el")


def _read_sglang(s: _Source) -> BenchmarkResult:
    return _client(s, "sglang", "e2e_latency")


def _read_inferencex(s: _Source) -> BenchmarkResult:
    """Times in seconds without a suffix; `tput_per_gpu` counts prompt and answer tokens per GPU of the TP group."""
    tp = s.number("tp", need=True)
    chips = tp  # as utils/process_result.py divides
    per_chip, per_chip_out = s.number("tput_per_gpu", need=True), s.number("output_tput_per_gpu")
    flag = s.data.get("dp_attention")
    isl, osl = s.number("isl"), s.number("osl")
    ttft = s.milliseconds("ttft", "", 1.0)
    if not ttft.known:
        raise ConfigError(f"{s.path}: mean_ttft: missing")
    return BenchmarkResult(
        form="inferencex",
        source=str(s.path),
        model=s.text("model"),
        engine=s.text("framework"),
        hardware=s.text("hw"),
        tp=tp,
        ep=s.optional("ep"),
        dp_attention=None if flag is None else str(flag).lower() == "true",
        chips=chips,
        concurrency=s.number("conc", need=True),
        isl=isl,
        osl=osl,
        request_rate=per_chip_out * chips / osl if osl > 0 else NAN,
        output_tokens_per_s=per_chip_out * chips,
        total_tokens_per_s=per_chip * chips,
        ttft=ttft,
        tpot=s.milliseconds("tpot", "", 1.0),
        itl=s.milliseconds("itl", "", 1.0),
        e2e=s.milliseconds("e2el", "", 1.0),
        settings=s.rest(),
    )


def _block(s: _Source, name: str, *, need: bool = False) -> tuple[dict[str, Any], float]:
    """(block of a metric, factor to SI) of an AIPerf file."""
    block = s.data.get(name)
    if block is None:
        if need:
            raise ConfigError(f"{s.path}: {name}: missing")
        return {}, 1.0
    if not isinstance(block, Mapping) or "unit" not in block:
        raise ConfigError(f"{s.path}: {name}: got {block!r}; expected a block with `unit` and `avg`")
    unit = str(block["unit"])
    if unit in ("ms", "s", "sec", "us", "ns"):
        return dict(block), to_si(f"1 {'s' if unit == 'sec' else unit}", "time")
    return dict(block), 1.0


def _value(s: _Source, name: str, *, need: bool = False) -> float:
    block, scale = _block(s, name, need=need)
    return _Source(s.path, {f"{name}.avg": block.get("avg")}, s.run).number(
        f"{name}.avg", need=need, scale=scale
    )


def _statistics(s: _Source, name: str, *, need: bool = False) -> Statistics:
    block, scale = _block(s, name, need=need)
    if not block:
        return Statistics()
    if block["unit"] not in ("ms", "s", "sec", "us", "ns"):
        raise ConfigError(f"{s.path}: {name}.unit: got {block['unit']!r}; expected a time")
    inner = _Source(s.path, {f"{name}.{k}": v for k, v in block.items()}, s.run)
    marks = sorted(float(k[1:]) for k in block if k[0] == "p" and _is_number(k[1:]))
    return Statistics(
        inner.number(f"{name}.avg", need=need, scale=scale),
        inner.number(f"{name}.std", scale=scale),
        {p: inner.number(f"{name}.p{p:g}", scale=scale) for p in marks},
    )


def _find(tree: Any, key: str) -> Any:
    """The first value of `key` anywhere in nested mappings: AIPerf moved its settings between versions."""
    if isinstance(tree, Mapping):
        if tree.get(key) is not None:
            return tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        return next((x for item in tree if (x := _find(item, key)) is not None), None)
    return None


def _read_aiperf(s: _Source) -> BenchmarkResult:
    """TPOT is AIPerf's `inter_token_latency`: (latency - TTFT) / (answer - 1) of each request."""
    config = s.data.get("input_config")
    models = _find(config, "model_names") or _find(config, "model")
    inner = _Source(s.path, {k: _find(config, k) for k in ("concurrency", "request_rate")}, s.run)
    done = _value(s, "request_count", need=True)
    failed = _value(s, "error_request_count")
    tpot = _statistics(s, "inter_token_latency")
    return BenchmarkResult(
        form="aiperf",
        source=str(s.path),
        model=str(models[0]) if isinstance(models, list) and models else (str(models) if models else None),
        concurrency=inner.optional("concurrency") if _scalar(inner.data["concurrency"]) else None,
        rate=inner.optional("request_rate") if _scalar(inner.data["request_rate"]) else None,
        requests=int(done),
        failed=int(failed) if math.isfinite(failed) else 0,
        duration_s=_value(s, "benchmark_duration"),
        isl=_value(s, "input_sequence_length"),
        osl=_value(s, "output_sequence_length"),
        request_rate=_value(s, "request_throughput", need=True),
        output_tokens_per_s=_value(s, "output_token_throughput"),
        total_tokens_per_s=_value(s, "total_token_throughput"),
        goodput=_value(s, "goodput"),
        ttft=_statistics(s, "time_to_first_token", need=True),
        tpot=tpot,
        itl=_statistics(s, "inter_chunk_latency"),
        e2e=_statistics(s, "request_latency"),
        settings=s.rest(),
    )


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def lengths_cv(trace: Trace | None) -> tuple[float, float]:
    """Coefficients of variation of prompt and answer lengths; 0 where the requests are not known one by one."""
    if trace is None:
        return 0.0, 0.0
    out = []
    for values in (trace.prompt_tokens, trace.output_tokens):
        v = np.asarray(values, float)
        v = v[np.isfinite(v) & (v > 0)]
        out.append(float(v.std() / v.mean()) if v.size else 0.0)
    return out[0], out[1]
