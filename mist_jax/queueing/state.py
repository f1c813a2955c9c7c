"""State of the playback: flat structured arrays that the event kernels change in place.

One layout serves one engine and many, so the kernels compile once. Times are float64 seconds: in float32 the
order of events flips within minutes of simulated time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PER_OCTAVE = 16  # cells of the step table's lookup in an octave: the first four bits of the mantissa

# Why a request ended, in the results.
OK, INVALID, TOO_LONG, TOO_LARGE, NO_CLIENT, BLOCKED, UNFINISHED = range(7)
STATUS = ("ok", "invalid", "too_long", "too_large", "no_client", "blocked", "unfinished")
# Where a request is.
HELD, WAITING, PREFILL, DECODE, TRANSFER, SERVED, DONE = range(7)
# Kinds of clients, roles of engines, orders of the waiting queue, reservations of KV blocks.
ENGINE, STATION = range(2)
ROLE_PREFILL, ROLE_DECODE = 1, 2
FCFS, PRIORITY, SHORTEST = range(3)
GROW, RESERVE_PROMPT, RESERVE_ALL = range(3)
# Timers.
RELEASE, FAIL, RECOVER, BATCH_END, WINDOW, KV_READY = range(6)
# Return codes of the event loop.
FINISHED, LOG_FULL = range(2)

# Routers.
ROUTERS = (
    "round_robin", "random", "least_requests", "least_tokens", "least_kv", "power_of_two",
    "heavy_light", "prefix_affinity", "session",
)  # fmt: skip
(
    ROUND_ROBIN,
    RANDOM,
    LEAST_REQUESTS,
    LEAST_TOKENS,
    LEAST_KV,
    POWER_OF_TWO,
    HEAVY_LIGHT,
    PREFIX_AFFINITY,
    SESSION,
) = range(9)

NONE = -1
TIERS = 4  # cache tiers below HBM that a client may name

TABLE = np.dtype(
    [("grid", "i8", (6,)), ("size", "i8", (6,)), ("lut", "i8", (6,)), ("value", "i8", (6,)),
    ("prefill_floor", "f8"), ("decode_width", "f8")], align=True,
)  # fmt: skip

REQUEST = np.dtype(
    [
        # what it is
        ("arrival", "f8"), ("delay", "f8"), ("priority", "f8"), ("work", "f8"),
        ("prompt", "i4"), ("output", "i4"), ("model", "i4"), ("session", "i4"), ("cached", "i4"),
        ("units_at", "i8"), ("units", "i4"), ("parents", "i4"), ("children_at", "i4"), ("children", "i4"),
        # where it is
        ("state", "i1"), ("status", "i1"), ("client", "i4"), ("source", "i4"), ("limbo", "i4"),
        ("computed", "i4"), ("target", "i4"), ("emitted", "i4"), ("blocks", "i4"), ("shared", "i4"),
        ("base", "i4"), ("base_step", "i8"), ("admission", "i8"), ("key", "f8"), ("seq", "i8"), ("due", "i8"),
        ("run_prev", "i4"), ("run_next", "i4"), ("ring_prev", "i4"), ("ring_next", "i4"),
        ("child", "i4"), ("sibling", "i4"), ("flow", "f8"),
        # what came of it
        ("queued", "f8"), ("scheduled", "f8"), ("first", "f8"), ("finish", "f8"), ("transferred", "f8"),
        ("preemptions", "i4"), ("retries", "i4"), ("prefilled_by", "i4"),
        ("hits", "i4", (TIERS + 1,)), ("looked", "i4"), ("computed_total", "i8"),
    ],
    align=True,
)  # fmt: skip

CLIENT = np.dtype(
    [
        # settings
        ("kind", "i1"), ("role", "i1"), ("table", "i4"), ("model", "i4"), ("group", "i4"), ("heavy", "i1"),
        ("budget", "i8"), ("max_seqs", "i4"), ("block", "i4"), ("kv_blocks", "i8"), ("max_len", "i8"),
        ("threshold", "i8"), ("watermark", "i8"), ("order", "i1"), ("reserve", "i1"),
        ("chunked", "i1"), ("mix", "i1"), ("lock", "i1"), ("decode_first", "i1"),
        ("prefix", "i1"), ("unit_tokens", "i4"), ("unit_blocks", "i4"), ("tiers", "i4", (TIERS,)),
        ("overlap_load", "i1"), ("ahead", "i1"), ("lag", "f8"), ("poll", "i8"), ("kv_bytes", "f8"), ("link", "i4"),
        ("servers", "i4"), ("max_batch", "i4"), ("window", "f8"), ("service", "f8", (3,)),
        ("ranks", "i4"), ("peer", "i4"), ("stages", "i4"), ("pipe", "i4"),
        # state
        ("alive", "i1"), ("busy", "i1"), ("start", "f8"), ("end", "f8"),
        ("run_head", "i4"), ("run_tail", "i4"), ("running", "i4"), ("decoding", "i4"), ("partial", "i4"),
        ("context", "i8"), ("step", "i8"), ("free", "i8"), ("zombies", "i8"),
        ("queue", "i4"), ("waiting", "i4"), ("back", "i8"), ("front", "i8"), ("admissions", "i8"),
        ("resident", "i4"), ("turn", "i8"), ("tokens", "i8"), ("backlog", "i8"), ("in_service", "i4"),
        ("gate", "f8"), ("last", "f8"), ("window_set", "i1"), ("lru_head", "i4"), ("lru_tail", "i4"), ("lru", "i8"),
        # the step in flight
        ("chunks", "i4"), ("step_decodes", "i4"), ("step_prefill", "i8"), ("load", "f8"),
        ("load_ahead", "f8"),
        # accumulated
        ("steps", "i8"), ("busy_s", "f8"), ("kv_s", "f8"), ("decoded", "i8"), ("prefilled", "i8"),
        ("batch_s", "f8"),
    ],
    align=True,
)  # fmt: skip

UNIT = np.dtype([("present", "i4"), ("refs", "i4"), ("prev", "i4"), ("next", "i4")], align=True)
TIER = np.dtype(
    [("capacity", "i8"), ("n", "i8"), ("head", "i4"), ("tail", "i4"), ("latency", "f8"), ("bandwidth", "f8")],
    align=True,
)
LINK = np.dtype(
    [
        ("bandwidth", "f8"), ("latency", "f8"), ("fair", "i1"), ("behind", "f8"), ("n", "i4"), ("served", "f8"),
        ("at", "f8"), ("free_at", "f8"), ("head", "i4"), ("tail", "i4"), ("bytes", "f8"), ("busy_s", "f8"),
    ],
    align=True,
)  # fmt: skip
STEP = np.dtype(
    [
        ("start", "f8"),
        ("end", "f8"),
        ("client", "i4"),
        ("decodes", "i4"),
        ("prefill", "i4"),
        ("blocks", "i4"),
    ],
    align=True,
)
SEGMENT = np.dtype(
    [("request", "i4"), ("client", "i4"), ("emitted", "i4"), ("step", "i8"), ("time", "f8")],
    align=True,
)
GLOBAL = np.dtype(
    [
        ("now", "f8"), ("next", "i8"), ("arrivals", "i8"), ("n_timers", "i8"), ("seq", "i8"), ("pool", "i8"),
        ("pool_end", "i8"), ("think", "f8"), ("coupled", "i1"), ("log", "i1"), ("steps", "i8"), ("segments",
        "i8"), ("router", "i4"), ("fallback", "i4"), ("threshold", "i8"), ("cap", "i8"), ("seed", "u8"),
        ("turn", "i8"), ("local", "i1"), ("retry_delay", "f8"), ("limbo", "i4"), ("limbo_tail", "i4"),
        ("recoveries", "i4"),
    ],
    align=True,
)  # fmt: skip

TIMER = np.dtype([("time", "f8"), ("seq", "i8"), ("arg", "i4"), ("kind", "i4")], align=True)


class State(NamedTuple):
    """All arrays of one playback; the kernels take this and nothing else."""

    g: np.ndarray  #: (1,) GLOBAL
    rq: np.ndarray  #: (requests,) REQUEST
    cl: np.ndarray  #: (clients,) CLIENT
    order: np.ndarray  #: (arrivals,) requests with an absolute arrival, in its order
    children: np.ndarray  #: requests released by the end of another, by parent
    ring: np.ndarray  #: (clients, slots) first request that ends after decode step (slot), or NONE
    phase: (
        np.ndarray
    )  #: (clients, block) decoding requests by the decode steps (mod block) at which they grow
    chunk_request: np.ndarray  #: (clients, max_seqs) prompts in the step in flight
    chunk_tokens: np.ndarray  #: (clients, max_seqs) and their tokens in it
    timers: np.ndarray  #: TIMER heap
    unit_ids: np.ndarray  #: prefix units of all requests, numbered densely
    unit: np.ndarray  #: (clients, ids) UNIT: what each client's KV cache holds
    tier: np.ndarray  #: (tiers,) TIER
    tier_unit: np.ndarray  #: (tiers, ids) UNIT
    link: np.ndarray  #: (links,) LINK
    sessions: np.ndarray  #: client a session sticks to, or NONE
    tables: np.ndarray
    data: np.ndarray
    lut: np.ndarray
    steps: np.ndarray  #: STEP log
    segments: np.ndarray  #: SEGMENT log: stretches of consecutive decode steps of a request


_I4, _F8 = np.dtype("i4"), np.dtype("f8")
DTYPES = {
    "g": GLOBAL, "rq": REQUEST, "cl": CLIENT, "order": _I4, "children": _I4, "ring": _I4, "phase": _I4,
    "chunk_request": _I4, "chunk_tokens": _I4, "timers": TIMER, "unit_ids": _I4, "unit": UNIT, "tier": TIER,
    "tier_unit": UNIT, "link": LINK, "sessions": _I4, "tables": TABLE, "data": _F8, "lut": np.dtype("i2"),
    "steps": STEP, "segments": SEGMENT,
}  # fmt: skip
