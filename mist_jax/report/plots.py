"""All pictures: functions that take a dataset and return a matplotlib figure; `save` writes one.

The bodies are in `plots_play` (one deployment), `plots_sweep` and `plots_load` (many), `plots_front` (a
front of designs), `plots_search`, `plots_compare` and `plots_roofline`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mist_jax.report import style
from mist_jax.report.plots_compare import plot_comparison
from mist_jax.report.plots_front import plot_front
from mist_jax.report.plots_load import load_axis, plot_load
from mist_jax.report.plots_play import (
    plot_breakdown,
    plot_gantt,
    plot_latency_cdf,
    plot_stages,
    plot_timeline,
)
from mist_jax.report.plots_roofline import plot_roofline
from mist_jax.report.plots_search import plot_cache_curve, plot_convergence
from mist_jax.report.plots_sweep import plot_heatmap, plot_pareto
from mist_jax.report.style import use_style
from mist_jax.report.sweep_points import pareto_front

__all__ = [
    "load_axis",
    "pareto_front",
    "plot_breakdown",
    "plot_cache_curve",
    "plot_comparison",
    "plot_convergence",
    "plot_front",
    "plot_gantt",
    "plot_heatmap",
    "plot_latency_cdf",
    "plot_load",
    "plot_pareto",
    "plot_roofline",
    "plot_stages",
    "plot_timeline",
    "save",
    "use_style",
]


def save(fig: Any, path: str | Path) -> Path:
    """Write a figure (the suffix says the format) and let go of its memory; returns the path."""
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style.RC):
        fig.savefig(path)
    fig.clear()
    return path
