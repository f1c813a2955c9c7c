"""The jobs of a Hydra multirun as one sweep."""

from __future__ import annotations

import importlib
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax import schema
from mist_jax.application import start_jax
from mist_jax.compose import name_groups, set_path
from mist_jax.errors import ConfigError
from mist_jax.explore.ahead import compile_for_few
from mist_jax.explore.axes import Axis, _field
from mist_jax.explore.deployments import is_direct
from mist_jax.explore.hydra_sweeper import CHOICES, JobTable, Swept
from mist_jax.explore.jobs import JobsPlan
from mist_jax.explore.sweep import _InMemory, labelled, run_boxes
from mist_jax.io.netcdf import write_netcdf
from mist_jax.programs import COMPILING, Effort
from mist_jax.schema import Scenario, parse_scenario
from mist_jax.units import DIMENSIONS

if TYPE_CHECKING:
    import xarray as xr

    from mist_jax.explore.pipeline_plan import JobsPipelinePlan


def run_jobs(table: JobTable) -> xr.Dataset:
    """Evaluate all jobs; the swept keys are the dimensions, in the order of the command line.

    Raises:
        ConfigError: a value that the description does not allow.
    """
    start_jax()
    firsts = [_scenario(table, choice) for choice in table.composed]
    axes = [_axis(s) for s in table.swept]
    direct = [
        i
        for i, (s, a) in enumerate(zip(table.swept, axes, strict=True))
        if not s.group and all(_is_direct(a, scenario) for scenario in firsts)
    ]
    listed = [i for i in range(len(axes)) if i not in direct]
    plain = [i for i in listed if not table.swept[i].group]
    scenarios = []
    for index in itertools.product(*(range(axes[i].size) for i in listed)):
        at = dict(zip(listed, index, strict=True))
        choice = tuple(at[i] for i in listed if table.swept[i].group)
        base = firsts[list(table.composed).index(choice)]
        changes = {table.swept[i].key: table.swept[i].values[at[i]] for i in plain}
        scenarios.append(_changed(base, changes) if changes else base)
    plan = _plan(scenarios, tuple(axes[i] for i in direct))
    target = _InMemory(plan)
    with ThreadPoolExecutor(1) as beside:
        beside.submit(_load_writers)
        try:
            run_boxes(plan, plan.boxes(), target, "threads", lambda _: None)
        finally:
            COMPILING.set()  # everything was compiled before, or something failed
    sizes = [axes[i].size for i in (*listed, *direct)]
    order = np.argsort([*listed, *direct])
    data = {}
    for name, v in target.finish().items():
        tail = v.shape[1 + len(direct) :]
        data[name] = v.reshape(*sizes, *tail).transpose(*order, *range(len(sizes), len(sizes) + len(tail)))
    plan.axes = tuple(axes)
    return labelled(plan, data)


def scenarios_of(table: JobTable) -> list[Scenario]:
    """The first job's scenario, and one with each further option of the swept groups."""
    return [_scenario(table, choice) for choice in table.composed if np.count_nonzero(choice) <= 1]


def _is_direct(axis: Axis, scenario: Scenario) -> bool:
    """Whether an axis is a plain number of every point."""
    if not scenario.pipeline.stages:
        return is_direct(axis, scenario)
    from mist_jax.explore.pipeline_plan import DIRECT

    return axis.numeric and axis.name in DIRECT


def _plan(scenarios: list[Scenario], axes: tuple[Axis, ...]) -> JobsPlan | JobsPipelinePlan:
    if not any(s.pipeline.stages for s in scenarios):
        return JobsPlan(scenarios, axes)
    from mist_jax.explore.pipeline_plan import JobsPipelinePlan

    return JobsPipelinePlan(scenarios, axes)


def _load_writers() -> None:
    """Import what writes and prints the result while XLA compiles, which leaves the interpreter alone.

    xarray looks for a dozen packages when it first writes a file.
    """
    COMPILING.wait()
    importlib.import_module("mist_jax.report.sweep_tables")
    import xarray as xr

    with tempfile.TemporaryDirectory() as folder:
        write_netcdf(xr.Dataset({"x": ("y", [0.0])}), Path(folder) / "x.nc")


def compile_ahead(table: JobTable, choice: tuple[int, ...]) -> None:
    """Compile what the jobs will most likely run, from the one config that is composed: that of `choice`.

    For a thread beside the composition of the others: XLA leaves the interpreter to it. Nothing is compiled where a
    value of an axis or that config is wrong; that is reported by `run_jobs`.
    """
    start_jax()
    try:
        for swept in table.swept:
            _axis(swept)
        scenario = _scenario(table, choice)
    except ConfigError:
        return
    # programs for many points depend on all the models
    if not scenario.pipeline.stages and JobsPlan.effort_for(len(table)) is Effort.LEAST:
        compile_for_few(scenario)


def _scenario(table: JobTable, choice: tuple[int, ...]) -> Scenario:
    from omegaconf import OmegaConf

    config = table.composed[choice]
    mapping: Any = OmegaConf.to_container(config, resolve=True)
    return parse_scenario(name_groups(mapping, choices=CHOICES.get(id(config))))


def _changed(base: Scenario, changes: dict[str, Any]) -> Scenario:
    import copy

    mapping = {
        k: copy.deepcopy(v) if any(c.startswith(k) for c in changes) else v for k, v in base.config.items()
    }
    for path, value in changes.items():
        set_path(mapping, path, value)
    return parse_scenario(mapping)


def _axis(swept: Swept) -> Axis:
    """The axis of a swept key, every value checked against the schema."""
    if len(set(swept.texts)) < len(swept.texts):
        raise ConfigError(f"{swept.key}: a value occurs twice")
    if swept.group:
        return Axis(swept.key, swept.texts, "", False, True)
    field, hint = _field(swept.key)
    if field is None:
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in swept.values)
        return Axis(swept.key, tuple(map(float, swept.values)) if plain else swept.texts, "", plain, False)
    parsed = tuple(schema._value(v, hint, field.metadata, swept.key) for v in swept.values)
    numeric = "dimension" in field.metadata and all(v is not None for v in parsed)
    units = (DIMENSIONS[field.metadata["dimension"]][0] or "1") if "dimension" in field.metadata else ""
    return Axis(swept.key, parsed, units, numeric, False)
