"""Which calibration a deployment gets: packaged, none, or a person's file; with documented fall-backs.

Kernels are chosen as `catalog_loader` says: the chip's own fit, its generation's, the mean over all chips. The
coefficients of the engine around the kernels (`catalog/step.json`) are a global value times the engine's, the
version family's and the generation's factor; what was never measured has the factor 1.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from mist_jax.catalog_loader import kernel_coefficients
from mist_jax.errors import ConfigError, nearest
from mist_jax.schema import EngineSpec, HardwareSpec, ModelSpec
from mist_jax.system.calibration import Calibration, default_step_coefficients

#: What `calibration:` may name.
CHOICES = ("default", "none")


def kernel_formats(experts: str | None, generation: str | None) -> dict[str, str]:
    """Storage formats that the kernels have to be picked for, where a compute precision has several.

    mxfp4 experts (gpt-oss): 16-bit activations up to Hopper, 8-bit ones on Blackwell's tensor cores (OpenAI,
    "gpt-oss model card", 2025; vLLM's and TensorRT-LLM's MXFP4 back ends). int4 experts compute in 16 bits.
    """
    if experts == "mxfp4":
        new = (generation or "").startswith("blackwell") or generation in ("cdna4",)
        return {"expert_format": "w4a8_mxfp4_mxfp8" if new else "w4a16_mxfp4"}
    if experts == "int4":
        return {"expert_format": "int4_wo"}
    return {}


@functools.lru_cache(maxsize=256)
def packaged_kernels(
    system: str | None, generation: str | None, engine: str, experts: str | None
) -> tuple[Any, str]:
    """(kernel coefficients, level of the fall-back: "system", "generation", ..., "global")."""
    choice = kernel_coefficients(system, generation, engine, **kernel_formats(experts, generation))
    return choice.coefficients, choice.level


def load_calibration(
    name: str, hardware: HardwareSpec, engine: EngineSpec, model: ModelSpec
) -> Calibration:
    """The coefficients for one pool: `none` gives the priors of the physics, `default` the packaged fit.

    Raises:
        ConfigError: a path that cannot be read.
    """
    from mist_jax.physics.kernels import default_coefficients
    from mist_jax.physics.step_energy import default_energy_coefficients

    step, energy = default_step_coefficients(), default_energy_coefficients()
    if name == "none":
        return Calibration(kernels=default_coefficients(), step=step, energy=energy)
    if name != "default":
        found = "is a file, but files cannot be read yet" if Path(name).exists() else "there is no such file"
        raise ConfigError(f"calibration: got '{name}'{nearest(name, CHOICES)}; {found}; allowed: {', '.join(CHOICES)}")
    kernels, _ = packaged_kernels(hardware.id, hardware.generation, engine.name, expert_format(model))
    return Calibration(kernels=kernels, step=step, energy=energy)


def expert_format(model: ModelSpec) -> str | None:
    """Storage format of the experts: what the description asks for, else what the checkpoint says."""
    asked = model.precision.experts or model.precision.weights
    if asked is not None or model.config is None:
        return asked
    from mist_jax.io.huggingface import read_config

    return read_config(model.config)[1].experts


def as_dict(step: Any) -> dict[str, Any]:
    """Field → value of a coefficient pytree."""
    return {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
