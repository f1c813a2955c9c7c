"""LLM calls of a pool that is slower, or faster, than predicted: one end of the calibration's interval.

The factors are those of `mist_jax.intervals`: as they are where the pool holds what it holds; where it is offered a
rate, an engine that is f times slower is the predicted one under f times the rate in a unit of time f times as long,
and the wider of the two counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mist_jax.errors import Status
from mist_jax.pipelines.llm import Calls, Mix, Pools, call_times, whole
from mist_jax.pipelines.points import rows

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Slower:
    """Factors on a pool's times, [points] each; 1 where it was never measured."""

    ttft: Array
    tpot: Array
    wider: Callable[[Array, Array], Array]  #: np.minimum at the low end, np.maximum at the high one

    def take(self, at: Array) -> Slower:
        """The points `at`."""
        return dataclasses.replace(self, ttft=rows(self.ttft, at), tpot=rows(self.tpot, at))

    def of(
        self,
        times: tuple[Array, Array],
        pools: Pools,
        mix: Mix,
        calls: Calls,
        scale: Mapping[str, Array] | None = None,
    ) -> tuple[Array, Array]:
        """This end of `times`, those of `call_times`; with `scale`, that of `Pools.run`, under an offered rate.

        Infinite where the slower pool does not keep up.
        """
        first, tpot = times[0] * self.ttft[:, None], times[1] * self.tpot
        if scale is None:
            return first, tpot
        f = self.tpot
        state = pools.run("open", dataclasses.replace(mix, rate=mix.rate * f), scale=scale)
        good = (whole(state).status == Status.OK) & np.isfinite(whole(state).ttft)
        other, each = call_times(pools, state, mix, calls)
        other = np.where(good[:, None], f[:, None] * other, np.inf)
        return self.wider(first, other), self.wider(tpot, np.where(good, f * each, np.inf))

    def stretch(self, state: Any, mix: Mix) -> Array:
        """How much longer a sequence stays in the pool, [points]."""
        ttft, decode = np.asarray(state.ttft), mix.steps * np.asarray(state.tpot)
        return (self.ttft * ttft + self.tpot * decode) / (ttft + decode)
