"""What cannot be right gets one clear message that names the key, the value, what is allowed and the nearest name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mist_jax as mist
from mist_jax.application import run
from mist_jax.compose import compose_mapping, with_overrides

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
NOON = "2023-11-16 12:00:00.0"
#: Files that the cases name as {name}.
FILES = {
    "empty.csv": HEADER,
    "blank.csv": "",
    "text.csv": f"{HEADER}{NOON},many,5\n",
    "negative.csv": f"{HEADER}{NOON},5,5\n{NOON},-5,5\n",
    "short.csv": f"{HEADER}{NOON},5\n",
    "time.csv": f"{HEADER}yesterday,5,5\n",
    "columns.csv": "when,in,out\n1,2,3\n",
    "broken.jsonl": '{"timestamp": 1, "input_length": 5\n',
    "keys.jsonl": '{"timestamp": 1, "input_length": 5}\n',
    "long.csv": f"{HEADER}{NOON},900000,5\n",
    "broken.json": "{not json",
    "missing.json": json.dumps({"model_type": "llama", "hidden_size": 4096}),
    "list.json": "[1, 2]",
}
TRACE = "workload.arrivals=trace"

#: (overrides, words that the message must hold); loading is enough to find these.
DESCRIPTIONS = {
    "unknown group": ("hardwre=h100_sxm", "hardwre", "did you mean 'hardware'"),
    "unknown option": (
        "hardware=h100_sx",
        "hardware: got 'h100_sx'",
        "did you mean 'h100_sxm'",
        "allowed: a10, ",
    ),
    "a name of Hugging Face": (
        "model=meta-llama/Llama-3.1-8B",
        "model: got 'meta-llama/Llama-3.1-8B'",
        "did you mean 'llama3_1_8b'",
    ),
    "unknown key": ("hardware.memory.bandwith=1", "hardware.memory.bandwith", "did you mean 'bandwidth'"),
    "unknown added key": (
        "+engine.blok_size=1",
        "engine.blok_size",
        "did you mean 'block_size'",
        "allowed: name",
    ),
    "unknown top-level key": ("+parallelsm.tp=1", "parallelsm", "did you mean 'parallelism'"),
    "unknown key of a mode": (
        "recommend.hardwares=[h100_sxm]",
        "recommend.hardwares",
        "did you mean 'hardware'",
    ),
    "no value": ("hardware", "'hardware' missing EQUAL"),
    "wrong dimension": (
        "hardware.memory.bandwidth='3.35 TB'",
        "hardware.memory.bandwidth: got '3.35 TB'",
        "3.35 TB/s",
    ),
    "length for a rate": (
        "hardware.memory.bandwidth='3 furlong/s'",
        "hardware.memory.bandwidth: got '3 furlong/s'",
    ),
    "unit unknown": ("hardware.memory.capacity='80 GBx'", "hardware.memory.capacity: got '80 GBx'", "80 GB"),
    "size for a time": ("slo.ttft='1 GB'", "slo.ttft: got '1 GB'", "time"),
    "text for a number": ("workload.isl=long", "workload.isl: got 'long'", "8"),
    "list for a number": ("workload.isl=[1,2]", "workload.isl: got [1, 2]"),
    "truth for a number": ("workload.isl=true", "workload.isl: got True"),
    "negative": ("hardware.memory.bandwidth=-1", "hardware.memory.bandwidth: got -1", "at least 1"),
    "negative with a unit": ("hardware.power.tdp='-5 W'", "hardware.power.tdp: got '-5 W'", "at least"),
    "NaN": ("hardware.memory.bandwidth=nan", "hardware.memory.bandwidth: got nan", "number"),
    "infinite": ("hardware.memory.bandwidth=inf", "hardware.memory.bandwidth: got inf", "finite"),
    "zero capacity": ("hardware.memory.capacity=0", "hardware.memory.capacity: got 0", "at least 1"),
    "zero clock": ("hardware.clock=0", "hardware.clock: got 0", "at least"),
    "null number": ("hardware.memory.capacity=null", "hardware.memory.capacity: got null", "80 GB"),
    "null section": ("hardware.memory=null", "hardware.memory: got null", "section"),
    "number for a section": ("hardware.power=5", "hardware.power", "5"),
    "above one": (
        "engine.memory_utilization=1.5",
        "engine.memory_utilization: got 1.5",
        "between 0.01 and 1",
    ),
    "not a choice": (
        "engine.name=vlm",
        "engine.name: got 'vlm'",
        "did you mean 'vllm'",
        "allowed: vllm, sglang",
    ),
    "not a precision": ("model.precision.weights=fp7", "got 'fp7'", "did you mean 'fp8'", "allowed: bf16"),
    "not a truth": ("engine.cuda_graphs=maybe", "engine.cuda_graphs: got 'maybe'", "true or false"),
    "not a whole number": ("seed=1.5", "seed: got 1.5", "whole number"),
    "no time of a failure": ("failures=[{client:0}]", "failures[0].at: missing"),
    "unknown key of a failure": (
        "failures=[{at:1s,clint:0}]",
        "failures[0].clint",
        "did you mean 'client'",
    ),
    "swing above one": ("workload.swing=1.5", "workload.swing: got 1.5", "between 0 and 0.99"),
    "no requests": ("workload.requests=0", "workload.requests: got 0", "at least 1"),
}

#: (overrides, words): found when the deployment is built and evaluated.
DEPLOYMENTS = {
    "TP does not divide heads": (
        "parallelism.tp=3",
        "parallelism.tp: got 3",
        "64 attention heads",
        "allowed: 1, 2, 4, 8",
    ),
    "TP not whole": ("parallelism.tp=2.5", "parallelism.tp: got 2.5", "whole number"),
    "PP beyond layers": ("parallelism.pp=100", "parallelism.pp: got 100", "80 layers"),
    "EP on a dense model": ("parallelism.ep=2", "parallelism.ep: got 2", "no experts"),
    "EP does not divide experts": (
        "model=mixtral_8x7b parallelism.ep=16 parallelism.tp=16",
        "ep: got 16",
        "8 experts",
    ),
    "TP x DP is not MoE-TP x EP": (
        "model=mixtral_8x7b parallelism=tp4 parallelism.ep=4 parallelism.moe_tp=2",
        "parallelism",
        "tp * dp = 4",
        "moe_tp * ep = 8",
    ),
    "model does not fit": (
        "parallelism=tp1",
        "Llama-3.1-70B does not fit",
        "short of",
        "GB per chip",
        "parallelism.tp",
    ),
    "KV smaller than a request": (
        "model=llama3_1_8b hardware=l4 parallelism=tp1 workload.isl=100000",
        "KV cache holds",
        "100211",
        "workload.isl",
    ),
    "request beyond the context": (
        "model=mixtral_8x7b workload.isl=40000",
        "40211 tokens",
        "32768 tokens",
        "workload",
    ),
    "config and architecture": (
        "model.config={list.json}",
        "model: give either `config`",
        "`architecture`",
        "both are given",
    ),
    "neither": ("model.architecture=null", "model: give either", "both are null"),
    "no such config.json": (
        "model.architecture=null model.config=/nowhere/config.json",
        "model.config",
        "/nowhere/config.json",
    ),
    "config.json not JSON": (
        "model.architecture=null model.config={broken.json}",
        "model.config",
        "not JSON",
    ),
    "config.json lacks a key": (
        "model.architecture=null model.config={missing.json}",
        "model.config",
        "num_hidden_layers",
    ),
    "config.json a list": (
        "model.architecture=null model.config={list.json}",
        "model.config",
        "not an object",
    ),
    "negative width": ("model.architecture.hidden=-1", "model.architecture.hidden", "-1", "negative"),
    "unknown width": ("+model.architecture.hiden=1", "model.architecture.hiden", "did you mean 'hidden'"),
    "policy that is only played": ("engine.policy=static", "engine.policy: got 'static'", "mode=play"),
    "sessions in steady state": ("workload.turns=4", "workload.turns: got 4", "mode=play"),
    "several answers in steady state": ("workload.samples=4", "workload.samples: got 4", "mode=play"),
    "think time in steady state": (
        "workload.arrivals=closed workload.think='1 s'",
        "workload.think: got 1",
        "mode=play",
    ),
    "failures in steady state": ("failures=[{at:1s}]", "failures: got 1", "mode=play"),
    "calibration missing": ("calibration=/nowhere/fit.json", "calibration", "/nowhere/fit.json"),
}

#: (overrides, words): found when the workload is laid out to be played.
PLAYED = {
    "no such client": (
        "failures=[{client:3,at:1s}]",
        "failures[0].client: got 3",
        "allowed: 0 (NVIDIA H100",
    ),
    "back before it is lost": ("failures=[{at:2s,until:1s}]", "failures[0].until: got 1 s", "2 s"),
    "half a turn": ("workload.turns=2.5", "workload.turns: got 2.5", "whole number"),
    "sessions in a closed loop": (
        "workload.turns=2 workload.arrivals=closed",
        "workload.turns: got 2",
        "diurnal",
    ),
    "sessions cut": ("workload.turns=2 workload.limit=5", "workload.limit: got 5", "workload.requests"),
    "answers in sessions": ("workload.turns=2 workload.samples=2", "workload.samples: got 2", "only turn"),
    "sessions of a pipeline": ("workload.turns=2 pipeline=agentic", "pipeline: agentic", "loops"),
    "cache sizes of no prefixes": ("workload.cache_sizes=[1e6]", "workload.cache_sizes", "names no prefixes"),
    "cache sizes no numbers": (
        "workload.cache_sizes=[big]",
        "workload.cache_sizes: got ['big']",
        "numbers of tokens",
    ),
}

#: (trace, words): found when the trace is read or played.
TRACES = {
    "no trace named": ("null", "workload.trace", "needs the path or name"),
    "no such file": (
        "/nowhere/trace.csv",
        "workload.trace",
        "/nowhere/trace.csv",
        "known: azure_2023_conversation",
    ),
    "unknown name": ("azure_2023_conversatoin", "workload.trace", "did you mean 'azure_2023_conversation'"),
    "a folder": ("{}", "workload.trace", "requests.jsonl"),
    "empty": ("{empty.csv}", "empty.csv", "holds no requests"),
    "blank": ("{blank.csv}", "blank.csv", "is empty"),
    "text for tokens": ("{text.csv}", "text.csv", "request 1 of 1", "prompt_tokens"),
    "negative tokens": ("{negative.csv}", "negative.csv", "request 2 of 2", "prompt_tokens = -5"),
    "short row": ("{short.csv}", "short.csv", "request 1 of 1", "output_tokens"),
    "no time": ("{time.csv}", "time.csv", "request 1 of 1", "arrival_s"),
    "other columns": ("{columns.csv}", "columns.csv", "known format"),
    "broken line": ("{broken.jsonl}", "broken.jsonl", "line 1", "not JSON"),
    "missing key": ("{keys.jsonl}", "keys.jsonl", "no output_tokens", "has timestamp, input_length"),
    "only requests beyond the context": ("{long.csv}", "none of the 1 requests", "too_long", "131072 tokens"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bad")
    for name, text in FILES.items():
        (out / name).write_text(text)
    return out


def fill(text: str, folder: Path) -> str:
    return re.sub(r"\{([\w.]*)\}", lambda m: str(folder / m.group(1)), text)


def split(overrides: str, folder: Path) -> list[str]:
    """Words, but quantities in quotes stay together."""
    return [fill(x, folder) for x in re.findall(r"(?:[^\s']|'[^']*')+", overrides)]


def clear(message: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 2500


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_descriptions(case: str, folder: Path) -> None:
    overrides, *words = DESCRIPTIONS[case]
    with pytest.raises(mist.ConfigError) as caught:
        mist.load(split(overrides, folder))
    clear(str(caught.value), tuple(words))


@pytest.mark.parametrize("case", DEPLOYMENTS)
def test_deployments(case: str, folder: Path) -> None:
    overrides, *words = DEPLOYMENTS[case]
    with pytest.raises(mist.ConfigError) as caught:
        mist.evaluate(mist.load(split(overrides, folder)))
    clear(str(caught.value), tuple(words))


@pytest.mark.parametrize("case", PLAYED)
def test_played(case: str, folder: Path) -> None:
    overrides, *words = PLAYED[case]
    with pytest.raises(mist.ConfigError) as caught:
        mist.play(mist.load([*split(overrides, folder), "workload.requests=5"]))
    clear(str(caught.value), tuple(words))


@pytest.mark.parametrize("case", TRACES)
def test_traces(case: str, folder: Path) -> None:
    trace, *words = TRACES[case]
    with pytest.raises(mist.TraceError) as caught:
        mist.play(mist.load([TRACE, f"workload.trace={fill(trace, folder)}"]))
    clear(str(caught.value), tuple(words))


@pytest.mark.parametrize(
    ("mode", "words"), [("evalute", "did you mean 'evaluate'"), ("null", "allowed: evaluate, play")]
)
def test_unknown_mode(mode: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(mist.ConfigError, match="mode: got") as caught:
        run(compose_mapping([f"mode={mode}"]), str(tmp_path))
    clear(str(caught.value), (words,))


@pytest.mark.parametrize("key", ["compare.run", "calibrate.from"])
def test_a_result_that_is_not_there(key: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "run.json")
    with pytest.raises(mist.ConfigError) as caught:
        run(compose_mapping([f"mode={key.split('.')[0]}", f"{key}={missing}"]), str(tmp_path))
    clear(str(caught.value), (f"{key}: {missing}", "cannot be read"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine.max_num_seq": 4}, "did you mean 'max_num_seqs'"),
        ({"engin.max_num_seqs": 4}, "did you mean 'engine'"),
        ({"engine.max_num_seqs": "many"}, "engine.max_num_seqs: got 'many'"),
        ({"workload.isl": float("nan")}, "workload.isl: got nan"),
    ],
)
def test_changes_of_a_scenario(changes: dict, words: str) -> None:
    with pytest.raises(mist.ConfigError) as caught:
        with_overrides(mist.load(), changes)
    clear(str(caught.value), (words,))


@pytest.mark.parametrize("overrides", ["hardware=h100_sxm", {"hardware": "h100_sxm"}, [None], [5]])
def test_overrides_that_are_no_list_of_texts(overrides: object) -> None:
    with pytest.raises(mist.ConfigError, match=r"overrides: got .*expected a list"):
        mist.load(overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        mist.evaluate,
        mist.play,
        lambda s: mist.sweep(s, {"workload.rate": [1]}),
        lambda s: mist.search(s, variables={"workload.rate": (1, 2)}),
        mist.recommend,
    ],
)
@pytest.mark.parametrize("scenario", ["llama3_1_8b", None])
def test_what_is_no_scenario(call: Callable[[object], object], scenario: object) -> None:
    with pytest.raises(mist.ConfigError, match=r"scenario: got .*mist\.load"):
        call(scenario)


def test_what_is_no_trace() -> None:
    with pytest.raises(mist.TraceError, match=r"trace: got list"):
        mist.play(mist.load(), [1, 2])  # type: ignore[arg-type]


def test_an_existing_result_stays(tmp_path: Path) -> None:
    """The second run into a folder stops before it does anything."""
    (tmp_path / "result.nc").write_text("precious")
    with pytest.raises(mist.ConfigError, match=r"already holds a result; .* nothing was changed"):
        run(compose_mapping([]), str(tmp_path))
    assert (tmp_path / "result.nc").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


#: Through the real command line: overrides, words of the one line on stderr.
COMMANDS = {
    "unknown key": ("hardware.memory.bandwith=1", "hardware.memory.bandwith", "did you mean 'bandwidth'"),
    "unknown option": ("model=llama3_1_7b", "model: got 'llama3_1_7b'", "did you mean 'llama3_1_70b'"),
    "wrong unit": ("hardware.memory.bandwidth='3.35 TB'", "hardware.memory.bandwidth", "3.35 TB/s"),
    "negative": ("workload.rate=-3", "workload.rate: got -3", "at least 0"),
    "not a number": ("workload.isl=nan", "workload.isl: got nan"),
    "mode": ("mode=evalute", "mode: got 'evalute'", "did you mean 'evaluate'"),
    "TP": ("parallelism.tp=3", "parallelism.tp: got 3", "64 attention heads"),
    "empty trace": (f"mode=play {TRACE} workload.trace={{empty.csv}}", "empty.csv", "holds no requests"),
    "broken override": ("hardware=[", "hardware=["),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_command_line(case: str, folder: Path, tmp_path: Path) -> None:
    """Exit code 2, one line on stderr, no traceback, and no folder left behind with a result."""
    overrides, *words = COMMANDS[case]
    done = subprocess.run(
        [sys.executable, "-m", "mist_jax", *split(overrides, folder), f"hydra.run.dir={tmp_path}/out"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("mist-jax: ")
    clear(lines[0], tuple(words))
    assert not (tmp_path / "out" / "result.nc").exists()


def test_there_are_enough_cases() -> None:
    assert len(DESCRIPTIONS) + len(DEPLOYMENTS) + len(TRACES) + len(COMMANDS) >= 25
