"""From descriptions to the flat arrays of the playback: checks, marks and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mist_jax.queueing import state as st
from mist_jax.queueing.clients import engine_record
from mist_jax.queueing.table import pack_tables
from mist_jax.queueing.trace import Trace

Array = np.ndarray
I4 = np.iinfo(np.int32).max


def token_counts(x: Array) -> tuple[Array, Array]:
    """Lengths as int32 with 0 for what is no length, and which those were."""
    v = np.asarray(x, dtype=np.float64)
    bad = ~np.isfinite(v) | (v < 0) | (v != np.floor(v)) | (v > I4 // 4)
    return np.where(bad, 0, v).astype(np.int32), bad


def _blank() -> Array:
    """[1] the record of a request of which nothing is known."""
    rq = np.zeros(1, st.REQUEST)
    links = (
        "client",
        "source",
        "limbo",
        "run_prev",
        "run_next",
        "ring_prev",
        "ring_next",
        "child",
        "sibling",
    )
    for field in (*links, "session", "prefilled_by"):
        rq[field] = st.NONE
    for field in ("queued", "scheduled", "first", "finish", "transferred"):
        rq[field] = np.nan
    rq["work"] = 1.0
    return rq


def request_records(trace: Trace, stations: set[int]) -> tuple[Array, Array]:
    """Records of the requests, with what is not a request marked INVALID, and the requests by arrival."""
    rq = np.repeat(_blank(), trace.size)  # one copy of memory; field by field is as slow as the playback
    prompt, bad_p = token_counts(trace.prompt_tokens)
    output, bad_o = token_counts(trace.output_tokens)
    arrival = np.asarray(trace.arrival_s, dtype=np.float64)
    bad_t = ~np.isfinite(arrival) | (arrival < 0)
    rq["prompt"], rq["output"] = prompt, output
    if trace.model is not None:
        rq["model"] = trace.model
    served = np.isin(rq["model"], list(stations)) if stations else np.zeros(trace.size, bool)
    bad = bad_t | ((bad_p | bad_o | (prompt < 1) | (output < 1)) & ~served)
    rq["status"][bad] = st.INVALID
    rq["arrival"] = np.where(bad_t, np.nan, arrival)
    if trace.session is not None:
        rq["session"] = trace.session
    for field, given in (("priority", trace.priority), ("work", trace.work), ("delay", trace.delay_s)):
        if given is not None:
            rq[field] = given
    if trace.cached is not None:
        rq["cached"] = np.clip(token_counts(trace.cached)[0], 0, np.maximum(prompt - 1, 0))
    if trace.delay_s is not None and not np.all(np.isfinite(rq["delay"]) & (rq["delay"] >= 0)):
        raise ValueError("Trace.delay_s holds negative or non-finite think times")
    # A request whose arrival is no time is dealt with at the start.
    when = np.where(bad_t, -np.inf, arrival)
    return rq, np.argsort(when, kind="stable").astype(np.int32)


def lay_out(
    trace: Trace,
    clients: list[Any],
    router: Any,
    tiers: Sequence[Any],
    links: Sequence[Any],
    failures: Sequence[Any],
    log: bool,
) -> tuple[st.State, list[Any]]:
    """Build the state of a playback (see `playback.prepare`)."""
    if not clients:
        raise ValueError("a deployment needs at least one client")
    stations = {e.model for e in clients if hasattr(e, "servers")}
    rq, order = request_records(trace, stations)
    n, m = trace.size, len(clients)

    cl = np.zeros(m, st.CLIENT)
    link_at = {e.name: i for i, e in enumerate(links)}
    tables: list[Any] = []
    for f in ("run_head", "run_tail", "queue", "lru_head", "lru_tail"):
        cl[f] = st.NONE
    cl["tiers"] = st.NONE
    cl["alive"] = 1
    cl["block"] = 1
    tier_rows: list[Any] = []
    shared: dict[str, int] = {}
    by_name = {t.name: t for t in tiers}
    replica = 0  # the first engine of the replica in hand
    for i, (rec, e) in enumerate(zip(cl, clients)):
        if hasattr(e, "servers"):
            if e.servers < 1 or e.max_batch < 1 or e.window_s < 0 or min(e.service_s) < 0:
                raise ValueError(f"{e.name}: servers and max_batch must be positive, times not negative")
            rec["kind"], rec["role"], rec["model"] = st.STATION, 3, e.model
            rec["servers"], rec["max_batch"], rec["window"] = e.servers, e.max_batch, e.window_s
            rec["service"] = e.service_s
            replica = i + 1
            continue
        at = next((j for j, t in enumerate(tables) if t is e.table), None)
        if at is None:
            at = len(tables)
            tables.append(e.table)
        engine_record(rec, e, at, link_at, trace.unit_tokens)
        rec["pipe"], rec["peer"] = replica, i - (i - replica) % e.ranks
        if i + 1 - replica == e.ranks * e.table.pp:
            replica = i + 1
        if len(e.tiers) > st.TIERS or any(t not in by_name for t in e.tiers):
            raise ValueError(
                f"{e.name}: tiers must be at most {st.TIERS} of {sorted(by_name)}, got {e.tiers}"
            )
        for j, name in enumerate(e.tiers):
            if name in shared:
                rec["tiers"][j] = shared[name]
                continue
            rec["tiers"][j] = len(tier_rows)
            if by_name[name].shared:
                shared[name] = len(tier_rows)
            tier_rows.append(by_name[name])
        cl[i] = rec
    records, data, lut = (
        pack_tables(tables) if tables else (np.zeros(1, st.TABLE), np.zeros(1), np.zeros(1, np.int16))
    )

    tier = np.zeros(len(tier_rows), st.TIER)
    for rec, t in zip(tier, tier_rows):
        rec["capacity"] = min(t.capacity_tokens // trace.unit_tokens, 1 << 40)
        rec["latency"], rec["bandwidth"] = t.latency_s, t.bandwidth
    tier["head"] = tier["tail"] = st.NONE
    link = np.zeros(len(links), st.LINK)
    for rec, e in zip(link, links):
        if e.bandwidth <= 0 or e.latency_s < 0 or e.sharing not in ("fair", "fcfs"):
            raise ValueError(f"link {e.name}: positive bandwidth, latency not negative, sharing fair or fcfs")
        if not 0 <= e.behind <= 1:
            raise ValueError(f"link {e.name}: behind is a share of 0 to 1, not {e.behind}")
        rec["behind"] = e.behind
        rec["bandwidth"], rec["latency"], rec["fair"] = e.bandwidth, e.latency_s, e.sharing == "fair"
    link["head"] = link["tail"] = st.NONE

    ids, at, caching = np.zeros(0, np.int32), np.zeros(n, np.int64), bool(cl["prefix"].any())
    kinds = 1
    if caching and trace.units is not None and trace.unit_offsets is not None:
        known, flat = np.unique(trace.units, return_inverse=True)
        ids, kinds, at = flat.astype(np.int32), max(1, known.size), trace.unit_offsets[:-1]
        rq["units_at"], rq["units"] = at, np.diff(trace.unit_offsets)
    unit = np.zeros((m if caching else 1, kinds), st.UNIT)
    tier_unit = np.zeros((max(1, tier.size), kinds), st.UNIT)

    children = np.zeros(0, np.int32)
    if trace.edges is not None and trace.edges.size:
        e = trace.edges[np.argsort(trace.edges[:, 0], kind="stable")]
        children = e[:, 1].astype(np.int32)
        count = np.bincount(e[:, 0], minlength=n)
        rq["children"], rq["children_at"] = count, np.concatenate([[0], np.cumsum(count)[:-1]])
        rq["parents"] = np.bincount(e[:, 1], minlength=n)
        order = order[rq["parents"][order] == 0]

    g = np.zeros(1, st.GLOBAL)
    g["arrivals"] = order.size
    if trace.closed_loop:
        first = min(trace.closed_loop, n)
        g["arrivals"], g["pool"], g["pool_end"], g["think"] = first, first, n, trace.think_s
    for name in (router.rule, router.fallback):
        if name not in st.ROUTERS:
            raise ValueError(f"no router {name!r}; there are {', '.join(st.ROUTERS)}")
    g["router"], g["fallback"] = st.ROUTERS.index(router.rule), st.ROUTERS.index(router.fallback)
    if router.fallback in ("heavy_light", "prefix_affinity", "session"):
        raise ValueError(f"a router cannot fall back to {router.fallback}")
    g["threshold"], g["cap"], g["seed"] = router.heavy_tokens, router.backlog_cap_tokens, router.seed
    g["local"], g["retry_delay"] = router.local, router.retry_delay_s
    g["limbo"] = g["limbo_tail"] = st.NONE
    disaggregated = bool(np.any(cl["role"][cl["kind"] == st.ENGINE] != 3)) if m else False
    together = bool(np.any(cl["ranks"] > 1) or np.any(cl["stages"] > 1))
    follow = bool(children.size or trace.closed_loop or disaggregated or shared or failures or together)
    g["coupled"] = m > 1 and follow
    g["log"] = log

    longest = int(rq["output"].max(initial=1))
    slots = 1 << int(np.ceil(np.log2(longest + 4)))
    ring = np.full((m, slots), st.NONE, np.int32)
    phase = np.zeros((m, int(cl["block"].max())), np.int32)
    width = min(int(cl["max_seqs"].max(initial=1)) or 1, n + 1)
    timers = 2 * n + 8 * m + 2 * len(failures) + 64
    sessions = np.full(int(rq["session"].max(initial=0)) + 1, st.NONE, np.int32)
    s = st.State(
        g, rq, cl, order.astype(np.int32), children, ring, phase,
        np.zeros((m, width), np.int32), np.zeros((m, width), np.int32),
        np.zeros(timers, st.TIMER),
        ids, unit, tier, tier_unit, link, sessions, records, data, lut,
        np.zeros(4096 + 4 * m if log else 1, st.STEP),
        np.zeros(2 * n + 4 * int(cl["max_seqs"].sum()) + 64 if log else 1, st.SEGMENT),
    )  # fmt: skip
    _set_failures(s, failures, m)
    return s, clients


def _set_failures(s: st.State, failures: Sequence[Any], m: int) -> None:
    rows = []
    for f in failures:
        if not 0 <= f.client < m or f.at_s < 0 or f.until_s <= f.at_s:
            raise ValueError(f"{f}: the client must exist, and return after it failed")
        rows.append((float(f.at_s), st.FAIL, f.client))
        if np.isfinite(f.until_s):
            rows.append((float(f.until_s), st.RECOVER, f.client))
            s.g["recoveries"] += 1
    rows.sort()  # a sorted array is a heap
    for i, (t, kind, c) in enumerate(rows):
        s.timers[i] = (t, i, c, kind)
    s.g["n_timers"] = s.g["seq"] = len(rows)


def enlarge(s: st.State) -> st.State:
    """The same playback with room for twice the logs."""

    def twice(a: Array) -> Array:
        return np.concatenate([a, np.zeros(a.size, a.dtype)])

    full = s.g[0]["steps"] + s.cl.size + 1 >= s.steps.size
    return s._replace(
        steps=twice(s.steps) if full else s.steps, segments=s.segments if full else twice(s.segments)
    )
