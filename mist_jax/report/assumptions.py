"""What a result rests on: numbers of the chip, the model, the engine and the price, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import xarray as xr

from mist_jax.report import quantities as q
from mist_jax.schema import EngineSpec, HardwareSpec, ModelSpec, Scenario

S = TypeVar("S")
Rows = list[tuple[str, str, str]]

NOT_NAMED = "no source named"


def assumption_rows(
    scenario: Scenario, ds: xr.Dataset, variants: Sequence[Scenario] = ()
) -> list[tuple[str, str, str]]:
    """(what, taken as, source) of everything that the answer depends on most.

    Args:
        scenario: what was asked.
        ds: the result.
        variants: of a sweep, scenarios with each of its chips, models and engines; those that occur twice are listed
            once, under their names.
    """
    chips: dict[str, HardwareSpec] = {}
    engines: dict[str, EngineSpec] = {}
    models: dict[str, ModelSpec] = {}
    if variants:
        for s in variants:
            for part in (s, s.prefill) if s.prefill is not None else (s,):
                chips.setdefault(f"{part.hardware.name}: ", part.hardware)
                engines.setdefault(f"{part.engine.name}: ", part.engine)
            models.setdefault(f"{s.model.name}: ", s.model)
    else:
        chips[""], engines[""], models[""] = scenario.hardware, scenario.engine, scenario.model
        if scenario.prefill is not None:
            chips = {"Decode: ": scenario.hardware, "Prefill: ": scenario.prefill.hardware}
            engines = {"Decode: ": scenario.engine, "Prefill: ": scenario.prefill.engine}
        for name, client in _clients(scenario).items():
            chips[f"{name}: "] = client.hardware
            if client.llm is not None:
                models[f"{name}: "], engines[f"{name}: "] = client.llm.model, client.llm.engine
    rows = [*_under(_alone(chips), hardware_rows), *_under(_alone(models), _model_rows)]
    rows += _under(_alone(engines), _engine_rows)
    reach = str(ds.attrs.get("calibration_label", "see the validation page of the documentation"))
    rows.append(("Calibration", str(scenario.calibration), reach))
    rows.append(("Random seed", str(scenario.seed), "configuration"))
    return rows


def _clients(scenario: Scenario) -> dict[str, Any]:
    """The clients of a pipeline besides its engine."""
    if not scenario.pipeline.stages:
        return {}
    from mist_jax.pipelines.clients import MAIN, parse_clients

    return {name: c for name, c in parse_clients(scenario).items() if name != MAIN}


def _alone(named: dict[str, S]) -> dict[str, S]:
    """A single one needs no name before each line."""
    return dict(zip([""], named.values())) if len(named) == 1 else named


def _under(named: dict[str, S], rows: Callable[[S], Rows]) -> Rows:
    return [
        (f"{name}{what}", value, source) for name, spec in named.items() for what, value, source in rows(spec)
    ]


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


def _model_rows(model: ModelSpec) -> list[tuple[str, str, str]]:
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
