"""Clients: the machines and LLM pools that the stages of a pipeline run on.

A client is `count` equal machines. One with a model is an LLM pool and runs engine stages; every client, the
scenario's own pool (`engine`) included, may run services and transfers on the resources of its machines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mist_jax.errors import ConfigError, nearest
from mist_jax.schema import (
    EngineSpec,
    HardwareSpec,
    ModelSpec,
    ParallelismSpec,
    Scenario,
    number,
    parse,
    quantity,
)
from mist_jax.units import to_si

#: The scenario's own LLM pool, always there.
MAIN = "engine"


@dataclasses.dataclass(frozen=True)
class ClientSpec:
    """One client; for `engine` only what `hardware` does not know may be given (cores, storage, tiers)."""

    hardware: HardwareSpec | None = None
    count: float = number(1, low=1)  # machines
    chips: float = number(1, low=1)  # accelerators (or CPU sockets) of one machine
    cores: float | None = number(None)  # CPU cores of one machine; None: all of a CPU's, none of a GPU's host
    storage: float = quantity("bandwidth", 0.0)  # of one machine, as are the next three
    storage_io: float = quantity("frequency", 0.0)
    cxl: float = quantity("bandwidth", 0.0)
    pool: float = quantity("bandwidth", 0.0)
    tiers: dict = dataclasses.field(default_factory=dict)  # KV tier → capacity
    usd_per_hour: float | None = number(None)  # of one machine; None: chips times the chip's price
    model: ModelSpec | None = None
    parallelism: ParallelismSpec | None = None
    engine: EngineSpec | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Client:
    """A client as numbers, before it becomes arrays."""

    name: str
    spec: ClientSpec
    hardware: HardwareSpec
    machines: float  #: equal machines (replicas of an LLM pool)
    chips: float  #: of one machine
    cores: float  #: of one machine
    llm: Scenario | None  #: the scenario of its own pool, if it is one
    tiers: Mapping[str, float]  #: KV tier → bytes
    usd_per_s: float  #: of all machines
    idle_w: float  #: of one machine

    def machine(self) -> Any:
        """`physics.demand.Machine` of one machine, NumPy leaves."""
        import jax

        from mist_jax import build
        from mist_jax.physics.demand import INDEX, machine_of
        from mist_jax.pytree import replace

        spec = self.spec
        rates = {"storage": spec.storage, "storage_io": spec.storage_io, "cxl": spec.cxl, "pool": spec.pool}
        out = machine_of(build.build_hardware(self.hardware), self.chips, self.cores, **rates)
        out = jax.tree.map(np.array, out)
        if self.hardware.kind == "cpu":
            # its arithmetic is the cores', and its memory is the host memory
            rate = out.rate
            rate[[INDEX["accelerator"], INDEX["device_memory"], INDEX["host_link"]]] = 0.0
            out = replace(out, rate=rate)
        return out


def parse_clients(scenario: Scenario) -> dict[str, Client]:
    """All clients by name, the main pool first.

    Raises:
        ConfigError: a wrong key or value, `engine` with hardware of its own, a client without hardware.
    """
    given = scenario.pipeline.clients
    out = {MAIN: _main(scenario, _spec(MAIN, given.get(MAIN) or {}))}
    for name, mapping in given.items():
        if name != MAIN:
            out[name] = _other(scenario, str(name), _spec(str(name), mapping))
    return out


def _spec(name: str, mapping: Any) -> ClientSpec:
    return parse(ClientSpec, mapping, f"pipeline.clients.{name}")


def _main(scenario: Scenario, spec: ClientSpec) -> Client:
    for key in ("hardware", "model", "parallelism", "engine"):
        if getattr(spec, key) is not None:
            raise ConfigError(
                f"pipeline.clients.{MAIN}.{key}: `{MAIN}` is the scenario's own pool; set {key} at the top level"
            )
    from mist_jax import build

    par = scenario.parallelism
    return Client(
        name=MAIN,
        spec=spec,
        hardware=scenario.hardware,
        machines=par.replicas,
        chips=build.chips(par),
        cores=spec.cores or 0.0,
        llm=scenario,
        tiers=_tiers(MAIN, spec, scenario.hardware, build.chips(par)),
        usd_per_s=scenario.hardware.price.usd_per_hour * build.chips(par) * par.replicas / 3600.0,
        idle_w=scenario.hardware.power.idle * build.chips(par),
    )


def _other(scenario: Scenario, name: str, spec: ClientSpec) -> Client:
    from mist_jax import build

    key = f"pipeline.clients.{name}"
    if spec.hardware is None:
        raise ConfigError(f"{key}.hardware: missing; choose one with +hardware@{key}.hardware=NAME")
    hw, chips, machines, llm = spec.hardware, spec.chips, spec.count, None
    if spec.model is not None:
        par = spec.parallelism or ParallelismSpec()
        par = dataclasses.replace(par, replicas=par.replicas * spec.count)
        chips, machines = build.chips(par), par.replicas
        llm = dataclasses.replace(
            scenario,
            hardware=hw,
            model=spec.model,
            parallelism=par,
            engine=spec.engine or EngineSpec(),
            prefill=None,
        )
    cores = spec.cores
    if cores is None:
        cores = hw.units * chips if hw.kind == "cpu" else 0.0
    hourly = hw.price.usd_per_hour * chips if spec.usd_per_hour is None else spec.usd_per_hour
    return Client(
        name=name,
        spec=spec,
        hardware=hw,
        machines=machines,
        chips=chips,
        cores=cores,
        llm=llm,
        tiers=_tiers(name, spec, hw, chips),
        usd_per_s=hourly * machines / 3600.0,
        idle_w=hw.power.idle * chips,
    )


def _tiers(name: str, spec: ClientSpec, hardware: HardwareSpec, chips: float) -> dict[str, float]:
    """Capacities in bytes; host memory counts as the hardware says unless it is given."""
    from mist_jax.stages.kv_cache import TIER_DEFAULTS

    out = {"host": hardware.host.memory_capacity * chips}
    for tier, value in spec.tiers.items():
        if tier not in TIER_DEFAULTS:
            raise ConfigError(
                f"pipeline.clients.{name}.tiers.{tier}: no such tier{nearest(tier, TIER_DEFAULTS)}; "
                f"allowed: {', '.join(TIER_DEFAULTS)}"
            )
        try:
            out[tier] = to_si(value, "bytes")
        except ConfigError as exc:
            raise ConfigError(f"pipeline.clients.{name}.tiers.{tier}: {exc}") from None
    return out
