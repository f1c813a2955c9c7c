"""Vector search by walking a graph: HNSW in memory (CPU), CAGRA on an accelerator, DiskANN on NVMe.

In memory, a query keeps `ef` candidates and expands about that many nodes; each expansion computes the
distance to those of its `degree` neighbours that were not seen:
    t = base + ef * degree * fresh * (t_random + dim * component_bytes / r_vector)         per core
(Malkov and Yashunin, IEEE TPAMI 42(4), 2020, section 4.2: cost proportional to the expansions times the
degree.) On disk, `reads` = hops nodes are read in rounds of `beam` at a time (Subramanya et al., DiskANN,
NeurIPS 2019, 3.3):
    latency = reads / beam * t_read,   throughput <= io_rate / reads
and distances to compressed codes in memory come on top.
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
class GraphSearch:
    """A proximity graph in memory."""

    place: str = choice("cpu", ("cpu", "accelerator"))
    vectors: Array = parameter(1e8, low=1.0)
    dim: Array = parameter(128.0, low=1.0)
    component_bytes: Array = parameter(4.0, "bytes", low=0.125)
    degree: Array = parameter(64.0, low=1.0, doc="neighbours of a node on the ground layer (2 M of HNSW)")
    ef: Array = parameter(100.0, low=1.0)
    fresh: Array = parameter(
        0.5, high=1.0, doc="share of neighbours not seen before; as in vector_search (32 of 64)"
    )
    cores: Array = parameter(16.0, low=1.0)
    base_s: Array = parameter(17e-6, "time", doc="per query and core, as fitted in vector_search")
    random_s: Array = parameter(34.1e-9, "time", doc="latency of a hop, as fitted in vector_search")
    vector_rate: Array = parameter(10e9, "bandwidth", low=1.0, doc="bytes/s per core")
    efficiency: Array = parameter(
        0.3, low=0.01, high=1.0, doc="of device bandwidth for random rows; assumption"
    )
    hop_s: Array = parameter(2e-6, "time", doc="dependent step of a query on an accelerator; assumption")
    documents: Array = parameter(10.0, low=1.0)
    document_tokens: Array = parameter(100.0)


@pytree
class DiskSearch:
    """A graph on NVMe with compressed vectors in memory."""

    dim: Array = parameter(128.0, low=1.0)
    component_bytes: Array = parameter(4.0, "bytes", low=0.125)
    degree: Array = parameter(64.0, low=1.0)
    reads: Array = parameter(50.0, low=1.0, doc="node reads per query (about the search list's length)")
    beam: Array = parameter(4.0, low=1.0, doc="reads in flight per query")
    block_bytes: Array = parameter(4096.0, "bytes", low=1.0, doc="per read")
    read_s: Array = parameter(100e-6, "time", doc="latency of one random read; typical NVMe data sheets")
    code_bytes: Array = parameter(32.0, "bytes")
    code_s: Array = parameter(
        60e-9, "time", doc="core time per compressed distance: a hop and a table sum; assumption"
    )
    base_s: Array = parameter(17e-6, "time")
    cores: Array = parameter(16.0, low=1.0)
    documents: Array = parameter(10.0, low=1.0)
    document_tokens: Array = parameter(100.0)


def graph_demand(params: GraphSearch, work: Work) -> Demand:
    """Demand of a batch of queries walking a graph in memory."""
    evaluated = params.ef * params.degree * params.fresh
    row = params.dim * params.component_bytes
    if params.place == "cpu":
        core_s = params.base_s + evaluated * (params.random_s + row / params.vector_rate)
        return make(
            cpu=work.batch * core_s,
            host_memory=work.batch * evaluated * row,
            caps={"cpu": jnp.minimum(jnp.maximum(work.batch, 1.0), params.cores)},
        )
    # CAGRA (Ootomo et al., ICDE 2024): a block a query, dependent hops; bandwidth of random rows in a batch.
    return make(
        params.ef * params.hop_s,
        accelerator=2.0 * work.batch * evaluated * params.dim,
        device_memory=work.batch * evaluated * row / params.efficiency,
    )


def disk_demand(params: DiskSearch, work: Work) -> Demand:
    """Demand of a batch of queries walking a graph on NVMe; the latency of the rounds is fixed, IOPS are
    shared."""
    core_s = params.base_s + params.reads * params.degree * params.code_s
    return make(
        params.reads / params.beam * params.read_s,
        cpu=work.batch * core_s,
        host_memory=work.batch * params.reads * params.degree * params.code_bytes,
        storage_io=work.batch * params.reads,
        storage=work.batch * params.reads * params.block_bytes,
        caps={"cpu": jnp.minimum(jnp.maximum(work.batch, 1.0), params.cores)},
    )


def update(params: GraphSearch | DiskSearch, work: Work) -> Work:
    """The search adds documents; they enter the prompt in `assemble_context`."""
    return replace(work, documents=params.documents, document_tokens=params.document_tokens)


STAGES = (
    StageDefinition(
        name="graph_search",
        kind="service",
        parameters=GraphSearch,
        function=graph_demand,
        update=update,
        summary="HNSW or CAGRA search in memory",
        source="Malkov and Yashunin 2020; hop costs from the FAISS fit of vector_search; CAGRA (ICDE 2024)",
        valid="physics with the hop cost of one data set; accelerator uncalibrated",
        not_modelled="recall, upper layers of the graph, cache reuse between queries",
    ),
    StageDefinition(
        name="disk_search",
        kind="service",
        parameters=DiskSearch,
        function=disk_demand,
        update=update,
        summary="DiskANN search on NVMe",
        source="Subramanya et al., DiskANN, NeurIPS 2019",
        valid="physics, uncalibrated; drives below saturation have the stated latency",
        not_modelled="recall, caching of hot nodes, page cache",
        needs=("cpu", "storage", "storage_io"),
    ),
)
