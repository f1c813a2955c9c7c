"""Compare with your benchmark: measured and predicted side by side, and what might explain the difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.compose import with_overrides
from mist_jax.errors import ConfigError, nearest
from mist_jax.io.benchmarks import BenchmarkResult, lengths_cv, read_benchmark_result
from mist_jax.schema import Scenario

if TYPE_CHECKING:
    import xarray as xr

METHODS = ("auto", "steady", "play")
PERCENTILES = (50, 90, 95, 99)
LATENCIES = ("ttft", "tpot", "e2e")


def compare(scenario: Scenario, result: BenchmarkResult | str | Path, *, method: str = "auto") -> xr.Dataset:
    """Predict a measured run and lay both side by side.

    The load (lengths, concurrency or rate, number of requests) is the run's; everything else is the scenario's.

    Args:
        scenario: the deployment that was measured, as you describe it.
        result: a `BenchmarkResult`, or the path of a file that `read_benchmark_result` reads.
        method: "steady" (means), "play" (the requests one by one, with percentiles), "auto": play where the file has
            the requests one by one.

    Returns:
        Dataset along `quantity`: `measured`, `predicted` (SI) and `ratio` = predicted / measured; NaN where either
        does not know it; `low` and `high`: the 80 % interval of predicted means, where the calibration has one. The
        attribute `explanations` has a line each for what might explain the difference, the likeliest first; `method`
        says how it was predicted; `load` and `kv_occupancy` are those of the prediction.

    Raises:
        ConfigError: a file that cannot be read, an unknown method, or a deployment that cannot be.

    Not modelled: the benchmark client's own delays, retries, and requests cut short by the client.
    """
    import xarray as xr

    from mist_jax.compare_reasons import explain
    from mist_jax.evaluate import evaluate

    if method not in METHODS:
        raise ConfigError(
            f"compare.method: got {method!r}{nearest(method, METHODS)}; allowed: {', '.join(METHODS)}"
        )
    if not isinstance(result, BenchmarkResult):
        result = read_benchmark_result(result)
    loaded = with_load_of(scenario, result)
    steady = evaluate(loaded, elasticities=False)
    how = method if method != "auto" else ("play" if result.trace is not None else "steady")
    predicted = predict_played(loaded, result) if how == "play" else _of_steady(steady)
    measured = measured_values(result)
    names = [n for n in measured if np.isfinite(measured[n]) or np.isfinite(predicted.get(n, np.nan))]
    left = np.array([measured[n] for n in names])
    right = np.array([predicted.get(n, np.nan) for n in names])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(left > 0, right / left, np.nan)
    ends = np.array([_ends(steady, n) for n in names]).T
    ds = xr.Dataset(
        {
            "measured": ("quantity", left, {"long_name": "measured, SI units"}),
            "predicted": ("quantity", right, {"long_name": "predicted, SI units"}),
            "ratio": ("quantity", ratio, {"units": "1", "long_name": "predicted over measured"}),
            "low": ("quantity", right * ends[0], {"long_name": "low end of the prediction's 80 % interval"}),
            "high": (
                "quantity",
                right * ends[1],
                {"long_name": "high end of the prediction's 80 % interval"},
            ),
        },
        coords={
            "quantity": names,
            "units": ("quantity", ["1/s" if "per_s" in n or "rate" in n else "s" for n in names]),
        },
    )
    ds.attrs.update(
        {k: steady.attrs[k] for k in ("hardware", "model", "engine", "parallelism", "calibration")}
    )
    reasons = explain(loaded, result, steady, predicted)
    ds.attrs |= {
        "run": result.source,
        "form": result.form,
        "method": how,
        "load": float(steady["load"]),
        "kv_occupancy": float(steady.kv_occupancy),
        "explanations": "\n".join(reasons),
    }
    return ds


def _ends(steady: xr.Dataset, name: str) -> tuple[float, float]:
    """Ends of the interval of a mean latency over its estimate; NaN for all else."""
    variable = name.removesuffix("_mean_s") + "_s"
    if not name.endswith("_mean_s") or f"{variable}_low" not in steady:
        return np.nan, np.nan
    low, high = (float(steady[f"{variable}_{end}"] / steady[variable]) for end in ("low", "high"))
    return low, high


def with_load_of(scenario: Scenario, result: BenchmarkResult) -> Scenario:
    """The scenario under the load of the run; what the file does not state stays as it is."""
    cv_in, cv_out = lengths_cv(result.trace)
    changes: dict[str, Any] = {"workload.name": Path(result.source).name, "workload.trace": None}
    if np.isfinite(result.isl):
        changes |= {"workload.isl": result.isl, "workload.isl_cv": cv_in}
    if np.isfinite(result.osl):
        changes |= {"workload.osl": max(result.osl, 1.0), "workload.osl_cv": cv_out}
    if result.requests:
        changes["workload.requests"] = result.requests
    if result.rate is not None:
        changes |= {"workload.arrivals": "poisson", "workload.rate": result.rate}
    elif result.concurrency is not None:
        changes |= {"workload.arrivals": "closed", "workload.concurrency": result.concurrency}
        if result.requests:  # the first round starts at once
            changes["workload.burst_share"] = min(result.concurrency / result.requests, 1.0)
    elif result.requests:  # neither limited: everything was sent at once
        changes |= {"workload.arrivals": "closed", "workload.concurrency": result.requests}
        changes["workload.burst_share"] = 1.0
    return with_overrides(scenario, changes)


def measured_values(result: BenchmarkResult) -> dict[str, float]:
    """Quantity → measured value in SI, NaN where the file does not have it."""
    out: dict[str, float] = {}
    for name in LATENCIES:
        stats = getattr(result, name)
        out[f"{name}_mean_s"] = stats.mean
        out |= {f"{name}_p{p}_s": stats.at(p) for p in PERCENTILES}
    out["request_rate"] = result.request_rate
    out["output_tokens_per_s"] = result.output_tokens_per_s
    return out


def _of_steady(ds: xr.Dataset) -> dict[str, float]:
    out = {f"{n}_mean_s": float(ds[f"{n}_s"]) for n in LATENCIES}
    return out | {n: float(ds[n]) for n in ("request_rate", "output_tokens_per_s")}


def predict_played(scenario: Scenario, result: BenchmarkResult) -> dict[str, float]:
    """Mean and percentiles of the run's requests played one by one (synthetic ones of its means, if it has none)."""
    from mist_jax.play import play

    ds = play(scenario, run_trace(scenario, result))
    out = {k: float(v) for k, v in ds.attrs.items() if k.endswith("_s") and k.split("_")[0] in LATENCIES}
    span = float(ds.attrs["makespan_s"])
    return out | {
        "request_rate": float(ds.attrs["served"]) / span,
        "output_tokens_per_s": float(ds.attrs["output_tokens_per_s"]),
    }


