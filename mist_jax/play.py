"""`play`: a request trace through a deployment, iteration by iteration, as a labelled dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mist_jax import build
from mist_jax.compose import require_scenario
from mist_jax.errors import ConfigError, TraceError
from mist_jax.evaluate import describe, require_fit
from mist_jax.play_energy import energy_figures
from mist_jax.queueing import metrics, playback
from mist_jax.queueing import state as st
from mist_jax.queueing.admission import admission_lag
from mist_jax.queueing.cache_curve import cache_curve
from mist_jax.queueing.layout import token_counts
from mist_jax.queueing.policies import policy
from mist_jax.queueing.speculation import in_verified_steps, tokens_per_step
from mist_jax.queueing.steady_disaggregated import again_s, share_behind
from mist_jax.queueing.step_table import build_step_table
from mist_jax.queueing.trace import Trace
from mist_jax.schema import EngineSpec, HardwareSpec, ParallelismSpec, Scenario
from mist_jax.system.deployment import System

Array = np.ndarray

#: Stages of a request, in order; `handover` (transfer of the KV cache, and the wait to join a batch) where prefill
#: and decode are apart.
STAGES = ("request", "queue", "prefill", "handover", "decode")
#: variable along `client` → what it is
CLIENT_VARIABLES = {
    "utilization": "busy share of the time",
    "mean_batch": "mean sequences in an iteration",
    "kv_occupancy": "mean share of the KV blocks in use",
    "iterations": "engine iterations",
}
PERCENTILES = (50, 90, 95, 99)
#: Output tokens up to which the times of all tokens are kept, for the percentiles of the gaps between them.
GAPS_UP_TO = 5_000_000


def play(scenario: Scenario, trace: Trace | str | Path | None = None) -> xr.Dataset:
    """Play a trace and report every request.

    Args:
        scenario: the deployment; its workload gives the trace unless one is passed.
        trace: a `Trace`, or the path or public name of one.

    Returns:
        Dataset along `request`: `arrival_s`, `ttft_s`, `tpot_s`, `e2e_s`, `prompt_tokens`, `output_tokens`,
        `status` (0: served), `preemptions`, `stage_s(request, stage)`, and `itl_max_s`, the longest inter-token
        latency (where the trace asks for at most `GAPS_UP_TO` tokens); along `client` (engines; attention-DP ranks and
        micro-batches of a pipeline count one each) `CLIENT_VARIABLES`. The attributes hold the summary: percentiles,
        those of `itl_s` over all tokens, goodput, `stage_share_*`, `queue_length_mean` and `_max`, `queue_p99_s`, cost
        and energy.

    Raises:
        ConfigError: the deployment cannot be or does not fit. TraceError: the trace cannot be read.
    """
    import jax

    from mist_jax.workloads import build_trace

    require_scenario(scenario)
    text = "the given trace"
    if isinstance(trace, str | Path):
        from mist_jax.io.trace_sources import open_trace

        trace, text = open_trace(str(trace), seed=scenario.seed)
    elif trace is None:
        trace, text = build_trace(scenario)
    elif not isinstance(trace, Trace):
        raise TraceError(f"trace: got {type(trace).__name__}; expected a Trace, or the path or name of one")
    if scenario.pipeline.stages:
        from mist_jax.pipelines.play_result import play_pipeline

        return play_pipeline(scenario, trace, text)
    with jax.enable_x64(True):
        clients, links, system, front = build_clients(scenario, trace)
    # a benchmark whose first round counts: it meets kernels and connections that are not there yet
    first = np.arange(trace.size) < trace.closed_loop * (scenario.workload.burst_share > 0)
    trace = _at_the_engine(trace, front, scenario.prefill is not None, first)
    asked = trace
    if float(system.engine.draft_tokens) > 0:
        trace = in_verified_steps(trace, tokens_per_step(system))
    failures = failures_of(scenario, playback.expand(clients))
    try:
        log = float(trace.output_tokens.sum()) <= GAPS_UP_TO
        played = playback.play(trace, clients, router_of(scenario), links=links, failures=failures, log=log)
    except ValueError as exc:
        raise ConfigError(f"engine: {exc}") from None
    if not (played.requests["status"] == st.OK).any():
        counts = np.bincount(played.requests["status"], minlength=len(st.STATUS))
        reasons = ", ".join(f"{n} {name}" for n, name in zip(counts, st.STATUS, strict=True) if n)
        raise TraceError(
            f"workload: none of the {trace.size} requests can be served ({reasons}); the context of "
            f"{scenario.model.name} is {float(system.model.max_context):g} tokens"
        )
    gaps = token_gaps(played) if log else None
    if trace is not asked:
        for field, given in (("prompt", asked.prompt_tokens), ("output", asked.output_tokens)):
            played.requests[field] = token_counts(given)[0]
    return to_dataset(scenario, played, system, front, text, first, gaps)


def router_of(scenario: Scenario) -> playback.Router:
    """The scenario's rule for spreading requests."""
    spec = scenario.routing
    return playback.Router(
        rule=spec.rule,
        fallback=spec.fallback,
        heavy_tokens=int(spec.heavy_tokens),
        backlog_cap_tokens=int(spec.backlog_cap_tokens),
        retry_delay_s=spec.retry_delay,
        seed=scenario.seed,
    )


