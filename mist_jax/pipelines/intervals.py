"""80 % intervals of a pipeline's latencies: all its LLM pools at the low or the high end of their factors.

The factors are those of `mist_jax.intervals`, of each pool by its own chip, engine and model. They are taken as fully
dependent: the pools of a pipeline share a fit, whose error they have in common to an unknown part, and the longest path
rises with every stage's time, so that the ends of dependent times are ends of the path. Independent errors would partly
cancel: the interval is then too wide, not too narrow.

A pool that is offered a rate and is slower lets longer queues grow (`pipelines.slower`). A closed loop settles anew at
its end; of that and of the factors at the load of the mean the wider end counts.

Stages without a calibrated interval (services, transfers, tools, LLM pools that were never measured) are held at their
means, so that a pipeline whose time they take has an interval that is too narrow by what they may err.
"""

from __future__ import annotations

import copy

import numpy as np

from mist_jax.calibrations import LABELS
from mist_jax.intervals import LEVEL, factors_of, label_of
from mist_jax.pipelines.batch import Batch, StageTimes
from mist_jax.pipelines.figures import latencies
from mist_jax.pipelines.llm import whole
from mist_jax.pipelines.member import Member
from mist_jax.pipelines.slower import Slower

Array = np.ndarray
_NAMES = ("ttft_s", "tpot_s", "e2e_s")
_SIDES = {"low": np.minimum, "high": np.maximum}

#: Ends of the intervals: name → (units, what it is)
INTERVAL_VARIABLES = {
    f"{name}_{side}": ("s", f"{side} end of the {LEVEL:.0%} interval of {name}".replace("%", " %"))
    for name in _NAMES
    for side in _SIDES
}


def label_of_pipeline(member: Member) -> str:
    """How far the calibration reaches the pipeline: the label of the LLM pool that it reaches least."""
    scenarios = [pool.scenario for pool in member.pools.values()] or [member.scenario]
    return max(map(label_of, scenarios), key=LABELS.index)


def intervals_of(batch: Batch, times: StageTimes) -> tuple[dict[str, Array], list[str]]:
    """`INTERVAL_VARIABLES` [points] about the operating points `times`, NaN where no LLM pool was measured; stages that
    are held at their means at some point."""
    factors = {name: _factors(batch, times, name) for name in times.calls}
    held = [
        stage
        for stage in batch.pipeline.stages
        if any(
            n.stage == stage
            and (n.client not in factors or np.isnan(factors[n.client]).any() or n.type != "engine")
            for n in batch.nodes
        )
    ]
    known = np.any([~np.isnan(f[0, 0]) for f in factors.values()], axis=0)
    out = {}
    for k, (side, wider) in enumerate(_SIDES.items()):
        slowed = copy.copy(batch)
        slowed.slower = {
            name: Slower(*np.where(np.isnan(f[:, k]), 1.0, f[:, k]), wider=wider)
            for name, f in factors.items()
        }
        if batch.closed:
            both = slowed.solve()[0], slowed.scaled(times)
            ends = [wider(*pair) for pair in zip(*(latencies(batch, t) for t in both), strict=True)]
        else:
            ends = latencies(batch, slowed.offered(times))
        for name, value in zip(_NAMES, ends, strict=True):
            out[f"{name}_{side}"] = np.where(known, value, np.nan)
    return out, held


def _factors(batch: Batch, times: StageTimes, name: str) -> Array:
    """Factors of a pool, [TTFT and TPOT, low and high, points]; NaN where it was never measured."""
    pools, state = batch.pools[name], whole(times.states[name])
    out = np.full((2, 2, len(times.rate)), np.nan)
    for point, (number, ttft, e2e) in enumerate(zip(pools.index, state.ttft, state.e2e, strict=True)):
        found = factors_of(pools.pools[number].scenario, float(ttft), float(e2e))
        if found:
            out[:, :, point] = found["ttft"], found["tpot"]
    return out
