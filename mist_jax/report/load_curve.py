"""Latency over load with intervals and percentiles: the dataset behind the picture "latency under load".

A sweep has means alone. Here every load is evaluated on its own, with the intervals of the calibration, and if asked
for played, which gives the percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from mist_jax.schema import Scenario

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
#: Percentiles that a played load adds.
PERCENTILES = (50, 90, 99)


def load_path(scenario: Scenario) -> str:
    """The key that says how much load there is."""
    return "workload.concurrency" if scenario.workload.arrivals == "closed" else "workload.rate"


def load_curve(
    scenario: Scenario, loads: Sequence[float], *, played: bool = False, requests: int | None = None
) -> xr.Dataset:
    """Steady state of a deployment over its load, for `ds.mist.load()`.

    Args:
        scenario: the deployment; its arrivals decide what a load is: requests in flight if closed, else requests/s.
        loads: values of it.
        played: also play each load that the deployment keeps up with: `ttft_p50_s`, `ttft_p90_s`, `ttft_p99_s`, ...
        requests: requests of each playback (default: those of the workload).

    Returns:
        Dataset along the load's key: the scalar results of `evaluate`, intervals (`x_low`, `x_high`) where the
        calibration has them, percentiles if played.

    Raises:
        ConfigError: a load that cannot be.
    """
    from mist_jax.compose import with_overrides
    from mist_jax.evaluate import evaluate

    path = load_path(scenario)
    points: list[xr.Dataset] = []
    for load in loads:
        one = with_overrides(scenario, {path: float(load)})
        ds = evaluate(one, elasticities=False)
        ds = ds.drop_dims(list(ds.dims))
        if played and int(ds["status"]) == 0:
            ds = ds.assign(_percentiles(one, requests))
        points.append(ds)
    axis = xr.IndexVariable(path, [float(v) for v in loads])
    out: xr.Dataset = xr.concat(points, axis, combine_attrs="drop_conflicts")  # type: ignore[assignment]
    out[path].attrs["units"] = "1" if path.endswith("concurrency") else "1/s"
    return out


def _percentiles(scenario: Scenario, requests: int | None) -> dict[str, xr.Variable]:
    from mist_jax.compose import with_overrides
    from mist_jax.play import play

    if requests is not None:
        scenario = with_overrides(scenario, {"workload.requests": requests})
    attrs = play(scenario).attrs
    names = [f"{n.removesuffix('_s')}_p{p}_s" for n in LATENCIES for p in PERCENTILES]
    return {n: xr.Variable((), float(attrs[n]), {"units": "s"}) for n in names if n in attrs}