def failures_of(scenario: Scenario, clients: Sequence[Any]) -> list[playback.Failure]:
    """The scenario's failures on these clients, one entry an engine.

    Raises:
        ConfigError: no such client, or a return before the failure.
    """
    out = []
    for i, f in enumerate(scenario.failures):
        if f.client != int(f.client) or f.client >= len(clients):
            names = ", ".join(f"{j} ({c.name})" for j, c in enumerate(clients[:16]))
            raise ConfigError(f"failures[{i}].client: got {f.client:g}; allowed: {names}")
        if f.until is not None and f.until <= f.at:
            raise ConfigError(f"failures[{i}].until: got {f.until:g} s; must be after `at`, {f.at:g} s")
        out.append(playback.Failure(int(f.client), f.at, np.inf if f.until is None else f.until))
    return out


def build_clients(
    scenario: Scenario, trace: Trace
) -> tuple[list[playback.Engine], list[playback.Link], System, System]:
    """The engines of the scenario's pools, the links between them, and the systems that decode and that prefill."""
    from mist_jax.physics.memory import kv_bytes_total

    system = build.build_system(scenario)
    longest = float((trace.prompt_tokens + trace.output_tokens).max())
    # powers of two: the program that fills the step table is compiled for few sizes
    context = int(min(float(system.model.max_context), 2.0 ** np.ceil(np.log2(max(longest, 1.0)))))
    main = _engines(scenario, system, scenario.hardware, scenario.parallelism, scenario.engine, context)
    if scenario.prefill is None:  # measured closed loops do not show it (docs/scheduling.md)
        return [dataclasses.replace(main, ahead=main.ahead and not trace.closed_loop)], [], system, system
    pool = scenario.prefill
    first = build.build_system(scenario, pool, "prefill.")
    transfer = build.build_transfer(scenario)
    per_token = float(kv_bytes_total(system.model, np.asarray(1000.0))) / 1000.0
    front = _engines(scenario, first, pool.hardware, pool.parallelism, pool.engine, context, "prefill.")
    rate = float(transfer.bandwidth) / float(first.calibration.step.transfer_scale)
    behind = float(share_behind(transfer, system.model.layers))
    main = dataclasses.replace(main, role="decode", kv_bytes_per_token=per_token, name="decode")
    front = dataclasses.replace(front, role="prefill", kv_bytes_per_token=per_token, name="prefill")
    replicas = int(pool.parallelism.replicas)
    # a prefill replica sends over its own link, as in the steady state
    links = [playback.Link(f"kv{i}", rate, float(transfer.latency), behind=behind) for i in range(replicas)]
    fronts = [dataclasses.replace(front, count=front.count // replicas, link=link.name) for link in links]
    return [*fronts, main], links, system, first


def _at_the_engine(trace: Trace, front: System, handed_over: bool, first: Array) -> Trace:
    """The trace as the engines see it: each request comes later by what precedes its queue; who sends one after an
    answer waits for what follows that, too. A closed loop takes the mean over its requests, `first` ones as the others.
    """
    before = outside_s(front, trace.prompt_tokens, first=first)
    all_of_it = outside_s(front, trace.prompt_tokens, handed_over)
    delay = np.zeros(trace.size) if trace.delay_s is None else np.asarray(trace.delay_s)
    if trace.edges is not None and trace.edges.size:
        parent, child = trace.edges.T
        after = np.zeros(trace.size)
        np.maximum.at(after, child, (all_of_it - before)[parent])
        delay = delay + np.where(np.isin(np.arange(trace.size), child), before + after, 0.0)
    arrival = trace.arrival_s + before
    if trace.closed_loop:  # the others come after the first ones, whenever that is
        arrival[trace.closed_loop :] = arrival.max()
    think = trace.think_s + float(np.nanmean(all_of_it))
    return dataclasses.replace(trace, arrival_s=arrival, delay_s=delay, think_s=think)


def outside_s(
    front: System, prompt_tokens: Array, handed_over: bool | Array = False, first: bool | Array = False
) -> Array:
    """Seconds outside of iterations, before the first token, of requests with so many prompt tokens; `front` prefills.

    `first` tells which are a benchmark's first round. The steady state counts the same (`queueing.steady`).
    """
    step, first = front.calibration.step, np.asarray(first)
    prompt = np.asarray(prompt_tokens, dtype=np.float64)
    own = float(step.request_s) + float(step.first_round_s) * first + float(step.prompt_token_s) * prompt
    handover = float(step.handover_s) + float(step.first_handover_s) * first + again_s(front, prompt)
    return own + handover * np.asarray(handed_over)


def _engines(
    scenario: Scenario,
    system: System,
    hardware: HardwareSpec,
    parallelism: ParallelismSpec,
    engine: EngineSpec,
    context: int,
    where: str = "",
) -> playback.Engine:
    import jax

    from mist_jax.evaluate import programs

    memory = jax.tree.map(np.asarray, programs()["memory"](system))
    require_fit(scenario, memory, where)
    blocks = int(engine.num_gpu_blocks or memory.kv_blocks)
    # without chunks an iteration may hold the longest prompt, with all the decodes
    whole = not policy(engine.policy).chunked
    tokens = max(engine.max_num_batched_tokens, engine.max_num_seqs + context * whole)
    return playback.Engine(
        table=build_step_table(system, max_tokens=int(tokens), max_context=context),
        kv_blocks=blocks,
        block_size=int(engine.block_size),
        max_num_batched_tokens=int(engine.max_num_batched_tokens),
        max_num_seqs=int(min(engine.max_num_seqs, engine.max_num_batched_tokens)),
        max_model_len=int(float(system.model.max_context)),
        policy=engine.policy,
        prefix_caching=engine.prefix_caching,
        ahead=build.schedules_ahead(engine, float(system.parallel.pp)),
        # measured where one engine does both; pools are fitted without it
        lag=float(admission_lag(system)) if scenario.prefill is None else 0.0,
        poll=int(engine.scheduler_recv_interval) if scenario.prefill is None else 1,
        count=int(parallelism.replicas * parallelism.dp),
        # experts are spread over the attention-DP ranks, so that every iteration needs all of them
        ranks=int(parallelism.dp) if float(system.model.moe_layers) > 0 else 1,
        name=hardware.name,
    )


def to_dataset(
    scenario: Scenario,
    played: playback.Played,
    system: System,
    front: System,
    text: str,
    first: Array,
    gaps: tuple[Array, Array] | None = None,
) -> xr.Dataset:
    """Per-request results with units, and the summary as attributes; `first`: those of a benchmark's first round;
    `gaps`: those of `token_gaps`."""
    rq = played.requests
    own = outside_s(front, rq["prompt"], first=first)
    outside = outside_s(front, rq["prompt"], np.isfinite(rq["transferred"]), first)
    queue = rq["scheduled"] - rq["arrival"]
    prefill = rq["first"] - rq["scheduled"]
    served = rq["status"] == st.OK
    parts = {"request": np.where(served, own, np.nan), "queue": queue, "prefill": prefill}
    if scenario.prefill is None:
        parts["decode"] = rq["finish"] - rq["first"]
    else:  # an answer of one token is not handed over
        joined = np.where(np.isnan(rq["transferred"]), rq["first"], rq["transferred"])
        parts |= {"handover": joined - rq["first"] + outside - own, "decode": rq["finish"] - joined}
    stages = np.stack(list(parts.values()), axis=1)
    ids = played.trace.request_id if played.trace.request_id is not None else np.arange(rq.size)

    def column(values: Array, units: str, name: str) -> tuple[str, Array, dict[str, str]]:
        return "request", np.asarray(values), {"units": units, "long_name": name}

    ds = xr.Dataset(
        {
            "arrival_s": column(rq["arrival"] - own, "s", "arrival"),
            "ttft_s": column(first_seen(rq) - rq["arrival"] + outside, "s", "time to first token"),
            "tpot_s": column(seconds_per_token(rq), "s", "time per output token after the first"),
            "e2e_s": column(played.e2e_s + outside, "s", "end-to-end latency"),
            "prompt_tokens": column(rq["prompt"], "1", "prompt tokens"),
            "output_tokens": column(rq["output"], "1", "generated tokens"),
            "preemptions": column(rq["preemptions"], "1", "times the request was preempted"),
            "status": column(rq["status"], "1", "0: served"),
            "stage_s": (("request", "stage"), stages, {"units": "s", "long_name": "time in each stage"}),
        },
        coords={"request": ids, "stage": list(parts)},
    )
    ds = ds.assign(client_variables(played))
    if scenario.failures:
        ds["retries"] = column(rq["retries"], "1", "times the request was lost with its engine")
    if scenario.workload.cache_sizes is not None:
        came = dataclasses.replace(played.trace, arrival_s=rq["arrival"])
        ds = ds.assign(cache_variables(scenario, came))
    ds.attrs.update(describe(scenario), trace=text)
    ds.attrs.update(summarize(scenario, ds, played, system))
    if gaps is not None and gaps[1].size:
        ds["itl_max_s"] = column(gaps[0], "s", "longest time between two tokens")
        marks = np.percentile(gaps[1], PERCENTILES)
        ds.attrs["itl_mean_s"] = float(gaps[1].mean())
        ds.attrs.update({f"itl_p{p}_s": float(v) for p, v in zip(PERCENTILES, marks, strict=True)})
    return ds


def token_gaps(played: playback.Played) -> tuple[Array, Array]:
    """(longest inter-token latency of each request, NaN without a second token; those of all tokens), s, as the user
    has them; of drafted tokens that come together, from one iteration to the next."""
    who, gaps = metrics.inter_token_latencies(played, first_seen(played.requests))
    longest = np.full(played.requests.size, -np.inf)
    np.maximum.at(longest, who, gaps)
    return np.where(np.isfinite(longest), longest, np.nan), gaps


def first_seen(rq: Array) -> Array:
    """When the user has the first token (s): in disaggregation it comes from the decode engine, after the transfer of
    the KV cache (vLLM's and SGLang's proxies return the decode engine's answer)."""
    return np.fmax(rq["first"], rq["transferred"])


def seconds_per_token(rq: Array) -> Array:
    """Seconds per output token after the first that the user has; NaN for answers of one token."""
    gaps = np.where(rq["output"] > 1, rq["output"] - 1.0, np.nan)
    return (rq["finish"] - first_seen(rq)) / gaps


def client_variables(played: playback.Played) -> dict[str, Any]:
    """`CLIENT_VARIABLES` as variables along `client`."""
    values = metrics.client_figures(played)
    names = [f"{name} {i}" if len(played.names) > 1 else name for i, name in enumerate(played.names)]
    out: dict[str, Any] = {
        k: ("client", values[k], {"units": "1", "long_name": text}) for k, text in CLIENT_VARIABLES.items()
    }
    return out | {"client": names}


def cache_variables(scenario: Scenario, trace: Trace) -> dict[str, Any]:
    """`hit_rate` along `cache_tokens`: an LRU cache in front of all engines (`queueing.cache_curve`).

    Raises:
        ConfigError: no sizes, no numbers of at least 0, or a trace that names no prefixes.
    """
    sizes = scenario.workload.cache_sizes or []
    if not sizes or any(isinstance(s, bool) or not isinstance(s, int | float) or not s >= 0 for s in sizes):
        raise ConfigError(
            f"workload.cache_sizes: got {sizes}; expected numbers of tokens, such as [1e6, 1e7]"
        )
    if trace.units is None:
        raise ConfigError(
            f"workload.cache_sizes: {trace.name} names no prefixes; take a trace that does "
            "(workload=mooncake_conversation) or workload.turns above 1"
        )
    rates = cache_curve(trace, [float(s) / trace.unit_tokens for s in sizes])
    text = {"units": "1", "long_name": "share of the prefix units found in a cache of this size"}
    coordinate = (
        "cache_tokens",
        np.asarray(sizes, float),
        {"units": "token", "long_name": "size of the cache"},
    )
    return {"hit_rate": ("cache_tokens", rates, text), "cache_tokens": coordinate}


def queue_summary(played: playback.Played, wait: Array) -> dict[str, float]:
    """Length of the queues before the engines, and the percentiles of the wait (s) in them."""
    mean, most = metrics.queue_length(played)
    out = {"queue_length_mean": mean, "queue_length_max": float(most)}
    wait = wait[np.isfinite(wait)]
    if wait.size:
        marks = np.percentile(wait, PERCENTILES)
        out |= {f"queue_p{p}_s": float(v) for p, v in zip(PERCENTILES, marks, strict=True)}
    return out


def good_requests(scenario: Scenario, ds: xr.Dataset) -> Array:
    """Which requests meet the SLO (those not served do not)."""
    good = ds.status.values == st.OK
    for limit, name in (
        (scenario.slo.ttft, "ttft_s"),
        (scenario.slo.tpot, "tpot_s"),
        (scenario.slo.e2e, "e2e_s"),
    ):
        if limit is not None:
            value = ds[name].values
            # an answer of one token has no TPOT: nothing to miss
            good &= (value <= limit) | (np.isnan(value) & (name == "tpot_s"))
    return good


def summarize(scenario: Scenario, ds: xr.Dataset, played: playback.Played, system: System) -> dict[str, Any]:
    """Percentiles, goodput, throughput, cost and energy of the whole run, as plain numbers."""
    out: dict[str, Any] = {
        "requests": int(ds.sizes["request"]),
        "served": int((ds.status.values == st.OK).sum()),
    }
    for name in ("ttft", "tpot", "e2e"):
        values = ds[f"{name}_s"].values
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        out[f"{name}_mean_s"] = float(values.mean())
        for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
            out[f"{name}_p{p}_s"] = float(v)
    finished = ds.arrival_s.values + ds.e2e_s.values
    span = float(np.nanmax(finished) - np.nanmin(ds.arrival_s.values)) if out["served"] else float("nan")
    served = ds.status.values == st.OK
    tokens = float(ds.output_tokens.values[served].sum())
    good = good_requests(scenario, ds)
    chips, dollars = _fleet(scenario)
    out |= {
        "makespan_s": span,
        "goodput_share": float(good.mean()),
        "goodput_per_s": float(good.sum() / span),
        "output_tokens_per_s": tokens / span,
        "preempted_requests": int((ds.preemptions.values > 0).sum()),
        "chips": chips,
        "cost_usd": dollars * span,
        "cost_per_million_output_tokens_usd": dollars * span / tokens * 1e6 if tokens else float("nan"),
    }
    looked = float(played.requests["looked"].sum())
    if looked:
        out["prefix_hit_rate"] = float(played.requests["hits"].sum()) / looked
    stage = np.nansum(ds.stage_s.values, axis=0)
    out |= {f"stage_share_{s}": float(x) for s, x in zip(ds.stage.values, stage / stage.sum(), strict=True)}
    out |= queue_summary(played, ds.stage_s.sel(stage="queue").values)
    out |= energy_figures(scenario, played, system, span, tokens)
    return out


def _fleet(scenario: Scenario) -> tuple[float, float]:
    """(chips, dollars per second) of all pools."""
    pools = [(scenario.hardware, scenario.parallelism)]
    if scenario.prefill is not None:
        pools.append((scenario.prefill.hardware, scenario.prefill.parallelism))
    counts = [build.chips(p) * p.replicas for _, p in pools]
    return sum(counts), sum(
        n * h.price.usd_per_hour / 3600.0 for n, (h, _) in zip(counts, pools, strict=True)
    )
