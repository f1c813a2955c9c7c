"""Names of stages. A new stage is one module and one line here, or one call of `register_stage` from
outside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mist_jax.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mist_jax.stages.protocol import StageDefinition

#: name → module that defines it as `STAGE` or in `STAGES`. Imported when asked for: names alone need no JAX.
_BUILTIN = {
    "tokenize": "mist_jax.stages.tokenize",
    "detokenize": "mist_jax.stages.tokenize",
    "embed": "mist_jax.stages.embed",
    "vector_search": "mist_jax.stages.vector_search",
    "vector_search_tree": "mist_jax.stages.vector_tree",
    "graph_search": "mist_jax.stages.graph_search",
    "disk_search": "mist_jax.stages.graph_search",
    "rerank": "mist_jax.stages.rerank",
    "assemble_context": "mist_jax.stages.context",
    "kv_load": "mist_jax.stages.kv_cache",
    "kv_store": "mist_jax.stages.kv_cache",
    "kv_transfer": "mist_jax.stages.kv_transfer",
    "route": "mist_jax.stages.route",
    "cascade": "mist_jax.stages.route",
    "generate": "mist_jax.stages.generate",
    "reason": "mist_jax.stages.reason",
    "verify": "mist_jax.stages.reason",
    "speculate": "mist_jax.stages.speculate",
    "lora": "mist_jax.stages.lora",
    "vision": "mist_jax.stages.vision",
    "guard": "mist_jax.stages.guard",
    "guard_llm": "mist_jax.stages.guard",
    "tool": "mist_jax.stages.tool",
    "attention_ffn": "mist_jax.stages.attention_ffn",
}
_ADDED: dict[str, StageDefinition] = {}


def stage_names() -> list[str]:
    """Every stage that a pipeline may name."""
    return sorted({*_BUILTIN, *_ADDED})


def get_stage(name: str) -> StageDefinition:
    """The definition of a stage.

    Raises:
        ConfigError: unknown name, with what there is.
    """
    if name in _ADDED:
        return _ADDED[name]
    if name not in _BUILTIN:
        names = stage_names()
        raise ConfigError(f"no stage '{name}'; there are {', '.join(names)}{nearest(name, names)}")
    module = import_module(_BUILTIN[name])
    return next(s for s in module.STAGES if s.name == name)


def register_stage(definition: StageDefinition) -> StageDefinition:
    """Add a stage from outside of the package; it can then be named in any pipeline.

    Raises:
        ConfigError: the name is taken.
    """
    if definition.name in _BUILTIN or definition.name in _ADDED:
        raise ConfigError(f"stage '{definition.name}' exists already; choose another name")
    _ADDED[definition.name] = definition
    return definition


def unregister_stage(name: str) -> None:
    """Remove a stage that `register_stage` added (for tests)."""
    _ADDED.pop(name, None)
