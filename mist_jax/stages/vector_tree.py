"""Vector search in a tree of partitions, as RAGO models ScaNN.

Jiang et al., "RAGO: Systematic Performance Optimization for Retrieval-Augmented Generation Serving", ISCA
2025, arXiv 2503.14649, and its public retrieval simulator (google/rago, retrieval_sim). Levels (root,
branch, leaf) are searched in sequence; a level scans quantized vectors, then reranks the best with longer
codes. For B queries an operator moves bytes = B * n_scan * vectors_per_partition * code_bytes and takes
    one query a core     max(bytes/B * max(1, B/cores) / r, bytes / BW)
    all cores a query    max(bytes / (r cores) + 1 us * cores, bytes / BW)
with r = 18 GB/s a core for scanning, 10 GB/s for reranking, BW = 400 GB/s, 96 cores (AMD EPYC Milan). The
latency is the sum over operators divided by the number of servers, each of which holds an equal part of
every partition.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand, in_sequence
from mist_jax.physics.demand import demand as make
from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import StageDefinition, Work, choice, parameter

Array = Any


@pytree
class VectorTree:
    """Three levels at most; a level without partitions is skipped. Defaults: RAGO's large database, 64e9
    vectors."""

    parallel: str = choice(
        "inter_query", ("inter_query", "intra_query"), "one query a core, or all cores a query"
    )
    vectors: Array = parameter(64e9, low=1.0)
    branches: Array = parameter(1e6, doc="partitions of the middle level; 0: no such level")
    leaves: Array = parameter(250e6, doc="partitions of the last level; 1: one list, scanned exhaustively")
    root_code_bytes: Array = parameter(96.0, "bytes")
    branch_code_bytes: Array = parameter(96.0, "bytes")
    leaf_code_bytes: Array = parameter(192.0, "bytes", doc="bytes of a scanned vector")
    rerank_bytes: Array = parameter(768.0, "bytes", doc="bytes of a vector when it is reranked")
    branch_scan: Array = parameter(0.01, high=1.0, doc="share of the branches that are searched")
    leaf_scan: Array = parameter(0.001, high=1.0, doc="share of the leaves that are searched")
    leaf_rerank: Array = parameter(100.0, doc="vectors reranked at the end")
    servers: Array = parameter(16.0, low=1.0)
    cores: Array = parameter(96.0, low=1.0)
    scan_rate: Array = parameter(18e9, "bandwidth", low=1.0, doc="bytes/s per core")
    rerank_rate: Array = parameter(10e9, "bandwidth", low=1.0, doc="bytes/s per core")
    fork_s: Array = parameter(1e-6, "time", doc="per core, when all work on one query")
    documents: Array = parameter(5.0, low=1.0)
    document_tokens: Array = parameter(100.0)


def _operator(params: VectorTree, batch: Array, bytes_per_query: Array, rate: Array, scan: bool) -> Demand:
    """One scan or rerank of a batch on one server's part of the data."""
    nbytes = batch * bytes_per_query / params.servers
    fixed, cores = 0.0, jnp.minimum(jnp.maximum(batch, 1.0), params.cores)
    if scan and params.parallel == "intra_query":
        # The fork and join count against the cores only: they hide behind a scan that DRAM bounds. As a
        # demand, they are core-seconds on all cores.
        cores = params.cores
        work = nbytes / rate + jnp.where(nbytes > 0, params.fork_s * cores / params.servers, 0.0) * cores
    else:
        work = nbytes / rate
    return make(fixed, cpu=work, host_memory=nbytes, caps={"cpu": cores})


def demand(params: VectorTree, work: Work) -> Demand:
    """Demand of a batch of queries on one server: six operators in sequence (see the module's equations)."""
    b = work.batch
    root = jnp.where(params.branches > 0, params.branches, jnp.where(params.leaves > 1, params.leaves, 0.0))
    searched_branches = params.branch_scan * params.branches
    fanout = jnp.where(params.branches > 0, params.leaves / jnp.maximum(params.branches, 1.0), 0.0)
    tree = params.leaves > 1
    searched_leaves = jnp.where(tree, params.leaf_scan * params.leaves, 1.0)
    root_rerank = jnp.where(params.branches > 0, searched_branches, jnp.where(tree, searched_leaves, 0.0))
    branch_rerank = jnp.where(params.branches > 0, searched_leaves, 0.0)
    per_leaf = params.vectors / jnp.maximum(params.leaves, 1.0)
    scans = (
        root * params.root_code_bytes,
        searched_branches * fanout * params.branch_code_bytes,
        searched_leaves * per_leaf * params.leaf_code_bytes,
    )
    reranks = (root_rerank, branch_rerank, params.leaf_rerank)
    phases = []
    for scanned, kept in zip(scans, reranks):
        phases.append(_operator(params, b, scanned, params.scan_rate, True))
        phases.append(_operator(params, b, kept * params.rerank_bytes, params.rerank_rate, False))
    return in_sequence(*phases)


def update(params: VectorTree, work: Work) -> Work:
    """The search adds documents; they enter the prompt in `assemble_context`."""
    return replace(work, documents=params.documents, document_tokens=params.document_tokens)


STAGES = (
    StageDefinition(
        name="vector_search_tree",
        kind="service",
        parameters=VectorTree,
        function=demand,
        update=update,
        summary="tree search over quantized partitions (RAGO's ScaNN model)",
        source="RAGO, arXiv 2503.14649; google/rago retrieval_sim",
        valid="reproduces the simulator exactly; FAISS is 8 times slower a core (vector_search)",
        not_modelled="recall, imbalance between servers, network between them, data reuse across a batch",
        needs=("cpu", "host_memory"),
    ),
)
