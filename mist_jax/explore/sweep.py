"""`sweep`: every combination of some axes, evaluated in one compiled program, as one labelled dataset."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.compose import require_scenario
from mist_jax.errors import ConfigError, Status
from mist_jax.explore.groups import section_of
from mist_jax.explore.plan import WORKERS, Box, Plan, status_text
from mist_jax.intervals import LEVEL
from mist_jax.schema import Scenario

if TYPE_CHECKING:
    import xarray as xr  # where a result is labelled: three quarters of a second that XLA's compiler can hide

    from mist_jax.explore.pipeline_plan import PipelinePlan


def sweep(
    scenario: Scenario,
    axes: Mapping[str, Any],
    *,
    variables: Any = None,
    store: str | Path | None = None,
    executor: str | Any = "threads",
    progress: bool | None = None,
    dtype: Any = np.float64,
    config_dir: str | Path | None = None,
    intervals: bool = False,
) -> xr.Dataset:
    """Steady state of every combination of `axes`.

    Args:
        scenario: what the axes vary.
        axes: dotted path of a number or text, or a group → values. Numbers may be quantities ("2 TB/s"); a group
            (`hardware`, `model`, `parallelism`, `engine`, `workload`, `slo`, `prefill`, `hardware@prefill.hardware`,
            ...) replaces its section, and dotted paths apply after it. `hardware`, `model`, `parallelism` and `engine`
            of a pipeline's client are groups too: `pipeline.clients.encoder.hardware`.
        variables: names to keep; default: all scalars. `breakdown_s` and `power_share_w` must be named.
        store: a zarr folder to write to as boxes finish. One that holds part of the same sweep is completed.
        executor: "threads"; "dask" for a local cluster of two processes (in a script, under `if __name__ ==
            "__main__"`); the address of a Dask scheduler, whose workers see the same `store`; or a Dask client.
        progress: show a bar; default: on a terminal.
        dtype: float64, or float32 for half the memory and two thirds of the time; its figures differ by less than
            2e-6 / (1 - load), numbers of blocks by one. Of pipelines it halves the memory alone; closed loops then
            differ by less than 1e-4.
        config_dir: a folder of your own with further options.
        intervals: add 80 % intervals (`ttft_s_low`, `ttft_s_high`, ...) and `calibration_label`. For closed loops that
            costs next to nothing; for open ones two further sweeps, or a few, at scaled rates (in memory, also where
            there is a `store`). Of pipelines, those of `pipelines.intervals`: two further steady states of every pool,
            two further loops where they are closed.

    Returns:
        Dataset with the axes as dimensions, in the order given; every variable has `units` and `long_name`.
        `status` holds `mist_jax.Status` codes; figures of points that cannot work (memory, parallelism, context)
        are NaN. An unstable load keeps its figures at the limit, as in `evaluate`.

    Raises:
        ConfigError: an axis or a value that cannot be; a `store` that holds another sweep or cannot be written.

    With a pipeline of stages (in `scenario`, or the axis `pipeline`) there are further variables along `stage`, NaN
    where a pipeline has no such stage, and a point that a client cannot keep up with is unstable without figures.

    Named in `variables`, `elasticity` and `utilization` of a pipeline have the dimensions `client` and `resource`,
    `breakdown_s` and `power_share_w` the dimension `client` too, NaN where that is no LLM pool.

    Range: that of `evaluate`. Not covered: playback of traces.
    """
    options = {"variables": variables, "dtype": dtype, "config_dir": config_dir}
    pipelines = _pipeline_plan(scenario, axes, {**options, "intervals": intervals})
    plan = pipelines or Plan(scenario, axes, **options)
    boxes = plan.boxes()
    if store is not None:
        from mist_jax.explore.store import Store

        target: Any = Store(plan, Path(store))
        boxes = [b for b in boxes if not target.has(b)]
    else:
        target = _InMemory(plan)
    with _bar(plan, sum(_count(b) for b in boxes), progress) as advance:
        run_boxes(plan, boxes, target, executor, advance)
    ds = labelled(plan, target.finish())
    if not intervals:
        return ds
    known = set(ds)
    if pipelines is not None:
        ds = pipelines.with_reach(ds)
    else:
        from mist_jax.explore.sweep_intervals import add_sweep_intervals

        def at_rates(other: Scenario, changed: Mapping[str, Any] | None) -> xr.Dataset:
            kept = ("ttft_s", "tpot_s", "status")
            new = {name: (changed or {}).get(name, values) for name, values in axes.items()}
            return sweep(
                other,
                new,
                variables=kept,
                executor=executor,
                progress=False,
                dtype=dtype,
                config_dir=config_dir,
            )

        ds = add_sweep_intervals(ds, scenario, plan.axes, plan.config_dir, at_rates)
    if store is not None:
        target.add({name: ds[name] for name in ds if name not in known}, {"interval_level": LEVEL})
    return ds


def _pipeline_plan(
    scenario: Scenario, axes: Mapping[str, Any], options: dict[str, Any]
) -> PipelinePlan | None:
    """The plan of a sweep over pipelines of stages, if this is one."""
    require_scenario(scenario)
    named = [str(a) for a in axes] if isinstance(axes, Mapping) else []
    if not scenario.pipeline.stages and not any(a == "pipeline" or "pipeline." in a for a in named):
        return None
    from mist_jax.explore.pipeline_plan import PipelinePlan

    return PipelinePlan(scenario, axes, **options)


class _InMemory:
    """Results in arrays of the full size."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arrays = {n: np.empty((*plan.shape, *plan.tail_of(n)), plan.dtype_of(n)) for n in plan.variables}

    def write(self, box: Box, values: dict[str, np.ndarray]) -> None:
        where = tuple(slice(a, b) for a, b in box)
        for name, value in values.items():
            self.arrays[name][where] = value

    def finish(self) -> dict[str, Any]:
        return self.arrays


