"""How the kernels of the playback are compiled.

Only the program that Python calls is cached on disk; everything it calls is compiled into it. numba keys a cached
function by its own source file and does not look at what it calls, so the program carries a stamp of all kernel
sources: a changed kernel is never answered by an old program.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numba import njit

SOURCES = (
    "advance", "events", "kernel", "prefix_cache", "queues", "residence", "routing", "schedule", "state", "stations",
    "table", "transfer", "views",
)  # fmt: skip

# error_model: a division by zero cannot happen where the kernels divide, and checking each one costs time.
# Nothing but other kernels calls a kernel, so the wrappers that Python or C would call it by are left out.
OPTIONS: Any = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
kernel: Any = njit(**OPTIONS)


def source_stamp() -> int:
    """A number that changes when a kernel changes."""
    here = Path(__file__).parent
    h = hashlib.sha256()
    for name in SOURCES:
        h.update((here / f"{name}.py").read_bytes())
    return int.from_bytes(h.digest()[:6], "big")
