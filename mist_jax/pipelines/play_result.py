"""From the entries of a played pipeline back to one row per user request."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import xarray as xr

from mist_jax.errors import ConfigError, TraceError
from mist_jax.physics.demand import RESOURCES
from mist_jax.physics.energy import DEFAULT_JOULES
from mist_jax.pipelines.dag import parse_pipeline, shards_of
from mist_jax.pipelines.figures import chips_of, rent_of
from mist_jax.pipelines.played import Plan, plan
from mist_jax.pipelines.steady import Model
from mist_jax.queueing import playback
from mist_jax.queueing import state as st
from mist_jax.queueing.trace import Trace
from mist_jax.schema import Scenario

Array = np.ndarray


def play_pipeline(scenario: Scenario, trace: Trace, text: str) -> xr.Dataset:
    """Play a trace of user requests through the pipeline.

    Returns:
        the dataset of `mist_jax.play`, one row per user request: `ttft_s` to the answer's first token, `e2e_s` to the
        end of all that the request waits for, `stage_s(request, stage)` with waiting, turns of a stage added up.

    Raises:
        ConfigError: see `pipelines.dag.parse_pipeline` and `pipelines.played.plan`.
    """
    from mist_jax.play import failures_of, router_of

    with jax.enable_x64(True):
        pipeline = parse_pipeline(scenario)
        model = Model(scenario, pipeline)
        laid = plan(scenario, model, trace)
        try:
            played = playback.play(
                laid.trace,
                laid.clients,
                router_of(scenario),
                links=laid.links,
                failures=failures_of(scenario, playback.expand(laid.clients)),
            )
        except ValueError as exc:
            raise ConfigError(f"pipeline: {exc}") from None
        _require_served(laid, played, trace)
        ds = _dataset(scenario, model, laid, played, trace)
        ds.attrs.update(_described(scenario, model, laid, text))
        ds.attrs.update(_summary(scenario, model, laid, played, ds))
    return ds


def _require_served(laid: Plan, played: playback.Played, trace: Trace) -> None:
    """Raises TraceError if no request came through."""
    status = np.zeros(trace.size, np.int64)
    np.maximum.at(status, laid.request, played.requests["status"])
    if (status == st.OK).any():
        return
    codes = played.requests["status"]
    counts = np.bincount(codes[(codes != st.OK) & (codes != st.BLOCKED)], minlength=len(st.STATUS))
    reasons = ", ".join(f"{n} {name}" for n, name in zip(counts, st.STATUS, strict=True) if n)
    raise TraceError(f"workload: none of the {trace.size} requests can be served (calls: {reasons})")


def _extreme(values: Array, index: Array, size: int, ufunc: np.ufunc) -> Array:
    out = np.full(size, np.nan)
    ufunc.at(out, index, values)
    return out


def _dataset(
    scenario: Scenario, model: Model, laid: Plan, played: playback.Played, trace: Trace
) -> xr.Dataset:
    from mist_jax.play import first_seen

    pipeline, rq = model.pipeline, played.requests
    n, m = trace.size, len(pipeline.nodes)
    begin, end = rq["arrival"] - laid.before_s, rq["finish"]
    cell = laid.request * m + laid.node
    started = _extreme(begin, cell, n * m, np.fmin).reshape(n, m)
    ended = _extreme(end, cell, n * m, np.fmax).reshape(n, m)
    status = np.zeros(n, np.int64)
    np.maximum.at(status, laid.request, rq["status"])
    bad = status != st.OK
    arrival = np.nanmin(started, axis=1)
    waits = np.array([node.spec.wait for node in pipeline.nodes])
    e2e = np.where(bad, np.nan, np.max(np.where(waits, ended, -np.inf), axis=1) - arrival)
    mine = laid.node == pipeline.answer
    first = _extreme(first_seen(rq)[mine], laid.request[mine], n, np.fmin)
    tokens, tpot = laid.answered, _tpot(laid, played, n)
    names = pipeline.stages
    at = np.array([names.index(node.stage) for node in pipeline.nodes])
    spent = ended - started
    stage = np.stack([spent[:, at == k].sum(axis=1) for k in range(len(names))], axis=1)
    preempted = np.zeros(n, np.int64)
    np.add.at(preempted, laid.request, rq["preemptions"])

    def column(values: Array, units: str, name: str) -> tuple[str, Array, dict[str, str]]:
        return "request", np.asarray(values), {"units": units, "long_name": name}

    ids = trace.request_id if trace.request_id is not None else np.arange(n)
    return xr.Dataset(
        {
            "arrival_s": column(arrival, "s", "arrival"),
            "ttft_s": column(np.where(bad, np.nan, first - arrival), "s", "time to the answer's first token"),
            "tpot_s": column(np.where(bad, np.nan, tpot), "s", "time per output token after the first"),
            "e2e_s": column(e2e, "s", "end-to-end latency"),
            "prompt_tokens": column(trace.prompt_tokens, "1", "prompt tokens as they arrive"),
            "output_tokens": column(tokens, "1", "generated tokens of the answer"),
            "preemptions": column(preempted, "1", "times a call of the request was preempted"),
            "status": column(status, "1", "0: served"),
            "stage_s": (("request", "stage"), stage, {"units": "s", "long_name": "time in each stage"}),
            "stage_mean_s": ("stage", np.nanmean(stage, axis=0), {"units": "s", "long_name": "mean time"}),
            "stage_p99_s": (
                "stage",
                np.nanpercentile(stage, 99, axis=0),
                {"units": "s", "long_name": "99th percentile"},
            ),
        },
        coords={"request": ids, "stage": names},
    )


def _tpot(laid: Plan, played: playback.Played, n: int) -> Array:
    """Seconds per token of the call that answered: its longest branch, from its first token to its end."""
    from mist_jax.play import first_seen

    rows = np.flatnonzero(laid.node == laid.answered_by[laid.request])
    first = _extreme(first_seen(played.requests)[rows], laid.request[rows], n, np.fmin)
    last = _extreme(played.requests["finish"][rows], laid.request[rows], n, np.fmax)
    many = laid.answered > 1
    return np.where(many, (last - first) / np.where(many, laid.answered - 1.0, 1.0), np.nan)


def _described(scenario: Scenario, model: Model, laid: Plan, text: str) -> dict[str, Any]:
    from mist_jax.evaluate import describe

    slowed = ", ".join(f"{k} x{v:.3f}" for k, v in laid.slowdown.items())
    left = ", ".join(f"{v:.1%} of {k}" for k, v in laid.left.items())
    return {
        **describe(scenario),
        "trace": text,
        "pipeline": model.pipeline.name,
        "sharing": (
            "queueing at every station and engine is exact; stages that share a client's resources are slowed by "
            f"the fluid factor at the mean load: {slowed or 'none does'}"
            + (f"; services leave to LLM iterations {left}" if left else "")
        ),
    }


def _summary(
    scenario: Scenario, model: Model, laid: Plan, played: playback.Played, ds: xr.Dataset
) -> dict[str, Any]:
    """Percentiles, goodput, throughput, cost and energy of the whole run."""
    from mist_jax.play import PERCENTILES, good_requests

    served = ds.status.values == st.OK
    out: dict[str, Any] = {"requests": int(ds.sizes["request"]), "served": int(served.sum())}
    for name in ("ttft", "tpot", "e2e"):
        values = ds[f"{name}_s"].values
        values = values[np.isfinite(values)]
        if values.size:
            out[f"{name}_mean_s"] = float(values.mean())
            for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
                out[f"{name}_p{p}_s"] = float(v)
    ends = ds.arrival_s.values + ds.e2e_s.values
    span = float(np.nanmax(ends) - np.nanmin(ds.arrival_s.values)) if served.any() else float("nan")
    tokens = float(ds.output_tokens.values[served].sum())
    good = good_requests(scenario, ds)
    dollars = rent_of(scenario, model.pipeline) * span
    joules = _joules(scenario, model, laid, played, span)
    stage = ds.stage_mean_s.values
    out |= {
        "makespan_s": span,
        "goodput_share": float(good.mean()),
        "goodput_per_s": float(good.sum() / span),
        "output_tokens_per_s": tokens / span,
        "preempted_requests": int((ds.preemptions.values > 0).sum()),
        "chips": chips_of(scenario, model.pipeline),
        "cost_usd": dollars,
        "cost_per_request_usd": dollars / max(int(served.sum()), 1),
        "cost_per_million_output_tokens_usd": dollars / tokens * 1e6 if tokens else float("nan"),
        "energy_j": joules,
        "energy_per_request_j": joules / max(int(served.sum()), 1),
        "energy_per_output_token_j": joules / max(tokens, 1.0),
    }
    out |= {f"stage_share_{s}": float(x) for s, x in zip(ds.stage.values, stage / stage.sum(), strict=True)}
    return out


def _joules(scenario: Scenario, model: Model, laid: Plan, played: playback.Played, span: float) -> float:
    """Idle power of all machines over the run, and the work of all stages on top, as `play` counts it for engines."""
    from mist_jax.play_energy import energy_figures

    total = 0.0
    which = laid.trace.model
    assert which is not None
    for number, (name, pool) in enumerate(model.pools.items()):
        llm = model.pipeline.clients[name].llm
        assert llm is not None
        part = dataclasses.replace(played, requests=played.requests[which == number])
        tokens = float(part.requests["output"].sum())
        total += energy_figures(llm, part, pool.system, span, tokens).get("energy_j", 0.0)
    asked = model.walk(np.ones(len(model.nodes)))
    per_unit = np.array([DEFAULT_JOULES[r] for r in RESOURCES])
    runs = np.bincount(laid.node, minlength=len(model.nodes))
    for i, node in enumerate(model.nodes):
        if node.type in ("service", "transfer"):
            total += (
                runs[i]
                * model.probability[i]
                * shards_of(node.params)
                * float(asked.amount[i].sum(axis=0) @ per_unit)
            )
    for client in model.pipeline.clients.values():
        if client.llm is None:
            total += client.idle_w * client.machines * span
    return float(total)
