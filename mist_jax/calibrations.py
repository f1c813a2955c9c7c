"""Which calibration a deployment gets: packaged, none, or a person's file; with documented fall-backs.

Kernels are chosen as `catalog_loader` says: the chip's own fit, its generation's, the mean over all chips. The
coefficients of the engine around the kernels (`catalog/step.json`) are sums of offsets over levels: global, engine,
version family, generation, system, number formats, model (`step_coefficients`). What was never measured contributes
nothing, so an unseen engine, chip or model gets the best of the rest. `calibration_label` says which of these it is:

    calibrated     the system, the model and the engine were all measured (not necessarily together)
    extrapolated   the system and the engine were measured, the model was not
    physics-only   the system was not measured end to end, or `calibration=none`
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax.catalog_loader import KERNEL_GENERATION, kernel_coefficients
from mist_jax.errors import ConfigError
from mist_jax.expert_kernels import exchanged_experts, runs_triton, triton_experts
from mist_jax.schema import EngineSpec, HardwareSpec, ModelSpec
from mist_jax.step_coefficients import COEFFICIENTS, values
from mist_jax.system.calibration import Calibration, default_step_coefficients

LABELS = ("calibrated", "extrapolated", "physics-only")


def kernel_formats(experts: str | None, generation: str | None, weights: str | None = None) -> dict[str, str]:
    """Storage formats that the kernels have to be picked for, where a compute precision has several.

    mxfp4 experts (gpt-oss): 16-bit activations up to Hopper, 8-bit ones on Blackwell's tensor cores (OpenAI,
    "gpt-oss model card", 2025; vLLM's and TensorRT-LLM's MXFP4 back ends). int4 experts compute in 16 bits.
    """
    if experts == "fp8":
        # the public fp8 checkpoints of such models (DeepSeek, Qwen, MiniMax, GLM) have scales of 128 x 128 blocks
        return {"expert_format": "fp8_block"} | ({"gemm_format": "fp8_block"} if weights == "fp8" else {})
    if experts == "mxfp4":
        new = (generation or "").startswith("blackwell") or generation in ("cdna4",)
        return {"expert_format": "w4a8_mxfp4_mxfp8" if new else "w4a16_mxfp4"}
    if experts == "int4":
        return {"expert_format": "int4_wo"}
    return {}


@functools.lru_cache(maxsize=256)
def packaged_kernels(
    system: str | None,
    generation: str | None,
    engine: str,
    experts: str | None,
    weights: str | None = None,
    dp: float = 1.0,
) -> tuple[Any, str]:
    """(kernel coefficients, level of the fall-back: "system", "generation", ..., "global").

    Args:
        experts: storage format of routed experts; None: the model has none.
        weights: storage format of the dense products.
        dp: attention-DP ranks.
    """
    formats = kernel_formats(experts, generation, weights)
    choice = kernel_coefficients(system, generation, engine, **formats)
    moe = exchanged_experts(choice.coefficients.moe, generation, engine, experts, dp)
    return dataclasses.replace(choice.coefficients, moe=moe), choice.level


@functools.cache
def _runs() -> dict[str, Any]:
    source = resources.files("mist_jax").joinpath("catalog/runs.json")
    return json.loads(source.read_text(encoding="utf-8"))["runs"] if source.is_file() else {}


def logged_runs(system: str | None, engine: str) -> dict[str, Any] | None:
    """What logged runs of this engine on this chip tell (`catalog/runs.json`): {"offsets": ..., "models": ...}.

    For a chip that no serving benchmark has and whose kernels were timed, a few coefficients fitted to request logs on
    top of the priors predict better than the mean of other chips' serving benchmarks (calibration/RUNS.md). None: no
    run.
    """
    return _runs().get(f"{system}|{engine}")


@functools.cache
def packaged_step() -> dict[str, Any]:
    """The packaged end-to-end fit (`mist_jax/catalog/step.json`); empty if there is none."""
    source = resources.files("mist_jax").joinpath("catalog/step.json")
    return json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}


def step_offsets(fitted: Mapping[str, Any], keys: Mapping[str, str | None]) -> np.ndarray:
    """Sum over levels of the offsets of one deployment, [len(COEFFICIENTS)]; unknown keys contribute 0.

    Args:
        fitted: coefficient → level → key → offset.
        keys: level → key of the deployment ("global" is "all").
    """
    full = {"global": "all", **keys}
    return np.array(
        [
            sum(
                float(entries.get(full.get(level) or "", 0.0))
                for level, entries in fitted.get(c.name, {}).items()
            )
            for c in COEFFICIENTS
        ]
    )


def level_keys(hardware: HardwareSpec, engine: EngineSpec, model: ModelSpec) -> dict[str, str | None]:
    """The keys of a deployment at each level of the hierarchy."""
    formats = model_formats(model)
    version = ".".join((engine.version or "").lstrip("v").split(".")[: 3 if engine.name == "sglang" else 2])
    return {
        "engine": engine.name,
        "family": f"{engine.name}|{version}" if version else None,
        "generation": KERNEL_GENERATION.get(hardware.generation or "", hardware.generation),
        "system": hardware.id,
        "weights": formats[0],
        "experts": formats[1],
        "model": model.id,
    }


def model_formats(model: ModelSpec) -> tuple[str | None, str | None]:
    """Storage formats of (weights, experts): what the description asks for, else what the checkpoint says."""
    weights, experts = model.precision.weights, model.precision.experts
    if model.config is not None and (weights is None or experts is None):
        from mist_jax.io.huggingface import read_config

        checkpoint = read_config(model.config)[1]
        experts = experts or weights or checkpoint.experts
        weights = weights or checkpoint.ffn
    return weights, experts or weights


def has_experts(model: ModelSpec) -> bool:
    """Whether the model routes tokens to experts."""
    if model.config is not None:
        from mist_jax.io.huggingface import read_config

        return read_config(model.config)[0].experts > 0
    return bool((model.architecture or {}).get("experts"))


def load_calibration(
    name: str, hardware: HardwareSpec, engine: EngineSpec, model: ModelSpec, dp: float = 1.0
) -> Calibration:
    """The coefficients for one pool: `none` gives the priors of the physics, `default` the packaged fit, and a path
    a file that `mist-jax mode=calibrate` wrote, whose offsets add to the packaged ones. `dp`: attention-DP ranks.

    Raises:
        ConfigError: a path that cannot be read.
    """
    from mist_jax.energy_catalog import energy_coefficients
    from mist_jax.physics.kernels import default_coefficients
    from mist_jax.physics.step_energy import default_energy_coefficients
    from mist_jax.vendor_catalog import for_chip

    energy = default_energy_coefficients()
    if name == "none":
        return Calibration(kernels=default_coefficients(), step=default_step_coefficients(), energy=energy)
    own = {} if name == "default" else read_calibration(name)
    weights, experts = model_formats(model)
    routed = experts if has_experts(model) else None
    kernels, level = packaged_kernels(hardware.id, hardware.generation, engine.name, routed, weights, dp)
    if runs_triton(hardware, engine, routed, dp):
        kernels = dataclasses.replace(kernels, moe=triton_experts(kernels.moe))
    logged = logged_runs(hardware.id, engine.name)
    if own.get("base") == "priors":
        offsets = np.zeros(len(COEFFICIENTS))
    elif logged:
        offsets = np.array([float(logged["offsets"].get(c.name, 0.0)) for c in COEFFICIENTS])
    else:
        offsets = step_offsets(packaged_step().get("offsets", {}), level_keys(hardware, engine, model))
    step = values(offsets, np)
    energy = dataclasses.replace(energy_coefficients(hardware)[0], **own.get("energy", {}))
    calibration = Calibration(kernels=kernels, step=step, energy=energy)
    calibration = for_chip(calibration, hardware, level, default_step_coefficients())
    added = own.get("offsets", {})
    if not added:
        return calibration
    # a person's offsets move the coefficients by the same factor wherever those come from
    moved = values(offsets + np.array([float(added.get(c.name, 0.0)) for c in COEFFICIENTS]), np)
    fields = {
        c.name: getattr(calibration.step, c.name) * getattr(moved, c.name) / getattr(step, c.name)
        for c in COEFFICIENTS
        if c.name in added
    }
    return dataclasses.replace(calibration, step=dataclasses.replace(calibration.step, **fields))


def read_calibration(path: str) -> dict[str, Any]:
    """A calibration file: {"offsets": {coefficient: offset}, ...}; with "base": "priors" they add to the priors, not to
    the packaged ones.

    Raises:
        ConfigError: no such file, not JSON, or unknown coefficients.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"calibration: got {path!r}; allowed: default, none, or the path of a calibration file"
        ) from None
    except ValueError as exc:
        raise ConfigError(f"calibration: {path} is not JSON: {exc}") from None
    known = {c.name for c in COEFFICIENTS}
    strange = set(content.get("offsets", {})) - known
    if "offsets" not in content or strange:
        raise ConfigError(
            f"calibration: {path} has no `offsets`"
            if not strange
            else f"calibration: {path} holds unknown coefficients {sorted(strange)}"
        )
    return content


