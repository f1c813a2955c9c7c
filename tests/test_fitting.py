"""Tables in pipes and in narrow terminals: no number is cut, whatever the width."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import xarray as xr
from report_data import evaluation, playback
from rich.console import Console

import mist_jax as mist
from mist_jax.compare import print_comparison
from mist_jax.pipelines.tables import print_stages
from mist_jax.report import fitting
from mist_jax.report.sweep_tables import print_sweep
from mist_jax.report.tables import print_evaluation, print_play

WIDTHS = (24, 34, 50, 60, 80, 100, 140)


def five_axes() -> xr.Dataset:
    """The sweep whose columns rich cut to `47.…` and `r…` at 80 columns."""
    axes: dict[str, list] = {
        "hardware": ["h100_sxm", "mi300x"],
        "model": ["llama3_1_8b", "qwen3_32b"],
        "parallelism": ["tp1", "tp2"],
        "workload.rate": [1.0, 2.0],
        "engine.max_num_batched_tokens": [512.0, 2048.0],
    }
    shape = tuple(map(len, axes.values()))
    rng = np.random.default_rng(1)
    names = ("ttft_s", "tpot_s", "tokens_per_s_per_user", "output_tokens_per_s_per_chip",
             "cost_per_million_output_tokens_usd")  # fmt: skip
    data = {n: (tuple(axes), rng.uniform(1e-3, 3.0, shape) * (1 if n.endswith("_s") else 400)) for n in names}
    return xr.Dataset(data | {"status": (tuple(axes), np.zeros(shape, int))}, coords=axes)


def pipeline() -> xr.Dataset:
    stages = ["tokenize", "check_question", "generate"]
    numbers = {n: ("stage", [8.7e-4, 0.39, 6.18]) for n in (
        "stage_s", "stage_alone_s", "stage_runs", "stage_energy_j", "stage_cost_usd")}  # fmt: skip
    words = {
        "stage_client": ("stage", ["host", "guard", "engine"]),
        "stage_bound": ("stage", ["cpu", "ffn_dense", "device_memory"]),
        "elasticity": (("client", "resource"), [[0.0]]),
    }
    attrs = {
        "pipeline": "rag",
        "critical_path": "tokenize > generate",
        "bottleneck": "generate: ffn_dense",
    }
    coords = {"stage": stages, "client": ["engine"], "resource": ["accelerator"]}
    return xr.Dataset(numbers | words, coords=coords, attrs=attrs)


def played_pipeline() -> xr.Dataset:
    values = np.random.default_rng(2).exponential(0.3, (50, 2))
    return xr.Dataset(
        {"stage_s": (("request", "stage"), values), "stage_p99_s": ("stage", np.percentile(values, 99, 0))},
        coords={"stage": ["check_question", "generate"]},
        attrs={"pipeline": "rag", "sharing": "no shared client"},
    )


def comparison() -> xr.Dataset:
    names = ["ttft_mean_s", "tpot_p99_s", "output_tokens_per_s"]
    columns = {n: ("quantity", [0.0513, 0.0871, 1234.0]) for n in ("measured", "predicted", "low", "high")}
    attrs = {"run": "bench.json", "form": "vLLM", "method": "steady state", "explanations": "the load"}
    return xr.Dataset(columns | {"ratio": ("quantity", [1.0] * 3)}, coords={"quantity": names}, attrs=attrs)


@pytest.fixture(scope="module")
def drawings() -> dict:
    scenario = mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8", "slo=interactive"])
    return {
        "evaluation": lambda out: print_evaluation(scenario, evaluation(), out),
        "play": lambda out: print_play(scenario, playback(), out),
        "sweep": lambda out: print_sweep(five_axes(), out),
        "pipeline": lambda out: print_stages(pipeline(), out),
        "played pipeline": lambda out: print_stages(played_pipeline(), out),
        "comparison": lambda out: print_comparison(scenario, comparison(), out),
    }


NAMES = ("evaluation", "play", "sweep", "pipeline", "played pipeline", "comparison")


def printed(draw, width: int) -> str:
    file = io.StringIO()
    draw(Console(file=file, width=width, highlight=False))
    return file.getvalue()


def numbers(text: str) -> set[str]:
    """The words of a text that hold a digit, without the punctuation of sentences."""
    return {w.strip(",;:()") for w in text.split() if re.search(r"\d", w)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_narrow_table_cuts_no_number(drawings, name, width):
    full, text = (printed(drawings[name], w) for w in (fitting.UNBOUNDED, width))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    cut = numbers(text) - numbers(full)
    assert not cut
    if "no room for" not in text:  # nothing was left out
        assert numbers(text) == numbers(full)


def test_what_is_left_out_is_named_and_the_axes_stay():
    text = printed(lambda out: print_sweep(five_axes(), out), 80)
    assert re.search(r"no room for: tok/s/user, .*\$/1M tok", " ".join(text.split()))
    assert {"h100_sxm", "llama3_1_8b", "TPOT"} <= set(text.split())
    assert "no room" not in printed(lambda out: print_sweep(five_axes(), out), 130)


def test_headings_wrap_before_a_column_goes():
    wide, narrow = (printed(lambda out: print_sweep(five_axes(), out), w) for w in (130, 112))
    assert "max num batched tokens" in wide
    assert "max num batched tokens" not in narrow
    assert "no room" not in narrow


def test_too_narrow_for_a_table_is_said_in_sentences():
    text = " ".join(printed(lambda out: print_sweep(five_axes(), out), 40).split())
    assert "- hardware " in text
    assert "max num batched tokens 512, TTFT" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("file", "width"), [(io.StringIO(), fitting.UNBOUNDED), (Terminal(), 70)])
def test_a_pipe_is_as_wide_as_needed_and_a_terminal_as_it_is(monkeypatch, file, width):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout", file)
    assert fitting.console().width == width
