"""Energy of a playback."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mist_jax import build
from mist_jax.programs import compiled
from mist_jax.pytree import replace
from mist_jax.queueing import playback
from mist_jax.queueing import state as st
from mist_jax.queueing.speculation import tokens_per_step
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System


@lru_cache(maxsize=1)
def _step_program() -> Any:
    from mist_jax.physics.step import step_time

    return compiled(step_time)


def energy_figures(
    scenario: Scenario, played: playback.Played, system: System, span: float, tokens: float
) -> dict[str, float]:
    """Energy of the run: idle power all the time, and what the work of all requests takes on top.

    The work is that of the mean iteration of each kind, summed: prefill of each prompt alone, decode at the mean
    batch. An estimate; the steady state's `power_share_w` uses the same coefficients per iteration.
    """
    import jax

    from mist_jax.physics.step_energy import iteration_energy
    from mist_jax.system.batch import decode_batch, prefill_batch

    served = played.requests["status"] == st.OK
    if not served.any():
        return {}
    rq = played.requests[served]
    busy_time = np.nansum(rq["finish"] - rq["first"])
    steps = max(float(rq["output"].sum() - rq.size), 1.0) / tokens_per_step(system)
    engines = scenario.parallelism.replicas * scenario.parallelism.dp
    batch = max(busy_time / max(span, 1e-9) / engines, 1.0)
    context = float(np.average(rq["prompt"] + 0.5 * rq["output"], weights=np.maximum(rq["output"], 1)))
    with jax.enable_x64(True):
        program = _step_program()
        pre = program(system, prefill_batch(float(rq["prompt"].mean())))
        decoding = replace(decode_batch(batch, context), decode_width=1.0 + system.engine.draft_tokens)
        per = [np.asarray(iteration_energy(system, s)) for s in (pre, program(system, decoding))]
    dynamic = per[0][1:].sum() * rq.size + per[1][1:].sum() * steps / batch
    chips = build.chips(scenario.parallelism)
    joules = (
        float(system.hardware.idle_power) * span * chips * scenario.parallelism.replicas + dynamic * chips
    )
    return {"energy_j": float(joules), "energy_per_output_token_j": float(joules / max(tokens, 1.0))}
