"""MLPerf Server runs: Poisson arrivals at the offered rate, mean TTFT and TPOT from the open-loop steady state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from calibration.datasets.mlperf import read_mlperf
from calibration.e2e_systems import hardware_spec
from calibration.iterations import make_system
from calibration.vendors import MLPERF_FORMATS, MLPERF_PROMPT, linked, smallest_split, tuned
from mist_jax.vendor_catalog import board_factor, scaled


def server_runs(kappa: dict[str, float], others: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Server rows that state TTFT and TPOT, with `ttft` and `tpot` predicted in ms and `load` of capacity.

    Args:
        kappa: system → log of `tuned_engine` fitted without it. others: system → log factors of its generation.
    """
    import jax

    from mist_jax.programs import compiled
    from mist_jax.queueing.steady import open_loop
    from mist_jax.system.deployment import Workload

    frame = read_mlperf()
    frame = frame[(frame.scenario == "server") & (frame.status == "ok") & frame.ttft_mean_ms.notna()]
    rows, trees = [], []
    for r in frame.itertuples():
        formats = MLPERF_FORMATS[r.precision]
        tp = smallest_split(r.system, r.model, formats, r.engine)
        if tp > r.n_gpus:
            continue
        ways = {"tp": tp} if linked(r.system) or r.engine == "vllm" else {"tp": 1.0, "pp": tp}
        system = make_system(
            r.system, r.model, "", formats, engine=r.engine, max_num_seqs=2048.0, block_scaled=False, **ways
        )
        factors: dict[str, float] = {}
        for part in (tuned(kappa[r.system]), others.get(r.system, {})):
            for name, value in part.items():
                factors[name] = factors.get(name, 0.0) + value
        factors["compute_efficiency"] += float(np.log(board_factor(hardware_spec(r.system))))
        calibration = scaled(system.calibration, {n: np.exp(v) for n, v in factors.items()})
        workload = Workload(
            isl=MLPERF_PROMPT[r.model],
            osl=r.tokens_per_sample,
            concurrency=1.0,
            rate=r.offered_per_s,
            isl_cv=0.7,
            osl_cv=0.7,
        )
        rows.append(r._asdict())
        trees.append((_with(system, calibration), workload, r.n_gpus / tp))

    def stack(*leaves: Any) -> np.ndarray:
        return np.stack([np.asarray(v, np.float64) for v in leaves])

    with jax.enable_x64(True):
        state = compiled(jax.vmap(open_loop))(*jax.tree.map(stack, *trees))
        out = pd.DataFrame(rows)
        out["ttft"], out["tpot"], out["load"] = (
            np.asarray(v) * s for v, s in ((state.ttft, 1e3), (state.tpot, 1e3), (state.load, 1.0))
        )
    return out


def _with(system: Any, calibration: Any) -> Any:
    import dataclasses

    return dataclasses.replace(system, calibration=calibration)
