"""Synthetic datasets with the names and units of real results, for the tests of tables and pictures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mist_jax.physics.step import STEP_PARTS
from mist_jax.physics.step_energy import ENERGY_SHARES
from mist_jax.variables import VARIABLES

VALUES = {
    "ttft_s": 0.0805, "tpot_s": 0.01727, "e2e_s": 3.706, "request_rate": 5.0, "output_tokens_per_s": 1055.0,
    "total_tokens_per_s": 6830.0, "output_tokens_per_s_per_chip": 131.9, "tokens_per_s_per_user": 57.9,
    "running": 18.1, "waiting": 0.402, "step_s": 0.01727, "prefill_share": 0.086, "load": 0.35,
    "kv_occupancy": 0.017, "flops_utilization": 0.12, "bandwidth_utilization": 0.37, "power_w": 343.0,
    "energy_per_output_token_j": 2.6, "cost_per_million_output_tokens_usd": 6.21, "chips": 8.0,
    "weights_bytes": 17.6e9, "kv_budget_bytes": 56.55e9, "kv_blocks": 86290.0, "kv_tokens": 1.381e6, "status": 0,
}  # fmt: skip


def evaluation() -> xr.Dataset:
    """As `mist_jax.evaluate` returns it."""
    ds = xr.Dataset({k: ((), v, {"units": VARIABLES[k][0]}) for k, v in VALUES.items()})
    parts = np.linspace(0.0, 2e-3, len(STEP_PARTS))
    parts[STEP_PARTS.index("ffn_dense")] = 8e-3
    ds["breakdown_s"] = ("part", parts, {"units": "s"})
    ds["power_share_w"] = ("share", np.array([70.0, 144.6, 53.8, 73.4, 0.95]), {"units": "W"})
    ds.attrs.update(status="ok", calibration="default")
    return ds.assign_coords(part=list(STEP_PARTS), share=list(ENERGY_SHARES))


def playback(count: int = 200, seed: int = 3) -> xr.Dataset:
    """As `mist_jax.play` returns it; the last request was refused, three were preempted."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(0.2, count))
    stages = np.stack(
        [
            np.full(count, 0.005),
            rng.exponential(0.02, count),
            rng.gamma(2, 0.03, count),
            rng.gamma(2, 1.5, count),
        ],
        axis=1,
    )
    output = rng.integers(2, 400, count)
    stages[-1] = np.nan
    ttft, e2e = stages[:, :3].sum(axis=1), stages.sum(axis=1)

    def column(values: np.ndarray, units: str) -> tuple[str, np.ndarray, dict[str, str]]:
        return "request", values, {"units": units}

    preempted = np.zeros(count, dtype=int)
    preempted[:3] = 1
    status = np.zeros(count, dtype=int)
    status[-1] = 2
    ds = xr.Dataset(
        {
            "arrival_s": column(arrival, "s"),
            "ttft_s": column(ttft, "s"),
            "tpot_s": column((e2e - ttft) / (output - 1), "s"),
            "e2e_s": column(e2e, "s"),
            "output_tokens": column(output, "1"),
            "preemptions": column(preempted, "1"),
            "status": column(status, "1"),
            "stage_s": (("request", "stage"), stages, {"units": "s"}),
        },
        coords={"request": np.arange(count), "stage": ["request", "queue", "prefill", "decode"]},
    )
    ds.attrs.update(
        requests=count, served=count - 1, preempted_requests=3, goodput_share=0.97, goodput_per_s=4.6, makespan_s=44.0,
        output_tokens_per_s=931.0, cost_usd=0.29, cost_per_million_output_tokens_usd=7.04, energy_j=1.23e5,
        energy_per_output_token_j=3.02, chips=8.0, trace="200 synthetic requests", calibration="default",
    )  # fmt: skip
    return ds


