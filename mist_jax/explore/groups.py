"""Config groups as axes of a sweep: their options, what each gives, and where in the description it goes.

A client of a pipeline (`client@pipeline.clients.encoder`) and the groups inside it are written as Hydra writes them
(`hardware@pipeline.clients.encoder.hardware`) or by their place alone (`pipeline.clients.encoder.hardware`), which a
command line takes without quoting.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from mist_jax.compose import compose_mapping, copied, name_groups
from mist_jax.errors import ConfigError, nearest
from mist_jax.paths import conf_dir

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

#: Groups that fill a section of a client, and where clients are.
INSIDE = ("hardware", "model", "parallelism", "engine")
CLIENTS = "pipeline.clients."


def section_of(name: str) -> str | None:
    """The dotted path of the section that an option of the axis `name` fills; None: the axis is no group."""
    if name in GROUPS:
        return GROUPS[name]
    group, at, path = name.rpartition("@")
    folder = _folder_in_clients(path)
    return path if folder and (not at or group == folder) else None


def _folder_in_clients(path: str) -> str | None:
    """The folder of the options that fill `path`, if that is a client or a group inside one."""
    if not path.startswith(CLIENTS):
        return None
    client, *inside = path.removeprefix(CLIENTS).split(".")
    if not client or len(inside) > 1 or not set(inside) <= set(INSIDE):
        return None
    return inside[0] if inside else "client"


def folder_of(name: str) -> str:
    """The folder of `conf/` that holds the options of a group."""
    return _folder_in_clients(section_of(name) or "") or name.split("@")[0]


def options_of(group: str, config_dir: str | Path | None = None) -> list[str]:
    """Names of a group's options, a person's own `config_dir` included."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    return sorted({p.stem for f in folders for p in (f / folder_of(group)).glob("*.yaml")})


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
                if name.partition("@")[2].startswith("pipeline."):
                    continue  # inside the option's own section
                if name.lstrip("/") not in GROUPS:
                    raise ConfigError(
                        f"{group}: '{option}' chooses {name}; a sweep knows {', '.join(GROUPS)}"
                    )
                out.append((name.lstrip("/"), str(chosen)))
    return tuple(out)


def _option_file(group: str, option: str, config_dir: str | None) -> Path:
    folder = folder_of(group)
    files = [
        Path(f) / folder / f"{option}.yaml" for f in ([config_dir] if config_dir else []) + [str(conf_dir())]
    ]
    path = next((f for f in files if f.is_file()), None)
    if path is None:
        names = options_of(group, config_dir)
        raise ConfigError(f"{group}: got '{option}'{nearest(option, names)}; allowed: {', '.join(names)}")
    return path


def option_mapping(group: str, option: str, config_dir: str | Path | None = None) -> Any:
    """The section that choosing `group=option` gives (a plain dict; None for `prefill=none`); `group`: of `section_of`.

    Files without defaults lists, packages and interpolations are read directly, which is what Hydra would do with
    them at a fiftieth of the time; others are composed.

    Raises:
        ConfigError: no such option, with the nearest name.
    """
    folder = str(config_dir) if config_dir else None
    section = section_of(group) or ""
    if section.startswith(CLIENTS):
        _option_file(group, option, folder)  # whose message names the key as it was given
        group = folder_of(group)  # what fills a client's section is what fills the scenario's
        if group == "client":
            return copied(_client(section.removeprefix(CLIENTS), option, folder))
    return copied(_option(group, option, folder))


@lru_cache(maxsize=256)
def _client(name: str, option: str, config_dir: str | None) -> Any:
    overrides = [f"+client@{CLIENTS}{name}={option}"]
    return compose_mapping(overrides, config_dir)["pipeline"]["clients"][name]


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
