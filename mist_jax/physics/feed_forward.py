"""The feed-forward operators of an iteration: dense, shared, router and routed experts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics import kernels as k
from mist_jax.physics.operator_cost import Cost, cost, gemms, kernels_of, products_scale
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System

Array = Any


def busiest_rank(touched: Array, local: Array, ranks: Array, pairs: Array) -> Array:
    """Experts with work on the rank that has most: mean + sqrt(2 ln n) of its standard deviation, for n ranks.

    The number on a rank has about the variance T (1 - T / E_l) of T of E_l chosen at random; the largest of n normal
    ones lies sqrt(2 ln n) deviations above the mean (H. Cramer, "Mathematical Methods of Statistics", 1946, 28.6).

    Args:
        touched: T, mean over the ranks.
        local: E_l, experts of a rank.
        pairs: tokens times top-k, the most there can be.
    """
    several = ranks > 1
    deviations = jnp.where(several, jnp.sqrt(2.0 * jnp.log(jnp.where(several, ranks, 2.0))), 0.0)
    above = deviations * jnp.sqrt(jnp.maximum(touched * (1.0 - touched / local), 1e-12))
    return jnp.maximum(jnp.minimum(touched + above, jnp.minimum(local, pairs)), touched)


def feed_forward(system: System, batch: Batch, t_router: Array, together: bool) -> dict[str, Cost]:
    """Costs of "ffn_dense", "ffn_shared", "router" and "experts" of one iteration (scalars).

    t_router: s of the router's product in one layer; together: as in `operator_cost.gemms`.
    """
    hw, model, par = system.hardware, system.model, system.parallel
    kern, step = kernels_of(system), system.calibration.step
    tokens = batch.prefill_tokens + batch.decode_seqs * batch.decode_width
    ab = model.activation_bytes
    ups = model.ffn_matrices - 1.0

    dense_share, shared_share = model.dense_ffn / par.tp, model.shared_ffn / par.tp
    # a latent MoE projects every token into and out of `expert_hidden`, replicated over TP
    latent = model.latent_params / jnp.maximum(model.moe_layers, 1.0)
    dense_up, dense_down, shared_up, shared_down, t_latent = gemms(
        kern.ffn_gemm,
        hw,
        tokens,
        (ups * dense_share, model.hidden, ups * shared_share, model.hidden, latent / model.hidden),
        (model.hidden, dense_share, model.hidden, shared_share, model.hidden),
        model.ffn_weight_bytes,
        ab,
        2.0,
        together=together,
    )

    def dense(layers: Array, share: Array, seconds: Array) -> Cost:
        elements = model.ffn_matrices * model.hidden * share
        return cost(
            products_scale(step, tokens) * layers * seconds,
            layers * 2.0 * tokens * elements,
            layers
            * jnp.where(
                tokens > 0,
                elements * model.ffn_weight_bytes
                + tokens * (2.0 * model.hidden * (share > 0) + model.ffn_matrices * share) * ab,
                0.0,
            ),
        )

    everyone = tokens * par.dp  # the experts see the tokens of all attention-DP ranks
    experts = jnp.maximum(model.experts, 1.0) + par.redundant
    local = experts / par.ep
    ffn = model.expert_ffn / par.moe_tp
    imbalance = jnp.where(par.ep > 1, step.imbalance, 1.0)
    top_k = jnp.maximum(model.top_k, 1e-9)
    # tokens of one batch choose alike, so they touch fewer experts than independent ones would
    unlike = jnp.expm1(step.routing_spread * jnp.log1p(everyone))
    touched = k.experts_touched(unlike, experts, local, top_k)
    busiest = busiest_rank(touched, local, par.ep, everyone * top_k)
    t_moe = k.moe_time(
        kern.moe.coef,
        kern.moe.on(hw),
        everyone,
        experts,
        local,
        top_k,
        model.expert_hidden,
        ffn,
        model.expert_weight_bytes,
        ab,
        None,
        imbalance,
        model.ffn_matrices,
        busiest,
    )
    weights = model.ffn_matrices * model.expert_hidden * ffn
    routed = everyone * top_k / par.ep
    has_moe = model.moe_layers > 0
    moe_layers = jnp.where(has_moe, model.moe_layers, 0.0)
    # engines feed the experts of attention-DP ranks by an exchange and run other grouped kernels on what arrives
    expert_scale = step.expert_scale * jnp.where(par.dp > 1.0, step.exchanged_expert_scale, 1.0)
    return {
        "ffn_dense": dense(model.dense_layers, dense_share, dense_up + dense_down),
        "ffn_shared": dense(moe_layers, shared_share, shared_up + shared_down),
        "router": cost(
            step.compute_scale * moe_layers * (t_router + t_latent),
            moe_layers * 2.0 * tokens * (experts * model.hidden + latent),
            moe_layers
            * jnp.where(
                tokens > 0,
                2.0 * experts * model.hidden
                + latent * model.ffn_weight_bytes
                + tokens * (2.0 * model.hidden + 4.0 * experts)
                + tokens * (2.0 * model.hidden * (latent > 0) + latent / model.hidden) * ab,
                0.0,
            ),
        ),
        "experts": cost(
            expert_scale * products_scale(step, everyone) / step.compute_scale * moe_layers * t_moe,
            moe_layers * 2.0 * routed * weights,
            moe_layers
            * (
                touched * weights * model.expert_weight_bytes
                + routed * (2.0 * model.expert_hidden + model.ffn_matrices * ffn) * ab
            ),
        ),
    }
