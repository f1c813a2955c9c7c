"""A trace: the requests to play, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Trace:
    """Requests of a playback; every column has one entry a request.

    Attributes:
        arrival_s: arrival; for a request with parents it is ignored, for one of a closed loop too.
        prompt_tokens, output_tokens: lengths; the prompt emits the first of the output tokens.
        units: (total,) identities of prefix units of all requests (integers; equal = same tokens from the
            start).
        unit_offsets: (n + 1,) where the units of a request begin; they cover its first `unit_tokens` tokens
            each, and may go on into its answer, so that a later turn finds that too.
        unit_tokens: tokens of a unit.
        model: (n,) which model (or station) serves it. session: (n,) or -1. priority: (n,) smaller goes
            first.
        work: (n,) amount of work for a station.
        cached: (n,) first tokens of the prompt whose KV the engine has (or is sent) when it admits the request; they
            take memory but no prefill.
        edges: (m, 2) (parent, child): the child is released `delay_s` after the end of the last of its
            parents.
        delay_s: (n,) think time.
        closed_loop: requests in flight; 0 = open. The first `closed_loop` arrive as `arrival_s` says (a
            ramp), each further one `think_s` after some request has ended, in their order.
    """

    arrival_s: Array
    prompt_tokens: Array
    output_tokens: Array
    units: Array | None = None
    unit_offsets: Array | None = None
    unit_tokens: int = 16
    model: Array | None = None
    session: Array | None = None
    priority: Array | None = None
    work: Array | None = None
    cached: Array | None = None
    edges: Array | None = None
    delay_s: Array | None = None
    closed_loop: int = 0
    think_s: float = 0.0
    request_id: Array | None = None
    measured: dict[str, Array] = field(default_factory=dict)
    name: str = "trace"

    def __post_init__(self) -> None:
        n = np.asarray(self.arrival_s).size
        for f in (
            "arrival_s",
            "prompt_tokens",
            "output_tokens",
            "model",
            "session",
            "priority",
            "work",
            "cached",
            "delay_s",
        ):
            v = getattr(self, f)
            if v is None:
                continue
            v = np.asarray(v)
            object.__setattr__(self, f, v)
            if v.shape != (n,):
                raise ValueError(f"Trace.{f} has shape {v.shape}; arrival_s has {n} requests")
        if (self.units is None) != (self.unit_offsets is None):
            raise ValueError("Trace.units and Trace.unit_offsets go together")
        if self.unit_offsets is not None:
            o = np.asarray(self.unit_offsets)
            u = np.asarray(self.units)
            if o.shape != (n + 1,) or o[0] != 0 or o[-1] != u.size or np.any(np.diff(o) < 0):
                raise ValueError("Trace.unit_offsets must rise from 0 to units.size with n + 1 entries")
            owner = np.repeat(np.arange(n), np.diff(o))
            if u.size and np.unique(np.stack([owner, u.astype(np.int64)]), axis=1).shape[1] != u.size:
                raise ValueError(
                    "Trace.units: a request names the same unit twice; a prefix has distinct units"
                )
        if self.edges is not None:
            e = np.asarray(self.edges, dtype=np.int64).reshape(-1, 2)
            object.__setattr__(self, "edges", e)
            if e.size and (e.min() < 0 or e.max() >= n or np.any(e[:, 0] >= e[:, 1])):
                raise ValueError("Trace.edges: parents must come before their children")
        if self.closed_loop and self.edges is not None and len(self.edges):
            raise ValueError("Trace: closed_loop and edges exclude each other")

    @property
    def size(self) -> int:
        """Number of requests."""
        return self.arrival_s.size

    def head(self, n: int) -> Trace:
        """The first n requests (without edges)."""
        out: dict[str, Any] = {"edges": None}
        for f in (
            "arrival_s",
            "prompt_tokens",
            "output_tokens",
            "model",
            "session",
            "priority",
            "work",
            "cached",
            "delay_s",
        ):
            v = getattr(self, f)
            out[f] = None if v is None else v[:n]
        if self.unit_offsets is not None and self.units is not None:
            out["unit_offsets"] = self.unit_offsets[: n + 1]
            out["units"] = self.units[: self.unit_offsets[n]]
        out["request_id"] = None if self.request_id is None else self.request_id[:n]
        out["measured"] = {k: v[:n] for k, v in self.measured.items()}
        return replace(self, **out)

    def at_rate(self, factor: float) -> Trace:
        """The same requests arriving `factor` times as fast."""
        if not factor > 0:
            raise ValueError(f"a rate is scaled by a positive factor, got {factor}")
        return replace(self, arrival_s=(self.arrival_s - self.arrival_s.min()) / factor)
