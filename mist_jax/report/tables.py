"""Compact tables for the terminal, readable at 80 columns and in narrower ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mist_jax.report import quantities as q
from mist_jax.report.fitting import console, natural_width, print_table
from mist_jax.schema import HardwareSpec, ParallelismSpec, Scenario

#: What `print_evaluation` shows, pairs side by side.
EVALUATION_ROWS = (
    ("ttft_s", "output_tokens_per_s"),
    ("tpot_s", "output_tokens_per_s_per_chip"),
    ("e2e_s", "tokens_per_s_per_user"),
    ("prefill_wait_s", "prefill_utilization"),
    ("prefill_s", "prefill_chips"),
    ("transfer_s", "transfer_utilization"),
    ("request_rate", "load"),
    ("running", "waiting"),
    ("step_s", "prefill_share"),
    ("flops_utilization", "bandwidth_utilization"),
    ("weights_bytes", "kv_budget_bytes"),
    ("kv_tokens", "kv_occupancy"),
    ("power_w", "energy_per_output_token_j"),
    ("chips", "cost_per_million_output_tokens_usd"),
)
#: Elasticity from which a resource is listed.
LEAST = 0.005
_SHORTER = {
    "ttft_s": "TTFT, mean",
    "tpot_s": "TPOT, mean",
    "e2e_s": "End to end, mean",
    "cost_per_million_output_tokens_usd": "Cost per 1M tokens",
    "energy_per_output_token_j": "Energy per token",
}
PERCENTILES = (50, 90, 95, 99)
_BAR = 18


def headline(scenario: Scenario, ds: xr.Dataset) -> list[str]:
    """Two lines: what serves, and what arrives."""
    work = scenario.workload
    arrivals = {
        "closed": f"closed loop, concurrency {work.concurrency:g}",
        "trace": f"trace {work.trace}",
        "poisson": f"Poisson arrivals, {q.number(work.rate)} requests/s",
        "gamma": f"gamma arrivals, {q.number(work.rate)} requests/s, CV {work.burstiness:g}",
        "diurnal": f"diurnal arrivals, {q.number(work.rate)} requests/s in the mean, swing {work.swing:g}",
    }[work.arrivals]
    hardware = pool_line(scenario.hardware, scenario.parallelism)
    if scenario.prefill is not None:
        hardware += (
            f" (decode), {pool_line(scenario.prefill.hardware, scenario.prefill.parallelism)} (prefill)"
        )
    return [
        f"{scenario.model.name} on {hardware}, {scenario.engine.name}",
        f"{work.name}: {q.number(work.isl)} tokens in, {q.number(work.osl)} out; {arrivals}",
    ]


def pool_line(hardware: HardwareSpec, plan: ParallelismSpec) -> str:
    """Chips of one pool and the degrees of parallelism that are not 1: `8 x NVIDIA H100, TP8`."""
    chips = plan.tp * plan.pp * plan.dp * plan.replicas
    degrees = [f"{n.upper()}{getattr(plan, n):g}" for n in ("tp", "pp", "dp", "ep") if getattr(plan, n) != 1]
    copies = [f"{plan.replicas:g} replicas"] if plan.replicas != 1 else []
    return ", ".join([f"{chips:g} x {hardware.name}", *(["-".join(degrees)] if degrees else []), *copies])


def print_evaluation(scenario: Scenario, ds: xr.Dataset, to: Console | None = None) -> None:
    """Print the steady state of one deployment: latencies, rates, use, cost, SLO verdict, parts.

    Args:
        scenario: what was evaluated.
        ds: the result of `mist_jax.evaluate`.
        to: where to print (default: stdout).
    """
    out = to or console()
    _print_headline(out, scenario, ds)
    _print_pairs(out, ds)
    for line in interval_lines(ds):
        out.print(line)
    for line in slo_lines(scenario, ds):
        out.print(line)
    if "ttft_bridge_error" in ds:
        out.print(Text(bridge_line(ds), style="dim"))
    if "warning" in ds.attrs:
        out.print(Text(f"warning: {ds.attrs['warning']}", style="bold red"))
    if "breakdown_s" in ds and ds["breakdown_s"].ndim == 1:
        out.print()
        print_table(out, _breakdown(ds["breakdown_s"], "part", "Mean iteration by operator"), drop=("",))
    if "figure" in ds.dims:
        out.print()
        print_table(out, _more(ds), drop=("Capacity", "TTFT"))
        out.print(f"bottleneck: {bottleneck(ds)}")
    status = ds.attrs.get("status", "ok")
    if status != "ok":
        out.print(Text(f"status: {status}", style="bold red"))


def more_rows(ds: xr.Dataset, share: float = 0.1) -> list[tuple[str, list[float]]]:
    """(resource, relative changes of the `elasticity` figures) with so much more of it, the largest effect first."""
    slope = ds["elasticity"]
    alone = ds.sizes["client"] == 1
    found = []
    for client in slope.client.values:
        for resource in slope.resource.values:
            e = slope.sel(client=client, resource=resource).values
            name = q.words(str(resource)) if alone else f"{client}: {q.words(str(resource))}"
            if np.isfinite(e).all() and np.abs(e).max() >= LEAST:
                found.append((name, [float(v) for v in (1.0 + share) ** e - 1.0]))
    return sorted(found, key=lambda row: row[1][list(ds.figure.values).index("e2e_s")])


def _more(ds: xr.Dataset) -> Table:
    table = _table(title="10 % more of a resource")
    table.add_column("resource")
    for name in ds.figure.values:
        table.add_column(q.title(str(name)).split(",")[0], justify="right")
    for name, changes in more_rows(ds):
        table.add_row(name, *(f"{100.0 * x:+.1f} %" for x in changes))
    return table


def bottleneck(ds: xr.Dataset) -> str:
    """The attribute `bottleneck` of an evaluated deployment in words."""
    client, _, what = ds.attrs["bottleneck"].partition(": ")
    if client not in ds.client.values:
        return ds.attrs["bottleneck"]
    return q.words(what) if ds.sizes["client"] == 1 else f"{client}: {q.words(what)}"


def print_play(scenario: Scenario, ds: xr.Dataset, to: Console | None = None) -> None:
    """Print a played trace: percentiles, share of each stage, goodput, cost, energy, preemptions.

    Args:
        scenario: what was played.
        ds: the result of `mist_jax.play`.
        to: where to print (default: stdout).
    """
    out = to or console()
    _print_headline(out, scenario, ds)
    if "trace" in ds.attrs:
        out.print(Text(f"trace: {ds.attrs['trace']}", style="dim"))
    table = _table()
    table.add_column("latency")
    for name in ("mean", *(f"p{p}" for p in PERCENTILES)):
        table.add_column(name, justify="right")
    for name, values in percentile_rows(ds):
        table.add_row(q.title(name), *(q.duration(v) for v in values))
    print_table(out, table, drop=("p95", "p90", "mean"))
    if "stage_s" in ds:
        out.print()
        total = ds["stage_s"].sum("request") if "request" in ds["stage_s"].dims else ds["stage_s"]
        served = max(int(ds.attrs.get("served", ds.sizes.get("request", 1))), 1)
        by_stage = _breakdown(total / served, "stage", "Mean time of a request by stage", keep_order=True)
        print_table(out, by_stage, drop=("",))
    out.print()
    print_table(out, _summary(scenario, ds))


def percentile_rows(ds: xr.Dataset) -> list[tuple[str, list[float]]]:
    """(variable, [mean, p50, p90, p95, p99]) of the latencies, over the requests that have one."""
    rows = []
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if name not in ds:
            continue
        values = ds[name].values[np.isfinite(ds[name].values)]
        if values.size:
            rows.append((name, [float(values.mean()), *map(float, np.percentile(values, PERCENTILES))]))
    if "itl_mean_s" in ds.attrs:  # over tokens, not requests
        marks = ("mean", *(f"p{p}" for p in PERCENTILES))
        rows.insert(2, ("itl_s", [ds.attrs[f"itl_{m}_s"] for m in marks]))
    return rows


#: Label of the calibration → what it means to a reader.
REACH = {
    "calibrated": "this chip, engine and model were measured",
    "extrapolated": "this chip was measured, not with this model and engine",
    "physics-only": "this chip was not measured end to end",
}


def interval_lines(ds: xr.Dataset) -> list[Text]:
    """The intervals of the means, and how far the calibration reaches; none for a result without a label."""
    label = ds.attrs.get("calibration_label")
    if label is None:
        return []
    names = [n for n in ("ttft_s", "tpot_s", "e2e_s") if f"{n}_low" in ds and ds[f"{n}_low"].ndim == 0]
    reach = f"{label}: {REACH.get(label, '')}"
    if not names:
        return [Text(f"no interval; {reach}", style="dim")]

    def ends(name: str) -> str:
        low, high = (float(ds[f"{name}_{side}"]) for side in ("low", "high"))
        over = "over capacity" if np.isinf(high) else q.duration(high)
        return f"{_SHORTER.get(name, q.title(name)).removesuffix(', mean')} {q.duration(low)} to {over}"

    level = q.percent(float(ds.attrs["interval_level"]))
    held = [Text(text, style="dim")] if (text := held_line(ds)) else []
    return [Text(f"{level} intervals: {'; '.join(map(ends, names))}"), Text(reach, style="dim"), *held]


def held_line(ds: xr.Dataset) -> str:
    """What the intervals of a pipeline leave out; empty where that is nothing."""
    held = ds.attrs.get("interval_held")
    return f"intervals hold these stages at their means: {held}" if held else ""


def slo_lines(scenario: Scenario, ds: xr.Dataset) -> list[Text]:
    """Whether the means meet each limit of the SLO; the share of requests that do needs `mode=play`."""
    checks = [(n, limit) for n, limit in slo_limits(scenario) if n in ds and ds[n].ndim == 0]
    if not checks:
        return [Text("SLO: none set", style="dim")]
    lines = []
    for name, limit in checks:
        value = float(ds[name])
        good = value <= limit
        verdict = "met" if good else "missed"
        line = Text(
            f"SLO {scenario.slo.name}: mean {q.title(name)} {q.duration(value)}, limit {q.duration(limit)}: "
        )
        line.append(verdict, style="bold green" if good else "bold red")
        lines.append(line)
    lines.append(Text("(means of the steady state; mode=play gives percentiles and goodput)", style="dim"))
    return lines


def bridge_line(ds: xr.Dataset) -> str:
    """What the closed form of an open loop missed where it was played, at this load."""
    cells = []
    for name in ("ttft", "tpot"):
        error = ds[f"{name}_bridge_error"]
        low, high = error.attrs["low"], error.attrs["high"]
        cells.append(f"{name.upper()} {float(error):+.0%} ({low:+.0%} to {high:+.0%})")
    return f"closed form against playbacks at load {float(ds['load']):.2f}: {', '.join(cells)}; mode=play is exact"


def slo_limits(scenario: Scenario) -> list[tuple[str, float]]:
    """(variable, limit in seconds) of each limit that is set."""
    slo = scenario.slo
    return [
        (n, v) for n, v in (("ttft_s", slo.ttft), ("tpot_s", slo.tpot), ("e2e_s", slo.e2e)) if v is not None
    ]


def _print_headline(out: Console, scenario: Scenario, ds: xr.Dataset) -> None:
    first, second = headline(scenario, ds)
    out.print(Text(first, style="bold"))
    out.print(Text(second))


def _table(**kwargs: Any) -> Table:
    from rich.box import SIMPLE_HEAD

    return Table(
        box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold", padding=(0, 1), **kwargs
    )


def _print_pairs(out: Console, ds: xr.Dataset) -> None:
    """`EVALUATION_ROWS` in two pairs a line, in one where the terminal is narrow."""
    rows: list[list[str]] = []
    for row in EVALUATION_ROWS:
        cells: list[str] = []
        for name in row:
            there = name in ds and ds[name].ndim == 0
            cells += [_SHORTER.get(name, q.title(name)), q.show(name, ds[name]) if there else q.MISSING]
        if any(name in ds for name in row):
            rows.append(cells)
    table = _pair_table(rows)
    if natural_width(table) > out.width:
        table = _pair_table([r[i : i + 2] for i in (0, 2) for r in rows])
    print_table(out, table)


def _pair_table(rows: list[list[str]]) -> Table:
    table = _table(show_header=False)
    for i in range(len(rows[0])):
        table.add_column(justify="right" if i % 2 else "left")
    for cells in rows:
        table.add_row(*cells)
    return table


def _breakdown(values: xr.DataArray, dim: str, title: str, keep_order: bool = False) -> Table:
    """Name, time, share and a bar; parts of no length are left out."""
    names, seconds = [str(n) for n in values[dim].values], np.nan_to_num(values.values.astype(float))
    total = float(seconds.sum())
    order = range(len(names)) if keep_order else np.argsort(-seconds, kind="stable")
    table = _table(title=title)
    table.add_column(dim)
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    for i in order:
        if seconds[i] > 0:
            share = seconds[i] / total
            bar = "█" * max(round(share * _BAR), 0) or "▏"
            table.add_row(
                q.words(names[i]), q.duration(seconds[i]), q.percent(share), Text(bar, style="blue")
            )
    table.add_row("together", q.duration(total), "", "", style="bold")
    return table


def _summary(scenario: Scenario, ds: xr.Dataset) -> Table:
    a = ds.attrs
    nan = float("nan")
    total = int(a.get("requests", ds.sizes.get("request", 0)))
    served = int(a.get("served", total))
    share = float(a.get("goodput_share", nan))
    limits = ", ".join(f"{q.title(n)} {q.duration(v)}" for n, v in slo_limits(scenario)) or "no limits"
    table = _table(show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    table.add_row("Served", f"{served:,} of {total:,}", f"{total - served:,} refused")
    table.add_row("Preempted", f"{int(a.get('preempted_requests', 0)):,}", "requests")
    if "queue_length_mean" in a:
        mean, most = q.number(a["queue_length_mean"]), f"at most {a['queue_length_max']:.0f}"
        table.add_row(
            "Queue", f"{mean} requests", f"{most}; wait p99 {q.duration(a.get('queue_p99_s', nan))}"
        )
    table.add_row("Duration", q.duration(a.get("makespan_s", nan)), "first arrival to last token")
    table.add_row("Generated tokens", f"{q.number(a.get('output_tokens_per_s', nan))} tokens/s", "")
    table.add_row(
        "Cost",
        q.dollars(a.get("cost_usd", nan)),
        f"{q.dollars(a.get('cost_per_million_output_tokens_usd', nan))} per 1M tokens",
    )
    table.add_row(
        "Energy",
        q.prefixed(a.get("energy_j", nan), "J"),
        f"{q.number(a.get('energy_per_output_token_j', nan))} J per token",
    )
    table.add_row("Within the SLO", q.percent(share), f"{scenario.slo.name}: {limits}")
    verdict = (
        Text("met", style="bold green") if share >= scenario.slo.target else Text("missed", style="bold red")
    )
    table.add_row(
        "Goodput",
        f"{q.number(a.get('goodput_per_s', nan))} requests/s",
        Text(f"target {q.percent(scenario.slo.target)}: ").append(verdict),
    )
    return table
