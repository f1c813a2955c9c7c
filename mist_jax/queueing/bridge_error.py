"""What the closed form of the steady state misses of an open loop, learnt by playing it (docs/bridge.md)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from mist_jax.paths import PACKAGE

QUANTITIES = ("ttft", "tpot", "e2e")
#: Beyond these an open loop whose memory holds fewer mean requests than `max_num_seqs` may preempt and recompute until
#: its queue grows without end, which the closed form does not see: all cases of docs/bridge.md that were more than
#: 50 % off lie beyond them. Shares of the capacity and of the KV budget.
KV_LOAD, KV_OCCUPANCY = 0.75, 0.2
KV_WARNING = (
    "the KV cache binds and the load exceeds three quarters of the capacity: the engine may preempt and recompute, "
    "which the steady state does not model; its latencies may be far too low. Use mode=play"
)


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return json.loads((PACKAGE / "catalog" / "bridge.json").read_text())


def bridge_error(load: float) -> dict[str, tuple[float, float, float]]:
    """Signed error of the closed form's means against playbacks at this share of the capacity.

    steady / played - 1: (lowest, median, highest) of the cases in docs/bridge.md whose KV cache does not bind, linear
    in the load between them; below the first and above the last load their values.

    Args:
        load: offered rate over the rate at saturation.

    Returns:
        `ttft`, `tpot`, `e2e` -> three fractions.

    Not modelled: other length distributions than the log-normal ones played, disaggregated pools.
    """
    table = _table()

    def at(name: str, row: str) -> float:
        return float(np.interp(load, table["load"], table[name][row]))

    return {n: (at(n, "low"), at(n, "median"), at(n, "high")) for n in QUANTITIES}


def kv_binds(*, load: float, kv_occupancy: float, kv_tokens: float, max_num_seqs: float, held: float) -> bool:
    """Whether an open loop's queue may be limited by memory in a way that the closed form does not model.

    Args:
        load: offered over saturating rate. kv_occupancy: mean share of the KV budget in use.
        kv_tokens: tokens that the KV cache of a rank holds. max_num_seqs: of the engine.
        held: tokens of a request at its end.
    """
    return load > KV_LOAD and kv_occupancy > KV_OCCUPANCY and kv_tokens < max_num_seqs * held


def add_bridge_error(ds: xr.Dataset, *, max_num_seqs: float, held: float) -> xr.Dataset:
    """The result of an open loop with `ttft_bridge_error` and so on, `kv_bound` and, if it is set, `warning`.

    Args:
        ds: result of `evaluate` for open-loop arrivals. max_num_seqs, held: see `kv_binds`.
    """
    load = float(ds["load"])
    if not np.isfinite(load):
        return ds
    for name, (low, middle, high) in bridge_error(load).items():
        about = {
            "units": "1",
            "long_name": f"median signed error of the closed form's mean {name.upper()} against playbacks at this load",
            "low": low,
            "high": high,
            "source": "docs/bridge.md",
        }
        ds[f"{name}_bridge_error"] = ((), middle, about)
    bound = kv_binds(
        load=load,
        kv_occupancy=float(ds["kv_occupancy"]),
        kv_tokens=float(ds["kv_tokens"]),
        max_num_seqs=max_num_seqs,
        held=held,
    )
    ds["kv_bound"] = (
        (),
        int(bound),
        {"units": "1", "long_name": "1: limited by the KV cache beyond what is modelled"},
    )
    if bound:
        ds.attrs["warning"] = KV_WARNING
    return ds
