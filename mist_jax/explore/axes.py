"""The axes of a sweep: dotted paths of the description or groups of options, validated before anything runs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax import schema
from mist_jax.compose import SHORT_NAMES, copied, set_path
from mist_jax.errors import ConfigError, nearest
from mist_jax.explore.groups import CLIENTS, GROUPS, INSIDE, folder_of, option_mapping, section_of
from mist_jax.schema import Scenario
from mist_jax.units import DIMENSIONS


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis. `values` are SI floats (`numeric`), else the option names or plain values as given."""

    name: str
    values: tuple[Any, ...]
    units: str
    numeric: bool
    group: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def coordinate(self) -> np.ndarray:
        """The values as a coordinate: floats, or text."""
        if self.numeric:
            return np.asarray(self.values, dtype=np.float64)
        return np.asarray([str(v) for v in self.values])


def parse_axes(
    scenario: Scenario, axes: Mapping[str, Any], config_dir: str | Path | None = None
) -> tuple[Axis, ...]:
    """The axes of a sweep, checked one value at a time.

    Args:
        scenario: what the axes vary.
        axes: dotted path or group → values (numbers, quantities such as "2 TB/s", texts, names of options).

    Raises:
        ConfigError: unknown path, client or option (the nearest is named), empty or repeated values, a value out of
            range.
    """
    if not isinstance(axes, Mapping):
        raise ConfigError(f"sweep: got {axes!r}; expected a mapping from dotted paths to lists of values")
    if not axes:
        raise ConfigError("sweep: no axes; give at least one, such as {'workload.rate': [1, 2, 4]}")
    for name in axes:
        if scenario.prefill is None and "prefill." in str(name) and "prefill" not in axes:
            raise ConfigError(
                f"{name}: the scenario has no prefill pool; choose 'prefill=pool', or add the axis 'prefill'"
            )
    pipelines = axes.get("pipeline") or ()
    out = tuple(_axis(scenario, str(name), values, config_dir, pipelines) for name, values in axes.items())
    places: dict[str, str] = {}
    for axis in out:
        place = section_of(axis.name) or axis.name
        if place in places:
            raise ConfigError(f"{axis.name}: is the axis {places[place]} again; give one of them")
        places[place] = axis.name
    return out


def _axis(
    scenario: Scenario, name: str, values: Any, config_dir: str | Path | None, pipelines: Iterable[Any] = ()
) -> Axis:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{name}: got {values!r}; expected a list of values")
    # NumPy scalars to plain Python numbers: configs hold plain values
    items = [v.item() if getattr(v, "ndim", None) == 0 else v for v in values]
    if not items:
        raise ConfigError(f"{name}: the list of values is empty")
    if section_of(name) is not None:
        if folder_of(name) == "hardware":
            items = [SHORT_NAMES.get(str(item), item) for item in items]
        for item in items:
            option_mapping(name, str(item), config_dir)
        if name not in GROUPS:
            _check_client(scenario, name, pipelines, config_dir)
        out = Axis(name=name, values=tuple(map(str, items)), units="", numeric=False, group=True)
    else:
        out = _path_axis(scenario, name, items, config_dir, pipelines)
    seen: set[Any] = set()
    for value in out.values:
        key = repr(value)
        if key in seen:
            raise ConfigError(f"{name}: the value {value!r} occurs twice")
        seen.add(key)
    return out


