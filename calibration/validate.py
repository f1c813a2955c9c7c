"""Public measurements other than the serving rows: measured against predicted, one command.

    python -m calibration.validate --json FILE [--only CASE] [--list]

Every case is a function of `calibration.validation_{cases,llm,serving,moe}` that yields rows;
none knows its prediction beforehand. A row says on what basis it stands:
    exact      the formula must reproduce the figure
    fitted     a constant of the model was fitted to this very figure or table
    predicted  nothing was fitted to it
    trend      only the direction or the order of magnitude is claimed
A case whose data or part of the model is missing is skipped with the reason printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
Case = Callable[[], Iterator[Row]]


class Skip(Exception):
    """A case that cannot run here, with the reason."""


def row(
    quantity: str,
    measured: float,
    predicted: Any,
    unit: str,
    source: str,
    basis: str = "predicted",
    **setting: Any,
) -> Row:
    """One comparison; `setting` is what was assumed."""
    return {
        "quantity": quantity,
        "measured": float(measured),
        "predicted": float(predicted),
        "unit": unit,
        "source": source,
        "basis": basis,
        "setting": setting,
    }


def cases() -> dict[str, Case]:
    """All cases by name."""
    from calibration import validation_cases, validation_llm, validation_moe, validation_serving

    modules = (validation_cases, validation_llm, validation_serving, validation_moe)
    return {name: case for module in modules for name, case in module.CASES.items()}


def run(only: list[str] | None = None) -> tuple[list[Row], dict[str, str]]:
    """Rows of all (or the named) cases, and the reasons of those that were skipped."""
    from mist_jax.errors import ConfigError

    rows, skipped = [], {}
    for name, case in cases().items():
        if only and name not in only:
            continue
        try:
            rows += [{"case": name, **r} for r in case()]
        except (Skip, FileNotFoundError, ImportError, ConfigError) as exc:
            skipped[name] = f"{type(exc).__name__}: {exc}"
    return rows, skipped


def error_percent(r: Row) -> float:
    """Signed error in per cent; NaN where the measured value is 0."""
    return 100 * (r["predicted"] / r["measured"] - 1) if r["measured"] else math.nan


def show(rows: list[Row], skipped: dict[str, str]) -> None:
    """The table, and the median error of each basis."""
    print(f"{'case':24} {'quantity':52} {'measured':>11} {'predicted':>11} {'unit':12} {'error %':>8}  basis")
    for r in rows:
        error = error_percent(r)
        text = f"{error:8.1f}" if math.isfinite(error) else f"{'-':>8}"
        print(
            f"{r['case']:24} {r['quantity'][:52]:52} {r['measured']:11.5g} {r['predicted']:11.5g} "
            f"{r['unit']:12} {text}  {r['basis']}"
        )
    for basis in ("exact", "fitted", "predicted", "trend"):
        errors = sorted(abs(error_percent(r)) for r in rows if r["basis"] == basis and r["measured"])
        if errors:
            print(f"{basis}: {len(errors)} rows, median |error| {errors[len(errors) // 2]:.1f} %")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write one JSON object a line to this file")
    parser.add_argument("--only", action="append", help="run only this case (may be repeated)")
    parser.add_argument("--list", action="store_true", help="names of the cases")
    args = parser.parse_args(argv)
    import jax

    jax.config.update("jax_enable_x64", True)
    if args.list:
        print("\n".join(cases()))
        return 0
    unknown = set(args.only or ()) - set(cases())
    if unknown:
        print(f"no case {', '.join(sorted(unknown))}; there are {', '.join(cases())}", file=sys.stderr)
        return 2
    rows, skipped = run(args.only)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(r) + "\n" for r in rows)
    show(rows, skipped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
