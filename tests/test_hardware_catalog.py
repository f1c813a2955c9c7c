"""The hardware catalogue: complete, parseable, dense, sourced, and not slower than what was measured."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CATALOG = ROOT / "conf" / "hardware"
DATA = Path(os.environ.get("MIST_DATA_DIR", ROOT.parent / "shared" / "data"))
CHIPS = {f.stem: yaml.safe_load(f.read_text(encoding="utf-8")) for f in sorted(CATALOG.glob("*.yaml"))}
NAMES = sorted(CHIPS)

EXPECTED = {
    "a100_sxm_40gb",
    "a100_sxm",
    "a800_sxm",
    "h100_sxm",
    "h100_pcie",
    "h100_nvl",
    "h200_sxm",
    "h800_sxm",
    "h20",
    "b200_sxm",
    "b300_sxm",
    "gb200",
    "gb300",
    "gh200_96gb",
    "gh200_144gb",
    "l4",
    "l40s",
    "a10",
    "rtx_pro_6000_server",
    "rtx_4090",
    "b60",
    "mi300x",
    "mi325x",
    "mi355x",
    "tpu_v5e",
    "tpu_v5p",
    "tpu_v6e",
    "tpu_v7",
    "gaudi3",
    "trainium2",
    "jetson_orin",
    "xeon_8480",
    "xeon_6980p",
    "epyc_9654",
    "epyc_9755",
    "grace",
}

PRECISIONS = ("fp32", "bf16", "fp8", "int8", "fp4")
#: dotted key → (dimension, may be null)
KEYS = {
    **{f"peak.{p}": ("rate", p not in ("fp32", "bf16")) for p in PRECISIONS},
    "clock": ("frequency", False),
    "memory.capacity": ("bytes", False),
    "memory.bandwidth": ("bandwidth", False),
    "cache.capacity": ("bytes", False),
    "cache.bandwidth": ("bandwidth", False),
    "scale_up.bandwidth": ("bandwidth", True),
    "scale_up.latency": ("time", False),
    "scale_out.bandwidth": ("bandwidth", False),
    "scale_out.latency": ("time", False),
    "host.bandwidth": ("bandwidth", False),
    "host.latency": ("time", False),
    "host.memory_capacity": ("bytes", False),
    "host.memory_bandwidth": ("bandwidth", False),
    "power.tdp": ("power", False),
    "power.idle": ("power", False),
}
PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
UNIT = {
    "rate": r"(?P<prefix>[TP])(?:FLOP|OP)/s",
    "frequency": r"(?P<prefix>[MG])Hz",
    "bytes": r"(?P<prefix>[MGT]i?)B",
    "bandwidth": r"(?P<prefix>[MGT])B/s",
    "power": r"(?P<prefix>)W",
    "time": r"(?P<prefix>[un])s",
}
TIME = {"u": 1e-6, "n": 1e-9}

#: Dense matrix FLOP per unit and clock in bf16, by the vendors' architecture papers: GA100 2048, GA102 and
#: Ada 1024 (GeForce with fp32 accumulation 512), Hopper 4096, datacentre Blackwell 8192, GB202 1024,
#: CDNA3 2048, CDNA4 4096, Xe2 2048, TPU 4 MXUs of 128x128 or 256x256 per core, Trainium2 one 128x128 array,
#: Gaudi 3 eight 256x256 arrays over 64 TPCs, AMX 2048, AVX-512 BF16 64 (Zen 4) or 128, Neoverse V2 128.
BF16_PER_CLOCK = {
    "ampere": 2048,
    "ampere_edge": 2048,
    "ada": 1024,
    "hopper": 4096,
    "blackwell": 8192,
    "blackwell_ultra": 8192,
    "blackwell_rtx": 1024,
    "cdna3": 2048,
    "cdna4": 4096,
    "battlemage": 2048,
    # large cores, by the share of one that counts as a unit
    "v5e": 2 * 4 * 128**2 / 64,
    "v5p": 2 * 4 * 128**2 / 64,
    "v6e": 2 * 4 * 256**2 / 64,
    "v7": 2 * 4 * 256**2 / 64,
    "trainium2": 2 * 128**2 / 8,
    "gaudi3": 2 * 256**2 * 8 / 64,
    "sapphire_rapids": 2048,
    "granite_rapids": 2048,
    "zen4": 64,
    "zen5": 128,
    "grace": 128,
}
#: Chips that differ from their generation: GA102 has half of GA100; GeForce halves fp32 accumulation; the
#: datasheet rate of H100 NVL is quoted at 1.545 GHz (power limit; boost 1.785); H20 is capped for export.
BF16_PER_CLOCK_CHIP = {
    "a10": 1024,
    "rtx_4090": 512,
    "h100_nvl": 4096 * 1.545 / 1.785,
    "h20": 148e12 / (78 * 1.98e9),
}


def si(value: object, dimension: str) -> float:
    """`value` in SI by a plain regular expression, so that the catalogue is checked apart from the schema."""
    match = re.fullmatch(rf"(?P<number>\d+(?:\.\d+)?) {UNIT[dimension]}", str(value))
    assert match, f"cannot read {value!r} as {dimension}"
    prefix = match["prefix"]
    return float(match["number"]) * (TIME[prefix] if dimension == "time" else PREFIX[prefix])


def raw(name: str, key: str) -> object:
    node: object = CHIPS[name]
    for part in key.split("."):
        assert isinstance(node, dict)
        assert part in node, f"{name}: {key} is missing"
        node = node[part]
    return node


def get(name: str, key: str) -> float:
    """A quantity in SI; 0 for null."""
    value = raw(name, key)
    return 0.0 if value is None else si(value, KEYS[key][0])


def test_expected_chips_are_there():
    assert set(NAMES) >= EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_complete_and_parseable(name):
    for key, (dimension, nullable) in KEYS.items():
        value = raw(name, key)
        if value is None:
            assert nullable, f"{key} is null"
            continue
        out = si(value, dimension)
        assert out > 0 or key == "host.memory_capacity"
    chip = CHIPS[name]
    assert set(chip["peak"]) == set(PRECISIONS)
    assert chip["kind"] in {"gpu", "tpu", "npu", "cpu"}
    assert chip["vendor"] in {"nvidia", "amd", "intel", "google", "aws"}
    assert chip["generation"] in BF16_PER_CLOCK
    assert 2020 <= chip["year"] <= 2026
    assert isinstance(chip["units"], int)
    assert chip["units"] >= 1
    assert isinstance(chip["scale_up"]["domain"], int)
    assert (chip["scale_up"]["bandwidth"] is None) <= (chip["scale_up"]["domain"] == 1)
    assert chip["price"]["usd_per_hour"] > 0
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", str(chip["price"]["date"]))
    assert OmegaConf.to_container(OmegaConf.load(CATALOG / f"{name}.yaml")) == chip


def test_names_are_unique():
    assert len({c["name"] for c in CHIPS.values()}) == len(CHIPS)


@pytest.mark.parametrize("name", NAMES)
def test_every_section_has_a_dated_source(name):
    chip = CHIPS[name]
    sections = {
        "chip",
        "peak",
        "memory",
        "cache",
        "scale_up",
        "scale_out",
        "host",
        "power",
        "price",
        "checked",
    }
    assert set(chip["sources"]) == sections | ({"die"} & set(chip))
    for section, text in chip["sources"].items():
        assert re.search(r"\b20[12]\d\b", text), f"{section}: no year in {text!r}"
        assert len(text) > 20, section


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_ordered(name):
    fp32, bf16, fp8, int8, fp4 = (get(name, f"peak.{p}") for p in PRECISIONS)
    assert fp32 < bf16
    assert fp8 == 0 or fp8 >= bf16
    assert fp4 == 0 or fp4 >= 1.9 * fp8 > 0
    # Blackwell Ultra gave its int8 units up for fp4; everywhere else int8 runs at fp8's rate or faster.
    if CHIPS[name]["generation"] != "blackwell_ultra":
        assert int8 == 0 or int8 >= 1.9 * bf16
        assert int8 == 0 or int8 >= fp8


@pytest.mark.parametrize("name", NAMES)
def test_peak_is_dense(name):
    """Sparse figures are exactly double, so units x clock x FLOP/clock within 10 % tells them apart."""
    chip = CHIPS[name]
    per_clock = BF16_PER_CLOCK_CHIP.get(name, BF16_PER_CLOCK[chip["generation"]])
    expected = chip["units"] * get(name, "clock") * per_clock
    assert get(name, "peak.bf16") == pytest.approx(expected, rel=0.10)
    fp8, int8, fp4 = (get(name, f"peak.{p}") for p in ("fp8", "int8", "fp4"))
    if fp8:  # the bf16 rate (TPU v5p and v6e, Gaudi 3) or twice it
        assert any(fp8 == pytest.approx(k * expected, rel=0.10) for k in (1, 2))
    if int8 and chip["generation"] != "blackwell_ultra":  # twice; GeForce does not halve integers
        assert int8 == pytest.approx((4 if name == "rtx_4090" else 2) * expected, rel=0.10)
    if fp4:  # four times; six on Blackwell Ultra, which NVIDIA states as 1.5 x Blackwell
        assert fp4 == pytest.approx(
            (6 if chip["generation"] == "blackwell_ultra" else 4) * expected, rel=0.10
        )


@pytest.mark.parametrize(
    "name", [n for n in NAMES if CHIPS[n]["vendor"] == "nvidia" and CHIPS[n]["kind"] == "gpu"]
)
def test_nvidia_vector_rate(name):
    """fp32 FMA lanes per SM: 64 on GA100, 128 elsewhere. H20's published 44 is 11.3 % above."""
    lanes = 64 if name.startswith(("a100", "a800")) else 128
    expected = CHIPS[name]["units"] * get(name, "clock") * 2 * lanes
    assert get(name, "peak.fp32") == pytest.approx(expected, rel=0.12 if name == "h20" else 0.10)


