"""Refit the engine's coefficients to a person's own runs, with the packaged ones as prior.

    minimize  sum_i (log(predicted_i / measured_i) / s_i)^2 + sum_k (x_k / sigma_k)^2

over offsets x of the coefficients `TUNED`. i runs over mean TTFT and TPOT of each run, s = 6 % and 3 % (noise between
two runs of one deployment). sigma is the spread that the packaged fit found between versions, generations, systems and
models. Each run is predicted as `compare` does: request by request where the file has them, else in steady state. The
slopes are central differences, the step is Gauss-Newton.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax.compare import (
    _of_steady,
    measured_values,
    predict_played,
    shown,
    title,
    with_load_of,
)
from mist_jax.errors import ConfigError, nearest
from mist_jax.io.benchmarks import BenchmarkResult, read_benchmark_result
from mist_jax.schema import Scenario
from mist_jax.step_coefficients import COEFFICIENTS

TUNED = (
    "host_s",
    "host_per_seq_s",
    "prefill_host_s",
    "layer_s",
    "compute_scale",
    "expert_scale",
    "attention_scale",
    "many_tokens_scale",
    "comm_scale",
    "dispatch_scale",
    "request_s",
    "admission_steps",
)
#: Standard deviation of log TTFT and log TPOT between two runs of one deployment (calibration/DATA.md, point 8).
NOISE = {"ttft_mean_s": 0.06, "tpot_mean_s": 0.03}
_STEP = 0.05
#: Levels of the packaged fit between which a new deployment may differ.
_OWN = ("family", "generation", "system", "model")


@dataclasses.dataclass(frozen=True)
class CalibrationResult:
    """What `calibrate_from_run` found."""

    offsets: dict[str, float]  #: coefficient → offset (about units of its logarithm)
    before: list[dict[str, float]]  #: per run: quantity → predicted, packaged calibration
    after: list[dict[str, float]]  #: per run: quantity → predicted, refitted
    measured: list[dict[str, float]]  #: per run: quantity → measured
    sources: list[str]

    def write(self, path: str | Path) -> None:
        """Save as a file for `calibration=PATH`."""
        content = {
            "offsets": {k: round(v, 6) for k, v in self.offsets.items()},
            "provenance": {"runs": self.sources, "command": "mist-jax mode=calibrate"},
        }
        Path(path).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def prior_scales() -> np.ndarray:
    """Standard deviations of the offsets of `TUNED`: between versions, generations, systems and models."""
    by_name = {c.name: c for c in COEFFICIENTS}
    return np.array(
        [max(math.sqrt(sum(sd**2 for lvl, sd in by_name[n].levels if lvl in _OWN)), 0.1) for n in TUNED]
    )


def calibrate_from_run(
    scenario: Scenario,
    results: BenchmarkResult | str | Path | Sequence[BenchmarkResult | str | Path],
    *,
    method: str = "auto",
    iterations: int = 3,
) -> CalibrationResult:
    """Refit `TUNED` to measured runs of the scenario's deployment.

    Args:
        scenario: the deployment that was measured; its load is replaced by that of each run.
        results: runs, or paths that `read_benchmark_result` reads.
        method: "play", "steady" or "auto", as in `compare`.
        iterations: Gauss-Newton steps.

    Raises:
        ConfigError: unreadable file, no TTFT and TPOT in it, or a deployment that cannot be.

    Not modelled: errors of the description itself (wrong settings show up as odd coefficients).
    """
    if isinstance(results, BenchmarkResult | str | Path):
        results = [results]
    runs = [r if isinstance(r, BenchmarkResult) else read_benchmark_result(r) for r in results]
    return refit([(scenario, r) for r in runs], method=method, iterations=iterations)


def refit(
    pairs: Sequence[tuple[Scenario, BenchmarkResult]], *, method: str = "auto", iterations: int = 3
) -> CalibrationResult:
    """One set of offsets for several (deployment, measured run); see `calibrate_from_run`.

    Raises:
        ConfigError: no TTFT and TPOT in any run, or scenarios with different calibrations.
    """
    runs = [r for _, r in pairs]
    names = {s.calibration for s, _ in pairs}
    if len(names) != 1:
        raise ConfigError(f"calibration: the runs start from different ones: {', '.join(sorted(names))}")
    measured = [measured_values(r) for r in runs]
    wanted = [[q for q in NOISE if np.isfinite(m.get(q, np.nan))] for m in measured]
    if not any(wanted):
        raise ConfigError("calibrate.from: the run states neither a mean TTFT nor a mean TPOT")
    scale = prior_scales()

    with tempfile.TemporaryDirectory() as folder:
        base = _read_base(names.pop())

        def predict(x: np.ndarray) -> list[dict[str, float]]:
            path = Path(folder) / "trial.json"
            path.write_text(json.dumps({"offsets": _added(base, x)}))
            return [_predicted(dataclasses.replace(s, calibration=str(path)), r, method) for s, r in pairs]

        def residual(predicted: list[dict[str, float]]) -> np.ndarray:
            return np.array(
                [
                    math.log(p[q] / m[q]) / NOISE[q]
                    for p, m, qs in zip(predicted, measured, wanted)
                    for q in qs
                ]
            )

        x = np.zeros(len(TUNED))
        before = predict(x)
        r = residual(before)
        best, after = float(r @ r), before
        for _ in range(iterations):
            slopes = np.stack(
                [
                    (residual(predict(x + _STEP * e)) - residual(predict(x - _STEP * e))) / (2.0 * _STEP)
                    for e in np.eye(len(TUNED))
                ],
                axis=1,
            )
            hessian = slopes.T @ slopes + np.diag(scale**-2)
            step = -np.linalg.solve(hessian, slopes.T @ r + x / scale**2)
            for _ in range(5):
                trial = predict(x + step)
                trial_r = residual(trial)
                value = float(trial_r @ trial_r + ((x + step) / scale) @ ((x + step) / scale))
                if value < best:
                    break
                step = 0.5 * step
            else:
                break
            x, r, best, after = x + step, trial_r, value, trial
    return CalibrationResult(_added(base, x), before, after, measured, [r.source for r in runs])


def _read_base(name: str) -> dict[str, float]:
    """Offsets that the scenario's own calibration file already adds."""
    from mist_jax.calibrations import read_calibration

    if name == "none":
        raise ConfigError(
            "calibration: got 'none'; mode=calibrate refits the packaged coefficients: use default"
        )
    return {} if name == "default" else dict(read_calibration(name)["offsets"])


