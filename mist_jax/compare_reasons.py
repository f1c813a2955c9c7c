"""What might explain the difference between a measured run and its prediction.

Three kinds, in this order: contradictions between the file and the description; facts about the run or the
prediction that make a comparison delicate; and single changes to the description that bring the prediction nearer to
the measurement, found by evaluating each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.compose import with_overrides
from mist_jax.errors import ConfigError
from mist_jax.io.benchmarks import BenchmarkResult
from mist_jax.schema import Scenario

if TYPE_CHECKING:
    import xarray as xr

#: Mean |ln(predicted / measured)| of TTFT and TPOT below which nothing needs explaining: two measurements of one
#: deployment differ by up to 8 % in TPOT and 14 % in TTFT (90th percentile; calibration/DATA.md, "Noise").
SMALL = 0.08
#: A change counts if it takes away this share of the difference.
WORTH = 0.3


def explain(
    scenario: Scenario, result: BenchmarkResult, steady: xr.Dataset, predicted: dict[str, float]
) -> list[str]:
    """Lines that a person can act on, the likeliest first.

    Args:
        scenario: the description under the load of the run.
        result: what was measured.
        steady: the steady state of the scenario.
        predicted: quantity → predicted value (SI), as compared.
    """
    out = [*contradictions(scenario, result), *facts(scenario, result, steady)]
    error = distance(predicted, result)
    if not np.isfinite(error):
        return [*out, "the file has neither TTFT nor TPOT to compare with"]
    if error < SMALL:
        return [
            *out,
            f"TTFT and TPOT agree within {np.expm1(error):.0%} on average: nothing needs explaining",
        ]
    changes = what_ifs(scenario, result, steady)
    out += changes
    if not changes:
        out.append(
            "no single change to the description (prefix cache, token budget, KV cache, graphs, weight format, "
            "speculation) explains the difference; calibrate from this run (mode=calibrate) or open an issue"
        )
    return out


def distance(predicted: dict[str, float], result: BenchmarkResult) -> float:
    """Mean |ln(predicted / measured)| of the mean TTFT and TPOT; NaN if neither was measured."""
    pairs = [(predicted.get(f"{n}_mean_s", np.nan), getattr(result, n).mean) for n in ("ttft", "tpot")]
    logs = [abs(np.log(p / m)) for p, m in pairs if np.isfinite(p) and np.isfinite(m) and p > 0 and m > 0]
    return float(np.mean(logs)) if logs else float("nan")


def contradictions(scenario: Scenario, result: BenchmarkResult) -> Iterator[str]:
    """Where the file says something else than the description."""
    par = scenario.parallelism
    for name, said, here in (
        ("tp", result.tp, par.tp * (par.dp if result.dp_attention else 1)),
        ("ep", result.ep, par.ep),
        ("chips", result.chips, par.tp * par.pp * par.dp * par.replicas),
    ):
        if said is not None and said != here:
            yield f"the file says {name} = {said:g}, the description {here:g}: compare like with like first"
    if result.dp_attention and par.dp == 1:
        yield "the file says attention data parallelism, the description has parallelism.dp = 1"
    if result.model and not same_model(result.model, scenario):
        yield f"the file says model {result.model}, the description {scenario.model.name}"
    if result.engine and scenario.engine.name in ("vllm", "sglang", "trtllm"):
        said_engine = result.engine.lower().replace("-", "")
        known = next((e for e in ("sglang", "trt", "vllm") if e in said_engine), None)
        if known and not scenario.engine.name.startswith(known):
            yield f"the file says engine {result.engine}, the description {scenario.engine.name}"
    if result.hardware and scenario.hardware.id:
        chip = re.split(r"[-_ ]", result.hardware.lower())[0]
        if chip != scenario.hardware.id.split("_")[0]:
            yield f"the file says hardware {result.hardware}, the description {scenario.hardware.id}"


def same_model(text: str, scenario: Scenario) -> bool:
    """Whether a model's name in a file may be the scenario's; formats and suffixes do not matter."""

    def words(name: str) -> set[str]:
        parts = set(re.findall(r"\d+(?:\.\d+)?[bm]?|[a-z]+", name.lower().replace("_", "-")))
        return parts - {
            "instruct",
            "fp",
            "fp8",
            "8",
            "nvfp",
            "mxfp",
            "4",
            "meta",
            "chat",
            "it",
            "hf",
            "v",
            "b",
        }

    last = text.rstrip("/").split("/")[-1]
    names = [
        scenario.model.name,
        (scenario.model.source or "").removesuffix("/blob/main/config.json").split("/")[-1],
    ]
    asked = words(last)
    return any(words(n) <= asked or asked <= words(n) for n in names if n)


def facts(scenario: Scenario, result: BenchmarkResult, steady: xr.Dataset) -> Iterator[str]:
    """Facts about the run or the prediction that bear on the comparison."""
    if result.failed:
        total = result.failed + result.requests
        yield f"{result.failed} of {total} requests failed: means over the rest are not those of the offered load"
    load, kv = float(steady["load"]), float(steady.kv_occupancy)
    if scenario.workload.arrivals != "closed" and load > 0.85:
        yield (
            f"the predicted load is {load:.0%} of capacity: there a few per cent of capacity change TTFT "
            "manyfold; compare throughput and TPOT, or measure at a lower rate"
        )
    tokens = float(steady.kv_tokens) * scenario.parallelism.dp * scenario.parallelism.replicas
    if kv > 0.85:
        yield (
            f"the predicted KV cache is {kv:.0%} full ({tokens:,.0f} tokens): requests wait or are preempted for "
            "memory; set engine.num_gpu_blocks to what the server logged at its start"
        )
    if scenario.workload.arrivals == "closed" and result.concurrency and result.requests:
        rounds = result.requests / result.concurrency
        if rounds < 4:
            yield (
                f"the run has {rounds:.1f} rounds of its concurrency: the burst at the start and the draining end "
                "weigh on its means; send at least ten rounds"
            )
    if (
        result.rate is not None
        and np.isfinite(result.request_rate)
        and result.request_rate < 0.9 * result.rate
    ):
        yield (
            f"the run completed {result.request_rate:.3g} of {result.rate:.3g} requests/s offered: the server was "
            "saturated or the run too short, and TTFT grew with its length"
        )
    yield from _speculation(scenario, result)
    slow = result.itl.at(99) / result.tpot.mean if result.itl.known else np.nan
    if slow > 4:
        yield (
            f"the slowest 1 % of the gaps between tokens are {slow:.0f} times the mean TPOT: prefill chunks interrupt "
            "decoding; engine.max_num_batched_tokens sets how long such an iteration is"
        )
    yield from _calibration(scenario)


def _speculation(scenario: Scenario, result: BenchmarkResult) -> Iterator[str]:
    """Engines stream what one step yields: with speculation a gap holds several tokens, and ITL exceeds TPOT."""
    length = result.acceptance_length
    if np.isfinite(length) and length > 1.05:
        yield f"the file reports {length:.2f} tokens a speculative step: describe the speculation, or measure without"
        return
    ratio = result.itl.mean / result.tpot.mean if result.tpot.mean > 0 else np.nan
    if ratio > 1.3:
        yield (
            f"the mean gap between streamed chunks is {ratio:.2f} times TPOT: about {ratio:.1f} tokens came at once, "
            "as with speculative decoding or a stream interval"
        )


def _calibration(scenario: Scenario) -> Iterator[str]:
    from mist_jax.catalog_loader import kernel_coefficients

    if scenario.calibration == "none":
        yield "calibration=none: the prediction is that of the priors, not of the packaged fit"
        return
    hw = scenario.hardware
    level = kernel_coefficients(hw.id, hw.generation, scenario.engine.name).level
    if level != "system":
        yield (
            f"kernels of {hw.name} with {scenario.engine.name} were not measured; the fall-back is: {level}"
        )


def _changes(scenario: Scenario, steady: xr.Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what may be so, the change of the description)."""
    eng = scenario.engine
    if eng.prefix_hit_rate < 0.2:
        for share in (0.5, 0.9):
            yield (
                f"the prefix cache holds {share:.0%} of the prompt tokens",
                {"engine.prefix_hit_rate": share},
            )
    else:
        yield "the prefix cache found nothing", {"engine.prefix_hit_rate": 0.0}
    for budget in (2048, 8192, 16384):
        if budget != eng.max_num_batched_tokens:
            yield f"the token budget of an iteration is {budget}", {"engine.max_num_batched_tokens": budget}
    for seqs in (128, 256):
        if seqs < eng.max_num_seqs:
            yield f"no more than {seqs} sequences run at once", {"engine.max_num_seqs": seqs}
    for share in (0.5, 0.25):  # the playback takes num_gpu_blocks; the steady state derives them from memory
        less = (1.0 - share) * float(steady.kv_budget_bytes) / scenario.hardware.memory.capacity
        change = {"engine.memory_utilization": max(eng.memory_utilization - less, 0.01)}
        yield f"the KV cache has {share:.0%} of the predicted size", change
    if eng.cuda_graphs:
        yield "kernels are launched one by one (eager mode)", {"engine.cuda_graphs": False}
    if getattr(eng, "draft_tokens", None) == 0:
        yield "three tokens are drafted a step (speculative decoding)", {"engine.draft_tokens": 3}
    for kind in ("bf16", "fp8"):
        if scenario.model.precision.weights != kind:
            yield f"the weights are {kind}", {"model.precision.weights": kind}


