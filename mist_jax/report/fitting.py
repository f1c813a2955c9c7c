"""Tables that fit the terminal: headings wrap at words, then columns go; a number is never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns of a console that writes to a file or pipe: as wide as any table needs.
UNBOUNDED = 10_000


class _Column(NamedTuple):
    """Characters of a column: `need` without cutting a number or a word, `want` with each cell on one line."""

    need: int
    want: int


def console(width: int | None = None) -> Console:
    """A console that does not colour numbers on its own.

    It is as wide as the terminal. Where the output is no terminal (a pipe, a file) nothing is wrapped: rich would
    assume 80 columns there, and cut what does not fit.
    """
    out = Console(highlight=False, width=width)
    if width is not None or out.is_jupyter or out.file.isatty():
        return out
    return Console(highlight=False, width=UNBOUNDED)


def print_table(out: Console, table: Table, drop: Sequence[str] = ()) -> None:
    """Print a table within the width of the console.

    What does not fit is wrapped at words, headings first; then the columns of `drop` are left out, and a line says
    which. Columns that are justified to the right hold numbers: their cells are never broken. Where even that is too
    wide, each row is a sentence of all its cells.

    Args:
        out: where to print.
        table: what to print; the widths of its columns are changed.
        drop: headings of the columns that may be left out, the least important first.
    """
    whole, dropped = table, []
    for heading in drop:
        if _needed(table) <= out.width:
            break
        if any(c.header == heading for c in table.columns):
            table = _without(table, heading)
            dropped.append(heading)
    if _needed(table) > out.width:
        _print_sentences(out, whole)
        return
    columns = [_column(table, i) for i in range(len(table.columns))]
    for column, width in zip(table.columns, _widths(columns, out.width - _frame(table)), strict=True):
        column.width, column.no_wrap = width, False
    out.print(table)
    if any(dropped):
        left = ", ".join(filter(None, dropped))
        out.print(Text(f"(no room for: {left}; a wider terminal or a pipe shows all)", style="dim"))


def _print_sentences(out: Console, table: Table) -> None:
    if table.title:
        out.print(Text(_plain(table.title), style="bold"))
    heads = [_plain(c.header) if table.show_header else "" for c in table.columns]
    for cells in zip(*(c.cells for c in table.columns), strict=True):
        said = (f"{head} {_plain(cell)}".strip() for head, cell in zip(heads, cells, strict=True))
        out.print(Text("- " + ", ".join(filter(None, said))))


def _without(table: Table, heading: str) -> Table:
    """The table without a column, made anew: rich keeps the number under which a column was added."""
    new = Table(
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
        show_header=table.show_header,
        title=table.title,
        title_style=table.title_style,
        title_justify=table.title_justify,
    )
    kept = [c for c in table.columns if c.header != heading]
    for c in kept:
        new.add_column(c.header, justify=c.justify)
    for row, cells in zip(table.rows, zip(*(c.cells for c in kept), strict=True), strict=True):
        new.add_row(*cells, style=row.style)
    return new


def _needed(table: Table) -> int:
    return sum(_column(table, i).need for i in range(len(table.columns))) + _frame(table)


def natural_width(table: Table) -> int:
    """Characters of a table whose cells stand on one line each."""
    return sum(_column(table, i).want for i in range(len(table.columns))) + _frame(table)


def _column(table: Table, index: int) -> _Column:
    column = table.columns[index]
    cells = [_plain(c) for c in column.cells]
    head = _plain(column.header) if table.show_header else ""
    number = column.justify == "right"
    longest = max((len(c) if number else _longest(c) for c in cells), default=0)
    return _Column(max(longest, _longest(head)), max(map(len, (*cells, head)), default=0))


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """What each column gets: what it wants if there is room; else those with most to spare give."""
    widths = [c.want for c in columns]
    while sum(widths) > room:
        spare = [(width - c.need, i) for i, (width, c) in enumerate(zip(widths, columns, strict=True))]
        widths[max(spare)[1]] -= 1
    return widths


def _frame(table: Table) -> int:
    """Characters between and beside the columns."""
    _, right, _, left = table.padding
    count = len(table.columns)
    lines = 0 if table.box is None else count - 1 + (2 if table.show_edge else 0)
    return lines + (right + left) * (count if table.pad_edge else count - 1)


def _plain(cell: object) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)


def _longest(text: str) -> int:
    return max(map(len, text.split()), default=0)
