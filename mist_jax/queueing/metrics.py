"""What users and operators ask of a playback: latencies, goodput, utilization, memory, cache hits, energy, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mist_jax.queueing import state as st
from mist_jax.queueing.playback import Played
from mist_jax.queueing.table import StepTable

Array = np.ndarray
PERCENTILES = (50, 75, 90, 95, 99)


@dataclass(frozen=True)
class Slo:
    """Limits (s) that a request must keep; None = none."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


# Slowdowns against an unloaded machine that a percentile of the requests must keep: Splitwise (Patel et al., ISCA
# 2024, table VI): TTFT 2x, 3x, 6x; TBT 1.25x, 1.5x, 5x; E2E 1.25x, 1.5x, 5x at P50, P90, P99.
SPLITWISE = {
    "ttft": {50: 2.0, 90: 3.0, 99: 6.0},
    "tbt": {50: 1.25, 90: 1.5, 99: 5.0},
    "e2e": {50: 1.25, 90: 1.5, 99: 5.0},
}


def served(p: Played) -> Array:
    """Which requests were answered by an engine."""
    return (p.status == st.OK) & (p.requests["output"] > 0)


def meets(p: Played, slo: Slo) -> Array:
    """Which requests keep the SLO; a request that was not served does not, one without TPOT does as to TPOT."""
    ok = served(p)
    for limit, value in ((slo.ttft_s, p.ttft_s), (slo.tpot_s, p.tpot_s), (slo.e2e_s, p.e2e_s)):
        if limit is not None:
            ok &= ~(np.where(np.isnan(value), -np.inf, value) > limit)
    return ok


def goodput(p: Played, slo: Slo) -> float:
    """Requests per second that keep the SLO, over the time from the first arrival to the last end."""
    return float(meets(p, slo).sum() / duration(p))


def duration(p: Played) -> float:
    """Seconds from the first arrival to the last end."""
    start = np.nanmin(p.requests["arrival"])
    end = np.nanmax(np.concatenate([p.requests["finish"], [start]]))
    return float(max(end - start, np.finfo(float).tiny))


