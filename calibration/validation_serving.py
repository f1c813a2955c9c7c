"""Validation cases that play whole deployments: two servers against one pair, offline batches, logged runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibration.validate import Case, Row, Skip, row
from mist_jax import load, play


def _trace(arrival_s: Any, prompt: float, output: float) -> Any:
    from mist_jax.queueing.trace import Trace

    count = len(arrival_s)
    lengths = np.full(count, int(prompt)), np.full(count, int(output))
    return Trace(np.asarray(arrival_s, float), *lengths)


def sglang_a10() -> Iterator[Row]:
    """SGLang, Qwen2.5-7B-GPTQ-Int4 on A10 servers, TP4, 8192 in, 512 out, 1 request/s: a pair against two servers.

    200 requests of fixed length with Poisson arrivals (mean of 5 seeds), as a benchmark client sends them. The output
    rates that were measured (428 and 408 tokens/s, of 512 at the most) say that they came more slowly than asked for:
    arrivals are stretched to end as long before the run does as the mean answer takes. SGLang cuts prompts into 2048
    tokens on a card of this memory, and sends the KV of each piece when it is computed (its server_args.py and
    disaggregation/prefill.py, 2025): three of the four pieces go behind the prefill.
    """
    common = ["model=qwen2_5_7b", "engine=sglang", "workload=chat", "workload.isl=8192", "workload.osl=512"]
    common += ["model.precision.weights=int4", "model.precision.activations=bf16", "hardware=a10"]
    common += ["parallelism.tp=4", "engine.max_num_batched_tokens=2048"]
    pair = ["prefill=pool", "hardware@prefill.hardware=a10", "parallelism@prefill.parallelism=tp4"]
    pair += [
        "engine@prefill.engine=sglang",
        "prefill.engine.max_num_batched_tokens=2048",
        "transfer.overlap=0.75",
    ]
    measured = {
        "two servers": (["parallelism.replicas=2"], 767.0, 1265.0, 10.30, 428.0),
        "1P1D": (pair, 733.0, 2953.0, 7.23, 408.0),
    }
    source = "Mooncake documentation, SGLang with A10 servers"
    for name, (more, ttft, tail, itl, rate) in measured.items():
        scenario = load([*common, *more])
        means, tails, tpots = [], [], []
        last = 200 * 512 / rate - 1e-3 * (ttft + 511 * itl)
        for seed in range(5):
            arrivals = np.cumsum(np.random.default_rng(seed).exponential(1.0, 200))
            arrivals *= last / arrivals[-1]
            out = play(scenario, _trace(arrivals, 8192, 512))
            first = np.asarray(out.ttft_s)
            means.append(first.mean())
            tails.append(np.percentile(first, 99))
            tpots.append(float(out.tpot_s.mean()))
        yield row(f"{name}: mean TTFT", ttft, 1e3 * np.mean(means), "ms", source)
        yield row(f"{name}: P99 TTFT", tail, 1e3 * np.mean(tails), "ms", source)
        yield row(f"{name}: ITL", itl, 1e3 * np.mean(tpots), "ms", source)


def amd_throughput() -> Iterator[Row]:
    """8 MI300X, Llama-3.1-70B FP8, TP8, vLLM 0.10, all prompts at once: output tokens/s, played."""
    from calibration.vendors import AMD_70B, VLLM_SEQS

    scenario = load(
        [
            "hardware=mi300x",
            "model=llama3_1_70b",
            "parallelism=tp8",
            "engine=vllm",
            "model.precision.weights=fp8",
            f"engine.max_num_seqs={VLLM_SEQS}",
            "workload=chat",
        ]
    )
    for (prompt, output, count), rate in AMD_70B.items():
        out = play(scenario, _trace(np.zeros(count), prompt, output))
        predicted = count * output / float(np.asarray(out.e2e_s).max())
        yield row(f"{prompt} in, {output} out, {count} prompts", rate, predicted, "tokens/s",
                  "AMD performance page, October 2025", "fitted")  # fmt: skip


def splitwise() -> Iterator[Row]:
    """DGX A100, an engine of 2023: each model by the engine factors fitted to the other one (median over its runs)."""
    from calibration import vendors

    names = ("compute_efficiency", "link_efficiency", "launch", "host")
    both = vendors.splitwise()
    for model in sorted(set(both[0].group)):
        masks = [f.group != model for f in both]
        factors = vendors.fit(both, names, masks)
        for figures in both:
            error = figures.log_error(factors)
            table = figures.table
            for tp in sorted(table.tp[table.model == model].unique()):
                at = np.flatnonzero(((table.model == model) & (table.tp == tp)).to_numpy())
                middle = at[np.argsort(np.abs(error[at]))[len(at) // 2]]
                r = table.iloc[middle]
                yield row(
                    f"{figures.name.split()[-1]} time, {model} TP{tp}, batch {r.batch}, prompt {r.prompt_tokens}",
                    figures.measured[middle], figures.measured[middle] * np.exp(error[middle]), "ms",
                    "Mutinifni/splitwise-sim (MIT)", note=f"the run with the median absolute error of {len(at)}",
                )  # fmt: skip


_LOGS = "casys-kaist/LLMServingSim bench/examples (MIT)"


def engine_runs() -> Iterator[Row]:
    """vLLM 0.19 on RTX PRO 6000: 300 ShareGPT requests at 10/s played request by request.

    With the packaged coefficients, which both runs entered; and each run by those fitted to the other one alone, as
    `calibration.logged_runs` found it.
    """
    from calibration.datasets.engine_runs import read_engine_runs
    from calibration.engine_run import errors, predict_run

    for run in read_engine_runs():
        if run.status != "ok":
            raise Skip(f"{run.name}: {run.reason}")
        table = errors(run, predict_run(run, run.system, run.model))
        for r in table.itertuples():
            yield row(
                f"{run.model}: {r.quantity}", r.measured_ms, r.predicted_ms, "ms",
                _LOGS, "fitted", requests=len(run.requests),
            )  # fmt: skip
    file = Path(__file__).resolve().parents[1] / "mist_jax" / "catalog" / "runs.json"
    for r in json.loads(file.read_text(encoding="utf-8")).get("held_out", []):
        yield row(f"{r['run']}: {r['quantity']}, held out", r["measured_ms"], r["predicted_ms"], "ms", _LOGS)


def long_prefills() -> Iterator[Row]:
    """Inter-token latency of chats (512 in, 256 out, 4 a second) that share an engine with documents of 16,384 tokens.

    Llama-3.1-70B on 8 H100, chunks of 8,192 tokens; every tenth request is a document. MIST says that long prefills in
    a chunked deployment raise the P99, without a figure. By a roofline an iteration with a prompt takes as long as it
    has tokens: the P99 goes from a chat's 512 to a chunk's 8,192, sixteen times.
    """
    from mist_jax.queueing.trace import Trace

    scenario = load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8", "workload=chat"])
    rng, count = np.random.default_rng(3), 1500
    arrival = np.cumsum(rng.exponential(0.25, count))
    document = rng.random(count) < 0.1
    tails = []
    for prompt in (np.full(count, 512), np.where(document, 16384, 512)):
        out = play(scenario, Trace(arrival, prompt, np.full(count, 256)))
        tails.append(out.attrs["itl_p99_s"])
    yield row("P99 of ITL, a tenth documents over none", 8192 / 512, tails[1] / tails[0], "x",
              "roofline, after MIST (arXiv 2504.09775)", "trend")  # fmt: skip


CASES: dict[str, Case] = {
    "long_prefills": long_prefills,
    "sglang_a10": sglang_a10,
    "amd_throughput": amd_throughput,
    "splitwise": splitwise,
    "engine_runs": engine_runs,
}
