"""A described pipeline, built: its graph, and the LLM pools behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax

from mist_jax.pipelines.dag import Pipeline
from mist_jax.pipelines.llm import Pool
from mist_jax.schema import Scenario


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One described pipeline, built."""

    scenario: Scenario
    pipeline: Any  #: `Pipeline`; None without stages
    pools: Mapping[str, Pool]  #: LLM pools by client

    @cached_property
    def machines(self) -> list[Any]:
        """`physics.demand.Machine` of one machine of every client, in their order."""
        return [client.machine() for client in self.pipeline.clients.values()]

    @property
    def structure(self) -> Any:
        """What members must have in common to be evaluated together; all else is numbers."""
        nodes = tuple(
            (n.stage, n.kind, n.type, n.client, n.parents, n.spec.wait) for n in self.pipeline.nodes
        )
        params = jax.tree.structure(tuple(n.params for n in self.pipeline.nodes))
        pools = tuple((name, pool.structure) for name, pool in self.pools.items())
        closed = self.scenario.workload.arrivals == "closed"
        return nodes, params, self.pipeline.answer, tuple(self.pipeline.clients), pools, closed


def member_of(scenario: Scenario, pipeline: Pipeline) -> Member:
    """The scenario's pipeline with its pools."""
    pools = {c.name: Pool(c.llm) for c in pipeline.clients.values() if c.llm is not None}
    return Member(scenario, pipeline, pools)
