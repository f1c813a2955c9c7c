"""How programs are compiled: one place for `jit` and its options."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mist_jax.paths import cache_dir

#: Set when XLA starts to compile: seconds in which the interpreter is free for other work of the process.
COMPILING = threading.Event()


def keep_compiled() -> None:
    """Let JAX keep compiled programs between processes, in `paths.cache_dir()`; a folder that was set before stays.

    The second process that evaluates a deployment then starts in half the time (4.5 s against 10 s of CPU time).
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:  # not in its type stubs
        return
    folder = cache_dir() / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home: go without
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Effort(enum.Enum):
    """What the compiler spends on a program: LLVM's optimization level, None for XLA's own.

    Measured: a block of 4000 x 1 deployments takes 2.9, 5.4 and 5.9 s to compile, and 25, 4.4 and 3.9 us a point.
    """

    LEAST = 0  #: for programs that run once or twice
    LITTLE = 1  #: for programs that run some hundred times
    FULL = None


def compiled(function: Callable[..., Any], *, effort: Effort = Effort.FULL) -> Any:
    """`jax.jit(function)` with options for our kind of program: thousands of cheap scalar operations.

    On CPUs the fusion emitters of XLA take twice as long to compile such a graph and make it no faster
    (measured on the closed loop: 9.7 s against 4.3 s of CPU time to compile, 1.8 s against 1.4 s to run 1e5 points).
    Sums over a few operators handed to a library (YNNPACK) cost a pass through memory each, and split what is fused
    around them: blocks of 8 x 128 and 8 x 512 deployments take 8.0 and 6.3 us a point with it, 4.6 and 3.9 without.
    """
    import jax

    keep_compiled()
    return jax.jit(function, compiler_options=options(effort))


def options(effort: Effort) -> dict[str, Any]:
    """Compile options of `compiled` that this version of XLA knows (JAX 0.12 has no other emitters)."""
    import jax

    if jax.default_backend() != "cpu":
        return {}
    wanted: dict[str, Any] = {
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_experimental_ynn_fusion_type": "",
    }
    if effort.value is not None:
        wanted["xla_backend_optimization_level"] = effort.value
    return {name: value for name, value in wanted.items() if _known(name, value)}


@lru_cache
def _known(name: str, value: Any) -> bool:
    """Whether XLA compiles with the option: it refuses those that it does not know."""
    import jax

    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