def _path_axis(
    scenario: Scenario, name: str, items: list[Any], config_dir: str | Path | None, pipelines: Iterable[Any]
) -> Axis:
    if name.rpartition("@")[2].startswith(CLIENTS) and ("@" in name or name.count(".") == 2):
        place = CLIENTS + name.rpartition("@")[2].split(".")[2]
        raise ConfigError(
            f"{name}: no axis; a client is {place}, the groups inside it are {', '.join(INSIDE)}, such as "
            f"{place}.hardware"
        )
    top = name.split(".")[0]
    known = {f.name for f in dataclasses.fields(Scenario)} - {"config"}
    if top not in known:
        paths = [*known, *GROUPS]
        raise ConfigError(
            f"{name}: unknown axis{nearest(top, paths)}; an axis is a group or a dotted path of the config"
        )
    if "." not in name and isinstance(scenario.config.get(name), dict):
        raise ConfigError(
            f"{name}: is a section; name a key inside it, such as {name}.{next(iter(scenario.config[name]), '')}"
        )
    # raises, with the nearest key, if there is no such path
    if top == "pipeline":
        _check_pipeline_path(scenario, name, items[0], pipelines, config_dir)
    else:
        set_path({top: copied(scenario.config.get(top))}, name, items[0])
    field, hint = _field(name)
    if field is None:  # inside a free-form section such as model.architecture
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in items)
        return Axis(
            name=name,
            values=tuple(map(float, items) if plain else items),
            units="",
            numeric=plain,
            group=False,
        )
    parsed = [schema._value(v, hint, field.metadata, name) for v in items]
    numeric = "dimension" in field.metadata and all(v is not None for v in parsed)
    units = (DIMENSIONS[field.metadata["dimension"]][0] or "1") if "dimension" in field.metadata else ""
    return Axis(name=name, values=tuple(parsed), units=units, numeric=numeric, group=False)


def _check_client(
    scenario: Scenario, name: str, pipelines: Iterable[Any], config_dir: str | Path | None
) -> None:
    """Raises ConfigError if no pipeline of the sweep has the client whose section is the axis `name`."""
    section = str(section_of(name))
    client, _, key = section.removeprefix(CLIENTS).partition(".")
    if client == "engine":
        whose = f"axis is {key}" if key else f"axes are {', '.join(INSIDE)}"
        raise ConfigError(f"{name}: `engine` is the scenario's own pool; its {whose}")
    written = [option_mapping("pipeline", str(o), config_dir).get("clients") or {} for o in pipelines]
    there = list(dict.fromkeys(c for p in written or [scenario.pipeline.clients] for c in p if c != "engine"))
    if not there:
        raise ConfigError(
            f"{name}: the pipeline '{scenario.pipeline.name}' has no clients; choose another, such as 'pipeline=rag'"
        )
    if client not in there:
        raise ConfigError(
            f"{name}: no client '{client}'{nearest(client, there)}; there are: {', '.join(there)}"
        )


def _check_pipeline_path(
    scenario: Scenario, name: str, value: Any, pipelines: Iterable[Any], config_dir: str | Path | None
) -> None:
    """Raises ConfigError if no pipeline of the sweep has such a path, or none can have such a value there."""
    from mist_jax.pipelines.dag import parse_pipeline

    sections = [option_mapping("pipeline", str(o), config_dir) for o in pipelines] or [
        scenario.config["pipeline"]
    ]
    error: ConfigError | None = None
    for section in sections:
        mapping = {"pipeline": copied(section)}
        try:
            set_pipeline_path(mapping, name, value)
            spec = schema._value(mapping["pipeline"], schema.PipelineSpec, {}, "pipeline")
            parse_pipeline(dataclasses.replace(scenario, pipeline=spec))
        except ConfigError as exc:
            error = error or exc
        else:
            return
    assert error is not None
    raise error


def set_pipeline_path(mapping: dict[str, Any], path: str, value: Any) -> None:
    """`set_path` in a pipeline, where a setting of a stage or a client need not be written to have its default.

    Raises:
        ConfigError: no such stage or client.
    """
    parts = path.split(".")
    if len(parts) > 3 and parts[1] in ("stages", "clients"):
        node: Any = mapping
        for part in parts[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[parts[-1]] = value
            return
    set_path(mapping, path, value)


@lru_cache(maxsize=512)
def _field(path: str) -> tuple[Any, Any]:
    """The schema's field at a dotted path and its type; (None, None) inside free-form sections."""
    node: Any = Scenario
    field, hint = None, None
    if path.startswith(CLIENTS):
        from mist_jax.pipelines.clients import ClientSpec

        node, path = ClientSpec, path.removeprefix(CLIENTS).partition(".")[2]
    for part in path.split("."):
        if not dataclasses.is_dataclass(node):
            return None, None
        fields = {f.name: f for f in dataclasses.fields(node)}
        if part not in fields:
            return None, None
        field, hint = fields[part], schema.hints_of(node)[part]
        options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        node = options[0] if options else hint
    return field, hint
