"""What more of each resource would give, and which one bounds a deployment: slopes of its steady state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

#: Field of `Hardware` → resource, named as those of pipelines are (`physics.demand.RESOURCES`).
FIELDS = {
    "peak_flops": "accelerator",
    "memory_bandwidth": "device_memory",
    "memory_capacity": "memory_capacity",
    "scale_up_bandwidth": "scale_up",
    "scale_out_bandwidth": "network",
}
#: Figures that are followed; the last is what the deployment could complete (open loop) or does (closed loop).
FIGURES = ("ttft_s", "tpot_s", "e2e_s", "capacity")
#: Relative step: below the distance at which kernels change what bounds them, above the solver's 1e-6.
STEP = 0.01
#: End-to-end elasticity from which a resource is said to bound.
BOUND = 0.05
#: The bottleneck where no resource bounds.
NOTHING = "none of the resources: fixed times and waiting"


def add_elasticity(
    ds: xr.Dataset, systems: Mapping[str, Any], state_of: Callable[[Mapping[str, Any]], Any], closed: bool
) -> xr.Dataset:
    """`ds` with `elasticity(figure, client, resource)` and the attribute `bottleneck`.

    Central differences over +-1 % of the compiled program that gave `ds`, so that nothing further is compiled: they
    agree with its derivative (tests/test_gradients.py) but where a limit such as `max_num_seqs` sets in. Where the
    deployment stops working with 1 % less of a resource, the slopes are NaN and that resource is what bounds it.

    Args:
        ds: result of `mist_jax.evaluate`. systems: client → `System`. state_of: such systems → `SteadyState`.
        closed: whether the load is a number of clients (else a rate).
    """
    slopes = np.zeros((len(FIGURES), len(systems), len(FIELDS)))
    for i, (client, system) in enumerate(systems.items()):
        for j, field in enumerate(FIELDS):
            ends = []
            for factor in (1.0 + STEP, 1.0 - STEP):
                more: dict[str, Any] = {field: getattr(system.hardware, field) * factor}
                changed = dataclasses.replace(system, hardware=dataclasses.replace(system.hardware, **more))
                ends.append(_logs(state_of({**systems, client: changed}), closed))
            slopes[:, i, j] = (ends[0] - ends[1]) / np.log((1.0 + STEP) / (1.0 - STEP))
    text = (
        "d ln(figure) / d ln(resource); capacity: the rate at saturation, of a closed loop the completed one"
    )
    ds = ds.assign_coords(figure=list(FIGURES), client=list(systems), resource=list(FIELDS.values()))
    ds["elasticity"] = (("figure", "client", "resource"), slopes, {"units": "1", "long_name": text})
    end_to_end = np.nan_to_num(slopes[FIGURES.index("e2e_s")], nan=-np.inf)
    client, resource = np.unravel_index(np.argmin(end_to_end), end_to_end.shape)
    if end_to_end[client, resource] <= -BOUND:
        ds.attrs["bottleneck"] = f"{list(systems)[client]}: {list(FIELDS.values())[resource]}"
    else:
        ds.attrs["bottleneck"] = NOTHING
    return ds


def _logs(state: Any, closed: bool) -> np.ndarray:
    capacity = state.rate if closed else state.rate / state.load
    return np.log(np.array([state.ttft, state.tpot, state.e2e, capacity], dtype=np.float64))
