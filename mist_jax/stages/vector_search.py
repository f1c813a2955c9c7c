"""Vector search by exhaustive scan or by inverted lists with quantized codes, on CPU cores or on an
accelerator.

On a CPU, the time of one query on one core is
    t = base + max(ef, nprobe) * evals * (t_random + 4 dim / r_vector)      walk of the centroid graph
             + n_dist * code_bytes / r_scan                                 scan of the probed lists
             + n_rerank * dim * component_bytes / r_vector                  exact distances of the best
    n_dist = nprobe * vectors / lists * skew
and a batch keeps min(batch, cores) cores busy, within the bandwidth of DRAM. `skew` > 1 because queries fall
more often into long lists. Rates are per physical core with its two threads, and calibrated, not constants
of nature: RAGO (arXiv 2503.14649) uses 18 GB/s a core for the same scan (ScaNN on EPYC Milan), see
`vector_tree`.

Defaults of base, t_random, r_scan and skew are fitted to FAISS IVF1048576_HNSW32 with 64 4-bit codes on an
Azure F32s_v2 (16 cores), bigann-1B, big-ann-benchmarks track 1, by `python -m calibration.retrieval` (error
table there). evals and r_vector are not separable from t_random on one data set; they are set to the graph's
degree (32) and to RAGO's 10 GB/s a core for full vectors.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any


@pytree
class VectorSearch:
    """One index, sharded evenly over `servers`."""

    index: str = choice("ivf_pq", ("exact", "ivf_pq"))
    place: str = choice("cpu", ("cpu", "accelerator"))
    vectors: Array = parameter(1e9, low=1.0, doc="vectors in the whole index")
    dim: Array = parameter(128.0, low=1.0)
    component_bytes: Array = parameter(4.0, "bytes", doc="of a full vector's component", low=0.125)
    code_bytes: Array = parameter(32.0, "bytes", low=0.5, doc="of one quantized vector (64 4-bit codes: 32)")
    lists: Array = parameter(2.0**20, low=1.0)
    nprobe: Array = parameter(64.0, low=1.0, doc="lists scanned per query")
    ef: Array = parameter(64.0, low=1.0, doc="candidates kept while walking the graph of centroids")
    skew: Array = parameter(1.22, low=0.01, doc="distances over nprobe * vectors / lists")
    rerank: Array = parameter(0.0, doc="candidates whose exact distance is computed")
    documents: Array = parameter(10.0, low=1.0, doc="results passed on")
    document_tokens: Array = parameter(100.0, doc="tokens of a result when it enters the prompt")
    servers: Array = parameter(1.0, low=1.0, doc="machines that each hold a part of every list")
    cores: Array = parameter(16.0, low=1.0, doc="physical cores of a server that search")
    base_s: Array = parameter(17.0e-6, "time", doc="per query and core")
    random_s: Array = parameter(34.1e-9, "time", doc="latency of one hop to a vector, prefetching included")
    evaluations: Array = parameter(32.0, doc="distances per candidate kept: the graph's degree")
    vector_rate: Array = parameter(10e9, "bandwidth", low=1.0, doc="full vectors, bytes/s per core")
    scan_rate: Array = parameter(2.18e9, "bandwidth", low=1.0, doc="codes, bytes/s per core")
    efficiency: Array = parameter(0.6, low=0.01, high=1.0, doc="share of an accelerator's rates; assumption")
    round_trip_s: Array = parameter(0.2e-3, "time", doc="call to the servers and merge; assumption")


def distances(params: VectorSearch) -> Array:
    """Codes compared per query over all servers: nprobe * vectors / lists * skew (exact: all vectors)."""
    if params.index == "exact":
        return jnp.asarray(params.vectors, float)
    return params.nprobe * params.vectors / params.lists * params.skew


def core_seconds(params: VectorSearch) -> Array:
    """Core-seconds of one query on one server (see the module's equation)."""
    full = params.dim * params.component_bytes
    scanned = distances(params) / params.servers
    if params.index == "exact":
        return params.base_s + scanned * full / params.vector_rate
    kept = jnp.maximum(params.ef, params.nprobe)
    walk = kept * params.evaluations * (params.random_s + 4.0 * params.dim / params.vector_rate)
    return (
        params.base_s
        + walk
        + scanned * params.code_bytes / params.scan_rate
        + params.rerank / params.servers * full / params.vector_rate
    )


def demand(params: VectorSearch, work: Work) -> Demand:
    """Demand of a batch of queries on one server of the index.

    Args:
        work: `batch` queries.

    CPU: `cpu` core-seconds, capped at min(batch, cores), and DRAM bytes. Accelerator: FLOP of the distances
        (2 dim
    each) and device-memory bytes; an exhaustive scan reads the vectors once per batch, lists once per query.
    """
    full = params.dim * params.component_bytes
    scanned = distances(params) / params.servers
    kept = jnp.maximum(params.ef, params.nprobe)
    if params.place == "cpu":
        walk_bytes = 0.0 if params.index == "exact" else kept * params.evaluations * 4.0 * params.dim
        code = full if params.index == "exact" else params.code_bytes
        return make(
            params.round_trip_s,
            cpu=work.batch * core_seconds(params),
            host_memory=work.batch * (scanned * code + walk_bytes + params.rerank / params.servers * full),
            caps={"cpu": jnp.minimum(jnp.maximum(work.batch, 1.0), params.cores)},
        )
    if params.index == "exact":
        flops, nbytes = 2.0 * work.batch * scanned * params.dim, scanned * full
    else:
        flops = 2.0 * work.batch * (params.lists * params.dim + scanned * params.code_bytes)
        nbytes = params.lists * 4.0 * params.dim + work.batch * (
            scanned * params.code_bytes + params.rerank / params.servers * full
        )
    return make(
        params.round_trip_s, accelerator=flops / params.efficiency, device_memory=nbytes / params.efficiency
    )


def index_bytes(params: VectorSearch) -> Array:
    """Bytes of the index on one server: codes and 8-byte identifiers (exact: full vectors), and centroids."""
    full = params.dim * params.component_bytes
    if params.index == "exact":
        return params.vectors * full / params.servers
    kept = jnp.where(params.rerank > 0, full, 0.0)
    return (params.vectors * (params.code_bytes + 8.0 + kept)) / params.servers + params.lists * 4.0 * (
        params.dim + 2.0 * params.evaluations
    )


def update(params: VectorSearch, work: Work) -> Work:
    """The search adds documents; they enter the prompt in `assemble_context`."""
    return replace(work, documents=params.documents, document_tokens=params.document_tokens)


STAGES = (
    StageDefinition(
        name="vector_search",
        kind="service",
        parameters=VectorSearch,
        function=demand,
        update=update,
        summary="exact or IVF-PQ vector search on CPU or accelerator",
        source="FAISS IVF-HNSW-PQ fitted to big-ann-benchmarks track 1 (python -m calibration.retrieval)",
        valid="CPU: 1e9 vectors, nprobe 1-256, ef 4-512, all cores busy; accelerator: uncalibrated",
        not_modelled="recall; building the index; filters; lists that fit in the last-level cache",
    ),
)
