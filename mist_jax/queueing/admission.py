"""How long an engine lets a new request wait before it looks at it (docs/scheduling.md)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.system.deployment import System

Array = Any


def iterations_late(system: System) -> Array:
    """Iterations beyond the one in flight that measured closed loops show (fitted); below 0: less than a whole one."""
    step = system.calibration.step
    gathering = jnp.where(
        system.parallel.dp > 1.0, system.engine.gathers_prompts * step.admission_steps_dp, 0.0
    )
    return step.admission_steps - 1.0 + gathering


def admission_lag(system: System) -> Array:
    """The same where no request can be looked at before the iteration in flight ends: open loops, and played."""
    return jnp.maximum(iterations_late(system), 0.0)