def sweep() -> xr.Dataset:
    """A sweep over hardware, TP and concurrency, with points that do not fit; percentiles and intervals."""
    hardware, tp = ["NVIDIA H100 SXM5 80 GB", "AMD Instinct MI300X", "NVIDIA B200"], [1, 2, 4, 8]
    concurrency = [1, 4, 16, 64, 128, 256]
    speed = np.array([1.0, 1.25, 2.2])[:, None, None]
    t = np.array(tp, dtype=float)[None, :, None]
    c = np.array(concurrency, dtype=float)[None, None, :]
    tpot = 0.03 / speed / t**0.8 + 2e-4 * c / speed / t**0.7
    ttft = 0.05 + 2e-3 * c / speed / t**0.9
    per_chip = c / tpot / t
    status = np.zeros(tpot.shape, dtype=int)
    status[0, 0, :], status[1, 0, 4:] = 1, 2
    for values in (tpot, ttft, per_chip):
        values[status > 0] = np.nan
    dims = ("hardware", "tp", "concurrency")
    ds = xr.Dataset(
        {
            "ttft_s": (dims, ttft, {"units": "s"}),
            "tpot_s": (dims, tpot, {"units": "s"}),
            "tokens_per_s_per_user": (dims, 1 / tpot, {"units": "1/s"}),
            "output_tokens_per_s_per_chip": (dims, per_chip, {"units": "1/s"}),
            "cost_per_million_output_tokens_usd": (dims, 3 / 3600 / per_chip * 1e6 * speed, {"units": "USD"}),
            "status": (dims, status),
        },
        coords={"hardware": hardware, "tp": tp, "concurrency": concurrency},
    )
    for p, factor in ((50, 0.9), (90, 1.6), (99, 2.6)):
        ds[f"ttft_p{p}_s"] = ds.ttft_s * factor
    ds["ttft_s_low"], ds["ttft_s_high"] = ds.ttft_s * 0.8, ds.ttft_s * 1.25
    return ds


def under_load() -> xr.Dataset:
    """Latency over the offered rate, unstable above 10 requests/s; dims are dotted paths."""
    rate = np.arange(1.0, 13.0)
    stable = rate < 10
    ttft = np.where(stable, 0.05 + 0.02 / (1 - np.minimum(rate / 10, 0.99)), np.nan)
    ds = xr.Dataset(
        {
            "ttft_s": ("workload.rate", ttft, {"units": "s"}),
            "tpot_s": ("workload.rate", np.where(stable, 0.012 + 1e-3 * rate, np.nan), {"units": "s"}),
            "status": ("workload.rate", np.where(stable, 0, 3)),
        },
        coords={"workload.rate": ("workload.rate", rate, {"units": "1/s"})},
    )
    for name in ("ttft", "tpot"):
        for p, factor in ((50, 0.9), (90, 1.6), (99, 2.6)):
            ds[f"{name}_p{p}_s"] = ds[f"{name}_s"] * factor
        ds[f"{name}_s_low"], ds[f"{name}_s_high"] = ds[f"{name}_s"] * 0.8, ds[f"{name}_s"] * 1.25
    return ds


def cache_curve() -> xr.Dataset:
    """Hit rate over the size of a cache for two policies."""
    size = np.geomspace(1e9, 1e13, 17)
    rates = np.stack([0.64 * (1 - np.exp(-((size / scale) ** 0.6))) for scale in (3e11, 1e12)])
    coords = {"policy": ["LRU", "FIFO"], "cache_bytes": ("cache_bytes", size, {"units": "byte"})}
    return xr.Dataset({"hit_rate": (("policy", "cache_bytes"), rates)}, coords=coords)


def search_history() -> xr.Dataset:
    """Objective of 200 evaluations by three methods with five seeds."""
    rng = np.random.default_rng(0)
    n = np.arange(1, 201)
    values = np.stack([[1 + 9 * rng.random(n.size) / n ** (0.4 * s) for _ in range(5)] for s in (0, 1, 2)])
    values[:, :, 0] = np.nan  # the first evaluation was infeasible
    attrs = {"units": "USD", "long_name": "cost per million tokens", "sense": "min"}
    dims = ("method", "seed", "evaluation")
    return xr.Dataset(
        {"objective": (dims, values, attrs)},
        coords={"method": ["random", "TPE", "gradient"], "evaluation": n},
    )