def unloaded(p: Played, table: StepTable, budget: int) -> dict[str, Array]:
    """TTFT, TPOT and E2E (s) of each request alone on an idle engine with this table and token budget.

    TPOT is taken at the middle of the answer: exact where decode attention is linear in the context.
    """
    out: dict[str, list[float]] = {"ttft_s": [], "tpot_s": []}
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for prompt, output in zip(p.requests["prompt"].tolist(), p.requests["output"].tolist()):
        if (prompt, output) not in known:
            past, t = 0, 0.0
            while past < prompt:
                n = min(budget, prompt - past)
                t += table.step_s([(n, past)], 0, 0.0, int(past + n == prompt))
                past += n
            gap = table.step_s([], 1, prompt + output / 2, 1) if output > 1 else float("nan")
            known[prompt, output] = t, gap
        a, b = known[prompt, output]
        out["ttft_s"].append(a)
        out["tpot_s"].append(b)
    ttft, tpot = np.array(out["ttft_s"]), np.array(out["tpot_s"])
    gaps = np.maximum(p.requests["output"] - 1, 0)
    return {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": ttft + np.where(gaps > 0, gaps * tpot, 0.0)}


def splitwise_slo(p: Played, alone: dict[str, Array]) -> dict[str, dict[int, tuple[float, float]]]:
    """The Splitwise SLOs: metric -> percentile -> (slowdown, limit); met if no slowdown exceeds its limit.

    `alone` from `unloaded`. TBT is the mean time between tokens of a request. Requests not served count as
    infinitely slow.
    """
    ok = served(p)
    pairs = {"ttft": (p.ttft_s, "ttft_s"), "tbt": (p.tpot_s, "tpot_s"), "e2e": (p.e2e_s, "e2e_s")}
    out: dict[str, dict[int, tuple[float, float]]] = {}
    for name, (value, base) in pairs.items():
        ratio = np.where(ok, value / np.where(alone[base] > 0, alone[base], np.nan), np.inf)
        ratio = ratio[~np.isnan(ratio)]
        out[name] = {
            q: (float(np.percentile(ratio, q, method="inverted_cdf")) if ratio.size else float("nan"), limit)
            for q, limit in SPLITWISE[name].items()
        }
    return out


def splitwise_met(p: Played, alone: dict[str, Array]) -> bool:
    """Whether all nine Splitwise SLOs hold."""
    return all(x <= limit for row in splitwise_slo(p, alone).values() for x, limit in row.values())


def inter_token_latencies(p: Played, seen: Array | None = None) -> tuple[Array, Array]:
    """All gaps between consecutive tokens of a request: (request of each gap, gap in s), exactly, from the logs.

    Args:
        seen: [requests] when the user has the first token, where that is later than the engine (s).

    Errors: ValueError if the playback kept no log. A gap may contain a preemption.
    """
    who, when = token_times(p)
    if seen is not None:
        when = np.maximum(when, seen[who])
    same = who[1:] == who[:-1]
    return who[1:][same], (when[1:] - when[:-1])[same]


def token_times(p: Played) -> tuple[Array, Array]:
    """Times (s) of all tokens of the served requests: (request, time), in order of request and time.

    A segment of the log says that token `emitted` of a request came at `time` (NaN: it came before), and the next
    ones with the decode steps of its client after `step`, until its next segment or the end of the answer. Of a
    retried request the last attempt counts.
    """
    if p.steps.size == 0 and served(p).any():
        raise ValueError("play with log=True to have token times")
    seg = p.segments[np.argsort(p.segments["request"], kind="stable")]
    seg = seg[p.status[seg["request"]] == st.OK]
    anew = (seg["emitted"] == 1) & ~np.isnan(seg["time"])
    start = np.zeros(p.requests.size, np.int64)
    start[seg["request"][anew]] = np.flatnonzero(anew)  # the last attempt wins
    seg = seg[np.arange(seg.size) >= start[seg["request"]]]
    r, shown = seg["request"], ~np.isnan(seg["time"])
    last = p.requests["output"][r].astype(np.int64)
    follows = np.flatnonzero(r[1:] == r[:-1])
    last[follows] = seg["emitted"][follows + 1] - shown[follows + 1]
    count = last - seg["emitted"] + shown
    at = np.repeat(np.arange(seg.size), count)
    back = np.arange(at.size) - np.repeat(np.cumsum(count) - count, count) + ~shown[at]
    when = seg["time"][at]
    for c in range(p.clients.size):
        ends = p.steps["end"][(p.steps["client"] == c) & (p.steps["decodes"] > 0)]
        pick = (seg["client"][at] == c) & (back > 0)
        when[pick] = ends[seg["step"][at[pick]] + back[pick] - 1]
    return r[at], when


def kv_occupancy(p: Played, client: int = 0) -> tuple[Array, Array]:
    """Share of the KV blocks in use over time (from the log): (end of each iteration in s, share)."""
    mine = p.steps[p.steps["client"] == client]
    return mine["end"], mine["blocks"] / max(1, int(p.clients["kv_blocks"][client]))


def queue_length(p: Played) -> tuple[float, int]:
    """(mean over time, most at once) of the requests that have come and are not in a batch yet, all engines.

    The mean is the sum of the waits over the duration (Little's law, exact for a whole run).
    """
    r = p.requests
    waited = np.isfinite(r["scheduled"]) & np.isfinite(r["queued"])
    come, go = r["queued"][waited], r["scheduled"][waited]
    if not come.size:
        return 0.0, 0
    change = np.concatenate([-np.ones(go.size, np.int64), np.ones(come.size, np.int64)])
    order = np.argsort(np.concatenate([go, come]), kind="stable")  # at one instant who leaves goes first
    return float((go - come).sum() / duration(p)), int(max(np.cumsum(change[order]).max(), 0))


def client_figures(p: Played) -> dict[str, Array]:
    """[clients] `utilization` (busy share), `mean_batch`, `kv_occupancy` (share of the KV blocks), `iterations`."""
    c, d = p.clients, duration(p)
    servers = np.where(c["kind"] == st.ENGINE, 1, np.maximum(c["servers"], 1))
    return {
        "utilization": c["busy_s"] / d / servers,
        "mean_batch": c["batch_s"] / np.maximum(c["busy_s"], np.finfo(float).tiny),
        "kv_occupancy": c["kv_s"] / d / np.maximum(c["kv_blocks"], 1),
        "iterations": c["steps"].copy(),
    }


def summarize(
    p: Played,
    slo: Slo | None = None,
    *,
    power_w: tuple[float, float] | None = None,
    usd_per_hour: float | None = None,
) -> dict[str, Any]:
    """Aggregate figures (SI units) of a playback.

    `power_w` = (busy, idle) power of one client and `usd_per_hour` its price give energy and cost.
    """
    ok = served(p)
    d = duration(p)
    r, c = p.requests, p.clients
    out: dict[str, Any] = {"requests": r.size, "served": int(ok.sum()), "duration_s": d}
    out["refused"] = {
        st.STATUS[i]: int(n) for i, n in enumerate(np.bincount(p.status, minlength=7)) if i and n
    }
    columns = {
        "ttft_s": p.ttft_s,
        "tpot_s": p.tpot_s,
        "e2e_s": p.e2e_s,
        "queue_s": r["scheduled"] - r["arrival"],
    }
    for name, value in columns.items():
        v = value[ok & np.isfinite(value)]
        out[name] = {"mean": float(v.mean()) if v.size else float("nan")}
        out[name] |= {f"p{q}": float(np.percentile(v, q)) if v.size else float("nan") for q in PERCENTILES}
    out["request_throughput"] = out["served"] / d
    out["output_throughput"] = float(r["output"][ok].sum() / d)
    out["input_throughput"] = float(r["prompt"][ok].sum() / d)
    if slo is not None:
        out["slo_attainment"] = float(meets(p, slo).mean()) if r.size else float("nan")
        out["goodput"] = goodput(p, slo)
    engines = c["kind"] == st.ENGINE
    each = client_figures(p)
    out["utilization"], out["mean_batch"] = each["utilization"].tolist(), each["mean_batch"].tolist()
    out["kv_occupancy"] = each["kv_occupancy"][engines].tolist()
    out["iterations"] = int(each["iterations"].sum())
    out["queue_length"] = dict(zip(("mean", "max"), queue_length(p), strict=True))
    out["preemptions"] = int(r["preemptions"].sum())
    out["retries"] = int(r["retries"].sum())
    looked = int(r["looked"].sum())
    if looked:
        hits = r["hits"].sum(axis=0) / looked
        out["cache_hits"] = {"hbm": float(hits[0])} | {
            f"tier{i}": float(h) for i, h in enumerate(hits[1:], 1) if h
        }
    n = int(engines.sum())
    if power_w is not None:
        busy = float(c["busy_s"][engines].sum())
        out["energy_j"] = busy * power_w[0] + (n * d - busy) * power_w[1]
        out["energy_per_output_token_j"] = out["energy_j"] / max(1.0, float(r["output"][ok].sum()))
    if usd_per_hour is not None:
        out["cost_usd"] = usd_per_hour * n * d / 3600
    return out
