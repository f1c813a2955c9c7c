"""Retrieval: RAGO's published figures to the last digit, FAISS on CPU from its own calibration."""

from __future__ import annotations

import numpy as np
import pytest

from mist_jax.physics.demand import machine, seconds
from mist_jax.stages.protocol import Work
from mist_jax.stages.registry import get_stage

#: google/rago retrieval_sim, systems/cpu.json: 96 cores, 400 GB/s of DRAM.
RAGO_SERVER = machine(cpu=96.0, host_memory=400e9)


def tree_ms(batch, **config):
    stage = get_stage("vector_search_tree")
    return 1e3 * float(
        seconds(stage.function(stage.build(config), Work(batch=float(batch))), RAGO_SERVER.rate)
    )


@pytest.mark.parametrize(
    ("batch", "ms"), [(1, 45.0818133), (16, 45.0818133), (32, 64.36848), (64, 128.237568), (256, 512.950272)]
)
def test_rago_large_database(batch, ms):
    """google/rago retrieval_sim/perf_results: 64e9 vectors on 16 servers."""
    assert tree_ms(batch) == pytest.approx(ms, rel=1e-7)
    assert tree_ms(batch, servers=32) == pytest.approx(ms / 2, rel=1e-7)


@pytest.mark.parametrize(("batch", "ms"), [(1, 8.548693), (16, 8.548693), (32, 12.30336), (256, 98.402304)])
def test_rago_small_database(batch, ms):
    """The same table: 100,000 vectors of 1,536 bytes, scanned exhaustively on one server."""
    small = {
        "vectors": 1e5,
        "branches": 0,
        "leaves": 1,
        "leaf_code_bytes": 1536,
        "rerank_bytes": 1536,
        "servers": 1,
    }
    assert tree_ms(batch, **small) == pytest.approx(ms, rel=1e-6)


def test_all_cores_on_one_query_are_faster_for_one_and_pay_the_fork():
    alone = tree_ms(1, parallel="intra_query")
    assert alone < tree_ms(1) / 10
    assert tree_ms(256, parallel="intra_query") >= tree_ms(256) * (1 - 1e-12)


def test_exact_search_on_an_accelerator_is_bandwidth_bound_for_one_query():
    stage = get_stage("vector_search")
    config = {"index": "exact", "place": "accelerator", "vectors": 1e7, "dim": 768, "component_bytes": 2,
              "efficiency": 1.0, "round_trip_s": 0.0}  # fmt: skip
    gpu = machine(accelerator=1e15, device_memory=3e12)
    one = float(seconds(stage.function(stage.build(config), Work(batch=1.0)), gpu.rate))
    assert one == pytest.approx(1e7 * 768 * 2 / 3e12)
    many = float(seconds(stage.function(stage.build(config), Work(batch=4096.0)), gpu.rate))
    assert many == pytest.approx(2 * 4096 * 1e7 * 768 / 1e15)  # compute bound, the vectors are read once


def test_disk_search_is_bound_by_latency_alone_and_by_operations_together():
    stage = get_stage("disk_search")
    on = machine(cpu=64.0, host_memory=2e11, storage=6e9, storage_io=1e6)
    one = float(seconds(stage.function(stage.build(), Work(batch=1.0)), on.rate))
    assert 50 / 4 * 100e-6 <= one < 2e-3
    # 10,000 queries, 50 reads of 4 KiB each: 0.5 s of operations at 1e6/s, 0.34 s of bytes
    many = float(seconds(stage.function(stage.build({"code_s": "1 ns"}), Work(batch=1e4)), on.rate))
    assert many == pytest.approx(0.5 + 50 / 4 * 100e-6, rel=1e-6)


def rows():
    retrieval = pytest.importorskip("calibration.datasets.retrieval")
    if not retrieval.path().exists():
        pytest.skip("no retrieval/bigann_t1_faiss.csv under MIST_DATA_DIR")
    return retrieval.read()


@pytest.mark.parametrize("measured_distances", [True, False])
def test_faiss_on_bigann(measured_distances):
    """Median error at most 10 % over all FAISS rows (in sample but for kst_ann)."""
    from calibration.retrieval import predict

    data = rows()
    error = np.abs(predict(data, measured_distances) / data["seconds"].to_numpy() - 1)
    assert np.median(error) < 0.10


def test_faiss_on_an_index_that_the_fit_has_not_seen():
    """kst_ann_t1 has 48-byte codes; only 32-byte ones were fitted."""
    from calibration.retrieval import predict

    data = rows()
    other = data[data["algorithm"] == "kst_ann_t1"]
    assert np.median(np.abs(predict(other) / other["seconds"].to_numpy() - 1)) < 0.10


def test_packaged_defaults_are_what_the_fit_gives():
    from calibration.retrieval import fit
    from mist_jax.stages.vector_search import VectorSearch

    data = rows()
    for name, value in fit(data[data["algorithm"] == "faiss-t1"]).items():
        assert getattr(VectorSearch(), name) == pytest.approx(value, rel=0.01)
