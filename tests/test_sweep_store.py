"""Sweeps written as they go: interrupted, on a full disk, in a folder of something else."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.explore.plan import Plan
from mist_jax.explore.sweep import run_boxes

AXES = {
    "hardware": ["h100_sxm", "mi300x"],
    "workload.rate": [0.5, 4.0],
    "parallelism.tp": [1, 2, 3],
    "engine.max_num_batched_tokens": [512, 8192],
}


@pytest.fixture(scope="module")
def scenario() -> mist.Scenario:
    return mist.load(["model=llama3_1_8b", "parallelism=tp1", "hardware=h100_sxm"])


@pytest.fixture(scope="module")
def swept(scenario: mist.Scenario) -> xr.Dataset:
    return mist.sweep(scenario, AXES)


class Flaky:
    """A target that fails after some boxes."""

    def __init__(self, inner: object, after: int) -> None:
        self.inner, self.left = inner, after

    def write(self, box: object, values: object) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.inner.write(box, values)  # type: ignore[attr-defined]


def test_an_interrupted_sweep_continues(
    scenario: mist.Scenario, swept: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mist_jax.explore.store import Store

    folder = tmp_path / "sweep.zarr"
    small = lambda *a, **k: Plan(*a, **{**k, "box_points": 10})  # noqa: E731
    plan = small(scenario, AXES)
    with pytest.raises(KeyboardInterrupt):
        run_boxes(plan, plan.boxes(), Flaky(Store(plan, folder), 3), "threads", lambda _: None)
    store = Store(plan, folder)
    left = [b for b in plan.boxes() if not store.has(b)]
    assert len(left) == len(plan.boxes()) - 3
    import sys

    monkeypatch.setattr(sys.modules["mist_jax.explore.sweep"], "Plan", small)
    evaluated = []
    real = Plan.evaluate
    monkeypatch.setattr(Plan, "evaluate", lambda self, box: evaluated.append(box) or real(self, box))
    ds = mist.sweep(scenario, AXES, store=folder)
    assert sorted(evaluated) == sorted(left)
    for name in ds.data_vars:
        np.testing.assert_array_equal(ds[name].values, swept[name].values, err_msg=str(name))
    opened = xr.open_zarr(folder)
    assert tuple(opened.ttft_s.dims) == tuple(AXES)
    assert opened.ttft_s.attrs["units"] == "s"
    with pytest.raises(ConfigError, match="holds another sweep"):
        mist.sweep(scenario, {**AXES, "workload.rate": [1.0]}, store=folder)
    np.testing.assert_array_equal(xr.open_zarr(folder).ttft_s.values, swept.ttft_s.values)


def test_a_full_disk_leaves_what_was_written(scenario: mist.Scenario, tmp_path: Path) -> None:
    from mist_jax.explore.store import Store

    plan = Plan(scenario, AXES, box_points=10)
    store = Store(plan, tmp_path / "s.zarr")
    first, second = plan.boxes()[:2]
    values = plan.evaluate(first)
    store.write(first, values)

    class Full:
        def __getitem__(self, name: str) -> object:
            raise OSError(28, "No space left on device")

    group, store.group = store.group, Full()
    with pytest.raises(ConfigError, match=r"No space left on device.*intact"):
        store.write(second, values)
    store.group = group
    assert store.has(first)
    assert not store.has(second)


def test_a_disk_that_fills_in_the_middle_loses_nothing(
    scenario: mist.Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing fails in the middle of a box: what to do is said, and the completed store is that of a whole sweep,
    file by file."""
    small = lambda *a, **k: Plan(*a, **{**k, "box_points": 4})  # noqa: E731
    monkeypatch.setattr("mist_jax.explore.sweep.Plan", small)
    axes = {"workload.rate": [0.5, 1.0, 1.5, 2.0], "workload.isl": [100.0, 200.0, 300.0, 400.0]}
    full, whole = tmp_path / "full", tmp_path / "whole"
    mist.sweep(scenario, axes, store=whole)
    left = [0]

    async def fails(self: Any, key: str, value: Any, *rest: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        await put(self, key, value, *rest, **more)

    put = LocalStore.set
    with monkeypatch.context() as patch:
        left[0] = 110  # of some 170 files
        patch.setattr(LocalStore, "set", fails)
        with pytest.raises(
            ConfigError, match=r"full .*No space left.*intact.*free some space.*same sweep again"
        ):
            mist.sweep(scenario, axes, store=full)
    before = {p: p.read_bytes() for p in full.rglob("c/*") if p.is_file()}
    assert before
    mist.sweep(scenario, axes, store=full)
    assert all(p.read_bytes() == content for p, content in before.items())
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(full) for p in full.rglob("*") if p.is_file())
    assert all((whole / f).read_bytes() == (full / f).read_bytes() for f in files)


def test_a_folder_of_something_else_is_refused(scenario: mist.Scenario, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no zarr group"):
        mist.sweep(scenario, {"workload.rate": [1]}, store=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
