"""Write `conf/model/*.yaml` from a folder of config.json files.

`python -m mist_jax.io.export_model_yaml FOLDER --out conf/model`, with `FOLDER/ORG--NAME.json`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

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
        "source": f"https://huggingface.co/{repository}/blob/main/config.json",
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


def packaged_models(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """File name → content for the files `ORG--NAME.json` of `folder` and for the public models."""
    import dataclasses

    out = {}
    for path in sorted(folder.glob("*.json")) if folder else ():
        repository = path.stem.replace("--", "/")
        out[short_name(repository)] = model_mapping(*read_config(path), repository)
    for name, (repository, config) in PUBLIC_MODELS.items():
        architecture, precision = read_config(config)
        architecture = dataclasses.replace(architecture, name=repository.split("/")[-1])
        out[name] = model_mapping(architecture, precision, repository)
    return out


def write(folder: Path | None, out: Path) -> list[Path]:
    """Write one YAML a model into `out`; returns the paths."""
    import yaml

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, mapping in packaged_models(folder).items():
        path = out / f"{name}.yaml"
        path.write_text(yaml.safe_dump(mapping, sort_keys=False, width=110), encoding="utf-8")
        paths.append(path)
    return paths


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of ORG--NAME.json files")
    parser.add_argument("--out", type=Path, default=Path("conf/model"))
    args = parser.parse_args()
    print(f"{len(write(args.folder, args.out))} models in {args.out}")


if __name__ == "__main__":
    main()