def run_trace(scenario: Scenario, result: BenchmarkResult) -> Any:
    """The run's requests as a trace: at the times they were sent, or as its concurrency or rate says."""
    from mist_jax.io.arrivals import closed_loop, poisson
    from mist_jax.workloads import synthetic_trace

    trace = result.trace
    if trace is None:
        return synthetic_trace(scenario.workload, scenario.seed)
    if result.concurrency is not None and result.closed:
        return closed_loop(trace, int(result.concurrency))
    if not np.any(trace.arrival_s > 0) and result.rate is not None:
        return replace(trace, arrival_s=poisson(trace.size, result.rate, scenario.seed))
    return trace


def run_compare(mapping: dict[str, Any], out: Path) -> Any:
    """mode=compare: `mist-jax mode=compare compare.run=RESULT.json`."""
    from mist_jax.application import start_jax, write, write_report_if_asked
    from mist_jax.schema import parse_scenario

    options = mapping.get("compare") or {}
    allowed = ("run", "method", "line")
    for key in options:
        if key not in allowed:
            raise ConfigError(
                f"compare.{key}: unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
            )
    if not options.get("run"):
        raise ConfigError(
            "compare.run: missing; give the path of a result of vLLM, SGLang, AIPerf or InferenceX"
        )
    line = options.get("line", -1)
    if not isinstance(line, int):
        raise ConfigError(f"compare.line: got {line!r}; expected a whole number")
    try:
        result = read_benchmark_result(str(options["run"]), run=line)
    except ConfigError as exc:
        raise ConfigError(f"compare.run: {exc}") from None
    scenario = parse_scenario(mapping)
    start_jax()
    ds = compare(scenario, result, method=str(options.get("method", "auto")))
    write(ds, out, mapping)
    loaded = with_load_of(scenario, result)
    write_report_if_asked(loaded, ds, out, mapping)
    print_comparison(loaded, ds)
    print(f"\nwritten to {out}")
    return ds


def print_comparison(scenario: Scenario, ds: xr.Dataset, to: Any = None) -> None:
    """The table and the explanations, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    from mist_jax.report.fitting import console, print_table
    from mist_jax.report.tables import headline

    out = to or console()
    first, second = headline(scenario, ds)
    out.print(Text(first, style="bold"))
    out.print(Text(second))
    out.print(
        Text(
            f"measured: {ds.attrs['run']} ({ds.attrs['form']}); predicted: {ds.attrs['method']}", style="dim"
        )
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("quantity")
    for name in ("measured", "predicted", "80 % interval", "predicted / measured"):
        table.add_column(name, justify="right")
    for row in comparison_rows(ds):
        table.add_row(*row)
    print_table(out, table, drop=("predicted / measured", "80 % interval"))
    out.print()
    out.print(Text("What might explain the difference", style="bold"))
    for text in ds.attrs["explanations"].splitlines():
        out.print(Text(f"- {text}"))


def comparison_rows(ds: xr.Dataset) -> list[tuple[str, str, str, str, str]]:
    """(quantity, measured, predicted, interval of the prediction, ratio) of what was measured, in words."""
    rows = []
    for i, name in enumerate(ds["quantity"].values.tolist()):
        at = {str(n): float(v.values[i]) for n, v in ds.data_vars.items()}
        if not np.isfinite(at["measured"]):
            continue
        ends = [shown(name, v) if np.isfinite(v) else "?" for v in (at["low"], at["high"])]
        interval = " to ".join(ends) if np.isfinite(at["low"]) else ""
        ratio = f"{at['ratio']:.2f}" if np.isfinite(at["ratio"]) else "-"
        rows.append((title(name), shown(name, at["measured"]), shown(name, at["predicted"]), interval, ratio))
    return rows


def shown(name: str, value: float) -> str:
    """A latency with its unit, a rate as a number."""
    from mist_jax.report import quantities as q

    return q.duration(value) if name.endswith("_s") and not name.endswith("per_s") else q.number(value)


def title(name: str) -> str:
    """`ttft_p99_s` → "TTFT, p99"."""
    head, _, tail = name.removesuffix("_s").partition("_")
    if head in LATENCIES:
        return f"{'End to end' if head == 'e2e' else head.upper()}, {tail}"
    return {"request_rate": "Requests/s", "output_tokens_per_s": "Output tokens/s"}.get(name, name)
