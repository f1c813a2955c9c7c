"""What a benchmark reports, and how time is taken."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One figure beside what it is compared with in the same run; `ratio` > 1 is better than the baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None  #: in the same unit
    baseline_is: str  #: what the baseline is, in words
    ratio: float | None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of one line."""
        return {**dataclasses.asdict(self), "machine": machine()}


def median_seconds(function: Callable[[], Any], *, repeats: int = 5, warm: int = 1) -> tuple[float, float]:
    """(median, best) wall seconds of `function` over `repeats` calls, after `warm` calls that do not count.

    Of short calls the best is reported: what takes longer measures the machine's other work (Python's `timeit` says the
    same of its figures). The median is in the details.
    """
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def run_process(arguments: list[str], **environment: str) -> tuple[float, float, str]:
    """(wall seconds, processor seconds, what it printed) of a Python process of its own.

    Raises:
        RuntimeError: the process failed; with what it said last.
    """
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:80]}: exit code {done.returncode}; {done.stderr[-2000:]}")
    busy = after.children_user - before.children_user + after.children_system - before.children_system
    return seconds, busy, done.stdout


def machine() -> dict[str, Any]:
    """Cores, load and versions: without them a figure says little."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cores": os.cpu_count(),
        "load": load,
        "python": platform.python_version(),
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
