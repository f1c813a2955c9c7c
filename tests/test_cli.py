"""The command line in processes of its own: help and composing without JAX, and what a run folder holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

#: What must not be imported before a job runs.
HEAVY = ("jax", "xarray", "numba", "matplotlib", "pandas")
WATCH = f"""
import sys
sys.argv = ["mist-jax", *sys.argv[1:]]
from mist_jax.__main__ import main
try:
    main()
except SystemExit as exc:
    code = exc.code or 0
else:
    code = 0
print("LOADED", *[m for m in {HEAVY!r} if m in sys.modules])
sys.exit(code)
"""


def run(
    *arguments: str, cwd: Path, program: tuple[str, ...] = ("-m", "mist_jax")
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--help",), 0, ("mist-jax", "hardware", "workload")),
        (("--cfg", "job"), 0, ("hardware:", "bandwidth: 3.35 TB/s", "mode: evaluate")),
        (("--cfg", "job", "hardware=mi300x", "workload.rate=12"), 0, ("MI300X", "rate: 12")),
        (("hardware.memory.bandwith=1",), 2, ("did you mean 'bandwidth'",)),
        (("hardware=h100_sx",), 2, ("did you mean 'h100_sxm'",)),
        (("mode=evalute",), 2, ("did you mean 'evaluate'",)),
        (("workload.isl=-4",), 2, ("workload.isl: got -4",)),
    ],
)
def test_answers_without_a_job_import_nothing_heavy(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path, program=("-c", WATCH))
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_help_answers_in_under_a_second(tmp_path: Path) -> None:
    """Processor time, so that the load of the machine does not count."""
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "mist_jax", "--help"], capture_output=True, check=True, cwd=tmp_path
        )
        after = os.times()
        spent.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(spent) < 1.0


def test_package_import_is_light(tmp_path: Path) -> None:
    code = f"import sys, mist_jax; mist_jax.load(); print([m for m in {HEAVY!r} if m in sys.modules])"
    done = run("-c", code, cwd=tmp_path, program=())
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("evaluate")
    small = ("model=llama3_1_8b", "parallelism=tp1", "workload=closed_1k_1k")
    done = run(*small, f"hydra.run.dir={folder}/out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_evaluate_writes_a_labelled_result(evaluated: tuple[Path, str]) -> None:
    folder, shown = evaluated
    with xr.open_dataset(folder / "result.nc") as result:
        for name in ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s", "energy_per_output_token_j"):
            assert float(result[name]) > 0
            assert result[name].attrs["long_name"]
        for name, variable in result.data_vars.items():
            assert "units" in variable.attrs, name
        assert result.attrs["model"] == "Meta-Llama-3.1-8B"
        assert float(result.breakdown_s.sum()) == pytest.approx(float(result.step_s), rel=0.05)
        tpot = float(result.tpot_s)
    assert "TTFT" in shown
    assert "TPOT" in shown
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["values"]["tpot_s"] == pytest.approx(tpot)
    assert summary["units"]["tpot_s"] == "s"
    config = json.loads((folder / "config.json").read_text())
    assert config["hardware"]["id"] == "h100_sxm"
    pictures = sorted(folder.glob("*.png"))
    assert pictures
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_a_second_run_does_not_overwrite(evaluated: tuple[Path, str]) -> None:
    folder, _ = evaluated
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()}
    done = run("model=llama3_1_8b", "parallelism=tp1", f"hydra.run.dir={folder}", cwd=folder)
    assert done.returncode == 2
    assert "already holds a result" in done.stderr
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.is_file()} == before


def test_a_closed_pipe_loses_no_file_and_quiet_says_nothing(tmp_path: Path) -> None:
    # the workload of `evaluated`: its program is compiled already
    job = ("-m", "mist_jax", "model=llama3_1_8b", "parallelism=tp1", "workload=closed_1k_1k", "report=true",
           "hydra.run.dir=out")  # fmt: skip
    head = f"{sys.executable} {' '.join(job)} | head -1"
    done = subprocess.run(head, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr, done.stderr
    for name in ("result.nc", "summary.json", "report.html", "breakdown.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0, name
    quiet = run(*job[2:5], "output.quiet=true", "output.netcdf=false", "hydra.run.dir=quiet", cwd=tmp_path)
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stdout == ""
    assert (tmp_path / "quiet" / "summary.json").exists()
    assert not (tmp_path / "quiet" / "result.nc").exists()


def test_play_writes_every_request(tmp_path: Path) -> None:
    start = time.time()
    small = ("mode=play", "model=llama3_1_8b", "parallelism=tp1", "workload.requests=50", "workload.rate=4")
    done = run(*small, f"hydra.run.dir={tmp_path}/out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "out" / "result.nc") as result:
        assert result.sizes["request"] == 50
        assert float(result.ttft_s.min()) > 0
        stages = result.stage_s.sum("stage")
        assert float(abs(stages - result.e2e_s).max()) < 1e-6
        for name in ("arrival_s", "ttft_s", "tpot_s", "e2e_s", "stage_s"):
            assert result[name].attrs["units"] == "s"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["attributes"]["served"] == 50
    assert list((tmp_path / "out").glob("*.png"))
    assert (tmp_path / "out" / "result.nc").stat().st_mtime >= start - 1


def test_the_mode_may_be_the_first_word():
    from mist_jax.__main__ import spelled_out

    assert spelled_out(["play", "experiment=demo"]) == ["mode=play", "experiment=demo"]
    assert spelled_out(["compare", "run=a.json", "model=x"]) == [
        "mode=compare",
        "compare.run=a.json",
        "model=x",
    ]
    assert spelled_out(["calibrate", "from=a.json"]) == ["mode=calibrate", "calibrate.from=a.json"]
    for unchanged in ([], ["mode=play"], ["-m", "model=x"], ["--cfg", "job"]):
        assert spelled_out(unchanged) == unchanged


def test_a_first_word_that_is_no_mode_names_the_nearest():
    from mist_jax.__main__ import spelled_out
    from mist_jax.errors import ConfigError

    with pytest.raises(ConfigError, match="got 'plya' \\(did you mean 'play'\\?\\)"):
        spelled_out(["plya"])


def test_short_names_of_chips():
    import mist_jax as mist
    from mist_jax.__main__ import spelled_out
    from mist_jax.compose import SHORT_NAMES
    from mist_jax.paths import conf_dir

    assert spelled_out(["-m", "hardware=h100,mi300x"]) == ["-m", "hardware=h100_sxm,mi300x"]
    assert spelled_out(["hardware@prefill.hardware=b200"]) == ["hardware@prefill.hardware=b200_sxm"]
    assert mist.load(["hardware=h200"]).hardware.id == "h200_sxm"
    options = {p.stem for p in (conf_dir() / "hardware").glob("*.yaml")}
    assert set(SHORT_NAMES.values()) <= options
    assert not set(SHORT_NAMES) & options
