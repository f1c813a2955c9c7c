"""What one run does: dispatch on `mode`, print a table, write the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mist_jax.compose import name_groups
from mist_jax.errors import ConfigError, nearest
from mist_jax.schema import parse_scenario

MODES: dict[str, str] = {
    "evaluate": "mist_jax.application:run_evaluate",
    "play": "mist_jax.application:run_play",
    "compare": "mist_jax.compare:run_compare",
    "sweep": "mist_jax.explore.commands:run_sweep",
    "search": "mist_jax.explore.commands:run_search",
    "recommend": "mist_jax.explore.commands:run_recommend",
    "calibrate": "mist_jax.calibrate:run_calibrate",
}
RESULT, SUMMARY = "result.nc", "summary.json"


def run(config: Mapping[str, Any], folder: str, choices: Mapping[str, str] | None = None) -> Any:
    """Run one job of the command line.

    Args:
        config: the composed mapping.
        folder: the run folder; must not hold a result yet.
        choices: the option chosen of each config group.

    Raises:
        ConfigError: unknown mode, bad description, or a folder that already holds a result.
    """
    mapping = name_groups(dict(config), choices=choices)
    mode = mapping.get("mode")
    if mode not in MODES:
        raise ConfigError(f"mode: got {mode!r}{nearest(str(mode), MODES)}; allowed: {', '.join(MODES)}")
    out = Path(folder)
    if (out / RESULT).exists() or (out / SUMMARY).exists():
        raise ConfigError(
            f"hydra.run.dir: {out} already holds a result; choose another folder, nothing was changed"
        )
    return _handler(mode)(mapping, out)


def _handler(mode: str) -> Callable[[dict[str, Any], Path], Any]:
    import importlib

    module, name = MODES[mode].split(":")
    return getattr(importlib.import_module(module), name)


def start_jax() -> None:
    """The application's JAX settings: double precision, compiled programs kept between runs, its warnings alone."""
    import logging

    import jax

    from mist_jax.programs import keep_compiled

    jax.config.update("jax_enable_x64", True)
    # a multirun logs from INFO up, where JAX says which kinds of device this machine does not have
    logging.getLogger("jax").setLevel(logging.WARNING)
    keep_compiled()


def run_evaluate(mapping: dict[str, Any], out: Path) -> Any:
    """mode=evaluate: one deployment in steady state."""
    scenario = parse_scenario(mapping)
    start_jax()
    from mist_jax.evaluate import evaluate
    from mist_jax.pipelines.tables import print_stages
    from mist_jax.report.tables import print_evaluation

    result = evaluate(scenario)
    write(result, out, mapping)
    if wants_plots(mapping):
        from mist_jax.report.plots import plot_breakdown, save

        save(plot_breakdown(result), out / "breakdown.png")
    write_report_if_asked(scenario, result, out, mapping)
    say(mapping, out, lambda: print_evaluation(scenario, result), lambda: print_stages(result))
    return result


def run_play(mapping: dict[str, Any], out: Path) -> Any:
    """mode=play: a trace, request by request."""
    scenario = parse_scenario(mapping)
    start_jax()
    from mist_jax.pipelines.tables import print_stages
    from mist_jax.play import play
    from mist_jax.report.tables import print_play

    result = play(scenario)
    write(result, out, mapping)
    if wants_plots(mapping):
        from mist_jax.report.plots import plot_latency_cdf, plot_timeline, save

        save(plot_latency_cdf(result), out / "latency_cdf.png")
        save(plot_timeline(result), out / "timeline.png")
    if (mapping.get("output") or {}).get("timeline", False):
        from mist_jax.io.perfetto import write_request_timeline

        write_request_timeline(result, out / "timeline.json")
    write_report_if_asked(scenario, result, out, mapping)
    say(mapping, out, lambda: print_play(scenario, result), lambda: print_stages(result))
    return result


def wants_plots(mapping: Mapping[str, Any]) -> bool:
    """Whether pictures are asked for (`output.plots`, true unless said)."""
    return bool((mapping.get("output") or {}).get("plots", True))


def say(mapping: Mapping[str, Any], out: Path, *tables: Callable[[], Any]) -> None:
    """Print the tables and where the files are, last of all: a reader that closes the pipe loses no file.

    `output.quiet=true` prints nothing.
    """
    if (mapping.get("output") or {}).get("quiet", False):
        return
    for table in tables:
        table()
    print(f"\nwritten to {out}", flush=True)


def write_report_if_asked(scenario: Any, result: Any, out: Path, mapping: Mapping[str, Any]) -> None:
    """`report.html` in the run folder with `report=true`."""
    if mapping.get("report"):
        from mist_jax.report.html import write_report

        write_report(scenario, result, out / "report.html", mapping)


def write(result: Any, out: Path, mapping: Mapping[str, Any]) -> None:
    """`result.nc` (unless `output.netcdf=false`), `summary.json` and `config.json` in the run folder."""
    out.mkdir(parents=True, exist_ok=True)
    if (mapping.get("output") or {}).get("netcdf", True):
        from mist_jax.io.netcdf import write_netcdf

        write_netcdf(result, out / RESULT)
    (out / SUMMARY).write_text(json.dumps(summary(result), indent=2, sort_keys=True) + "\n")
    (out / "config.json").write_text(json.dumps(mapping, indent=2, default=str) + "\n")


def summary(result: Any) -> dict[str, Any]:
    """Scalars and attributes of a dataset as plain JSON values (NaN becomes null)."""
    import math

    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    scalars = {name: plain(var.values) for name, var in result.data_vars.items() if var.ndim == 0}
    units = {name: result[name].attrs.get("units", "") for name in scalars}
    attrs = {k: plain(v) for k, v in result.attrs.items()}
    return {"values": scalars, "units": units, "attributes": attrs}
