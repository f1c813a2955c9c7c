"""The axes of a sweep: dotted paths of the description or groups of options, validated before anything runs."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax import schema
from mist_jax.compose import SHORT_NAMES, compose_mapping, name_groups, set_path
from mist_jax.errors import ConfigError, nearest
from mist_jax.paths import conf_dir
from mist_jax.schema import Scenario
from mist_jax.units import DIMENSIONS

#: Config groups that can be an axis: name → where the option's section goes.
GROUPS = {
    "hardware": "hardware",
    "model": "model",
    "parallelism": "parallelism",
    "engine": "engine",
    "workload": "workload",
    "slo": "slo",
    "prefill": "prefill",
    "pipeline": "pipeline",
    "hardware@prefill.hardware": "prefill.hardware",
    "parallelism@prefill.parallelism": "prefill.parallelism",
    "engine@prefill.engine": "prefill.engine",
}


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
        ConfigError: unknown path or option (the nearest is named), empty or repeated values, a value out of range.
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
    return tuple(_axis(scenario, str(name), values, config_dir, pipelines) for name, values in axes.items())


def _axis(
    scenario: Scenario, name: str, values: Any, config_dir: str | Path | None, pipelines: Iterable[Any] = ()
) -> Axis:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{name}: got {values!r}; expected a list of values")
    # NumPy scalars to plain Python numbers: configs hold plain values
    items = [v.item() if getattr(v, "ndim", None) == 0 else v for v in values]
    if not items:
        raise ConfigError(f"{name}: the list of values is empty")
    if name in GROUPS:
        if name.split("@")[0] == "hardware":
            items = [SHORT_NAMES.get(str(item), item) for item in items]
        for item in items:
            option_mapping(name, str(item), config_dir)
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
        set_path(copy.deepcopy(scenario.config), name, items[0])
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
        mapping = {"pipeline": copy.deepcopy(section)}
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
    for part in path.split("."):
        if not dataclasses.is_dataclass(node):
            return None, None
        fields = {f.name: f for f in dataclasses.fields(node)}
        if part not in fields:
            return None, None
        field, hint = fields[part], typing.get_type_hints(node)[part]
        options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        node = options[0] if options else hint
    return field, hint


def options_of(group: str, config_dir: str | Path | None = None) -> list[str]:
    """Names of a group's options, a person's own `config_dir` included."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    name = group.split("@")[0]
    return sorted({p.stem for f in folders for p in (f / name).glob("*.yaml")})


@lru_cache(maxsize=256)
def brought_by(group: str, option: str, config_dir: str | None = None) -> tuple[tuple[str, str], ...]:
    """Options of other groups that an option's file chooses (`override /workload: agentic`): (group, option) each.

    Raises:
        ConfigError: a group that no axis can be.
    """
    import yaml

    path = _option_file(group, option, config_dir)
    out = []
    for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", ()):
        for key, chosen in entry.items() if isinstance(entry, dict) else ():
            kind, _, name = key.rpartition(" ")
            if kind == "override":
                if name.lstrip("/") not in GROUPS:
                    raise ConfigError(
                        f"{group}: '{option}' chooses {name}; a sweep knows {', '.join(GROUPS)}"
                    )
                out.append((name.lstrip("/"), str(chosen)))
    return tuple(out)


def _option_file(group: str, option: str, config_dir: str | None) -> Path:
    folder = group.split("@")[0]
    files = [
        Path(f) / folder / f"{option}.yaml" for f in ([config_dir] if config_dir else []) + [str(conf_dir())]
    ]
    path = next((f for f in files if f.is_file()), None)
    if path is None:
        names = options_of(group, config_dir)
        raise ConfigError(f"{group}: got '{option}'{nearest(option, names)}; allowed: {', '.join(names)}")
    return path


def option_mapping(group: str, option: str, config_dir: str | Path | None = None) -> Any:
    """The section that choosing `group=option` gives (a plain dict; None for `prefill=none`).

    Files without defaults lists, packages and interpolations are read directly, which is what Hydra would do with
    them at a fiftieth of the time; others are composed.

    Raises:
        ConfigError: no such option, with the nearest name.
    """
    return copy.deepcopy(_option(group, option, str(config_dir) if config_dir else None))


@lru_cache(maxsize=4096)
def _option(group: str, option: str, config_dir: str | None) -> Any:
    from omegaconf import OmegaConf

    folder = group.split("@")[0]
    path = _option_file(group, option, config_dir)
    text = path.read_text(encoding="utf-8")
    if any(mark in text for mark in ("defaults:", "@package", "${")):
        overrides = [f"{group}={option}"]
        if "@prefill." in group:
            overrides.insert(0, "prefill=pool")
        mapping: Any = compose_mapping(overrides, config_dir)
        for part in GROUPS[group].split("."):
            mapping = mapping[part]
        return mapping
    mapping = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    if folder in ("hardware", "model"):
        mapping = name_groups({folder: mapping}, choices={folder: option})[folder]  # type: ignore[dict-item]
    return mapping
