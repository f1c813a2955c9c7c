"""Routing a request to one of several models, and cascades that escalate when the small model is not sure.

Router: a classifier reads the query, then one model answers: E[cost] = c_router + sum_i p_i c_i.
Cascade: models in order, escalation with probability e_i: E[cost] = sum_i c_i prod_{j<i} e_j, times add
(Chen et al., FrugalGPT, arXiv 2305.05176). RouteLLM (Ong et al., arXiv 2406.18665): up to 85 % of the cost
saved at 95 % of GPT-4's quality; its matrix-factorization router sends half of the calls to the strong model
at threshold 0.11593.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.pytree import pytree
from mist_jax.stages.calls import plain_call
from mist_jax.stages.encoder import ENCODER_EFFICIENCY, encoder_demand
from mist_jax.stages.protocol import EngineCall, StageDefinition, Work, choice, parameter

Array = Any


@pytree
class Route:
    """A classifier; defaults: ModernBERT-base (149 M parameters, 22 layers, width 768) on CPU: 12 ms."""

    place: str = choice("cpu", ("cpu", "accelerator"))
    parameters: Array = parameter(110e6, low=1.0, doc="without the embedding table (39 M of 149 M)")
    layers: Array = parameter(22.0, low=1.0)
    hidden: Array = parameter(768.0, low=1.0)
    max_tokens: Array = parameter(512.0, low=1.0, doc="of the query that are read")
    efficiency: Array = parameter(ENCODER_EFFICIENCY, low=0.01, high=1.0)
    core_flops: Array = parameter(30e9, "flops", low=1.0, doc="sustained per core; assumption")
    cores: Array = parameter(16.0, low=1.0)
    fixed_s: Array = parameter(1e-3, "time")


@pytree
class Cascade:
    """One step of a cascade: this model answers; `reached` of the requests come this far."""

    reached: Array = parameter(1.0, high=1.0, doc="product of the escalation probabilities before this model")
    output_tokens: Array = parameter(0.0, doc="0: the request's")


def demand(params: Route, work: Work) -> Demand:
    """Demand of classifying a batch of queries."""
    return encoder_demand(
        params.parameters, params.layers, params.hidden, work.batch,
        jnp.minimum(work.query_tokens, params.max_tokens), efficiency=params.efficiency,
        fixed_s=params.fixed_s, place=params.place, core_flops=params.core_flops, cores=params.cores,
    )  # fmt: skip


def cascade_call(params: Cascade, work: Work) -> EngineCall:
    """The call of one model of the cascade, made with probability `reached`."""
    from mist_jax.pytree import replace

    output = jnp.where(jnp.asarray(params.output_tokens) > 0, params.output_tokens, work.output_tokens)
    base = plain_call(work.prompt_tokens, jnp.minimum(work.cached_tokens, work.prompt_tokens), output)
    return replace(base, probability=params.reached)


def reached(escalation: Array) -> Array:
    """Share of requests that reach each model, [models], from escalation probabilities [models - 1]."""
    return jnp.concatenate([jnp.ones(1), jnp.cumprod(jnp.asarray(escalation, float))])


def cascade_mean(costs: Array, escalation: Array) -> Array:
    """Mean of an additive cost (seconds, dollars, joules): sum_i c_i prod_{j<i} e_j."""
    return jnp.sum(jnp.asarray(costs) * reached(escalation))


def router_mean(router_cost: Array, costs: Array, shares: Array) -> Array:
    """Mean of an additive cost behind a router: c_router + sum_i p_i c_i; `shares` sum to 1."""
    return router_cost + jnp.sum(jnp.asarray(costs) * jnp.asarray(shares))


STAGES = (
    StageDefinition(
        name="route",
        kind="service",
        parameters=Route,
        function=demand,
        summary="a classifier picks the model",
        source="encoder roofline; ModernBERT 149 M on CPU: 12 ms P50 (vLLM semantic router, HaluGate)",
        valid="as the encoder",
        not_modelled="quality: give the share of each model",
    ),
    StageDefinition(
        name="cascade",
        kind="engine",
        parameters=Cascade,
        function=cascade_call,
        summary="one model of a cascade",
        source="FrugalGPT (arXiv 2305.05176)",
        valid="independent escalation",
        not_modelled="correlation of difficulty with length",
    ),
)
