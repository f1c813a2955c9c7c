"""From overrides to a validated `Scenario`, as the command line composes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mist_jax.errors import ConfigError, nearest
from mist_jax.paths import conf_dir
from mist_jax.schema import Scenario, parse_scenario

#: What people call a chip for short → the option, where one of several forms is the common one.
SHORT_NAMES = {
    "a100": "a100_sxm",
    "a800": "a800_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "h800": "h800_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gh200": "gh200_96gb",
    "rtx_pro_6000": "rtx_pro_6000_server",
}


def with_whole_names(override: str) -> str:
    """`hardware=h100,mi300x` as `hardware=h100_sxm,mi300x`; other overrides unchanged."""
    key, equals, value = override.partition("=")
    if key.split("@")[0] != "hardware" or not equals:
        return override
    return f"{key}={','.join(SHORT_NAMES.get(v.strip(), v) for v in value.split(','))}"


def load(overrides: Iterable[str] = (), *, config_dir: str | Path | None = None) -> Scenario:
    """Compose `conf/` with Hydra overrides and validate the result.

    Args:
        overrides: as on the command line, for example `["hardware=mi300x", "workload.rate=12"]`.
        config_dir: a folder of your own with the same layout that adds options (a chip, a model).

    Raises:
        ConfigError: an override that cannot be, with the key, the value, what is allowed and the nearest name.
    """
    items = list(overrides)
    if isinstance(overrides, str | Mapping) or not all(isinstance(item, str) for item in items):
        raise ConfigError(
            f"overrides: got {overrides!r}; expected a list of texts such as ['hardware=h100_sxm']"
        )
    return parse_scenario(compose_mapping(items, config_dir))


def require_scenario(scenario: Any) -> None:
    """Raises ConfigError if `scenario` is anything else, such as the name of a model."""
    if not isinstance(scenario, Scenario):
        raise ConfigError(
            f"scenario: got {type(scenario).__name__}; make one with mist.load(['model=...', 'hardware=...'])"
        )


def compose_mapping(overrides: list[str], config_dir: str | Path | None = None) -> dict[str, Any]:
    """The composed mapping as plain dicts, interpolations resolved, `hydra` left out."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    overrides = [with_whole_names(item) for item in overrides]
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir is not None else []
    state = GlobalHydra.instance()
    # Inside a running Hydra application the global state is taken: set ours for the moment, then put it back.
    saved = state.hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=[*overrides, *extra], return_hydra_config=True)
            choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
    except Exception as exc:
        raise ConfigError(explain(exc)) from None
    finally:
        state.hydra = saved
    with open_dict(config):
        del config["hydra"]
    mapping = OmegaConf.to_container(config, resolve=True)
    assert isinstance(mapping, dict)
    return name_groups(mapping, choices=choices)  # type: ignore[arg-type]


#: Config groups whose choice is recorded in `id`, so that calibration and reports can look the thing up.
_IDENTIFIED = {"hardware": "hardware", "model": "model"}


