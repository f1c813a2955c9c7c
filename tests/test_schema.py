"""The typed description: units, every packaged option, overrides that arrive where they should."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from programs import HARDWARE, MODELS, spec

import mist_jax as mist
from mist_jax import build
from mist_jax.compose import with_overrides
from mist_jax.errors import ConfigError
from mist_jax.paths import conf_dir
from mist_jax.units import DIMENSIONS, to_si


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("400 Gbit/s", "bandwidth", 50e9),
        ("80 GB", "bytes", 80e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("989.4 TFLOP/s", "flops", 989.4e12),
        ("1978.9 TOP/s", "flops", 1978.9e12),
        ("5 us", "time", 5e-6),
        ("2 ms", "time", 2e-3),
        ("1 min", "time", 60.0),
        ("1.98 GHz", "frequency", 1.98e9),
        ("5 requests/s", "frequency", 5.0),
        ("300 requests/min", "frequency", 5.0),
        ("0.7 kW", "power", 700.0),
        ("6 pJ", "energy", 6e-12),
        ("1e3", "count", 1000.0),
        (12, "time", 12.0),
    ],
)
def test_quantities(text: str, dimension: str, value: float) -> None:
    assert to_si(text, dimension) == pytest.approx(value, rel=1e-12)


@given(st.floats(1e-6, 1e15), st.sampled_from(["k", "M", "G", "T"]))
def test_prefixes_scale(number: float, prefix: str) -> None:
    factor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert to_si(f"{number!r} {prefix}B/s", "bandwidth") == pytest.approx(number * factor, rel=1e-9)
    assert to_si(number, "bandwidth") == number


@given(st.text(max_size=12), st.sampled_from(sorted(DIMENSIONS)))
def test_any_text_is_a_number_or_one_clear_error(text: str, dimension: str) -> None:
    try:
        value = to_si(text, dimension)
    except ConfigError as exc:
        assert "\n" not in str(exc) or "\n" in text  # noqa: PT017
    else:
        assert not math.isnan(value)


def test_examples_of_the_messages_are_valid() -> None:
    for dimension, (_, examples) in DIMENSIONS.items():
        for example in examples.split(" or "):
            assert to_si(example, dimension) > 0


@pytest.mark.parametrize("name", HARDWARE)
def test_every_chip(name: str) -> None:
    chip = build.build_hardware(spec("hardware", name))
    assert float(chip.memory_bandwidth) > 1e9
    assert float(chip.peak_flops.max()) >= float(chip.peak_flops[1]) > 1e11
    assert float(chip.tdp) > float(chip.idle_power) >= 0


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str) -> None:
    model = build.build_model(spec("model", name))
    assert float(model.attention.layers.sum()) <= float(model.layers)
    # a layer may have both (Gemma 4)
    assert float(model.layers) >= max(float(model.dense_layers), float(model.moe_layers))


GROUPS = ("engine", "parallelism", "workload", "slo", "prefill", "pipeline")
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((conf_dir() / g).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_the_small_groups(group: str, option: str) -> None:
    assert mist.load([f"{group}={option}"]) is not None


def test_overrides_arrive_in_si() -> None:
    scenario = mist.load(
        ["hardware.memory.bandwidth='4 TB/s'", "slo.ttft='250 ms'", "workload.rate='120 requests/min'"]
    )
    assert scenario.hardware.memory.bandwidth == 4e12
    assert scenario.slo.ttft == 0.25
    assert scenario.workload.rate == pytest.approx(2.0)
    assert float(build.build_hardware(scenario.hardware).memory_bandwidth) == 4e12


def test_changes_leave_the_original_alone() -> None:
    scenario = mist.load(["model=llama3_1_8b"])
    other = with_overrides(scenario, {"engine.max_num_seqs": 7, "hardware.power.tdp": "500 W"})
    assert other.engine.max_num_seqs == 7
    assert other.hardware.power.tdp == 500.0
    assert scenario.engine.max_num_seqs != 7
    assert scenario.config["engine"]["max_num_seqs"] != 7


def test_choices_are_recorded() -> None:
    scenario = mist.load(["hardware=mi300x", "model=mixtral_8x7b"])
    assert scenario.hardware.id == "mi300x"
    assert scenario.model.id == "mixtral_8x7b"
    pool = mist.load(["pipeline=cascade", "hardware@pipeline.clients.small.hardware=h100_sxm"])
    client = pool.pipeline.clients["small"]
    assert (client["hardware"]["id"], client["model"]["id"]) == ("h100_sxm", "llama3_1_8b")


def test_a_hypothetical_chip_needs_no_file() -> None:
    scenario = mist.load(
        ["hardware.name=dream", "hardware.memory.capacity='1 TB'", "hardware.peak.fp4='20 PFLOP/s'"]
    )
    chip = build.build_hardware(scenario.hardware)
    assert float(chip.memory_capacity) == 1e12
    assert float(chip.peak_flops[4]) == 20e15


def test_a_folder_of_ones_own_adds_options(tmp_path) -> None:
    mapping = yaml.safe_load((conf_dir() / "hardware" / "h100_sxm.yaml").read_text())
    mapping["name"] = "mine"
    mapping["memory"]["bandwidth"] = "9 TB/s"
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "mine.yaml").write_text(yaml.safe_dump(mapping))
    scenario = mist.load(["hardware=mine"], config_dir=tmp_path)
    assert scenario.hardware.memory.bandwidth == 9e12
    assert scenario.hardware.id == "mine"