@pytest.mark.parametrize("name", NAMES)
def test_memory_hierarchy(name):
    assert get(name, "cache.bandwidth") > get(name, "memory.bandwidth")
    assert get(name, "cache.capacity") < get(name, "memory.capacity")
    assert get(name, "memory.bandwidth") >= get(name, "host.bandwidth")
    assert get(name, "power.idle") < get(name, "power.tdp") / 2
    # Reading all of the memory takes 10 ms to 2 s on what serves models; a wrong prefix leaves this band.
    assert 0.01 < get(name, "memory.capacity") / get(name, "memory.bandwidth") < 2.0


def test_known_values_and_orderings():
    assert get("h100_sxm", "peak.bf16") == pytest.approx(989.4e12, rel=0.01)
    assert get("h100_sxm", "memory.bandwidth") == pytest.approx(3.35e12)
    assert get("a100_sxm", "peak.bf16") == pytest.approx(312e12, rel=0.01)
    for key, chain in {
        "memory.bandwidth": ["l4", "l40s", "a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm"],
        "memory.capacity": ["l4", "a100_sxm_40gb", "h100_sxm", "h100_nvl", "h200_sxm", "b200_sxm", "gb300"],
        "peak.bf16": ["l4", "a10", "a100_sxm", "h100_pcie", "h100_nvl", "h100_sxm", "b200_sxm"],
        "scale_up.bandwidth": ["l4", "a800_sxm", "a100_sxm", "h100_sxm", "b200_sxm"],
    }.items():
        values = [get(n, key) for n in chain]
        assert values == sorted(values), key
        assert len(set(values)) == len(values), key
    assert get("h200_sxm", "peak.bf16") == get("h100_sxm", "peak.bf16")
    assert get("h800_sxm", "scale_up.bandwidth") < get("h100_sxm", "scale_up.bandwidth")
    assert get("gb300", "peak.fp4") == pytest.approx(1.5 * get("gb200", "peak.fp4"))