def name_groups(
    mapping: dict[str, Any], overrides: Iterable[str] = (), choices: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Record which option of `hardware` and `model` was chosen, as their `id` (the file's name), in clients too."""
    picked = dict(choices or {})
    for item in overrides:
        key, _, value = str(item).lstrip("+").partition("=")
        if key.split("@")[0] in _IDENTIFIED and value:
            picked[key] = value
    defaults = {"hardware": "h100_sxm", "model": "llama3_1_70b", "hardware@prefill.hardware": "h100_sxm"}
    clients = (mapping.get("pipeline") or {}).get("clients")
    for key, section in (
        ("hardware", ("hardware",)),
        ("model", ("model",)),
        ("hardware@prefill.hardware", ("prefill", "hardware")),
        *(
            (f"{group}@pipeline.clients.{name}.{group}", ("pipeline", "clients", name, group))
            for name in (clients if isinstance(clients, dict) else ())
            for group in _IDENTIFIED
        ),
    ):
        node: Any = mapping
        for part in section:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get("id") is None:
            option = picked.get(key, picked.get(key.replace("@", "@:"), defaults.get(key)))
            if option is not None:  # a client's hardware may be written out without being an option
                node["id"] = option
    return mapping


def with_overrides(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """A copy of `scenario` with numbers or texts at dotted paths changed, for example `{"engine.max_num_seqs": 64}`.

    Raises:
        ConfigError: a path that does not exist, or a value that does not fit.
    """
    mapping = copied(scenario.config)
    for path, value in changes.items():
        set_path(mapping, path, value)
    return parse_scenario(mapping)


def copied(node: Any) -> Any:
    """A copy of plain dicts, lists and values: `copy.deepcopy` takes four times as long to find out that they are."""
    if isinstance(node, dict):
        return {key: copied(value) for key, value in node.items()}
    return [copied(item) for item in node] if isinstance(node, list) else node


def set_path(mapping: dict[str, Any], path: str, value: Any) -> None:
    """Set `mapping[a][b][c] = value` for the dotted `path`.

    Raises:
        ConfigError: the path does not exist; the message names the nearest key.
    """
    node: Any = mapping
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            options = node if isinstance(node, dict) else ()
            where = ".".join(parts[:depth]) or "the top level"
            raise ConfigError(
                f"{path}: no key '{part}' at {where}{nearest(part, options)}; there are: {', '.join(options)}"
            )
        if depth == len(parts) - 1:
            node[part] = value
        else:
            node = node[part]


def explain(exc: Exception) -> str:
    """Hydra's complaint as one line that a person can act on."""
    text = str(exc).strip()
    override = getattr(exc, "override", None)
    if override is not None and str(override) not in text:
        text = f"override '{override}': {text}"
    match = re.search(r"Could not find '([^']+)/([^'/]+)'", text) or re.search(
        r"In '[^']*': Could not find '([^']+)/([^'/]+)'", text
    )
    if match:
        group, option = match.groups()
        folder = conf_dir() / group.split("@")[0]
        options = sorted(p.stem for p in folder.glob("*.yaml")) if folder.is_dir() else []
        if options:
            return f"{group}: got '{option}'{nearest(option, options)}; allowed: {', '.join(options)}"
        groups = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())
        top, _, owner = group.partition("/")
        if top in groups:  # a name as on Hugging Face, owner/name
            options = sorted(p.stem for p in (conf_dir() / top).glob("*.yaml"))
            plain = re.sub(r"[^a-z0-9]+", "_", option.lower())
            return f"{top}: got '{owner}/{option}'{nearest(plain, options)}; allowed: {', '.join(options)}"
        return f"{group}: no such group of options{nearest(group, groups)}; there are: {', '.join(groups)}"
    match = re.search(r"Could not override '([^']+)'", text)
    if match:
        if match.group(1).startswith("pipeline."):
            return f"{match.group(1)}: not written in the chosen pipeline; to add it, write +{match.group(1)}=VALUE"
        return f"{match.group(1)}: unknown key{_nearest_key(match.group(1))}; see `mist-jax --cfg job` for the keys"
    match = re.search(r"You must specify '([^']+)', e.g,? ([^\n]+)", text)
    if match:
        return f"{match.group(1)}: has no default; {match.group(2)}"
    return re.sub(r"\s+", " ", text) or type(exc).__name__


def _nearest_key(path: str) -> str:
    import dataclasses
    import typing

    import yaml

    from mist_jax import schema

    top, *rest = path.split(".")
    if rest and top in schema.APPLICATION_KEYS:
        section = yaml.safe_load((conf_dir() / "config.yaml").read_text()).get(top) or {}
        return nearest(rest[-1], section)
    node: Any = schema.Scenario
    for part in path.split(".")[:-1]:
        hints = schema.hints_of(node) if dataclasses.is_dataclass(node) else {}
        hint = hints.get(part)
        options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        node = options[0] if options else hint
        if not dataclasses.is_dataclass(node):
            return ""
    names = [f.name for f in dataclasses.fields(node)]
    if node is schema.Scenario:
        names += schema.APPLICATION_KEYS
    return nearest(path.split(".")[-1], names)
