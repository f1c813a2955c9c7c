"""What a deployment is made of: engines, stations, cache tiers, links, a router, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mist_jax.queueing import state as st
from mist_jax.queueing.policies import Policy, policy
from mist_jax.queueing.table import StepTable


@dataclass(frozen=True)
class Engine:
    """An LLM engine: vLLM's names and defaults where they exist.

    Attributes:
        table: how long its iterations take.
        kv_blocks: KV blocks of `block_size` tokens it has.
        max_num_batched_tokens, max_num_seqs: token budget and sequences of an iteration.
        max_model_len: longest prompt plus answer; longer requests are refused.
        policy: name in `policies.POLICIES`, or a `Policy`.
        order: of the waiting queue: "fcfs", "priority" or "shortest" (prompt).
        long_prefill_threshold: most tokens of one prompt in an iteration; 0 = no limit.
        watermark: share of the blocks kept free when others run and one is admitted.
        prefix_caching: keep the KV of prefixes that the trace names.
        tiers: names of the cache tiers below HBM, the fastest first (see `Tier`).
        kv_bytes_per_token: for transfers between engines and tiers.
        overlap_load: loading from a tier overlaps with the computation (layer by layer), else it precedes it.
        ahead: an iteration is formed while the one before it runs (vLLM's asynchronous scheduling, pull request 19970):
            what arrives joins the one after it, and a freed slot is filled one iteration later. For policies that split
            prompts and mix them with decodes.
        lag: decode iterations, beyond the one in flight, that a new request waits before the scheduler looks at it, if
            any decode; those who come during one iteration wait alike, and the mean over iterations is this number.
        poll: it looks after every so many decode iterations alone (SGLang's `scheduler_recv_interval`). Iterations are
            counted from the start of the play, where SGLang counts anew after one with prompts.
        role: "both", "prefill" or "decode". group: platform, for local disaggregation. link: name (see
            `Link`).
        model: requests with this model come here. heavy: takes the long prompts of a heavy/light router.
        count: number of such engines; attention-DP ranks count one each.
        ranks: attention-DP ranks that step together (vLLM and SGLang with a mixture of experts): an iteration of
            each begins when the last of them is done, and takes as long as the longest. Divides `count`.
    """

    table: StepTable
    kv_blocks: int
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 1 << 30
    policy: str | Policy = "vllm"
    order: str = "fcfs"
    long_prefill_threshold: int = 0
    watermark: float = 0.0
    prefix_caching: bool = False
    tiers: tuple[str, ...] = ()
    kv_bytes_per_token: float = 0.0
    overlap_load: bool = False
    ahead: bool = False
    lag: float = 0.0
    poll: int = 1
    role: str = "both"
    group: int = 0
    link: str = ""
    model: int = 0
    heavy: bool = False
    count: int = 1
    ranks: int = 1
    name: str = "engine"


@dataclass(frozen=True)
class Station:
    """A pool of servers with a batching window; `service_s` = (per batch, per request, per unit of work)."""

    model: int
    service_s: tuple[float, float, float]
    servers: int = 1
    max_batch: int = 1
    window_s: float = 0.0
    count: int = 1
    name: str = "station"


@dataclass(frozen=True)
class Tier:
    """A KV cache below HBM: capacity (tokens), latency of a load (s), bandwidth of a load (B/s), shared by
    all or not."""

    name: str
    capacity_tokens: float
    latency_s: float
    bandwidth: float
    shared: bool = False


@dataclass(frozen=True)
class Link:
    """A link for KV transfers: bandwidth (B/s), latency (s), whether transfers share it (max-min) or queue, and the
    share of a transfer that can go behind the prefill of its prompt (0: it starts after it)."""

    name: str
    bandwidth: float
    latency_s: float = 0.0
    sharing: str = "fair"
    behind: float = 0.0


@dataclass(frozen=True)
class Router:
    """The rule (`state.ROUTERS`), and what it needs.

    Attributes:
        fallback: rule inside a heavy/light class, for a new session, or where no prefix decides.
        heavy_tokens: prompts of at least this many tokens are heavy.
        backlog_cap_tokens: prefix affinity holds while the client's uncached prompt tokens exceed the least
            by no more than this (llm-d: 35 * 8192 on 2xH100).
        local: prefill engines hand over to decode engines of their own group only.
        retry_delay_s: after the failure of a client.
    """

    rule: str = "least_requests"
    fallback: str = "least_requests"
    heavy_tokens: int = 4096
    backlog_cap_tokens: int = 35 * 8192
    local: bool = False
    retry_delay_s: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Failure:
    """Client number `client` is lost at `at_s` with its KV, and back at `until_s` (inf: never)."""

    client: int
    at_s: float
    until_s: float = np.inf


def engine_record(rec: Any, e: Engine, table: int, links: dict[str, int], unit_tokens: int) -> None:
    p = policy(e.policy)
    if e.kv_blocks < 1 or e.block_size < 1 or e.max_num_seqs < 1 or e.max_num_batched_tokens < 1:
        raise ValueError(
            f"{e.name}: kv_blocks, block_size, max_num_seqs and max_num_batched_tokens must be positive"
        )
    if p.budgeted and e.max_num_batched_tokens < e.max_num_seqs:
        raise ValueError(
            f"{e.name}: max_num_batched_tokens must be at least max_num_seqs (each decode takes a token)"
        )
    if e.prefix_caching and (unit_tokens % e.block_size or p.lock):
        raise ValueError(
            f"{e.name}: prefix caching wants units of whole blocks (unit {unit_tokens}, block {e.block_size}) "
            "and a policy that gives memory back request by request"
        )
    if e.ahead and not (p.chunked and p.mix):
        raise ValueError(
            f"{e.name}: ahead wants a policy that splits prompts and mixes them with decodes (vllm, sarathi)"
        )
    if not 0.0 <= e.lag < 1e6:
        raise ValueError(f"{e.name}: lag must be a number of iterations from 0 up, not {e.lag!r}")
    if not 1 <= e.poll < 1e6 or e.poll != int(e.poll):
        raise ValueError(f"{e.name}: poll must be a whole number of iterations from 1 up, not {e.poll!r}")
    if e.order not in ("fcfs", "priority", "shortest"):
        raise ValueError(f"{e.name}: order is fcfs, priority or shortest, not {e.order!r}")
    roles = {"both": 3, "prefill": st.ROLE_PREFILL, "decode": st.ROLE_DECODE}
    if e.role not in roles:
        raise ValueError(f"{e.name}: role is both, prefill or decode, not {e.role!r}")
    if e.role == "prefill" and e.link not in links:
        raise ValueError(f"{e.name}: a prefill engine needs a link; there are {sorted(links)}")
    rec["kind"], rec["role"], rec["table"] = st.ENGINE, roles[e.role], table
    rec["model"], rec["group"], rec["heavy"] = e.model, e.group, e.heavy
    rec["budget"] = e.max_num_batched_tokens if p.budgeted else 1 << 40
    rec["max_seqs"], rec["block"], rec["kv_blocks"] = e.max_num_seqs, e.block_size, e.kv_blocks
    rec["max_len"], rec["threshold"] = e.max_model_len, e.long_prefill_threshold
    rec["watermark"] = int(e.watermark * e.kv_blocks)
    rec["order"] = ("fcfs", "priority", "shortest").index(e.order)
    rec["reserve"], rec["chunked"], rec["mix"] = p.reserve, p.chunked, p.mix
    rec["lock"], rec["decode_first"], rec["prefix"] = p.lock, p.decode_first, e.prefix_caching
    rec["unit_tokens"], rec["unit_blocks"] = unit_tokens, max(1, unit_tokens // e.block_size)
    rec["overlap_load"], rec["kv_bytes"], rec["link"] = (
        e.overlap_load,
        e.kv_bytes_per_token,
        links.get(e.link, 0),
    )
    rec["ahead"], rec["lag"], rec["poll"] = e.ahead, e.lag, e.poll
    rec["free"] = e.kv_blocks
    rec["ranks"], rec["stages"] = e.ranks, e.table.pp


def expand(clients: Sequence[Engine | Station]) -> list[Engine | Station]:
    """One entry a client; an engine with pipeline stages becomes one virtual engine a micro-batch in flight.

    The micro-batches of a replica follow one another, the ranks of each micro-batch side by side.
    """
    out: list[Engine | Station] = []
    for e in clients:
        n = e.count
        if isinstance(e, Engine) and (e.ranks < 1 or n % e.ranks):
            raise ValueError(f"{e.name}: count {n} is no multiple of the {e.ranks} ranks that step together")
        if isinstance(e, Engine) and e.table.pp > 1:
            k = e.table.pp
            seqs = max(1, e.max_num_seqs // k)
            e = replace(e, kv_blocks=e.kv_blocks // k, max_num_seqs=seqs)
            n *= k
        out += [replace(e, count=1)] * n
    return out
