"""Benchmark results of each published form, and what is said of broken ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mist_jax.errors import ConfigError
from mist_jax.io.benchmarks import lengths_cv, read_benchmark_result

#: vllm/benchmarks/serve.py: keys of --save-result with --save-detailed
VLLM = {
    "date": "20260301-101500", "endpoint_type": "openai", "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "num_prompts": 3, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 2, "duration": 4.0, "completed": 3,
    "failed": 0, "total_input_tokens": 300, "total_output_tokens": 60, "request_throughput": 0.75,
    "request_goodput": None, "output_throughput": 15.0, "total_token_throughput": 90.0,
    "input_lens": [50, 100, 150], "output_lens": [10, 20, 30], "ttfts": [0.1, 0.2, 0.3],
    "itls": [[0.01] * 9, [0.01] * 19, [0.02] * 29], "errors": ["", "", ""],
    "mean_ttft_ms": 200.0, "median_ttft_ms": 200.0, "std_ttft_ms": 81.6, "p99_ttft_ms": 298.0,
    "mean_tpot_ms": 13.3, "median_tpot_ms": 10.0, "std_tpot_ms": 4.7, "p99_tpot_ms": 19.8, "mean_itl_ms": 15.0,
    "median_itl_ms": 20.0, "std_itl_ms": 5.0, "p99_itl_ms": 20.0, "mean_e2el_ms": 500.0, "p99.9_e2el_ms": 870.0,
}  # fmt: skip
#: python/sglang/bench_serving.py: keys of a line
SGLANG = {
    "backend": "sglang", "dataset_name": "random", "request_rate": 4.0, "max_concurrency": None,
    "random_input_len": 1024, "random_output_len": 128, "duration": 10.0, "completed": 40, "total_input_tokens": 40960,
    "total_output_tokens": 5120, "request_throughput": 4.0, "input_throughput": 4096.0, "output_throughput": 512.0,
    "mean_e2e_latency_ms": 2000.0, "median_e2e_latency_ms": 1900.0, "p99_e2e_latency_ms": 3000.0,
    "mean_ttft_ms": 100.0, "median_ttft_ms": 90.0, "p99_ttft_ms": 300.0, "mean_tpot_ms": 15.0, "median_tpot_ms": 14.0,
    "p99_tpot_ms": 25.0, "mean_itl_ms": 30.0, "p95_itl_ms": 33.0, "concurrency": 8.0, "accept_length": 2.0,
}  # fmt: skip
#: AIPerf documentation, "JSON Export Schema", 1.5
AIPERF = {
    "schema_version": "1.5", "aiperf_version": "0.13.0",
    "request_latency": {"unit": "ms", "avg": 2620.0, "p50": 2568.0, "p99": 3371.0, "std": 297.0, "count": 20},
    "time_to_first_token": {"unit": "ms", "avg": 120.0, "p50": 110.0, "p99": 190.0, "std": 20.0, "count": 20},
    "inter_token_latency": {"unit": "ms", "avg": 12.5, "p50": 12.4, "p99": 13.0, "count": 20},
    "input_sequence_length": {"unit": "tokens", "avg": 550.0},
    "output_sequence_length": {"unit": "tokens", "avg": 200.0},
    "request_throughput": {"unit": "requests/sec", "avg": 1.45},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 290.0},
    "request_count": {"unit": "requests", "avg": 20.0}, "benchmark_duration": {"unit": "sec", "avg": 13.8},
    "input_config": {"endpoint": {"model_names": ["Qwen/Qwen3-32B"]}, "loadgen": {"concurrency": 4}},
}  # fmt: skip
#: InferenceX utils/process_result.py
INFERENCEX = {
    "hw": "h200-cw", "tp": 8, "ep": 1, "dp_attention": "false", "conc": 64, "model": "deepseek-ai/DeepSeek-R1-0528",
    "framework": "sglang", "precision": "fp8", "isl": 1024, "osl": 1024, "tput_per_gpu": 500.0,
    "output_tput_per_gpu": 250.0, "mean_ttft": 0.4, "median_ttft": 0.35, "p99_ttft": 1.2, "mean_tpot": 0.03,
    "mean_intvty": 33.3, "median_tpot": 0.029, "mean_itl": 0.03, "mean_e2el": 31.0,
}  # fmt: skip


def put(tmp_path, content, name="result.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_vllm(tmp_path):
    r = read_benchmark_result(put(tmp_path, VLLM))
    assert (r.form, r.model, r.requests, r.failed) == ("vllm", "meta-llama/Llama-3.1-8B-Instruct", 3, 0)
    assert (r.concurrency, r.rate, r.closed) == (2, None, True)
    assert (r.isl, r.osl, r.duration_s) == (100, 20, 4.0)
    assert r.ttft.mean == pytest.approx(0.2)
    assert r.ttft.at(99) == pytest.approx(0.298)
    assert r.e2e.at(99.9) == pytest.approx(0.87)
    assert math.isnan(r.e2e.at(50))
    assert math.isnan(r.goodput)
    assert r.trace is not None
    np.testing.assert_allclose(r.trace.measured["tpot_s"], [0.01, 0.01, 0.02])
    cv_in, cv_out = lengths_cv(r.trace)
    assert cv_in == pytest.approx(np.std([50, 100, 150]) / 100)
    assert cv_out == pytest.approx(np.std([10, 20, 30]) / 20)


def test_sglang_takes_the_last_run_unless_asked(tmp_path):
    path = put(
        tmp_path, json.dumps({**SGLANG, "mean_ttft_ms": 1.0}) + "\n" + json.dumps(SGLANG) + "\n", "r.jsonl"
    )
    r = read_benchmark_result(path)
    assert (r.form, r.rate, r.concurrency, r.closed) == ("sglang", 4.0, None, False)
    assert r.ttft.mean == pytest.approx(0.1)
    assert r.e2e.at(99) == pytest.approx(3.0)
    assert r.total_tokens_per_s == pytest.approx(4608.0)
    assert r.acceptance_length == 2.0
    assert read_benchmark_result(path, run=0).ttft.mean == pytest.approx(1e-3)
    with pytest.raises(ConfigError, match="2 runs, no number 7"):
        read_benchmark_result(path, run=7)


def test_aiperf_units_are_authoritative(tmp_path):
    r = read_benchmark_result(put(tmp_path, AIPERF))
    assert (r.form, r.model, r.concurrency, r.requests) == ("aiperf", "Qwen/Qwen3-32B", 4, 20)
    assert r.ttft.mean == pytest.approx(0.12)
    seconds = {**AIPERF, "time_to_first_token": {"unit": "s", "avg": 0.12, "p99": 0.19}}
    again = read_benchmark_result(put(tmp_path, seconds))
    assert again.ttft.at(99) == pytest.approx(r.ttft.at(99))
    assert (r.isl, r.osl) == (550, 200)
    assert r.duration_s == pytest.approx(13.8)


def test_inferencex(tmp_path):
    r = read_benchmark_result(put(tmp_path, INFERENCEX))
    assert (r.form, r.hardware, r.tp, r.ep, r.dp_attention) == ("inferencex", "h200-cw", 8, 1, False)
    assert r.output_tokens_per_s == pytest.approx(2000.0)
    assert r.request_rate == pytest.approx(2000.0 / 1024)
    assert r.tpot.mean == pytest.approx(0.03)
    assert r.ttft.at(50) == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "not JSON"),
        ("[1, 2]", "holds a list"),
        ({"a": 1}, "not a benchmark result of a known form.*its keys: a"),
        ({k: v for k, v in VLLM.items() if k != "duration"}, "duration: missing"),
        ({**VLLM, "completed": 0}, "completed: got 0"),
        ({**VLLM, "mean_ttft_ms": "fast"}, "mean_ttft_ms: got 'fast'; expected a number"),
        ({**VLLM, "p99_ttft_ms": -3}, "p99_ttft_ms: got -3; must not be negative"),
        ({**VLLM, "output_lens": [1]}, "different lengths"),
        (
            {**AIPERF, "time_to_first_token": {"unit": "tokens", "avg": 1}},
            "time_to_first_token.unit: got 'tokens'",
        ),
        ({k: v for k, v in AIPERF.items() if k != "time_to_first_token"}, "time_to_first_token: missing"),
        ({k: v for k, v in INFERENCEX.items() if k != "tp"}, "tp: missing"),
        ({k: v for k, v in INFERENCEX.items() if "ttft" not in k}, "mean_ttft: missing"),
    ],
)
def test_broken_files_are_named_with_the_key(tmp_path, content, message):
    path = put(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as error:
        read_benchmark_result(path)
    assert str(path) in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_benchmark_result(tmp_path / "absent.json")


def request_log(folder, **changes):
    """Two requests on clocks 1,000 s apart; the second was handed over in no time."""
    rows = [
        {"input_toks": 100, "output_toks": 11, "arrival_time": 5.0, "queued_ts": 1005.5, "first_token_ts": 1006.0,
             "last_token_ts": 1007.0},
        {"input_toks": 50, "output_toks": 1, "arrival_time": 6.0, "queued_ts": 1006.0, "first_token_ts": 1006.2,
             "last_token_ts": 1006.2},
    ]  # fmt: skip
    rows[0].update(changes)
    (folder / "requests.jsonl").write_text(
        "\n".join(json.dumps({k: v for k, v in r.items() if v is not None}) for r in rows)
    )
    (folder / "meta.json").write_text(
        json.dumps(
            {
                "model": "m",
                "vllm_version": "0.19",
                "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8},
            }
        )
    )
    return folder


def test_request_log_on_two_clocks(tmp_path):
    run = read_benchmark_result(request_log(tmp_path))
    assert (run.form, run.model, run.tp, run.requests, run.settings["max_num_seqs"]) == ("log", "m", 2, 2, 8)
    assert run.trace.measured["ttft_s"] == pytest.approx([1.0, 0.2])
    assert run.trace.measured["e2e_s"] == pytest.approx([2.0, 0.2])
    assert run.tpot.mean == pytest.approx(0.1)  # one token alone has none
    assert run.ttft.mean == pytest.approx(0.6)
    assert (run.isl, run.osl, run.rate) == (75.0, 6.0, 1.0)
    assert read_benchmark_result(tmp_path / "requests.jsonl").ttft == run.ttft


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_toks": None}, "not a benchmark result|output_toks: missing"),
        ({"output_toks": "many"}, "line 1: output_toks: missing or not a number"),
        ({"last_token_ts": 1.0}, "tokens before their request"),
    ],
)
def test_broken_request_log(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_benchmark_result(request_log(tmp_path, **changes))


def aiperf_records(folder, **changes):
    """Two answered requests and a cancelled one, in the form that AIPerf's documentation shows."""

    def record(start, metrics, **more):
        metadata = {"session_num": 0, "request_start_ns": 1759813207532900363 + start, "was_cancelled": False}
        return {"metadata": metadata | more, "metrics": metrics, "error": None}

    def metrics(isl, osl, ttft, latency):
        out = {
            "input_sequence_length": {"value": isl, "unit": "tokens"},
            "output_sequence_length": {"value": osl, "unit": "tokens"},
            "time_to_first_token": {"value": ttft, "unit": "ms"},
            "request_latency": {"value": latency, "unit": "ms"},
        }
        return out | (
            {"inter_token_latency": {"value": (latency - ttft) / (osl - 1), "unit": "ms"}} if osl > 1 else {}
        )

    first = metrics(550, 9, 100.0, 500.0) | changes
    lines = [
        record(2_000_000_000, metrics(100, 1, 50.0, 50.0)),
        record(0, first),
        record(1, {"error_isl": {"value": 5, "unit": "tokens"}}, was_cancelled=True)
        | {"error": {"code": 499}},
    ]
    path = folder / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_aiperf_records(tmp_path):
    run = read_benchmark_result(aiperf_records(tmp_path))
    assert (run.form, run.requests, run.settings) == ("aiperf", 2, {"failed": 1})
    np.testing.assert_allclose(run.trace.arrival_s, [0.0, 2.0], atol=1e-12)
    assert run.trace.prompt_tokens.tolist() == [550, 100]
    assert run.trace.measured["ttft_s"] == pytest.approx([0.1, 0.05])
    assert run.tpot.mean == pytest.approx(0.05)  # one token alone has none
    assert run.duration_s == pytest.approx(2.05)
    assert run.output_tokens_per_s == pytest.approx(10 / 2.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_latency": None}, "line 2: request_latency: missing or not a number"),
        (
            {"time_to_first_token": {"value": 1.0, "unit": "apples"}},
            "line 2: time_to_first_token: unknown unit",
        ),
        (
            {"output_sequence_length": {"value": "9", "unit": "tokens"}},
            "line 2: output_sequence_length: missing or not",
        ),
    ],
)
def test_broken_aiperf_records(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_benchmark_result(aiperf_records(tmp_path, **changes))
