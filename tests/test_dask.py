"""Sweeps on a Dask cluster over loopback: equal to the local ones; lost workers and drivers lose nothing.

Every test starts worker processes that import and trace the model, so they run with `-m slow`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.explore import block, dask_executor
from mist_jax.explore.dask_executor import run_on_dask
from mist_jax.explore.plan import Plan
from mist_jax.explore.store import Store
from mist_jax.explore.sweep import run_boxes

distributed = pytest.importorskip("distributed", reason="dask is an extra: pip install 'mist-jax[dask]'")
# warnings of Dask's own threads and of killed processes are not ours
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BASE = ["model=llama3_1_8b", "parallelism=tp1"]
AXES = {
    "hardware": ["h100_sxm", "l4"],
    "workload.rate": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
    "workload.isl": [128, 512, 1024],
}
BOX = 2
#: A driver that sweeps in boxes of two points until it is killed.
DRIVER = f"""
import importlib, sys
import mist_jax as mist
from mist_jax.explore import block, plan
sweep = importlib.import_module("mist_jax.explore.sweep")
block.choose_shape = lambda *_: (64, 1)
sweep.Plan = lambda *a, **k: plan.Plan(*a, **{{**k, "box_points": {BOX}}})
mist.sweep(mist.load({BASE!r}), {AXES!r}, executor=sys.argv[1], store=sys.argv[2], progress=False)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two worker processes."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 points and boxes of two, in the driver; plans take both along to the workers."""
    monkeypatch.setattr(block, "choose_shape", lambda *_: (64, 1))
    small = lambda *a, **k: Plan(*a, **{**k, "box_points": BOX})  # noqa: E731
    monkeypatch.setattr(sys.modules["mist_jax.explore.sweep"], "Plan", small)


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(BASE)


@pytest.fixture(scope="module")
def local(scenario: mist.Scenario) -> xr.Dataset:
    """The sweep in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "choose_shape", lambda *_: (64, 1))
        return mist.sweep(scenario, AXES)


def _same(a: xr.Dataset, b: xr.Dataset) -> None:
    for name in b.data_vars:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


def test_equal_to_the_local_sweep(client: Any, scenario: mist.Scenario, local: xr.Dataset) -> None:
    _same(mist.sweep(scenario, AXES, executor=client), local)


def test_a_killed_worker_loses_nothing(
    client: Any, scenario: mist.Scenario, local: xr.Dataset, tmp_path: Path
) -> None:
    plan = Plan(scenario, AXES, box_points=BOX)
    assert len(plan.boxes()) >= 12
    store = Store(plan, tmp_path / "s.zarr")
    done: list[int] = []
    client.wait_for_workers(2)
    victim = next(iter(client.run(os.getpid).values()))

    def advance(points: int) -> None:
        done.append(points)
        if len(done) == 3:
            os.kill(victim, signal.SIGKILL)

    run_on_dask(plan, plan.boxes(), store, client, advance)
    assert sum(done) == plan.points  # each box once
    assert all(store.has(b) for b in plan.boxes())
    _same(xr.open_zarr(tmp_path / "s.zarr"), local)


def test_a_killed_driver_loses_nothing(
    client: Any,
    scenario: mist.Scenario,
    local: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "s.zarr"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    address = client.scheduler.address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address, str(folder)], env=environment)
    status = folder / "status" / "c"
    try:
        limit = time.monotonic() + 120
        while not (status.is_dir() and any(p.is_file() for p in status.rglob("*"))):
            assert driver.poll() is None, "the driver ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == -signal.SIGKILL
    # the scheduler forgets the tasks of a lost client; those under way are finished
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        time.sleep(0.05)
    while any(client.run(lambda dask_worker: len(dask_worker.state.executing)).values()):
        time.sleep(0.05)
    written = {p: p.stat().st_mtime_ns for p in status.rglob("*") if p.is_file()}
    assert written
    evaluated: list[Any] = []
    real = dask_executor._run
    monkeypatch.setattr(
        dask_executor, "_run", lambda c, p, boxes, *rest: evaluated.extend(boxes) or real(c, p, boxes, *rest)
    )
    _same(mist.sweep(scenario, AXES, executor=client, store=folder), local)
    assert evaluated
    assert len(evaluated) == len(Plan(scenario, AXES, box_points=BOX).boxes()) - len(written)
    assert all(p.stat().st_mtime_ns == at for p, at in written.items())  # and none a second time


@pytest.mark.parametrize("first", ["threads", "dask"])
def test_one_executor_completes_what_another_began(
    client: Any, scenario: mist.Scenario, local: xr.Dataset, tmp_path: Path, first: str
) -> None:
    executors = {"threads": "threads", "dask": client}
    plan = Plan(scenario, AXES, box_points=BOX)
    store = Store(plan, tmp_path / "s.zarr")
    run_boxes(plan, plan.boxes()[:5], store, executors.pop(first), lambda _: None)
    status = tmp_path / "s.zarr" / "status" / "c"
    written = {p: p.stat().st_mtime_ns for p in status.rglob("*") if p.is_file()}
    assert len(written) == 5
    _same(mist.sweep(scenario, AXES, executor=executors.popitem()[1], store=tmp_path / "s.zarr"), local)
    assert all(p.stat().st_mtime_ns == at for p, at in written.items())  # none a second time


def test_a_worker_with_other_numbers_is_refused(client: Any, scenario: mist.Scenario) -> None:
    plan = Plan(scenario, AXES, box_points=BOX)
    plan.fingerprint = "another"
    with pytest.raises(ConfigError, match="another version of mist_jax or another calibration"):
        run_on_dask(plan, plan.boxes()[:1], None, client, lambda _: None)


def test_an_address_that_nobody_answers(scenario: mist.Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    real = distributed.Client
    monkeypatch.setattr(
        "dask.distributed.Client",
        type("Quick", (real,), {"__init__": lambda self, a, timeout: real.__init__(self, a, timeout=1)}),
    )
    with pytest.raises(ConfigError, match=r"cannot reach 'tcp://127.0.0.1:9'"):
        mist.sweep(scenario, AXES, executor="tcp://127.0.0.1:9")