def run_boxes(
    plan: Plan, boxes: list[Box], target: Any, executor: Any, advance: Callable[[int], None]
) -> None:
    """Evaluate `boxes` and write them to `target`; what has been written stays if one fails."""
    if not boxes:
        return
    if executor != "threads":
        from mist_jax.explore.dask_executor import run_on_dask

        run_on_dask(plan, boxes, target, executor, advance)
        return
    plan.prepare()  # once, here, not by both workers
    if len(boxes) == 1:
        target.write(boxes[0], plan.evaluate(boxes[0]))
        advance(_count(boxes[0]))
        return
    lock = threading.Lock()

    def work(box: Box) -> Box:
        values = plan.evaluate(box)
        with lock:
            target.write(box, values)
        return box

    with ThreadPoolExecutor(WORKERS) as pool:
        todo = iter(boxes)
        running: set[Future[Box]] = {pool.submit(work, b) for _, b in zip(range(WORKERS), todo)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    advance(_count(future.result()))
                    following = next(todo, None)
                    if following is not None:
                        running.add(pool.submit(work, following))
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _count(box: Box) -> int:
    return int(np.prod([b - a for a, b in box]))


@contextmanager
def _bar(plan: Plan, todo: int, progress: bool | None) -> Any:
    """A bar on standard error; silent where that is no terminal."""
    if progress is None:
        progress = sys.stderr.isatty() and todo > plan.bar_from
    if not progress:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("sweep", total=plan.points, completed=plan.points - todo)
        yield lambda n: bar.advance(task, n)


def labelled(plan: Plan, data: dict[str, Any]) -> xr.Dataset:
    """Arrays as a dataset: the axes as coordinates, units, and what was swept as attributes."""
    import xarray as xr

    from mist_jax.evaluate import describe

    coords: dict[str, Any] = {
        a.name: (a.name, a.coordinate, {"units": a.units} if a.units else {}) for a in plan.axes
    }
    coords |= plan.coords
    ds = xr.Dataset({n: (plan.dims_of(n), v, plan.attrs_of(n)) for n, v in data.items()}, coords=coords)
    ds["status"].attrs["meanings"] = status_text()
    varied = {(section_of(a.name) or a.name).split(".")[0] for a in plan.axes}
    ds.attrs.update({k: v for k, v in describe(plan.scenario).items() if k not in varied})
    problems = plan.problems(ds["status"])
    if problems:
        ds.attrs["problems"] = problems
    return ds


def count_status(ds: xr.Dataset) -> dict[str, int]:
    """How many points of a sweep have which status, by the status's text."""
    codes, counts = np.unique(np.asarray(ds["status"]), return_counts=True)
    return {Status(int(c)).text: int(n) for c, n in zip(codes, counts, strict=True)}


def require_some(ds: xr.Dataset) -> None:
    """Raises ConfigError if no point of a sweep works, with what is wrong and how often."""
    counts = count_status(ds)
    if Status.OK.text not in counts:
        why = "; ".join(f"{n} {text}" for text, n in counts.items())
        raise ConfigError(f"sweep: none of the {ds['status'].size} points works: {why}")
