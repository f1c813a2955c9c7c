"""What a sweep found, in the terminal: every point of a small one, the Pareto front of a large one; and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console
from rich.text import Text

from mist_jax.errors import ConfigError
from mist_jax.report import quantities as q
from mist_jax.report.fitting import console, print_table
from mist_jax.report.front_points import along, common_text, is_front, varied
from mist_jax.report.sweep_points import flatten, pareto_front, spread, tick_text
from mist_jax.report.tables import _table

#: Variables of the table → heads that leave room for the axes.
COLUMNS = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s_per_user": "tok/s/user",
    "output_tokens_per_s_per_chip": "tok/s/chip",
    "cost_per_million_output_tokens_usd": "$/1M tok",
}
#: Left out first where the terminal is narrow: a speed is 1/TPOT, and the axes say which point it is.
LESS_NEEDED = ("tok/s/user", "$/1M tok", "tok/s/chip", "TTFT")
#: The front trades these two.
FRONT = ("tokens_per_s_per_user", "output_tokens_per_s_per_chip")
#: Points up to which all are listed, and rows of a front.
ALL, ROWS = 24, 15


def shown_points(ds: xr.Dataset) -> tuple[xr.Dataset, str]:
    """(points along `point` with `COLUMNS`, the axes as coordinates; what they are).

    Raises:
        ConfigError: no usable point.
    """
    names = [n for n in COLUMNS if n in ds]
    points = flatten(ds, *names)
    total = points.sizes["point"]
    if total <= ALL:
        return points, ""
    front = pareto_front(ds, *FRONT)
    chosen = spread(front[FRONT[0]].values, front[FRONT[1]].values, ROWS)
    axes = [str(d) for d in front.coords if d in ds.dims]
    rows = []
    for i in chosen:
        same = np.ones(total, dtype=bool)
        for d in axes:
            same &= points[d].values == front[d].values[i]
        rows.append(int(np.flatnonzero(same)[0]))
    text = f"Pareto front: {len(rows)} of its {front.sizes['point']} points, of {total:,} possible ones"
    return points.isel(point=rows), text


def print_sweep(ds: xr.Dataset, to: Console | None = None) -> None:
    """Print the points of a sweep, or what is best of them; nothing where none is possible or a variable is missing."""
    if not set(FRONT) <= set(ds.data_vars):
        return
    try:
        points, text = shown_points(ds)
    except ConfigError:
        return
    out = to or console()
    if text:
        out.print(Text(text, style="bold"))
    axes = [str(d) for d in ds.dims if ds.sizes[d] > 1 and str(d) in points.coords]
    table = _table()
    for axis, head in zip(axes, heads(axes), strict=True):
        words = points[axis].dtype.kind in "UOT"
        table.add_column(head, justify="left" if words else "right")
    names = [n for n in COLUMNS if n in points]
    for name in names:
        table.add_column(COLUMNS[name], justify="right")
    for i in range(points.sizes["point"]):
        at = points.isel(point=i)
        # the heads say the units of the rates
        cells = (q.number(at[n]) if "tokens_per_s" in n else q.show(n, at[n].item()) for n in names)
        table.add_row(*(tick_text(at[axis].item()) for axis in axes), *cells)
    print_table(out, table, drop=LESS_NEEDED)


def heads(axes: list[str]) -> list[str]:
    """What stands above the axes: the last word of each path, and the one before it where two would read the same."""
    parts = [axis.rpartition("@")[2].split(".") for axis in axes]
    last = [p[-1] for p in parts]
    return [" ".join(map(q.words, p[-2:] if last.count(p[-1]) > 1 else p[-1:])) for p in parts]


def print_front(front: xr.Dataset, objectives: list[str], to: Console | None = None) -> None:
    """Print points spread along a front of designs (`search_front`): the objectives, and what was varied."""
    paths = varied(front)
    table = _table()
    for name, head in zip(paths, heads(paths), strict=True):
        words = front[name].dtype.kind in "UOT"
        table.add_column(head, justify="left" if words else "right")
    for name in objectives:
        table.add_column(q.title(name), justify="right")
    for i in along(front, objectives[0], objectives[1], ROWS):
        at = front.isel(point=i)
        cells = [*(tick_text(at[n].item()) for n in paths), *(q.show(n, at[n].item()) for n in objectives)]
        table.add_row(*cells)
    out = to or console()
    print_table(out, table)
    if common := common_text(front):
        out.print(Text(f"all designs: {common}"))


def save_front(ds: xr.Dataset, folder: Path) -> None:
    """`pareto.png` in the folder, if the sweep has a front, or of a front of designs."""
    from mist_jax.report.plots import plot_front, plot_pareto, save

    if is_front(ds):
        save(plot_front(ds), folder / "pareto.png")
        return
    if not set(FRONT) <= set(ds.data_vars):
        return
    try:
        save(plot_pareto(ds), folder / "pareto.png")
    except ConfigError:
        return
