"""Bounds, priors and levels of the engine's step coefficients, and how a vector of offsets becomes values.

A coefficient is bounded. With x in about units of its logarithm, and 0 at the prior,

    value = low (high / low)^sigmoid(c + 4 x / log(high / low))        positive ones
    value = low + (high - low) sigmoid(c + x)                          shares and probabilities

x is a sum over levels: global + engine + version family + generation + system + number format + model. What a level
has not seen contributes 0, so an unseen system or model gets the best prior of the rest.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mist_jax.system.calibration import StepCoefficients


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """One named coefficient.

    `scale` is the standard deviation of the global offset from the prior, `levels` that of the offsets of each level.
    """

    name: str
    prior: float
    low: float
    high: float
    scale: float = 0.5
    levels: tuple[tuple[str, float], ...] = ()
    share: bool = False  #: linear between its bounds instead of logarithmic


_E, _V, _G, _S, _M = "engine", "family", "generation", "system", "model"
_W, _X = "weights", "experts"

#: In the order of `StepCoefficients`. Priors: see `default_step_coefficients`.
COEFFICIENTS = (
    Coefficient("host_s", 1e-3, 2e-5, 2e-2, 0.7, ((_E, 0.5), (_V, 0.3), (_S, 0.2), (_M, 0.15))),
    Coefficient("host_per_seq_s", 5e-6, 1e-7, 2e-4, 1.0, ((_E, 0.6),)),
    Coefficient("prefill_host_s", 3e-3, 1e-4, 1e-1, 1.0, ((_E, 0.6), (_M, 0.2))),
    Coefficient("layer_s", 4e-6, 1e-7, 1e-4, 0.7, ((_E, 0.5), (_G, 0.3), (_M, 0.2))),
    Coefficient("eager_layer_s", 4e-5, 1e-6, 1e-3, 0.0),
    Coefficient("floor_scale", 0.5, 0.05, 2.0, 0.4, ((_E, 0.3), (_G, 0.15))),
    Coefficient(
        "compute_scale",
        1.0,
        0.5,
        2.5,
        0.2,
        ((_E, 0.15), (_V, 0.1), (_G, 0.1), (_W, 0.15), (_S, 0.07), (_M, 0.1)),
    ),
    Coefficient(
        "expert_scale", 1.0, 0.4, 3.0, 0.2, ((_E, 0.2), (_V, 0.1), (_G, 0.15), (_X, 0.2), (_M, 0.15))
    ),
    Coefficient("exchanged_expert_scale", 1.0, 0.2, 3.0, 0.5, ((_E, 0.4), (_G, 0.4), (_X, 0.3))),
    Coefficient("attention_scale", 1.0, 0.4, 3.0, 0.2, ((_E, 0.15), (_G, 0.15), (_M, 0.15))),
    # narrow: the kernels are measured, and what rows of at most 8,192 tokens say of it is mixed with their queues
    Coefficient("prefill_attention_scale", 1.0, 0.4, 4.0, 0.15, ((_E, 0.1), (_G, 0.1), (_M, 0.05))),
    Coefficient("many_tokens_scale", 1.0, 0.4, 3.0, 0.3, ((_E, 0.2), (_G, 0.15), (_W, 0.15), (_M, 0.15))),
    Coefficient("comm_scale", 1.0, 0.2, 4.0, 0.4, ((_E, 0.3), (_G, 0.2))),
    Coefficient("dispatch_scale", 1.0, 0.1, 6.0, 0.6, ((_E, 0.3), (_G, 0.2))),
    Coefficient("comm_overlap", 0.0, 0.0, 0.9, 0.0, (), True),
    Coefficient("routing_spread", 0.95, 0.5, 1.0, 1.0, ((_M, 0.4),), True),
    Coefficient("imbalance", 1.2, 1.0, 3.0, 0.4, ((_E, 0.2), (_M, 0.2))),
    # a few ms: in the logs of vLLM 0.19 (engine_runs) a request that meets fewer than five others is in the engine's
    # queue 1.4 and 2.1 ms (medians) later than the quickest; HTTP and the client besides
    Coefficient("request_s", 5e-3, 5e-4, 0.1, 0.4, ((_E, 0.3),)),
    Coefficient("first_round_s", 0.1, 1e-3, 10.0, 1.0, ((_E, 0.6), (_V, 0.4), (_S, 0.15))),
    Coefficient("prompt_token_s", 1e-6, 1e-8, 1e-4, 1.0, ((_E, 0.6),)),
    Coefficient("admission_steps", 1.0, 0.1, 60.0, 1.0, ((_E, 0.8), (_V, 0.4), (_M, 0.15))),
    Coefficient("admission_steps_dp", 2.0, 0.05, 100.0, 1.0, ((_E, 0.6),)),
    Coefficient("queue_scale", 1.0, 0.2, 8.0, 0.5, ((_E, 0.3), (_V, 0.2))),
    # above 1 where a benchmark has fewer rounds than the ten of its `burst_share`
    Coefficient("pool_burst_scale", 1.0, 0.2, 8.0, 0.5, ((_E, 0.3), (_V, 0.2))),
    Coefficient("lockstep", 0.1, 0.0, 1.0, 1.0, ((_E, 1.0), (_V, 0.7)), True),
    Coefficient("kv_usable", 1.0, 0.5, 1.3, 0.2, ((_E, 0.2), (_M, 0.1))),
    # vLLM with Mooncake, one request at a time: of a prompt of 128 tokens the TTFT leaves 33 ms beside the request, its
    # prefill and the transfer (calibration/validation_llm.py, `mooncake_1p1d`)
    Coefficient("handover_s", 3.3e-2, 1e-3, 0.5, 0.4, ((_E, 0.3),)),
    Coefficient("first_handover_s", 0.1, 1e-3, 10.0, 1.0, ((_E, 0.6),)),
    Coefficient("transfer_scale", 1.5, 0.3, 30.0, 0.7, ((_E, 0.4), (_G, 0.3))),
    Coefficient("acceptance", 0.8, 0.5, 0.98, 0.5, ((_E, 0.3), (_M, 0.3)), True),
    Coefficient("acceptance_decay", 0.9, 0.6, 1.0, 0.3, (), True),
    Coefficient("draft_host_s", 3e-4, 1e-6, 1e-2, 1.0, ((_E, 0.8),)),
    Coefficient("draft_scale", 1.0, 0.2, 5.0, 0.5, ((_E, 0.3),)),
)
NAMES = tuple(c.name for c in COEFFICIENTS)


def _centre(c: Coefficient) -> tuple[float, float, float]:
    """(centre, steepness, span): constants of the transformation of one coefficient."""
    if c.share:
        p = (c.prior - c.low) / (c.high - c.low)
        return math.log(p / (1.0 - p)) if 0 < p < 1 else (-30.0 if p <= 0 else 30.0), 1.0, c.high - c.low
    span = math.log(c.high / c.low)
    p = math.log(c.prior / c.low) / span
    return math.log(p / (1.0 - p)), 4.0 / span, span


def values(x: Any, xp: Any) -> StepCoefficients:
    """Offsets [..., len(COEFFICIENTS)] → coefficients; `xp` is numpy or jax.numpy."""
    out = {}
    for i, c in enumerate(COEFFICIENTS):
        centre, steep, span = _centre(c)
        s = 1.0 / (1.0 + xp.exp(-(centre + steep * x[..., i])))
        out[c.name] = c.low + span * s if c.share else c.low * xp.exp(span * s)
    return StepCoefficients(**out)
