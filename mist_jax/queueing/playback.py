"""Play a trace exactly: engines, stations and routers, iteration by iteration.

`play` takes the clients of a deployment and a trace, and returns what became of every request. The kernels
are compiled by numba and see nothing but the arrays of `state.State`.

A table with pp > 1 becomes pp virtual engines, one a micro-batch in flight, each with its share of memory and slots;
they take turns in the stages. Attention-DP ranks (`Engine.ranks`) step together.

Not modelled: the time to route, tokenise or stream; pipeline stages of different length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mist_jax.queueing import state as st
from mist_jax.queueing.clients import Engine, Failure, Link, Router, Station, Tier, expand
from mist_jax.queueing.events import play_events
from mist_jax.queueing.layout import enlarge, lay_out
from mist_jax.queueing.table import StepTable
from mist_jax.queueing.trace import Trace
from mist_jax.queueing.views import directory

Array = np.ndarray


@dataclass(frozen=True)
class Played:
    """What became of the requests (structured arrays of `state.REQUEST` and `state.CLIENT`), and the logs if
    asked."""

    trace: Trace
    requests: Array
    clients: Array
    names: tuple[str, ...]
    links: Array
    end_s: float
    steps: Array
    segments: Array

    def column(self, name: str) -> Array:
        """A column of the requests."""
        return self.requests[name]

    @property
    def ttft_s(self) -> Array:
        """Arrival to first token (s); NaN for requests that were not served."""
        return self.requests["first"] - self.requests["arrival"]

    @property
    def e2e_s(self) -> Array:
        """Arrival to last token (s)."""
        return self.requests["finish"] - self.requests["arrival"]

    @property
    def tpot_s(self) -> Array:
        """Mean time per output token after the first (s); NaN for answers of one token."""
        out = np.asarray(self.requests["output"], dtype=np.float64)
        many = out > 1
        gap = self.requests["finish"] - self.requests["first"]
        return np.where(many, gap / np.where(many, out - 1, 1.0), np.nan)

    @property
    def status(self) -> Array:
        """Codes, see `state.STATUS`."""
        return self.requests["status"]


def prepare(
    trace: Trace,
    clients: Sequence[Engine | Station],
    router: Router | None = None,
    *,
    tiers: Sequence[Tier] = (),
    links: Sequence[Link] = (),
    failures: Sequence[Failure] = (),
    log: bool = False,
) -> tuple[st.State, list[Engine | Station]]:
    """Lay everything out for the kernels.

    Raises:
        ValueError: for settings that contradict each other; bad requests are marked in the result instead.
    """
    return lay_out(trace, expand(clients), router or Router(), tiers, links, failures, log)


def play(
    trace: Trace,
    clients: Engine | Sequence[Engine | Station],
    router: Router | None = None,
    *,
    tiers: Sequence[Tier] = (),
    links: Sequence[Link] = (),
    failures: Sequence[Failure] = (),
    log: bool = False,
) -> Played:
    """Play `trace` on `clients` to the end of the last request.

    Arguments: see `Engine`, `Station`, `Router`, `Tier`, `Link`, `Failure`; `log` keeps every iteration, for
        the
    distribution of ITL, memory over time and timelines.
    Errors: `prepare`. A request that cannot be served has its reason in `status`.
    """

    if isinstance(clients, Engine):
        clients = [clients]
    s, names = prepare(trace, clients, router, tiers=tiers, links=links, failures=failures, log=log)
    slack = int(2 * s.cl["max_seqs"].sum()) + 8
    at = directory(s)
    while play_events(at.ctypes.data, slack) != st.FINISHED:
        s = enlarge(s)
        at = directory(s)
    left = (s.rq["state"] != st.DONE) & (s.rq["status"] == st.OK)
    s.rq["status"][left] = st.UNFINISHED
    g = s.g[0]
    # engines that cannot influence one another run past the last event that all of them saw
    end = max(float(g["now"]), float(np.nanmax(np.append(s.rq["finish"], 0.0))))
    return Played(
        trace, s.rq, s.cl, tuple(e.name for e in names), s.link, end,
        s.steps[: g["steps"]], s.segments[: g["segments"]],
    )  # fmt: skip


def play_engine(
    table: StepTable, engine: dict[str, Any], arrival_s: Array, prompt_tokens: Array, output_tokens: Array
) -> dict[str, Array]:
    """Play one engine; `engine` holds fields of `Engine` (at least kv_blocks).

    Returns per request: arrival_s, scheduled_s, first_token_s, finish_s, preemptions, status (see
        `state.STATUS`).
    """
    out = play(Trace(arrival_s, prompt_tokens, output_tokens), Engine(table, **engine)).requests
    names = {
        "arrival_s": "arrival",
        "scheduled_s": "scheduled",
        "first_token_s": "first",
        "finish_s": "finish",
    }
    names |= {"preemptions": "preemptions", "status": "status"}
    return {k: out[v].copy() for k, v in names.items()}