@pytest.mark.parametrize("name", [n for n in NAMES if re.search(r"\d GB", CHIPS[n]["name"])])
def test_capacity_matches_the_name(name):
    """The capacity a device reports lies within 8 % of the GB or GiB in its name (firmware takes a part)."""
    match = re.search(r"(\d+) GB", CHIPS[name]["name"])
    assert match
    assert 0.93 <= get(name, "memory.capacity") / (float(match[1]) * 1e9) <= 1.08


def test_no_measured_gemm_beats_its_peak():
    """Measured GEMM rates (kernels/*/*_gemm_perf.parquet) stay below the peak and reach half in bf16."""
    kernels = DATA / "kernels"
    if not kernels.is_dir():
        pytest.skip("kernel measurements not found; set MIST_DATA_DIR (source: ai-dynamo/aiconfigurator)")
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    precision = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "sq": "int8"}
    systems = sorted(p.name for p in kernels.iterdir() if p.is_dir())
    assert set(systems) <= set(NAMES)
    for system in systems:
        best: dict[str, float] = {}
        for path in sorted((kernels / system).glob("*_gemm_perf.parquet")):
            frame = pd.read_parquet(path, columns=["gemm_dtype", "m", "n", "k", "latency"])
            rate = 2.0 * frame.m * frame.n * frame.k / (frame.latency * 1e-3)
            for dtype, value in rate.groupby(frame.gemm_dtype).max().items():
                if dtype in precision:
                    key = precision[dtype]
                    best[key] = max(best.get(key, 0.0), float(value))
        for key, value in best.items():
            # No unit for the format (B60 and fp8): weights are expanded and multiplied in bf16.
            peak = get(system, f"peak.{key}") or get(system, "peak.bf16")
            assert value <= 1.001 * peak, f"{system} {key}: measured {value:.4g} over the peak {peak:.4g}"
        assert best["bf16"] >= 0.5 * get(system, "peak.bf16"), system


def test_systems_of_the_serving_rows_exist():
    path = DATA / "serving" / "train.csv"
    if not path.is_file():
        pytest.skip("serving rows not found; set MIST_DATA_DIR (source: ai-dynamo/aiconfigurator)")
    pd = pytest.importorskip("pandas")
    assert set(pd.read_csv(path, usecols=["system"]).system) <= set(NAMES)


def test_page_is_up_to_date():
    path = ROOT / "docs" / "generate_hardware.py"
    spec = importlib.util.spec_from_file_location("generate_hardware", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/generate_hardware.py"
