"""Readers of the reference data: each turns public files into SI columns, and says where they come from."""

from __future__ import annotations

import os
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]


def data_dir() -> Path:
    """The folder of the reference data: the environment's MIST_DATA_DIR, else shared/data beside the checkout."""
    return Path(os.environ.get("MIST_DATA_DIR", _REPOSITORY.parent / "shared" / "data"))


class DataMissing(FileNotFoundError):
    """The reference data is not there; the message names the public source."""

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(f"{path} not found. Set MIST_DATA_DIR, or fetch it from {source}.")
