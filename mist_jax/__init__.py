"""MIST-JAX: a vectorized, differentiable performance model of multi-stage LLM serving.

Five lines to a first answer::

    import mist_jax as mist
    scenario = mist.load(["model=llama3_1_70b", "hardware=h100_sxm", "parallelism=tp8"])
    result = mist.evaluate(scenario)
    print(float(result.ttft_s), float(result.tpot_s))

Names are imported when first used, so that `import mist_jax` costs neither JAX nor xarray.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "load": "mist_jax.compose",
    "with_overrides": "mist_jax.compose",
    "evaluate": "mist_jax.evaluate",
    "play": "mist_jax.play",
    "sweep": "mist_jax.explore.sweep",
    "search": "mist_jax.explore.search",
    "SearchResult": "mist_jax.explore.search",
    "pareto": "mist_jax.explore.pareto",
    "search_front": "mist_jax.explore.evolution",
    "recommend": "mist_jax.explore.recommend",
    "ConfigError": "mist_jax.errors",
    "TraceError": "mist_jax.errors",
    "Status": "mist_jax.errors",
    "Scenario": "mist_jax.schema",
}
__all__ = [*_EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from mist_jax.compose import load, with_overrides
    from mist_jax.errors import ConfigError, Status, TraceError
    from mist_jax.evaluate import evaluate
    from mist_jax.explore.evolution import search_front
    from mist_jax.explore.pareto import pareto
    from mist_jax.explore.recommend import recommend
    from mist_jax.explore.search import SearchResult, search
    from mist_jax.explore.sweep import sweep
    from mist_jax.play import play
    from mist_jax.schema import Scenario


class _Package(types.ModuleType):
    """The package; importing the submodule `mist_jax.evaluate` must not hide the function `evaluate`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _EXPORTS and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mist_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
