"""The parameters of the end-to-end fit, and predictions of TTFT and TPOT with their slopes.

Each row's coefficients are sums over levels (`mist_jax.step_coefficients`); the physics is the packaged steady state,
vmapped over rows. One program gives the predictions, one their Jacobian with respect to the row's coefficients; the
chain to the parameters is linear and is done outside, so no program depends on which parameters there are.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from calibration import e2e_systems
from mist_jax.step_coefficients import COEFFICIENTS, values

Array = Any
GLOBAL = "global"
TARGETS = ("ttft_ms", "tpot_ms")
#: Rows of one call of a compiled program.
CHUNK = 1024


def level_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """The key of each row at each level of the hierarchy (columns: levels)."""
    generation = frame.system.map(
        lambda s: getattr(e2e_systems.hardware_spec(s), "generation", None) or "unknown"
    ).replace({"blackwell_ultra": "blackwell"})
    return pd.DataFrame(
        {
            GLOBAL: "all",
            "engine": frame.engine,
            "family": frame.engine + "|" + frame.version_family,
            "generation": generation,
            "system": frame.system,
            "weights": frame.weight_precision,
            "experts": frame.expert_precision,
            "model": frame.model,
        },
        index=frame.index,
    )


def level_columns() -> list[str]:
    """The levels below the global one, as columns of `level_keys`."""
    return ["engine", "family", "generation", "system", "weights", "experts", "model"]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Names and prior standard deviations of the free numbers: (coefficient, level, key)."""

    names: tuple[tuple[str, str, str], ...]
    scale: np.ndarray

    def index(self) -> dict[tuple[str, str, str], int]:
        return {name: i for i, name in enumerate(self.names)}


def parameters(keys: pd.DataFrame, widen: dict[str, float] | None = None) -> Parameters:
    """The parameters that these training rows inform. `widen`: level → factor on its prior scales."""
    names, scale = [], []
    widen = widen or {}
    for c in COEFFICIENTS:
        for level, sd in ((GLOBAL, c.scale), *c.levels):
            sd = sd * widen.get(level, 1.0)
            if sd <= 0:
                continue
            for key in sorted(keys[level].unique()):
                names.append((c.name, level, key))
                scale.append(sd)
    return Parameters(tuple(names), np.array(scale))


def design(keys: pd.DataFrame, params: Parameters) -> np.ndarray:
    """Index of the parameter of each (row, coefficient, level), -1 where there is none: [rows, K, levels]."""
    index = params.index()
    out = []
    for c in COEFFICIENTS:
        for level in keys.columns:
            lookup = {key: index.get((c.name, level, key), -1) for key in keys[level].unique()}
            out.append(keys[level].map(lookup).to_numpy())
    stacked = np.stack(out, axis=1).reshape(len(keys), len(COEFFICIENTS), len(keys.columns))
    return stacked.astype(np.int64)


def offsets(index: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Offsets of each row's coefficients, [rows, K]."""
    padded = np.append(theta, 0.0)
    return padded[index].sum(axis=2)


def _log_agg(x: Array, system: Any, workload: Any, replicas: Array) -> Array:
    import jax.numpy as jnp

    from mist_jax.pytree import replace
    from mist_jax.queueing.steady import closed_loop

    calibration = replace(system.calibration, step=values(x, jnp))
    state = closed_loop(replace(system, calibration=calibration), workload, replicas, strict=False)
    return jnp.log(jnp.stack([state.ttft, state.tpot]))


def _log_disagg(
    x: Array, decode: Any, prefill: Any, transfer: Any, workload: Any, dr: Array, pr: Array
) -> Array:
    import jax.numpy as jnp

    from mist_jax.pytree import replace
    from mist_jax.queueing.steady_disaggregated import closed_loop_disaggregated

    step = values(x, jnp)
    decode = replace(decode, calibration=replace(decode.calibration, step=step))
    prefill = replace(prefill, calibration=replace(prefill.calibration, step=step))
    state = closed_loop_disaggregated(decode, prefill, transfer, workload, dr, pr, strict=False).decode
    return jnp.log(jnp.stack([state.ttft, state.tpot]))


@lru_cache(maxsize=1)
def programs() -> dict[str, tuple[Any, Any]]:
    """mode → (predictions [rows, 2], Jacobian [rows, 2, K]) of log TTFT and log TPOT in seconds."""
    import jax

    from mist_jax.programs import Effort, compiled

    return {
        mode: tuple(compiled(jax.vmap(f), effort=Effort.LEAST) for f in (point, jax.jacrev(point)))
        for mode, point in (("agg", _log_agg), ("disagg", _log_disagg))
    }


@dataclasses.dataclass
class Rows:
    """Distinct settings of a table as batched pytrees, by mode, and where each row finds its own."""

    frame: pd.DataFrame
    keys: pd.DataFrame
    reason: np.ndarray  #: '' or why a row cannot be built, [rows]
    position: dict[str, np.ndarray]  #: mode → positions of the rows in the frame
    batch: dict[str, tuple[Any, ...]]  #: mode → arguments of the programs, leading axis padded

    @staticmethod
    def of(frame: pd.DataFrame, speculates: np.ndarray, kernels: str = "default") -> Rows:
        """Build each row once."""
        frame = frame.reset_index(drop=True)
        reason = np.array([e2e_systems.resolvable(r) for r in frame.itertuples()], dtype=object)
        reason[(frame.status == "refused").to_numpy()] = "refused"
        position, batch = {}, {}
        for mode in ("agg", "disagg"):
            at = np.flatnonzero((frame["mode"] == mode).to_numpy() & (reason == ""))
            position[mode] = at
            if not len(at):
                continue
            points = [
                e2e_systems.build_point(row, bool(speculates[i]), kernels)
                for i, row in zip(at, frame.iloc[at].itertuples(), strict=True)
            ]
            s = e2e_systems.stack(points)
            batch[mode] = (
                (s["decode"], s["workload"], s["decode_replicas"])
                if mode == "agg"
                else tuple(
                    s[k]
                    for k in (
                        "decode",
                        "prefill",
                        "transfer",
                        "workload",
                        "decode_replicas",
                        "prefill_replicas",
                    )
                )
            )
        return Rows(frame, level_keys(frame), reason, position, batch)

    def _run(self, which: int, x: np.ndarray) -> np.ndarray:
        import jax

        def cut(tree: Any, at: np.ndarray) -> Any:
            return jax.tree.map(lambda a: a[at], tree)

        shape = (len(self.frame), 2) if which == 0 else (len(self.frame), 2, len(COEFFICIENTS))
        out = np.full(shape, np.nan)
        with jax.enable_x64(True):
            for mode, args in self.batch.items():
                at = self.position[mode]
                for start in range(0, len(at), CHUNK):
                    # the last chunk is filled up, so that one compiled program serves every table
                    chosen = np.minimum(np.arange(start, start + CHUNK), len(at) - 1)
                    values = np.asarray(programs()[mode][which](x[at[chosen]], *cut(args, chosen)))
                    out[at[chosen]] = values
        return out

    def predict(self, x: np.ndarray) -> np.ndarray:
        """log (TTFT, TPOT) in seconds, [rows, 2]; nan where a row cannot be built."""
        return self._run(0, x)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Slopes of `predict` with the row's coefficients, [rows, 2, K]."""
        return self._run(1, x)
