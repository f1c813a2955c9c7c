"""`python -m benchmarks.run [--only NAME] --json FILE`: the benchmarks, one JSON object a line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks

#: Modules of this package that are no benchmarks.
_HELPERS = {"run", "measurement", "numpy_interpreter"}


def available() -> list[str]:
    """Names of the benchmarks: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in _HELPERS)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks asked for; 2 if there is none of that name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="run this one (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON object a line")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    names = available()
    if options.list:
        print("\n".join(names))
        return 0
    wanted = options.only or names
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            print(f"benchmarks: no benchmark '{name}'{hint}; there are: {', '.join(names)}", file=sys.stderr)
            return 2
    lines = []
    for name in wanted:
        for result in importlib.import_module(f"benchmarks.{name}").measure():
            lines.append(json.dumps(result.to_json()))
            against = (
                f"{result.ratio:.3g} x {result.baseline_is}"
                if result.ratio is not None
                else result.baseline_is
            )
            print(f"{result.name:24s} {result.value:12.4g} {result.unit:16s} {against}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
