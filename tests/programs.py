"""Deployments for tests, straight from the YAMLs, and programs that are compiled once for all tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import yaml

from mist_jax import build, schema
from mist_jax.calibrations import load_calibration
from mist_jax.paths import conf_dir
from mist_jax.physics.memory import memory_use
from mist_jax.physics.operators import OPERATORS
from mist_jax.physics.step import STEP_PARTS, step_time
from mist_jax.programs import Effort, options
from mist_jax.queueing import steady
from mist_jax.queueing.root import Form, written_as
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System, Workload

MODELS = tuple(sorted(p.stem for p in (conf_dir() / "model").glob("*.yaml")))
HARDWARE = tuple(sorted(p.stem for p in (conf_dir() / "hardware").glob("*.yaml")))


@cache
def spec(group: str, name: str) -> Any:
    """One option of `conf/`, validated."""
    classes = {"model": schema.ModelSpec, "hardware": schema.HardwareSpec, "engine": schema.EngineSpec}
    mapping = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
    return schema.parse(classes[group], mapping, group)


def make_system(
    model: str = "llama3_1_8b",
    hardware: str = "h100_sxm",
    *,
    tp: float = 1,
    pp: float = 1,
    dp: float = 1,
    ep: float = 1,
    precision: dict[str, Any] | None = None,
    **engine: Any,
) -> System:
    """One uncalibrated replica with float64 leaves."""
    from dataclasses import replace

    model_spec = spec("model", model)
    if precision:
        model_spec = replace(model_spec, precision=replace(model_spec.precision, **precision))
    engine_spec = replace(spec("engine", "vllm"), **engine)
    chip = spec("hardware", hardware)
    numbers = build.build_model(model_spec)
    parallel = build.build_parallel(schema.ParallelismSpec(tp=tp, pp=pp, dp=dp, ep=ep), numbers)
    system = System(
        hardware=build.build_hardware(chip),
        model=numbers,
        parallel=parallel,
        engine=build.build_engine(engine_spec, chip, parallel),
        calibration=load_calibration("none", chip, engine_spec, model_spec),
    )
    return build.as_float64(system)


def make_workload(
    isl: float = 1024,
    osl: float = 256,
    concurrency: float = 16,
    rate: float = 1,
    isl_cv: float = 0,
    osl_cv: float = 0,
) -> Workload:
    """A workload with float64 leaves."""
    return build.as_float64(
        Workload(isl=isl, osl=osl, concurrency=concurrency, rate=rate, isl_cv=isl_cv, osl_cv=osl_cv)
    )


def make_batch(
    prefill: float = 0.0,
    past: float = 0.0,
    decode: float = 0.0,
    context: float = 0.0,
    seqs: float | None = None,
    emitting: float | None = None,
) -> Batch:
    """A batch with float64 leaves; prompts (`seqs`) default to one, and all of them finish."""
    seqs = float(prefill > 0) if seqs is None else seqs
    return build.as_float64(
        Batch(
            prefill_tokens=prefill,
            prefill_seqs=seqs,
            prefill_past=past,
            decode_seqs=decode,
            decode_context=context,
            emitting_prefills=seqs if emitting is None else emitting,
        )
    )


def quick(function: Any) -> Any:
    """`jit` that compiles fast and does not optimize: the tests call each program a few thousand times."""
    return jax.jit(function, compiler_options=options(Effort.LEAST))


def compact(function: Any) -> Any:
    """`quick` for values alone: one copy of the step instead of three, which takes half as long to compile.

    That the forms give the same numbers is checked where gradients are (`test_gradients`): values, to 1e-9; and that
    products in one call take the same time in `test_step`.
    """

    def written(*args: Any) -> Any:
        with written_as(Form.SHORT):
            return function(*args)

    return quick(written)


class Counted:
    """A jitted function (`compact`) that counts how often it was traced."""

    def __init__(self, function: Any) -> None:
        self.traces = 0

        def traced(*args: Any) -> Any:
            self.traces += 1
            return function(*args)

        self.program = compact(traced)

    def __call__(self, *args: Any) -> Any:
        return jax.tree.map(np.asarray, self.program(*args))


step = Counted(step_time)
memory = Counted(memory_use)
closed = Counted(steady.closed_loop)
opened = Counted(steady.open_loop)


def operators(system: System, batch: Batch) -> dict[str, dict[str, float]]:
    """{operator: {seconds, flops, bytes, sent}} of one iteration, and `host` with its seconds."""
    out = step(system, batch)
    table = {
        name: {f: float(getattr(out, f)[i]) for f in ("flops", "bytes", "sent")}
        for i, name in enumerate(OPERATORS)
    }
    for i, name in enumerate(STEP_PARTS):
        table.setdefault(name, {})["seconds"] = float(out.by_operator[i])
    return table
