"""Hydra multirun: one batch, the configs that Hydra composes, wrong keys refused, other sweepers selectable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

import mist_jax as mist
from mist_jax.paths import conf_dir

GRID = [
    "model=llama3_1_8b",
    "hardware=h100_sxm,l4",
    "parallelism.tp=1,3",
    "workload.rate=0.5,2",
    "engine.max_num_batched_tokens=512,'2048'",
    "engine.cuda_graphs=true,false",
]


def _run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "mist_jax", "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("multirun")
    done = _run([*GRID, "hydra.sweep.dir=out"], cwd)
    assert done.returncode == 0, done.stderr
    assert "32 jobs in one batch" in done.stdout
    return cwd / "out"


def test_one_dataset_with_the_swept_keys_as_dimensions(folder: Path) -> None:
    ds = xr.load_dataset(folder / "result.nc")
    assert tuple(ds.ttft_s.dims) == (
        "hardware",
        "parallelism.tp",
        "workload.rate",
        "engine.max_num_batched_tokens",
        "engine.cuda_graphs",
    )
    assert (ds.sel({"parallelism.tp": 3}).status == mist.Status.BAD_PARALLELISM).all()
    assert (ds.sel({"parallelism.tp": 1, "hardware": "h100_sxm"}).status == mist.Status.OK).all()
    again = mist.sweep(
        mist.load(["model=llama3_1_8b"]),
        {
            "hardware": ["h100_sxm", "l4"],
            "parallelism.tp": [1, 3],
            "workload.rate": [0.5, 2],
            "engine.max_num_batched_tokens": [512, 2048],
            "engine.cuda_graphs": [True, False],
        },
    )
    for name in again.data_vars:
        np.testing.assert_allclose(ds[name].values, again[name].values, rtol=1e-9, err_msg=str(name))


def test_configs_are_those_of_one_job_at_a_time(folder: Path) -> None:
    """Byte for byte, for every job."""
    from mist_jax.explore.hydra_sweeper import JobTable, Swept

    jobs = [json.loads(line)["overrides"] for line in (folder / "jobs.jsonl").read_text().splitlines()]
    assert len(jobs) == 32
    assert jobs[1] == [
        "model=llama3_1_8b",
        "hardware=h100_sxm",
        "parallelism.tp=1",
        "workload.rate=0.5",
        "engine.max_num_batched_tokens=512",
        "engine.cuda_graphs=False",
    ]
    composed = {(i,): OmegaConf.load(folder / "configs" / f"{i}.yaml") for i in range(2)}
    swept = [
        Swept("hardware", ("h100_sxm", "l4"), ("h100_sxm", "l4"), True),
        Swept("parallelism.tp", ("1", "3"), (1, 3), False),
        Swept("workload.rate", ("0.5", "2"), (0.5, 2), False),
        Swept("engine.max_num_batched_tokens", ("512", "'2048'"), (512, "2048"), False),
        Swept("engine.cuda_graphs", ("True", "False"), (True, False), False),
    ]
    table = JobTable(["model=llama3_1_8b"], swept, [o.partition("=")[0] for o in jobs[0]], composed)  # type: ignore[arg-type]
    indices = list(table.indices())
    for number in (0, 1, 2, 7, 13, 16, 31):
        assert table.overrides(indices[number]) == jobs[number]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            alone = compose("config", overrides=jobs[number])
        with open_dict(alone):
            alone.pop("hydra", None)
        assert OmegaConf.to_yaml(table.config(indices[number])) == OmegaConf.to_yaml(alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["workload.rat=1,2"], "did you mean 'rate'"),
        (["hardware=h100_sxm,h100_sx"], "did you mean 'h100_sxm'"),
        (["workload.rate=1,many"], "workload.rate: got 'many'"),
        (["workload.rate=1,-1"], "workload.rate: got -1"),
        (["engine.cuda_graphs=true,3"], "engine.cuda_graphs: got 3"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = _run([*arguments, "hydra.sweep.dir=out"], tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "result.nc").exists()


def test_a_finished_multirun_is_not_overwritten(folder: Path) -> None:
    before = (folder / "result.nc").stat().st_mtime_ns
    done = _run(["workload.rate=1,2", f"hydra.sweep.dir={folder}"], folder.parent)
    assert done.returncode == 2
    assert "already holds a result" in done.stderr
    assert (folder / "result.nc").stat().st_mtime_ns == before


@pytest.mark.parametrize(("rate", "ahead"), [(0.4, 1), (-1.0, 0)])
def test_the_program_compiled_beside_composing_is_the_one_that_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rate: float, ahead: int
) -> None:
    """Found or compiled once, ahead; not at all for a bad value."""
    from mist_jax.explore import block, multirun
    from mist_jax.explore.hydra_sweeper import JobTable, Swept
    from mist_jax.kept_programs import Kept

    found: list[str] = []
    find = Kept._find

    def counted(self: Kept, *args: object) -> object:
        found.append(self.name)
        return find(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Kept, "_find", counted)
    monkeypatch.setattr(block, "PROGRAMS", block.Programs())
    swept = [
        Swept("hardware", ("h100_sxm", "l4"), ("h100_sxm", "l4"), True),
        Swept("workload.rate", ("0.5", str(rate)), (0.5, rate), False),
    ]
    first = OmegaConf.load(folder / "configs" / "0.yaml")
    table = JobTable([], swept, ["hardware", "workload.rate"], {(0,): first})  # type: ignore[dict-item]
    multirun.compile_ahead(table, (0,))
    assert len(found) == ahead
    table.composed[(1,)] = OmegaConf.load(folder / "configs" / "1.yaml")  # type: ignore[assignment]
    if ahead:
        assert (multirun.run_jobs(table).status == mist.Status.OK).all()
        assert len(found) == 1
    else:
        with pytest.raises(mist.ConfigError, match="got -1"):
            multirun.run_jobs(table)


@pytest.mark.slow
def test_other_sweepers_still_work(tmp_path: Path) -> None:
    grid = ["hydra/sweeper=basic", "model=llama3_1_8b", "parallelism=tp1", "workload.rate=1,2"]
    done = _run([*grid, "output.plots=false", "hydra.sweep.dir=out"], tmp_path)
    assert done.returncode == 0, done.stderr
    rates = [float(xr.load_dataset(tmp_path / "out" / str(i) / "result.nc").request_rate) for i in range(2)]
    np.testing.assert_allclose(rates, [1, 2], rtol=1e-3)


@pytest.mark.parametrize("extra", [[], pytest.param(["prefill=none,pool"], marks=pytest.mark.slow)])
def test_options_composed_once_each_make_the_configs_that_hydra_composes(
    tmp_path: Path, extra: list[str]
) -> None:
    """Three groups, a number inside a swept section, and one group whose options have a defaults list."""
    fixed = ["engine.max_num_seqs=64", "hardware.power.idle=99"]
    folder = tmp_path / "out"
    grid = ["hardware=h100_sxm,l4", "model=llama3_1_8b,qwen3_32b", "parallelism=tp1,tp2", *extra]
    done = _run([*grid, *fixed, f"hydra.sweep.dir={folder}"], tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = [json.loads(line)["overrides"] for line in (folder / "jobs.jsonl").read_text().splitlines()]
    assert len(jobs) == 8 * 2 ** len(extra)
    for number, overrides in enumerate(jobs):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            alone = compose("config", overrides=overrides)
        with open_dict(alone):
            alone.pop("hydra", None)
        assert (folder / "configs" / f"{number}.yaml").read_text() == OmegaConf.to_yaml(alone), overrides


def test_a_multirun_has_one_report_of_all_its_chips(tmp_path: Path) -> None:
    options = [
        "hardware=h100_sxm,l4",
        "model=llama3_1_8b",
        "parallelism=tp1",
        "report=true",
        "hydra.sweep.dir=out",
    ]
    done = _run(options, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "libtpu" not in done.stdout + done.stderr  # devices that are not there are no news
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name in ("h100_sxm", "l4"):
        chip = mist.load([f"hardware={name}"]).hardware
        assert f"{chip.name}: Device memory" in page


@pytest.mark.slow
def test_pipelines_go_through_the_batch(tmp_path: Path) -> None:
    """One dataset, each job with the numbers that it has by itself, the workload that a pipeline chooses included."""
    done = _run(
        ["pipeline=rag,chat,agentic", "workload.rate=0.3,2", f"hydra.sweep.dir={tmp_path}/m"], tmp_path
    )
    assert "6 jobs in one batch" in done.stdout, done.stderr
    ds = xr.open_dataset(tmp_path / "m" / "result.nc")
    assert dict(ds.status.sizes) == {"pipeline": 3, "workload.rate": 2}
    for name in ("rag", "chat", "agentic"):
        alone = mist.evaluate(mist.load([f"pipeline={name}", "workload.rate=0.3"]))
        at = ds.sel({"pipeline": name, "workload.rate": 0.3})
        for variable in ("ttft_s", "tpot_s", "e2e_s", "cost_per_million_output_tokens_usd", "load"):
            assert float(at[variable]) == pytest.approx(float(alone[variable]), rel=1e-9)
        if "stage" in alone.dims:
            assert at.stage_s.sel(stage=alone.stage).values == pytest.approx(alone.stage_s.values, rel=1e-9)
