"""The variables of a steady state: names, units, and how they follow from what the queueing layer solves for.

Needs neither JAX nor xarray: sweeps trace the functions, `evaluate` labels what they give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mist_jax.physics.memory import MemoryUse
    from mist_jax.queueing.steady import SteadyState
    from mist_jax.queueing.steady_disaggregated import Disaggregated

#: variable → (units, what it is)
VARIABLES = {
    "ttft_s": ("s", "mean time to first token"),
    "tpot_s": ("s", "mean time per output token after the first"),
    "e2e_s": ("s", "mean end-to-end latency"),
    "request_rate": ("1/s", "completed requests per second"),
    "output_tokens_per_s": ("1/s", "generated tokens per second"),
    "total_tokens_per_s": ("1/s", "prompt and generated tokens per second"),
    "output_tokens_per_s_per_chip": ("1/s", "generated tokens per second and chip"),
    "tokens_per_s_per_user": ("1/s", "speed one user sees: 1 / TPOT"),
    "running": ("1", "sequences decoding at once, whole deployment"),
    "waiting": (
        "1",
        "requests that do not decode: without their first token, or preempted; whole deployment",
    ),
    "step_s": ("s", "mean engine iteration"),
    "prefill_share": ("1", "share of iterations that hold prefill"),
    "load": ("1", "offered rate over the rate at saturation"),
    "kv_occupancy": ("1", "share of the KV budget in use"),
    "flops_utilization": ("1", "achieved over peak bf16 FLOP/s"),
    "bandwidth_utilization": ("1", "achieved over peak memory bandwidth"),
    "power_w": ("W", "mean power of one chip"),
    "energy_per_output_token_j": ("J", "energy of all chips per generated token"),
    "cost_per_million_output_tokens_usd": ("USD", "rent of all chips per million generated tokens"),
    "chips": ("1", "chips of the whole deployment"),
    "weights_bytes": ("byte", "weights on the fullest chip"),
    "kv_budget_bytes": ("byte", "memory left for the KV cache on a chip; negative: short of so much"),
    "kv_blocks": ("1", "KV blocks of one attention-DP rank"),
    "kv_tokens": ("1", "tokens that the KV cache of one attention-DP rank holds"),
    "status": ("1", "0: ok; see mist_jax.Status"),
}

#: Further ones of a prefill pool: name → (units, what it is)
POOL_VARIABLES = {
    "prefill_utilization": ("1", "busy share of the prefill pool"),
    "prefill_wait_s": ("s", "mean wait for a prefill replica"),
    "prefill_s": ("s", "mean prefill"),
    "transfer_s": ("s", "visible part of the KV transfer"),
    "transfer_utilization": ("1", "busy share of the prefill pool's links"),
    "prefill_power_w": ("W", "mean power of one chip of the prefill pool"),
    "prefill_chips": ("1", "chips of the prefill pool"),
}


def figures(
    state: SteadyState,
    memory: MemoryUse,
    *,
    isl: Any,
    osl: Any,
    chips: Any,
    lanes: Any,
    usd_per_s: Any,
    kv_blocks: Any = None,
) -> dict[str, Any]:
    """The `VARIABLES` of one pool from its steady state, any shape; plain arithmetic, so that sweeps trace the same.

    Args:
        isl, osl: mean tokens. chips, lanes: of the whole deployment. usd_per_s: rent of one chip, $/s.
        kv_blocks: number of KV blocks where the description gives it, else those that memory leaves.
    """
    out_rate = state.rate * osl
    power = state.power.sum(-1)
    return {
        "ttft_s": state.ttft,
        "tpot_s": state.tpot,
        "e2e_s": state.e2e,
        "request_rate": state.rate,
        "output_tokens_per_s": out_rate,
        "total_tokens_per_s": state.rate * (osl + isl),
        "output_tokens_per_s_per_chip": out_rate / chips,
        "tokens_per_s_per_user": 1.0 / state.tpot,
        "running": state.running * lanes,
        "waiting": state.waiting * lanes,
        "step_s": state.step,
        "prefill_share": state.prefill_share,
        "load": state.load,
        "kv_occupancy": state.kv_occupancy,
        "flops_utilization": state.flops_utilization,
        "bandwidth_utilization": state.bandwidth_utilization,
        "power_w": power,
        "energy_per_output_token_j": power * chips / out_rate,
        "cost_per_million_output_tokens_usd": usd_per_s * chips / out_rate * 1e6,
        "chips": chips,
        "weights_bytes": memory.weights,
        "kv_budget_bytes": memory.kv_budget,
        "kv_blocks": memory.kv_blocks if kv_blocks is None else kv_blocks,
        "kv_tokens": memory.kv_tokens,
        "status": state.status,
    }


def pool_figures(
    values: dict[str, Any], out: Disaggregated, *, chips: Any, usd_per_s: Any, prefill_usd_per_s: Any
) -> dict[str, Any]:
    """The `POOL_VARIABLES`, and those of `values` (the decode pool's) that count both pools.

    Args:
        values: `figures` of the decode pool. chips: of the prefill pool. usd_per_s, prefill_usd_per_s:
            rent of one chip of either pool, $/s.
    """
    power = out.prefill_power_share.sum(-1)
    decode_chips, tokens = values["chips"], values["output_tokens_per_s"]
    dollars = usd_per_s * decode_chips + prefill_usd_per_s * chips
    watts = values["power_w"] * decode_chips + power * chips
    return {
        "prefill_utilization": out.prefill_utilization,
        "prefill_wait_s": out.prefill_wait,
        "prefill_s": out.prefill_seconds,
        "transfer_s": out.transfer_seconds,
        "transfer_utilization": out.transfer_utilization,
        "prefill_power_w": power,
        "prefill_chips": chips,
        "chips": decode_chips + chips,
        "output_tokens_per_s_per_chip": tokens / (decode_chips + chips),
        "cost_per_million_output_tokens_usd": dollars / tokens * 1e6,
        "energy_per_output_token_j": watts / tokens,
    }
