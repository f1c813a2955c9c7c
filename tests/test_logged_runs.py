"""Coefficients from logged engine runs: where they stand, whom they touch, what they reproduce."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mist_jax import load
from mist_jax.calibrations import calibration_label, load_calibration, logged_runs
from mist_jax.paths import data_dir
from mist_jax.system.calibration import StepCoefficients

LOGGED = [
    "hardware=rtx_pro_6000_server",
    "model=llama3_1_8b",
    "engine=vllm",
    "workload=chat",
    "parallelism=tp1",
]
FIELDS = [f.name for f in dataclasses.fields(StepCoefficients)]


def step_of(overrides: list[str], calibration: str = "default"):
    s = load(overrides)
    return load_calibration(calibration, s.hardware, s.engine, s.model).step


def test_a_logged_chip_takes_its_runs_and_no_other_does():
    found = logged_runs("rtx_pro_6000_server", "vllm")
    assert found is not None
    assert {"offsets", "models", "on"} <= set(found)
    assert logged_runs("h100_sxm", "vllm") is None
    assert logged_runs("rtx_pro_6000_server", "trtllm") is None
    own, other = step_of(LOGGED), step_of([*LOGGED, "model=qwen3_32b"])
    # one chip, one engine, one set: nothing of a model's offsets on other chips
    assert all(np.allclose(getattr(own, n), getattr(other, n)) for n in FIELDS)


def test_offsets_around_the_priors(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"base": "priors", "offsets": {}}))
    base = step_of(LOGGED, str(path))
    elsewhere = step_of(["hardware=h100_sxm", *LOGGED[1:]], str(path))
    assert all(np.allclose(getattr(base, n), getattr(elsewhere, n)) for n in FIELDS)
    path.write_text(json.dumps({"base": "priors", "offsets": {"host_s": 0.2}}))
    moved = step_of(LOGGED, str(path))
    assert float(moved.host_s) == pytest.approx(float(base.host_s) * np.exp(0.2), rel=0.05)
    assert float(moved.layer_s) == float(base.layer_s)


def test_label_says_what_was_logged():
    def label(model: str, name: str = "default") -> str:
        s = load([*LOGGED, f"model={model}"])
        return calibration_label(name, s.hardware, s.engine, s.model)

    assert label("llama3_1_8b") == "calibrated"
    assert label("qwen3_32b") == "extrapolated"
    assert label("llama3_1_8b", "none") == "physics-only"


def test_a_logged_run_is_reproduced():
    """The packaged coefficients are fitted to it: TTFT 5 %, TPOT and E2E 3 %, P99 8 %."""
    folder = data_dir() / "engine_runs" / "rtx_pro_6000_Llama-3.1-8B"
    if not (folder / "requests.jsonl").exists():
        pytest.skip(f"{folder} is missing (casys-kaist/LLMServingSim bench/examples)")
    pytest.importorskip("pandas")
    from calibration.datasets.engine_runs import read_engine_run
    from calibration.engine_run import errors, predict_run

    run = read_engine_run(folder, "rtx_pro_6000_server")
    found = errors(run, predict_run(run, run.system, run.model)).set_index("quantity").error_percent.abs()
    limits = {"mean ttft": 5, "mean tpot": 3, "mean e2e": 3, "p99 ttft": 8, "p99 tpot": 8, "p99 e2e": 8}
    assert all(found[name] < limit for name, limit in limits.items()), found
