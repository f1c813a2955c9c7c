"""`step_time`: how long one engine iteration takes. Steady state, playback, calibration and search all use it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

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


def step_time(system: System, batch: Batch) -> StepTime:
    """Seconds of one iteration, with its breakdown: the sum over operators and the host's share.

    t = sum_o layers_o t_o(batch) + t_host. Operators of one layer depend on each other and run one after another;
    what overlaps inside a kernel (compute and memory) is in the kernel's own time, what overlaps between compute
    and links is `comm_overlap`. With pipeline parallelism this is the time of one micro-batch through all stages.

    Args:
        system: one replica (scalar leaves; `vmap` for grids).
        batch: what the iteration holds, per attention-DP rank.

    Returns:
        `StepTime`; scalars and [len(OPERATORS)] vectors.

    Not modelled: power throttling (see physics.energy), interference from other jobs (see physics.contention).
    """
    costs = operator_costs(system, batch)
    host = host_seconds(system, batch)
    seconds = [costs[name].seconds for name in OPERATORS]
    total = sum(seconds[1:], seconds[0]) + host

    def column(field: str) -> Array:
        return jnp.stack(
            [jnp.asarray(getattr(costs[name], field), dtype=jnp.result_type(float)) for name in OPERATORS]
        )

    # each of the pp stages does its share of the layers
    pp = system.parallel.pp
    parts = jnp.stack([jnp.asarray(s, dtype=jnp.result_type(float)) for s in [*seconds, host]])
    return StepTime(
        seconds=total,
        by_operator=parts,
        flops=column("flops") / pp,
        bytes=column("bytes") / pp,
        sent=column("sent") / pp,
    )


def step_seconds(system: System, batch: Batch) -> Array:
    """Seconds of one iteration alone (`step_time` without the breakdown)."""
    return step_time(system, batch).seconds


def token_terms(system: System, batch: Batch) -> Array:
    """Seconds of the terms that depend on the number of tokens alone, host's fixed share included."""
    costs = operator_costs(system, batch)
    step = system.calibration.step
    fixed = host_seconds(system, batch) - step.host_per_seq_s * (batch.decode_seqs + batch.prefill_seqs)
    return sum((costs[name].seconds for name in TOKEN_OPERATORS), start=jnp.asarray(0.0)) + fixed
