"""Every form that is read: a whole file is, a broken one is refused with its name and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_io_benchmarks import AIPERF, INFERENCEX, SGLANG, VLLM
from test_io_exports import playback
from test_model_configs import LLAMA

from mist_jax.errors import ConfigError, TraceError
from mist_jax.io.benchmarks import read_benchmark_result
from mist_jax.io.exports import FORMS, export, load_export
from mist_jax.io.huggingface import read_config
from mist_jax.io.trace_sources import open_trace


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


#: Three requests in each published form of a trace.
TRACES = {
    # AzurePublicDataset, AzureLLMInferenceDataset2023.md
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.2224670,879,55\n",
    # BurstGPT README, "Contents"
    "burst.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n7.5,GPT-4,10,4,14,API log\n9,GPT-4,20,3,23,API log\n",
    # Mooncake FAST25 release, README
    "mooncake.jsonl": lines(
        *({"timestamp": 27482 + i, "input_length": 900, "output_length": 52, "hash_ids": [4, 5 + i]} for i in range(3))
    ),
    # LLMServingSim, bench
    "requests.jsonl": lines(
        *(
            {"input_toks": 100, "output_toks": 11, "queued_ts": 5.0 + i, "scheduled_ts": 5.1 + i,
             "first_token_ts": 5.5 + i, "last_token_ts": 6.0 + i}
            for i in range(3)
        )
    ),
    # vllm/benchmarks/serve.py, --save-detailed
    "vllm.json": json.dumps({"input_lens": [5, 6, 7], "output_lens": [3, 1, 2], "ttfts": [0.1, 0.2, 0.1],
                             "itls": [[0.02, 0.04], [], [0.01]], "start_times": [10.0, 11.0, 12.0]}),
    # sglang/bench_serving.py, --output-details
    "sglang.jsonl": lines({"backend": "sglang", "input_lens": [5, 6, 7], "output_lens": [3, 1, 2]}),
    "any.jsonl": lines(*({"arrival_s": i, "prompt_tokens": 7, "output_tokens": 2} for i in range(3))),
}  # fmt: skip
RESULTS = {
    "vllm.json": json.dumps(VLLM),
    "sglang.jsonl": lines(SGLANG),
    "aiperf.json": json.dumps(AIPERF),
    "inferencex.json": json.dumps(INFERENCEX),
}
READERS: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "trace": (lambda p: open_trace(str(p)), TRACES),
    "result": (read_benchmark_result, RESULTS),
    "model": (read_config, {"config.json": json.dumps(LLAMA)}),
}
FILES = [(kind, name) for kind, (_, files) in READERS.items() for name in files]

DAMAGES: dict[str, tuple[Callable[[str], bytes], str]] = {
    "cut short": (
        lambda t: t[:-17].encode(),
        "not JSON|request 3 of 3 has",
    ),
    "empty": (lambda _: b"", "is empty|not JSON"),
    "blank": (lambda _: b"\n\n", "is empty|not a trace|not JSON"),
    "binary": (lambda _: bytes(range(256)) * 4, "UTF-8|utf-8"),
    "compressed": (lambda _: b"\x1f\x8b\x08\x00" + bytes(range(128, 256)), "UTF-8|utf-8"),
    "a list": (lambda _: b"[1, 2]", "list|not a trace|no column"),
    "other keys": (lambda _: b'{"a": 1, "b": 2}', r"\ba\b|not a trace"),
    "null": (lambda _: b"null", "NoneType|not a trace"),
}


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_whole_file_is_read(tmp_path: Path, kind: str, name: str) -> None:
    read, files = READERS[kind]
    path = tmp_path / name
    path.write_text(files[name], encoding="utf-8")
    got = read(path)
    if kind == "trace":
        trace, _ = got
        assert trace.size == 3
        assert trace.arrival_s[0] == 0
        assert (trace.prompt_tokens > 0).all()
        assert (trace.output_tokens > 0).all()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, kind: str, name: str, damage: str) -> None:
    read, files = READERS[kind]
    path = tmp_path / name
    broken, words = DAMAGES[damage]
    path.write_bytes(broken(files[name]))
    with pytest.raises((ConfigError, TraceError), match=words) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "column"), [("azure.csv", "ContextTokens"), ("burst.csv", "Timestamp")])
def test_a_missing_column_is_named(tmp_path: Path, name: str, column: str) -> None:
    path = tmp_path / name
    path.write_text(TRACES[name].replace(column, "Else" if name == "burst.csv" else "ContextTokensElse"))
    with pytest.raises(TraceError, match=f"no column {column}; there are"):
        open_trace(str(path))


def test_a_trace_without_lengths_says_which_names_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"arrival_s": 1, "tokens": 5}\n')
    with pytest.raises(
        TraceError, match=r"no prompt_tokens or input_tokens .*; the first line has arrival_s, tokens"
    ):
        open_trace(str(path))


@pytest.mark.parametrize("damage", ["cut short", "empty", "binary"])
@pytest.mark.parametrize("suffix", [s for s in FORMS if s != ".zarr"])
def test_a_broken_export_is_refused_by_name(tmp_path: Path, suffix: str, damage: str) -> None:
    path = export(playback(), tmp_path / f"out{suffix}")
    whole = path.read_bytes()
    path.write_bytes(
        {"cut short": whole[: len(whole) * 2 // 3], "empty": b"", "binary": bytes(range(256)) * 8}[damage]
    )
    with pytest.raises(ConfigError, match="written by mist") as error:
        load_export(path)
    assert str(path) in str(error.value)


def test_a_broken_zarr_folder_is_refused_by_name(tmp_path: Path) -> None:
    path = export(playback(), tmp_path / "out.zarr")
    (path / "zarr.json").write_text("{")
    with pytest.raises(ConfigError, match=r"out\.zarr: not a result written by mist"):
        load_export(path)
