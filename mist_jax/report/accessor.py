"""`Dataset.mist`: the pictures of this package as methods of a dataset.

    ds = mist_jax.sweep(scenario, {...})
    ds.mist.pareto(by="hardware")        # a matplotlib figure, shown by a notebook
    ds.mist.front()                      # the points of the front as a dataset
    mist_jax.search_front(...).mist.pareto()  # the front of a search, dominated designs in grey

Importing this module imports xarray alone; matplotlib comes with the first picture.
"""

from __future__ import annotations

from typing import Any

import xarray as xr


@xr.register_dataset_accessor("mist")
class MistAccessor:
    """Pictures and extracts of a result of `evaluate`, `play`, `sweep` or `search`."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._ds = dataset

    def _plot(self, name: str, *args: Any, **kwargs: Any) -> Any:
        from mist_jax.report import plots

        return getattr(plots, f"plot_{name}")(self._ds, *args, **kwargs)

    def breakdown(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_breakdown`."""
        return self._plot("breakdown", **kwargs)

    def cdf(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_latency_cdf`."""
        return self._plot("latency_cdf", **kwargs)

    def timeline(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_timeline`."""
        return self._plot("timeline", **kwargs)

    def stages(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_stages`."""
        return self._plot("stages", **kwargs)

    def gantt(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_gantt`."""
        return self._plot("gantt", **kwargs)

    def pareto(self, *args: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_pareto`; of a front of designs, `mist_jax.report.plots.plot_front`."""
        from mist_jax.report.front_points import is_front

        return self._plot("front" if is_front(self._ds) else "pareto", *args, **kwargs)

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_load`."""
        return self._plot("load", *args, **kwargs)

    def heatmap(self, *args: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_heatmap`."""
        return self._plot("heatmap", *args, **kwargs)

    def cache_curve(self, *args: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_cache_curve`."""
        return self._plot("cache_curve", *args, **kwargs)

    def convergence(self, *args: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_convergence`."""
        return self._plot("convergence", *args, **kwargs)

    def comparison(self, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_comparison`."""
        return self._plot("comparison", **kwargs)

    def roofline(self, scenario: Any, **kwargs: Any) -> Any:
        """See `mist_jax.report.plots.plot_roofline`."""
        from mist_jax.report.plots import plot_roofline

        return plot_roofline(scenario, self._ds, **kwargs)

    def front(self, x: str = "tokens_per_s_per_user", y: str = "output_tokens_per_s_per_chip") -> xr.Dataset:
        """See `mist_jax.report.plots.pareto_front`."""
        from mist_jax.report.sweep_points import pareto_front

        return pareto_front(self._ds, x, y)

    @property
    def interactive(self) -> Any:
        """Plotly variants (extra `notebooks`): `.pareto()`, `.load()`, `.heatmap()`, `.timeline()`."""
        from mist_jax.report.interactive import Interactive

        return Interactive(self._ds)
