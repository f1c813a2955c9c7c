"""`mode=sweep`, `mode=search` and `mode=recommend` of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mist_jax.application import start_jax, wants_plots, write, write_report_if_asked
from mist_jax.errors import ConfigError, nearest
from mist_jax.schema import parse_scenario

SEARCH_KEYS = (
    "objective",
    "variables",
    "constraints",
    "choices",
    "maximize",
    "starts",
    "steps",
    "polish",
    "requests",
    "evaluations",
)


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted paths: `{workload: {rate: [1, 2]}}` is `{"workload.rate": [1, 2]}`."""
    out: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        out |= flat(value, path) if isinstance(value, Mapping) else {path: value}
    return out


def run_sweep(mapping: dict[str, Any], out: Path) -> Any:
    """mode=sweep: the axes of the `sweep` section; writes `result.nc`, or `sweep.zarr` as it goes if it is large."""
    axes = flat(mapping.get("sweep") or {})
    if not axes:
        raise ConfigError(
            "sweep: no axes; give some, such as 'sweep.workload.rate=[1,2,4]' with a leading '+'"
        )
    scenario = parse_scenario(mapping)
    start_jax()
    import numpy as np

    from mist_jax.explore.sweep import count_status, sweep
    from mist_jax.report.sweep_tables import print_sweep, save_front

    points = int(np.prod([len(v) if isinstance(v, list) else 1 for v in axes.values()]))
    large = points > 1_000_000
    executor = str(mapping.get("executor") or "threads")
    result = sweep(scenario, axes, store=out / "sweep.zarr" if large else None, executor=executor)
    if not large:
        write(result, out, mapping)
        if wants_plots(mapping):
            save_front(result, out)
        write_report_if_asked(scenario, result, out, mapping)
        print_sweep(result)
    counts = ", ".join(f"{n} {text}" for text, n in count_status(result).items())
    print(f"{points} points: {counts}\nwritten to {out}")
    return result


def run_search(mapping: dict[str, Any], out: Path) -> Any:
    """mode=search: the `search` section."""
    section = {k: v for k, v in (mapping.get("search") or {}).items() if v is not None}
    for key in section:
        if key not in SEARCH_KEYS:
            raise ConfigError(
                f"search.{key}: unknown key{nearest(key, SEARCH_KEYS)}; allowed: {', '.join(SEARCH_KEYS)}"
            )
    for key in ("variables", "choices"):
        if key in section:
            section[key] = flat(section[key])
    scenario = parse_scenario(mapping)
    if isinstance(section.get("objective"), list):
        return _run_front(scenario, section, mapping, out)
    section.pop("evaluations", None)
    start_jax()
    from mist_jax.explore.search import search
    from mist_jax.report import quantities as q

    result = search(scenario, **section)
    write(result.history, out, mapping)
    answer = {
        "best": result.best,
        "objective": result.objective,
        "feasible": result.feasible,
        "figures": result.figures,
        "evaluations": result.evaluations,
        "runners_up": result.runners_up,
        "played": result.played,
        "missed": result.missed,
    }
    (out / "answer.json").write_text(json.dumps(answer, indent=2, default=str) + "\n")
    write_report_if_asked(scenario, result, out, mapping)
    if not result.feasible:
        print(f"no design within the bounds meets the constraints ({result.evaluations} evaluations)")
    for path, value in result.best.items():
        print(
            f"{path} = {value:g} ({q.of_config(path, value)})"
            if isinstance(value, float)
            else f"{path} = {value}"
        )
    name = str(section.get("objective") or "objective")
    figure = (
        f"{q.title(name)} {q.show(name, result.objective)}" if name in q.SHOWN else f"{result.objective:g}"
    )
    print(f"objective: {figure} after {result.evaluations} evaluations")
    if result.played:
        print(q.played(result.played, result.missed))
    print(f"written to {out}")
    return result


def _run_front(scenario: Any, section: dict[str, Any], mapping: dict[str, Any], out: Path) -> Any:
    """mode=search with several objectives: their Pareto front."""
    if section.get("requests"):
        raise ConfigError(
            "search.requests: a front of designs is not played; give one objective, or requests=0"
        )
    start_jax()
    from mist_jax.explore.evolution import search_front
    from mist_jax.report.sweep_tables import print_front, save_front

    objectives = [str(name) for name in section["objective"]]
    kept = ("variables", "constraints", "choices", "evaluations")
    front = search_front(
        scenario, objectives, **{"variables": {}, **{k: section[k] for k in kept if k in section}}
    )
    write(front, out, mapping)
    if wants_plots(mapping):
        save_front(front, out)
    write_report_if_asked(scenario, front, out, mapping)
    print_front(front, objectives)
    count, tried = front.sizes["point"], front.attrs["evaluations"]
    print(f"{count} designs on the front after {tried} evaluations\nwritten to {out}")
    return front


def run_recommend(mapping: dict[str, Any], out: Path) -> Any:
    """mode=recommend: the cheapest fleet for the workload and SLO."""
    from mist_jax.explore.recommend import recommend, settings

    options = settings(mapping)
    scenario = parse_scenario(mapping)
    start_jax()
    result = recommend(scenario, **options)
    out.mkdir(parents=True, exist_ok=True)
    answer = {
        "best": {**vars(result.best), "text": result.best.text},
        "runners_up": [{**vars(f), "text": f.text} for f in result.runners_up],
        **{
            k: getattr(result, k)
            for k in ("bottleneck", "tightest", "slack", "elasticities", "headroom", "intervals")
        },
        "would_change": result.would_change,
        "good_share": result.good_share,
        "candidates": result.candidates,
    }
    (out / "answer.json").write_text(json.dumps(answer, indent=2) + "\n")
    (out / "config.json").write_text(json.dumps(mapping, indent=2, default=str) + "\n")
    write_report_if_asked(scenario, result, out, mapping)
    print(f"{result}\nwritten to {out}")
    return result
