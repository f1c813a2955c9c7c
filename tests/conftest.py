"""What all tests share: double precision, and where the measured data lies."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from hypothesis import settings

from mist_jax.paths import cache_dir, data_dir

# the first example compiles or loads the units: time is not what property tests are about
settings.register_profile("mist", deadline=None)
settings.load_profile("mist")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
# the same programs are compiled by many test files and by both test processes: keep them
jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def measured() -> Path:
    """The folder of measured data; tests that need it are skipped, with this reason, where it is missing."""
    folder = data_dir()
    if not (folder / "serving").is_dir():
        pytest.skip(f"no measured data in {folder}; set MIST_DATA_DIR (see README.md, 'Data')")
    return folder
