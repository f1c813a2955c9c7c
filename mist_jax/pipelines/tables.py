"""The stage breakdown of a pipeline for the terminal."""

from __future__ import annotations

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mist_jax.report import quantities as q
from mist_jax.report.fitting import console, print_table

#: Columns of words.
_WORDS = ("client", "bound by")
#: Elasticities smaller than this are not worth a line.
_SHOWN = 0.01


def print_stages(ds: xr.Dataset, to: Console | None = None) -> None:
    """Print the stages of an evaluated or played pipeline; nothing where there is no pipeline.

    Args:
        ds: result of `mist_jax.evaluate` or `mist_jax.play`.
        to: where to print (default: stdout).
    """
    if "pipeline" not in ds.attrs:
        return
    out = to or console()
    out.print()
    if "stage_p99_s" in ds:
        print_table(out, _played(ds), drop=("p90", "mean"))
        out.print(Text(ds.attrs["sharing"], style="dim"))
        return
    print_table(out, _evaluated(ds), drop=("alone", "client", "runs", "J", "USD per 1k"))
    out.print(f"critical path: {ds.attrs['critical_path']}")
    stage, colon, what = ds.attrs["bottleneck"].partition(": ")
    out.print(f"bottleneck: {stage}{colon}{q.words(what)}")
    for line in gains(ds):
        out.print(line)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    from rich.box import SIMPLE_HEAD

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or name in _WORDS else "right")
    return table


def _played(ds: xr.Dataset) -> Table:
    table = _table(f"Pipeline {ds.attrs['pipeline']}", ("stage", "mean", "p50", "p90", "p99", "share"))
    values = ds["stage_s"].values
    total = float(np.nansum(np.nanmean(values, axis=0)))
    for i, name in enumerate(ds.stage.values):
        column = values[:, i][np.isfinite(values[:, i])]
        if column.size:
            mean = float(column.mean())
            marks = (q.duration(float(v)) for v in np.percentile(column, (50, 90, 99)))
            table.add_row(str(name), q.duration(mean), *marks, q.percent(mean / total))
    return table


def _evaluated(ds: xr.Dataset) -> Table:
    columns = ("stage", "client", "mean", "alone", "runs", "bound by", "J", "USD per 1k")
    table = _table(f"Pipeline {ds.attrs['pipeline']}, per request", columns)
    for cells in stage_rows(ds):
        table.add_row(*cells)
    return table


def stage_rows(ds: xr.Dataset) -> list[list[str]]:
    """Stage, client, mean, alone, runs a request, bound by, J, USD per 1,000 requests; of each stage in words."""
    rows = []
    for name in ds.stage.values:
        row = ds.sel(stage=name)
        cells = [str(name), str(row.stage_client.values)]
        cells += [q.duration(float(row.stage_s)), q.duration(float(row.stage_alone_s))]
        cells += [f"{float(row.stage_runs):.3g}", q.words(str(row.stage_bound.values))]
        cells += [f"{float(row.stage_energy_j):.3g}", f"{1000 * float(row.stage_cost_usd):.3g}"]
        rows.append(cells)
    return rows


def gains(ds: xr.Dataset) -> list[str]:
    """What 10 % more of each resource would take off the end-to-end latency, the largest first."""
    table = ds["elasticity"].values
    found = [
        (1.1 ** table[i, j] - 1.0, f"{client} {q.words(str(resource))}")
        for i, client in enumerate(ds.client.values)
        for j, resource in enumerate(ds.resource.values)
        if abs(table[i, j]) >= _SHOWN
    ]
    return [f"+10 % of {name}: end to end {gain:+.1%}" for gain, name in sorted(found)[:6]]