def calibration_label(name: str, hardware: HardwareSpec, engine: EngineSpec, model: ModelSpec) -> str:
    """How far the calibration reaches this deployment: one of `LABELS`."""
    logged = logged_runs(hardware.id, engine.name)
    if logged and name != "none":
        return "calibrated" if model.id in logged["models"] else "extrapolated"
    measured = packaged_step().get("measured", {})
    if name == "none" or hardware.id not in measured.get("system", ()):
        return "physics-only"
    seen = engine.name in measured.get("engine", ()) and model.id in measured.get("model", ())
    return "calibrated" if seen else "extrapolated"


def interval(label: str, mode: str, engine: str, waits: bool) -> dict[str, tuple[float, float]]:
    """Factors (low, high) on TTFT and TPOT that hold 80 % of held-out measurements: {"ttft": ..., "tpot": ...}.

    From residuals of the cross-validation: by label, mode ("agg" or "disagg"), engine where it has its own, and whether
    requests wait for memory or slots. Empty without a packaged fit.
    """
    table = packaged_step().get("intervals", {})
    if not table:
        return {}
    regime = f"{mode}|waits" if waits else mode
    for key in (f"{label}|{regime}|{engine}", f"{label}|{regime}", f"{label}|{mode}", label):
        if key in table:
            return {t: (float(np.exp(v[0])), float(np.exp(v[1]))) for t, v in table[key].items()}
    return {}
