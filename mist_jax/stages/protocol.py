"""What every stage is made of: parameters with units and bounds, the work that reaches it, and a definition.

A stage is a module with one pytree of parameters and one function. Which function depends on its kind:

    service   demand(params, work) -> Demand          runs on a machine of its own: embedding, search, guard
    transfer  demand(params, work) -> Demand          moves bytes between machines or tiers
    delay     delay(params, work) -> Delay            time that passes outside: tools, people
    engine    call(params, work) -> EngineCall        runs on an LLM engine; timed by `physics.step`, not here

and any stage may have `update(params, work) -> Work`: what it changes for those after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from mist_jax.errors import ConfigError, nearest
from mist_jax.pytree import pytree
from mist_jax.units import to_si

Array = Any
Kind = Literal["service", "transfer", "delay", "engine"]


@pytree
class Work:
    """What a batch of requests is when it reaches a stage; means over the batch. Every stage reads what it
    needs."""

    batch: Array = 1.0  #: requests served together
    query_tokens: Array = 32.0  #: tokens of the question itself
    prompt_tokens: Array = 512.0  #: tokens the LLM must have in its context before the answer
    cached_tokens: Array = 0.0  #: of these, already in the engine's KV cache
    output_tokens: Array = 128.0  #: tokens of the answer
    documents: Array = 0.0  #: retrieved chunks per request
    document_tokens: Array = 0.0  #: tokens of one chunk
    images: Array = 0.0  #: images per request
    kv_bytes_per_token: Array = 0.0  #: of the LLM that serves the request, all layers, not sharded
    kv_layers: Array = 1.0  #: layers that the KV cache is split over
    prefill_s: Array = 0.0  #: time of the LLM's prefill of this prompt, for overlap and load-or-recompute


@pytree
class EngineCall:
    """What a stage asks of an LLM engine for one request."""

    new_tokens: Array  #: prompt tokens to prefill
    past_tokens: Array  #: prompt tokens already in the KV cache
    output_tokens: Array  #: tokens decoded by each branch, on average
    longest_output: Array  #: tokens of the longest branch (the request waits for it)
    branches: Array  #: sequences that share the prompt
    shared_prefix: Array  #: 1: the prompt's KV is read once for all branches; 0: once for each
    rounds: Array  #: calls in sequence
    tokens_per_step: Array  #: tokens a sequence gains in one iteration (speculation), >= 1
    probability: Array  #: share of the requests that make the call


@pytree
class Delay:
    """Log-normal time outside of the system."""

    median_s: Array
    sigma: Array  #: standard deviation of ln(time)


def parameter(
    default: Any, dimension: str = "count", *, low: float = 0.0, high: float = float("inf"), doc: str = ""
) -> Any:
    """A numeric parameter: a leaf with its unit (a key of `mist_jax.units.DIMENSIONS`) and inclusive
    bounds."""
    return dataclasses.field(
        default=default, metadata={"dimension": dimension, "low": low, "high": high, "doc": doc}
    )


def choice(default: str, options: tuple[str, ...], doc: str = "") -> Any:
    """A parameter that picks one of a few forms: static structure."""
    return dataclasses.field(default=default, metadata={"mist_static": True, "options": options, "doc": doc})


@dataclasses.dataclass(frozen=True)
class StageDefinition:
    """One entry of the registry."""

    name: str
    kind: Kind
    parameters: type  #: the pytree class of its parameters
    function: Callable[..., Any]  #: demand, delay or call, by kind
    summary: str  #: one line
    source: str  #: where the formula and its defaults come from
    valid: str  #: range of validity
    not_modelled: str
    update: Callable[[Any, Work], Work] | None = None
    needs: tuple[str, ...] = ()  #: resources (of `physics.demand.RESOURCES`) that the machine must have

    def build(self, config: Mapping[str, Any] | None = None, path: str = "") -> Any:
        """The parameters pytree from a mapping whose values may carry units.

        Args:
            path: dotted key for messages.

        Raises:
            ConfigError: unknown key, wrong unit, out of bounds, value not among the options.
        """
        fields = {f.name: f for f in dataclasses.fields(self.parameters)}
        where = path or f"stage {self.name}"
        out: dict[str, Any] = {}
        for key, value in (config or {}).items():
            if key not in fields:
                allowed = ", ".join(sorted(fields)) or "no parameters"
                raise ConfigError(f"{where}.{key}: unknown; allowed: {allowed}{nearest(key, fields)}")
            out[key] = _check(f"{where}.{key}", value, fields[key].metadata)
        return self.parameters(**out)

    def schema(self) -> list[dict[str, Any]]:
        """One row a parameter: name, default, unit or options, bounds, meaning."""
        rows = []
        for f in dataclasses.fields(self.parameters):
            m = f.metadata
            rows.append(
                {"name": f.name, "default": f.default, **{k: v for k, v in m.items() if k != "mist_static"}}
            )
        return rows


def _check(path: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    if "options" in metadata:
        options = metadata["options"]
        if value not in options:
            raise ConfigError(
                f"{path}: got {value!r}; allowed: {', '.join(options)}{nearest(str(value), options)}"
            )
        return value
    dimension, low, high = metadata["dimension"], metadata["low"], metadata["high"]
    values = value if isinstance(value, list | tuple) else [value]
    out = []
    for v in values:
        try:
            number = to_si(v, dimension)
        except ConfigError as exc:
            raise ConfigError(f"{path}: {exc}") from None
        if not low <= number <= high:
            raise ConfigError(f"{path}: got {v!r}; allowed: {low:g} to {high:g}")
        out.append(number)
    return out[0] if not isinstance(value, list | tuple) else tuple(out)
