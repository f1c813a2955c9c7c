"""`step_time`: how long one engine iteration takes. Steady state, playback, calibration and search all use it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.operator_cost import Cost, column
from mist_jax.physics.operators import OPERATORS, TOKEN_OPERATORS, operator_costs
from mist_jax.pytree import pytree
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System

Array = Any

#: Names of the last axis of `StepTime.by_operator`: the operators and the host's share.
STEP_PARTS = (*OPERATORS, "host")


@pytree
class StepTime:
    """One iteration on one replica. Per-chip figures are those of one chip, the mean over pipeline stages."""

    seconds: Array
    by_operator: Array  #: [len(STEP_PARTS)] s
    flops: Array  #: [len(OPERATORS)] per chip
    bytes: Array  #: [len(OPERATORS)] per chip, device memory
    sent: Array  #: [len(OPERATORS)] bytes per chip over links


def host_seconds(system: System, batch: Batch) -> Array:
    """Time of an iteration in which no kernel runs: the engine's scheduling and gaps between kernels.

    host + per sequence + per layer; kernels launched one by one add a gap per layer (captured graphs are used for
    iterations that only decode; an iteration with prefill launches eagerly where the engine does not capture it).
    Speculation adds what the host does between draft and verification (SGLang's speculative decoding turns the overlap
    of scheduling with kernels off, server_args.py).
    """
    step, eng = system.calibration.step, system.engine
    seqs = batch.decode_seqs + batch.prefill_seqs
    layers = system.model.layers * (step.layer_s + eng.eager * step.eager_layer_s)
    busy = batch.prefill_tokens + batch.decode_seqs > 0
    prompts = jnp.where(batch.prefill_tokens > 0, step.prefill_host_s, 0.0)
    drafts = jnp.where(batch.decode_seqs > 0, step.draft_host_s * jnp.minimum(eng.draft_tokens, 1.0), 0.0)
    return jnp.where(busy, step.host_s + prompts + step.host_per_seq_s * seqs + layers + drafts, 0.0)


def step_time(system: System, batch: Batch, *, together: bool = False) -> StepTime:
    """Seconds of one iteration, with its breakdown: the sum over operators and the host's share.

    t = sum_o layers_o t_o(batch) + t_host. Operators of one layer depend on each other and run one after another;
    what overlaps inside a kernel (compute and memory) is in the kernel's own time, what overlaps between compute
    and links is `comm_overlap`. With pipeline parallelism this is the time of one micro-batch through all stages.

    Args:
        system: one replica (scalar leaves; `vmap` for grids).
        batch: what the iteration holds, per attention-DP rank.
        together: less to compile and slower to run, as in `operator_cost.gemms`.

    Returns:
        `StepTime`; scalars and [len(OPERATORS)] vectors.

    Not modelled: power throttling (see physics.energy), interference from other jobs (see physics.contention).
    """
    costs = operator_costs(system, batch, together=together)
    host = host_seconds(system, batch)
    seconds = column(costs.values(), "seconds")
    # each of the pp stages does its share of the layers
    pp = system.parallel.pp
    return StepTime(
        seconds=jnp.sum(seconds) + host,
        by_operator=jnp.append(seconds, host),
        flops=column(costs.values(), "flops") / pp,
        bytes=column(costs.values(), "bytes") / pp,
        sent=column(costs.values(), "sent") / pp,
    )


def step_seconds(system: System, batch: Batch, *, together: bool = False) -> Array:
    """Seconds of one iteration alone (`step_time` without the breakdown)."""
    return step_time(system, batch, together=together).seconds


def token_terms(system: System, batch: Batch, costs: dict[str, Cost]) -> Array:
    """Seconds of the terms that depend on the number of tokens alone, host's fixed share included.

    costs: `operator_costs` of the batch.
    """
    step = system.calibration.step
    fixed = host_seconds(system, batch) - step.host_per_seq_s * (batch.decode_seqs + batch.prefill_seqs)
    return sum((costs[name].seconds for name in TOKEN_OPERATORS), start=jnp.asarray(0.0)) + fixed
