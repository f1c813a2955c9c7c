"""One pipeline in steady state, ready to be evaluated at any rate: a batch of one (`pipelines.batch`)."""

from __future__ import annotations

import jax
import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.physics.demand import RESOURCES
from mist_jax.pipelines.batch import Batch, StageTimes
from mist_jax.pipelines.dag import Pipeline
from mist_jax.pipelines.llm import whole
from mist_jax.pipelines.member import member_of
from mist_jax.pipelines.points import rows
from mist_jax.pipelines.walk import Asked
from mist_jax.schema import Scenario

Array = np.ndarray


class Model:
    """A pipeline ready to be evaluated at any rate; arrays without the batch's leading axis.

    Raises:
        ConfigError: an LLM does not fit on its pool.
    """

    def __init__(self, scenario: Scenario, pipeline: Pipeline) -> None:
        self.scenario, self.pipeline, self.nodes = scenario, pipeline, pipeline.nodes
        member = member_of(scenario, pipeline)
        self.pools = member.pools
        for pool in member.pools.values():
            pool.require_fit()
        self.batch = Batch([member])
        self.names = self.batch.names
        self.machines = [pipeline.clients[c].machine() for c in self.names]
        self.probability = self.batch.probability[0]
        self.serving = rows(self.batch.serving, 0)

    def walk(self, batch: Array) -> Asked:
        """What a mean request asks of each node, at these batch sizes [nodes]."""
        return jax.tree.map(lambda x: x[0], self.batch.walk(batch[None]))

    def at(self, rate: float) -> StageTimes:
        """Means at `rate` requests/s."""
        return self.batch.at(np.array([float(rate)])).point(0)

    def solve(self) -> tuple[StageTimes, float]:
        """(the operating point, load): at the offered rate, or where the closed loop settles."""
        times, load = self.batch.solve()
        return times.point(0), float(load[0])


def bounding_resource(model: Model, times: StageTimes, node: int) -> str:
    """What bounds a node's own time: a resource, fixed latency, or the outside."""
    kind = model.nodes[node].type
    if kind == "delay":
        return "outside"
    if kind == "engine":
        from mist_jax.physics.step import STEP_PARTS

        state = whole(times.states[model.nodes[node].client])
        return STEP_PARTS[int(np.argmax(state.breakdown))]
    fixed = float(np.sum(times.asked.fixed_s[node]))
    bound = times.shared["by_resource"][node]
    return "latency" if fixed >= bound.sum() else RESOURCES[int(np.argmax(bound))]


def require_stable(model: Model, times: StageTimes) -> None:
    """Raises ConfigError where a client cannot keep up with the offered rate."""
    for name, stable, use in zip(
        model.names, times.shared["stable"], times.shared["utilization"], strict=True
    ):
        if not stable:
            worst = RESOURCES[int(np.argmax(use))]
            raise ConfigError(
                f"pipeline.clients.{name}: {times.rate:g} requests/s need {use.max():.0%} of its {worst}; "
                f"raise pipeline.clients.{name}.count or lower workload.rate"
            )
