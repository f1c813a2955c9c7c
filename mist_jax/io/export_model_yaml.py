"""Write model YAMLs from Hugging Face configurations.

    python -m mist_jax.io.export_model_yaml SOURCE --out DIR/model

`SOURCE` is a `config.json`, which takes the name of its folder, or a folder of such files; `ORG--NAME.json` names its
repository. `--public` adds the models whose published configurations come with the package.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.io.architecture import (
    Architecture,
    CheckpointPrecision,
    architecture_from_mapping,
    precision_from_mapping,
    precision_to_mapping,
    to_mapping,
)
from mist_jax.io.huggingface import read_config
from mist_jax.io.public_models import PUBLIC_MODELS

#: Parts of a repository name that a short name leaves out or writes otherwise.
_SHORTER = (
    (r"^meta_", ""),
    (r"_17b_\d+e", ""),
    (r"_(instruct|base|v0_1)$", ""),
    (r"^llama_", "llama"),
    (r"_static_pertensor", "_static"),
)


def short_name(repository: str) -> str:
    """`Meta-Llama-3.1-8B` → `llama3_1_8b`: the file name of a model's YAML."""
    name = re.sub(r"[^a-z0-9]+", "_", repository.split("/")[-1].lower())
    for pattern, text in _SHORTER:
        name = re.sub(pattern, text, name)
    return name


def model_mapping(
    architecture: Architecture, precision: CheckpointPrecision, repository: str
) -> dict[str, Any]:
    """The content of a model YAML (docs/architecture.md, "YAML of a model")."""
    return {
        "name": architecture.name,
        "source": f"https://huggingface.co/{repository}/blob/main/config.json"
        if "/" in repository
        else f"config.json of {repository}",
        "config": None,
        "architecture": {k: v for k, v in to_mapping(architecture).items() if k != "name"},
        "precision": precision_to_mapping(precision),
    }


def parse_model_mapping(mapping: dict[str, Any]) -> tuple[Architecture, CheckpointPrecision]:
    """The inverse of `model_mapping`.

    Raises:
        ConfigError: a key or value that is not of the format.
    """
    architecture = architecture_from_mapping(
        {"name": mapping.get("name", "custom"), **mapping["architecture"]}
    )
    return architecture, precision_from_mapping(mapping.get("precision") or {})


def own_models(source: Path) -> dict[str, dict[str, Any]]:
    """File name → content of a configuration, or of each one in a folder.

    Raises:
        ConfigError: no configuration there, or one that cannot be read.
    """
    paths = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not paths:
        raise ConfigError(f"{source}: no *.json in this folder")
    out = {}
    for path in paths:
        name = path.resolve().parent.name if path.stem == "config" else path.stem
        repository = name.replace("--", "/")
        architecture, precision = read_config(path)
        architecture = dataclasses.replace(architecture, name=repository.split("/")[-1])
        out[short_name(repository)] = model_mapping(architecture, precision, repository)
    return out


def public_models() -> dict[str, dict[str, Any]]:
    """File name → content of the models in `public_models`."""
    out = {}
    for name, (repository, config) in PUBLIC_MODELS.items():
        architecture, precision = read_config(config)
        architecture = dataclasses.replace(architecture, name=repository.split("/")[-1])
        out[name] = model_mapping(architecture, precision, repository)
    return out


def packaged_models(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """What `conf/model` is made of: the files `ORG--NAME.json` of `folder`, and the public models."""
    return {**(own_models(folder) if folder else {}), **public_models()}


def write(models: dict[str, dict[str, Any]], out: Path) -> list[Path]:
    """Write one YAML a model into `out`; returns the paths."""
    import yaml

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, mapping in models.items():
        path = out / f"{name}.yaml"
        path.write_text(yaml.safe_dump(mapping, sort_keys=False, width=110), encoding="utf-8")
        paths.append(path)
    return paths


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write model YAMLs from Hugging Face configurations.")
    parser.add_argument(
        "source", type=Path, nargs="?", help="a config.json, or a folder of ORG--NAME.json files"
    )
    parser.add_argument("--out", type=Path, default=Path("conf/model"))
    parser.add_argument("--public", action="store_true", help="the models that come with the package as well")
    args = parser.parse_args()
    if args.source is None and not args.public:
        parser.error("give a config.json, a folder of them, or --public")
    try:
        models = {
            **(own_models(args.source) if args.source else {}),
            **(public_models() if args.public else {}),
        }
    except ConfigError as reason:
        parser.exit(2, f"{reason}\n")
    for path in write(models, args.out):
        print(path)


if __name__ == "__main__":
    main()
