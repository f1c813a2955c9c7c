"""What a result rests on: numbers of the chip, the model, the engine and the price, each with its source."""

from __future__ import annotations

from typing import Any

import xarray as xr

from mist_jax.report import quantities as q
from mist_jax.schema import EngineSpec, HardwareSpec, Scenario

NOT_NAMED = "no source named"


def assumption_rows(scenario: Scenario, ds: xr.Dataset) -> list[tuple[str, str, str]]:
    """(what, taken as, source) of everything that the answer depends on most."""
    pools = [("", scenario.hardware, scenario.engine)]
    if scenario.prefill is not None:
        pools = [("Decode: ", scenario.hardware, scenario.engine)]
        pools.append(("Prefill: ", scenario.prefill.hardware, scenario.prefill.engine))
    rows = []
    for where, hardware, _ in pools:
        rows += [(where + what, value, source) for what, value, source in hardware_rows(hardware)]
    rows += _model_rows(scenario)
    for where, _, engine in pools:
        rows += [(where + what, value, source) for what, value, source in _engine_rows(engine)]
    rows.append(
        (
            "Calibration",
            str(scenario.calibration),
            str(ds.attrs.get("calibration_label", "see the documentation")),
        )
    )
    rows.append(("Random seed", str(scenario.seed), "configuration"))
    return rows


def hardware_rows(hardware: HardwareSpec) -> list[tuple[str, str, str]]:
    """Numbers of one chip with the sources of its catalogue entry."""
    sources = hardware.sources

    def source(*keys: str) -> str:
        return next((" ".join(str(sources[k]).split()) for k in keys if k in sources), NOT_NAMED)

    peaks = [
        f"{name} {q.prefixed(rate, 'OP/s' if name == 'int8' else 'FLOP/s')}"
        for name in ("fp32", "bf16", "fp8", "int8", "fp4")
        if (rate := getattr(hardware.peak, name))
    ]
    memory = f"{q.prefixed(hardware.memory.capacity, 'B')}, {q.prefixed(hardware.memory.bandwidth, 'B/s')}"
    rows = [
        ("Chip", hardware.name, source("chip", "name")),
        ("Peak rates, dense", ", ".join(peaks), source("peak")),
        ("Device memory", memory, source("memory")),
    ]
    for key, link, name in (
        ("scale_up", hardware.scale_up, "Links in the scale-up domain"),
        ("scale_out", hardware.scale_out, "Network"),
        ("host", hardware.host, "Link to the host"),
    ):
        if link is not None and link.bandwidth:
            rows.append((name, _link(link), source(key)))
    power = f"{q.number(hardware.power.tdp)} W limit, {q.number(hardware.power.idle)} W idle"
    dated = f" ({hardware.price.date})" if hardware.price.date else ""
    rows.append(("Power", power, source("power")))
    rows.append(
        ("Price", f"{q.dollars(hardware.price.usd_per_hour)} per chip and hour{dated}", source("price"))
    )
    return rows


def _link(link: Any) -> str:
    text = f"{q.prefixed(link.bandwidth, 'B/s')} per direction and chip, {q.duration(link.latency)}"
    domain = getattr(link, "domain", None)
    return f"{text}, {domain:g} chips" if domain else text


def _model_rows(scenario: Scenario) -> list[tuple[str, str, str]]:
    model = scenario.model
    formats = [f"{n} {v}" for n in ("weights", "experts", "attention", "activations", "kv")
               if (v := getattr(model.precision, n))]  # fmt: skip
    source = model.source or model.config or NOT_NAMED
    return [
        ("Model", model.name, str(source)),
        (
            "Formats",
            ", ".join(formats) or "as the checkpoint says",
            "configuration" if formats else str(source),
        ),
    ]


def _engine_rows(engine: EngineSpec) -> list[tuple[str, str, str]]:
    version = f" {engine.version}" if engine.version else ""
    budget = f"{q.number(engine.max_num_batched_tokens)} tokens and {q.number(engine.max_num_seqs)} sequences"
    memory = (
        f"{q.percent(engine.memory_utilization)} of the device, {q.prefixed(engine.reserve, 'B')} kept back"
    )
    rows = [
        ("Engine", f"{engine.name}{version}, policy {engine.policy}", "configuration"),
        ("Batching, of one iteration", budget, "configuration"),
        ("Memory of the engine", memory, "configuration"),
    ]
    if engine.prefix_hit_rate:
        rows.append(
            ("Prompt tokens found in the prefix cache", q.percent(engine.prefix_hit_rate), "configuration")
        )
    return rows
