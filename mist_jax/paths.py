"""Where the packaged configuration and the measured data lie."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The absolute path of `conf/`: inside an installed package, else at the top of the checkout.

    Raises:
        FileNotFoundError: neither exists (a broken installation).
    """
    for candidate in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError("conf/ is neither in the package nor beside it; reinstall mist-jax")


def data_dir() -> Path:
    """The folder of measured data: `MIST_DATA_DIR`, else `../shared/data` beside the checkout (may not exist)."""
    given = os.environ.get("MIST_DATA_DIR")
    return Path(given) if given else PACKAGE.parent.parent / "shared" / "data"


def cache_dir() -> Path:
    """A folder of the user for downloads and compiled programs: `MIST_CACHE_DIR`, else the XDG cache."""
    given = os.environ.get("MIST_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mist-jax"
