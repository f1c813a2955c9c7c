"""Frozen dataclasses as JAX pytrees: numbers are leaves, structure is static.

A leaf can be swept, batched and differentiated without a new compilation; a static field takes part in the
compilation key, so it must be hashable and should change rarely.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_STATIC = "mist_static"


def static(**kwargs: Any) -> Any:
    """Declare a dataclass field as static structure (hashable, part of the compilation key)."""
    metadata = {**kwargs.pop("metadata", {}), _STATIC: True}
    return dataclasses.field(metadata=metadata, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that JAX traverses.

    Raises:
        TypeError: at construction, if a static field holds an unhashable value (a list, an array).
    """
    import jax

    def check(self: Any) -> None:
        for name in meta:
            try:
                hash(getattr(self, name))
            except TypeError as exc:
                raise TypeError(
                    f"{cls.__name__}.{name} is static structure and must be hashable, "
                    f"got {type(getattr(self, name)).__name__}"
                ) from exc

    cls.__post_init__ = check  # type: ignore[attr-defined]
    out = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(out)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get(_STATIC)]
    data = [f.name for f in fields if not f.metadata.get(_STATIC)]
    jax.tree_util.register_dataclass(out, data_fields=data, meta_fields=meta)
    return out  # type: ignore[return-value]


def replace(tree: T, **changes: Any) -> T:
    """A copy of the pytree dataclass `tree` with the named fields changed."""
    return dataclasses.replace(tree, **changes)  # type: ignore[type-var]