def what_ifs(scenario: Scenario, result: BenchmarkResult, steady: xr.Dataset) -> list[str]:
    """Single changes that bring the steady state nearer to the measured TTFT and TPOT, best first, at most three."""
    from mist_jax.evaluate import evaluate

    base = distance(_means(steady), result)
    found = []
    for label, change in _changes(scenario, steady):
        try:
            ds = evaluate(with_overrides(scenario, change), elasticities=False)
        except ConfigError:
            continue  # this change cannot be: it explains nothing
        means = _means(ds)
        error = distance(means, result)
        if np.isfinite(error) and error < (1 - WORTH) * base:
            ((key, value),) = change.items()
            shown = (
                f"{value:g}"
                if isinstance(value, int | float) and not isinstance(value, bool)
                else str(value).lower()
            )
            text = (
                f"if {label} ({key}={shown}): TTFT {means['ttft_mean_s'] * 1e3:.4g} ms, TPOT "
                f"{means['tpot_mean_s'] * 1e3:.4g} ms, which takes away {1 - error / base:.0%} of the difference"
            )
            found.append((error, text))
    return [text for _, text in sorted(found)[:3]]


def _means(ds: xr.Dataset) -> dict[str, float]:
    return {"ttft_mean_s": float(ds.ttft_s), "tpot_mean_s": float(ds.tpot_s)}
