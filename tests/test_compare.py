"""Measured against predicted: the table, and the reasons it finds for a difference that was put there."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mist_jax as mist
from mist_jax.application import run
from mist_jax.compare import compare, measured_values, with_load_of
from mist_jax.compare_reasons import same_model
from mist_jax.compose import compose_mapping
from mist_jax.errors import ConfigError
from mist_jax.io.benchmarks import BenchmarkResult, Statistics

BASE = ["model=llama3_1_8b", "parallelism=tp1", "workload=closed_1k_1k", "workload.concurrency=32"]


def as_result(ds, **fields) -> BenchmarkResult:
    """A steady state as if it had been measured with 32 requests in flight."""
    known = {
        "form": "vllm", "source": "run.json", "model": "meta-llama/Llama-3.1-8B-Instruct", "engine": "vllm",
        "concurrency": 32, "requests": 320, "duration_s": 100.0, "isl": 1024, "osl": 1024,
        "request_rate": float(ds.request_rate), "output_tokens_per_s": float(ds.output_tokens_per_s),
        "ttft": Statistics(float(ds.ttft_s)), "tpot": Statistics(float(ds.tpot_s)), "e2e": Statistics(float(ds.e2e_s)),
    }  # fmt: skip
    return BenchmarkResult(**{**known, **fields})


@pytest.fixture(scope="module")
def scenario():
    return mist.load(BASE)


def reasons(scenario, result):
    return compare(scenario, result).attrs["explanations"].splitlines()


def test_a_run_as_predicted_has_ratio_one_and_nothing_to_explain(scenario):
    ds = compare(scenario, as_result(mist.evaluate(scenario)))
    np.testing.assert_allclose(ds.ratio.dropna("quantity"), 1.0, rtol=1e-9)
    assert ds.attrs["method"] == "steady"
    ttft = ds.sel(quantity="ttft_mean_s")
    steady = mist.evaluate(with_load_of(scenario, as_result(mist.evaluate(scenario))))
    assert [float(ttft.low), float(ttft.high)] == pytest.approx(
        [float(steady[f"ttft_s_{e}"]) for e in ("low", "high")]
    )
    assert np.isnan(ds.sel(quantity="request_rate").low)
    assert "nothing needs explaining" in ds.attrs["explanations"]


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        (
            {"engine.prefix_hit_rate": 0.9, "workload.isl": 8192, "workload.osl": 64},
            "the prefix cache holds 90%",
        ),
        ({"engine.memory_utilization": 0.25}, "25% of the predicted size"),
        ({"model.precision.weights": "fp8"}, "the weights are fp8"),
    ],
)
def test_the_change_that_was_made_is_found_first(twist, words):
    twist = dict(twist)
    load = {k: twist.pop(k) for k in list(twist) if k.startswith("workload")} | {"workload.concurrency": 256}
    scenario = mist.with_overrides(mist.load(BASE), load)
    if "engine.memory_utilization" in twist:  # a quarter of the KV cache
        less = 0.75 * float(mist.evaluate(scenario).kv_budget_bytes) / scenario.hardware.memory.capacity
        twist["engine.memory_utilization"] = scenario.engine.memory_utilization - less
    measured = mist.evaluate(mist.with_overrides(scenario, twist))
    spec = scenario.workload
    result = as_result(measured, concurrency=256, isl=spec.isl, osl=spec.osl, requests=2560)
    lines = [r for r in reasons(scenario, result) if r.startswith("if ")]
    assert lines
    assert words in lines[0]
    assert "takes away 100%" in lines[0]


def test_contradictions_come_first(scenario):
    result = as_result(
        mist.evaluate(scenario), tp=4, model="Qwen/Qwen3-32B", engine="sglang", hardware="b200-x"
    )
    found = reasons(scenario, result)
    assert found[0].startswith("the file says tp = 4, the description 1")
    assert any("model Qwen/Qwen3-32B" in r for r in found[:4])
    assert any("engine sglang" in r for r in found[:4])
    assert any("hardware b200-x" in r for r in found[:4])


def test_facts_about_the_run(scenario):
    ds = mist.evaluate(scenario)
    result = as_result(
        ds,
        failed=3,
        requests=60,
        itl=Statistics(2.5 * float(ds.tpot_s), percentiles={99.0: 9 * float(ds.tpot_s)}),
    )
    text = "\n".join(reasons(scenario, result))
    assert "3 of 63 requests failed" in text
    assert "1.9 rounds of its concurrency" in text
    assert "2.50 times TPOT" in text
    assert "9 times the mean TPOT" in text
    reported = "\n".join(reasons(scenario, as_result(ds, acceptance_length=2.4)))
    assert "2.40 tokens a speculative step" in reported


def test_load_is_that_of_the_run(scenario):
    ds = mist.evaluate(scenario)
    assert with_load_of(scenario, as_result(ds, concurrency=7)).workload.concurrency == 7
    open_loop = with_load_of(scenario, as_result(ds, rate=3.5, concurrency=None)).workload
    assert (open_loop.arrivals, open_loop.rate) == ("poisson", 3.5)
    at_once = with_load_of(scenario, as_result(ds, concurrency=None)).workload
    assert (at_once.arrivals, at_once.concurrency) == ("closed", 320)


def test_models_are_matched_by_family_and_size(scenario):
    for name in (
        "meta-llama/Llama-3.1-8B-Instruct",
        "Llama-3.1-8B-Instruct-FP8",
        "/models/Meta-Llama-3.1-8B",
    ):
        assert same_model(name, scenario), name
    for name in ("meta-llama/Llama-3.1-70B", "Qwen/Qwen3-8B", "meta-llama/Llama-3-8B"):
        assert not same_model(name, scenario), name


def test_command_line_plays_the_requests_of_the_file(tmp_path, capsys):
    n = 24
    rng = np.random.default_rng(0)
    inputs, outputs = rng.integers(100, 900, n).tolist(), rng.integers(5, 60, n).tolist()
    content = {
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "endpoint_type": "vllm", "max_concurrency": 6,
        "request_rate": "inf",
        "duration": 3.0, "completed": n, "total_input_tokens": sum(inputs), "total_output_tokens": sum(outputs),
        "request_throughput": n / 3, "output_throughput": sum(outputs) / 3,
        "input_lens": inputs, "output_lens": outputs,
        "ttfts": [0.05] * n, "itls": [[0.01] * (o - 1) for o in outputs], "mean_ttft_ms": 50.0, "p99_ttft_ms": 80.0,
        "mean_tpot_ms": 10.0, "p99_tpot_ms": 11.0,
    }  # fmt: skip
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    mapping = compose_mapping([*BASE, "mode=compare", f"compare.run={path}"])
    ds = run(mapping, str(tmp_path / "out"))
    assert ds.attrs["method"] == "play"
    rows = dict(zip(ds["quantity"].values.tolist(), zip(ds.measured.values, ds.predicted.values)))
    assert rows["ttft_p99_s"][0] == pytest.approx(0.08)
    assert np.isfinite(rows["tpot_p99_s"][1])
    assert np.isnan(rows["e2e_mean_s"][0])
    shown = capsys.readouterr().out
    assert "TTFT, p99" in shown
    assert "What might explain the difference" in shown
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["attributes"]["method"] == "play"


def test_complaints(tmp_path, scenario):
    mapping = compose_mapping([*BASE, "mode=compare"])
    with pytest.raises(ConfigError, match=r"compare\.run: missing"):
        run(mapping, str(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"compare\.method: got 'plya' \(did you mean 'play'\?\)"):
        compare(scenario, as_result(mist.evaluate(scenario)), method="plya")
    mapping["compare"] = {"runs": "x"}
    with pytest.raises(ConfigError, match=r"compare\.runs: unknown key \(did you mean 'run'\?\)"):
        run(mapping, str(tmp_path / "b"))


def test_measured_values_are_nan_where_the_file_is_silent(scenario):
    values = measured_values(as_result(mist.evaluate(scenario)))
    assert np.isnan(values["ttft_p99_s"])
    assert np.isfinite(values["ttft_mean_s"])