def _added(base: Mapping[str, float], x: np.ndarray) -> dict[str, float]:
    out = {k: float(v) for k, v in base.items()}
    for name, value in zip(TUNED, x, strict=True):
        out[name] = out.get(name, 0.0) + float(value)
    return out


def _predicted(scenario: Scenario, run: BenchmarkResult, method: str) -> dict[str, float]:
    from mist_jax.evaluate import evaluate

    loaded = dataclasses.replace(with_load_of(scenario, run), calibration=scenario.calibration)
    how = method if method != "auto" else ("play" if run.trace is not None else "steady")
    return predict_played(loaded, run) if how == "play" else _of_steady(evaluate(loaded, elasticities=False))


def run_calibrate(mapping: dict[str, Any], out: Path) -> Any:
    """mode=calibrate: `mist-jax mode=calibrate calibrate.from=RESULT.json` (alias `from=`)."""
    from mist_jax.application import start_jax, write_report_if_asked
    from mist_jax.schema import parse_scenario

    options = mapping.get("calibrate") or {}
    allowed = ("from", "out")
    for key in options:
        if key not in allowed:
            raise ConfigError(
                f"calibrate.{key}: unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
            )
    source = options.get("from")
    if not source:
        raise ConfigError(
            "calibrate.from: missing; give the path of a result of vLLM, SGLang, AIPerf or InferenceX"
        )
    scenario = parse_scenario(mapping)
    start_jax()
    try:
        runs = [read_benchmark_result(s) for s in ([source] if isinstance(source, str) else source)]
    except ConfigError as exc:
        raise ConfigError(f"calibrate.from: {exc}") from None
    result = calibrate_from_run(scenario, runs)
    out.mkdir(parents=True, exist_ok=True)
    target = Path(options.get("out") or out / "calibration.json")
    result.write(target)
    write_report_if_asked(scenario, result, out, mapping)
    print_calibration(result)
    print(f"\nwritten to {target}; use it with calibration={target}")
    return result


def shown_rows(result: CalibrationResult) -> list[tuple[str, str, str, str, str]]:
    """(run, quantity, measured, before, after) of what was measured, in words."""
    rows = []
    for source, m, b, a in zip(result.sources, result.measured, result.before, result.after):
        for name in (*NOISE, "e2e_mean_s"):
            if not np.isfinite(m.get(name, np.nan)):
                continue
            cells = [f"{shown(name, v[name])} ({100 * (v[name] / m[name] - 1):+.1f} %)" for v in (b, a)]
            rows.append((Path(source).name, title(name), shown(name, m[name]), *cells))
    return rows


def moved(result: CalibrationResult) -> list[tuple[str, float]]:
    """(coefficient, about the factor on it), the largest change first."""
    order = sorted(result.offsets.items(), key=lambda kv: -abs(kv[1]))
    return [(name, math.exp(value)) for name, value in order if abs(value) > 0.01]


def print_calibration(result: CalibrationResult) -> None:
    """Before and after, and what moved."""
    from rich.table import Table
    from rich.text import Text

    from mist_jax.report.fitting import console, print_table

    out = console()
    before_after = Table(box=None, pad_edge=False)
    for name in ("run", "quantity"):
        before_after.add_column(name)
    for name in ("measured", "before", "after"):
        before_after.add_column(name, justify="right")
    for row in shown_rows(result):
        before_after.add_row(*row)
    out.print(Text("Before and after", style="bold"))
    print_table(out, before_after, drop=("before",))
    factors = Table(box=None, pad_edge=False)
    factors.add_column("coefficient")
    factors.add_column("factor, about", justify="right")
    for name, factor in moved(result):
        factors.add_row(name, f"{factor:.2f}")
    out.print()
    out.print(Text("Coefficients that moved", style="bold"))
    print_table(out, factors)
