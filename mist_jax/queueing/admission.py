"""How long an engine lets a new request wait before it looks at it (docs/scheduling.md)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.system.deployment import System

Array = Any


def between_looks(system: System) -> Array:
    """Iterations that a request waits on average because the scheduler looks at every n-th boundary alone: (n - 1) / 2.

    SGLang's scheduler counts decode iterations since its last look and looks again after `scheduler_recv_interval` of
    them, or after an iteration with prompts (sgl-project/sglang, managers/scheduler_recv_skipper.py).
    """
    return 0.5 * (system.engine.scheduler_recv_interval - 1.0)


def iterations_late(system: System) -> Array:
    """Iterations beyond the one in flight that measured closed loops show; below 0: less than a whole one.

    Fitted, but for `between_looks`.
    """
    return _fitted(system) + between_looks(system)


def admission_lag(system: System) -> Array:
    """The fitted part where no request can be looked at before the iteration in flight ends: open loops, and played."""
    return jnp.maximum(_fitted(system), 0.0)


def _fitted(system: System) -> Array:
    step = system.calibration.step
    gathering = jnp.where(
        system.parallel.dp > 1.0, system.engine.gathers_prompts * step.admission_steps_dp, 0.0
    )
    return step.admission_steps - 1.0 + gathering
