"""One box of a sweep over pipelines: points sorted by the structure of their pipelines, and solved in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_jax.errors import Status
from mist_jax.explore import block
from mist_jax.explore.axes import Axis
from mist_jax.explore.plan import Box
from mist_jax.pipelines.batch import LOAD, Batch
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import parse_pipeline
from mist_jax.pipelines.elasticities import CLIENT_VARIABLES, elasticities
from mist_jax.pipelines.figures import STAGE_VARIABLES, figures_of, pool_parts, unstable_clients
from mist_jax.pipelines.intervals import INTERVAL_VARIABLES, intervals_of
from mist_jax.pipelines.member import Member, member_of
from mist_jax.pipelines.points import BLOCK
from mist_jax.variables import POOL_VARIABLES, VARIABLES

if TYPE_CHECKING:
    from mist_jax.explore.pipeline_plan import PipelinePlan


class BoxOfPipelines:
    """One box: its points sorted by the structure of their pipelines, solved in blocks, and put in their places."""

    def __init__(self, plan: PipelinePlan, box: Box) -> None:
        self.plan, self.box = plan, box
        self.shape = tuple(b - a for a, b in box)
        self.points = int(np.prod(self.shape))
        grids = np.meshgrid(*(np.arange(a, b) for a, b in box), indexing="ij")
        self.index = [g.ravel() for g in grids]
        direct = {
            a.name: a.coordinate[k] for a, d, k in zip(plan.axes, plan.direct, self.index, strict=True) if d
        }
        self.load = {n: direct[f"workload.{n}"] for n in LOAD if f"workload.{n}" in direct}
        self.limits = {n: direct[f"slo.{n}"] for n in ("ttft", "tpot", "e2e") if f"slo.{n}" in direct}
        judged = ("ttft_s", "tpot_s", "e2e_s") if "meets_slo" in plan.variables else ()
        names = dict.fromkeys([*plan.variables, *judged])
        self.out = {
            n: np.full((self.points, *plan.tail_of(n)), np.nan, plan.dtype) for n in names if n != "status"
        }
        self.status = np.zeros(self.points, dtype=np.int8)

    def run(self) -> dict[str, np.ndarray]:
        combination = np.stack(
            [self.index[i] for i in self.plan.structural] or [np.zeros(self.points, int)], axis=1
        )
        unique, place = np.unique(combination, axis=0, return_inverse=True)
        place = place.ravel()
        groups: dict[Any, list[np.ndarray]] = {}
        members: list[Any] = []
        for k, row in enumerate(unique):
            index = tuple(map(int, row)) if self.plan.structural else ()
            members.append(self.plan.member(index))
            here = np.flatnonzero(place == k)
            if isinstance(members[-1], Member):
                key = members[-1].structure if members[-1].pipeline is not None else None
                groups.setdefault(key, []).append(here)
            else:
                self.status[here] = members[-1][0]
        for key, places in groups.items():
            at = np.sort(np.concatenate(places))
            if key is None:
                self._plain(at, [members[place[p]] for p in at])
                continue
            for o in range(0, at.size, BLOCK):
                part = at[o : o + BLOCK]
                self._solve(part, [members[place[p]] for p in part])
        if "meets_slo" in self.out:
            self._judge(members, place)
        kept = {n: v for n, v in self.out.items() if n in self.plan.variables}
        shaped = {n: v.reshape(*self.shape, *self.plan.tail_of(n)) for n, v in kept.items()}
        return shaped | {"status": self.status.reshape(self.shape)}

    def _solve(self, at: np.ndarray, members: list[Member]) -> None:
        """Points whose pipelines are alike."""
        load = {name: values[at] for name, values in self.load.items()}
        lost = self._fit(members, load)
        self.status[at] = lost
        kept = np.flatnonzero(lost == Status.OK)
        if not kept.size:
            return
        batch = Batch(
            [members[k] for k in kept],
            {name: v[kept] for name, v in load.items()},
            self.plan.dtype,
            self.plan.lots,
        )
        times, busy = batch.solve()
        values = figures_of(batch, times, busy)
        status = np.where(unstable_clients(batch, times), Status.UNSTABLE, values.pop("status")).astype(
            np.int8
        )
        gone = unstable_clients(batch, times) | (status == Status.CONTEXT_TOO_LONG)
        self.status[at[kept]] = status
        values["utilization"] = times.shared["utilization"]
        if "elasticity" in self.out:
            values["elasticity"] = elasticities(batch, times)
        if any(n in self.out for n in block.VECTORS):
            values |= pool_parts(batch, times)
        if any(n in self.out for n in INTERVAL_VARIABLES):
            values |= intervals_of(batch, times)[0]
        stages = [self.plan.stages.index(s) for s in batch.pipeline.stages]
        clients = [self.plan.clients.index(c) for c in batch.names]
        for name, value in values.items():
            if name not in self.out:
                continue
            value = np.where(gone.reshape(-1, *(1,) * (value.ndim - 1)), np.nan, value)
            if name in STAGE_VARIABLES or name in CLIENT_VARIABLES or name in block.VECTORS:
                columns = stages if name in STAGE_VARIABLES else clients
                self.out[name][at[kept][:, None], columns] = value
            else:
                self.out[name][at[kept]] = value

    def _fit(self, members: Sequence[Member], load: Mapping[str, np.ndarray]) -> np.ndarray:
        """Status of each point by memory alone, as `evaluate.require_fit`."""
        size = len(members)

        def numbers(value: Any) -> np.ndarray:
            return np.array([value(m) for m in members], float)

        need = sum(
            load.get(n, numbers(lambda m, n=n: getattr(m.scenario.workload, n))) for n in ("isl", "osl")
        )
        out = np.full(size, Status.OK, dtype=np.int8)
        for name, pool in members[0].pools.items():
            for which in ("memory", "prefill_memory") if pool.prefill is not None else ("memory",):
                budget = numbers(lambda m, n=name, w=which: getattr(m.pools[n], w).kv_budget)
                tokens = numbers(lambda m, n=name, w=which: getattr(m.pools[n], w).kv_tokens)
                found = np.where(tokens < need, Status.KV_TOO_SMALL, Status.OK)
                found = np.where(budget <= 0, Status.OUT_OF_MEMORY, found)
                out = np.where(out == Status.OK, found, out).astype(np.int8)
        return out

    def _plain(self, at: np.ndarray, members: list[Member]) -> None:
        """Points whose pipeline has no stages: the engine alone, every described one by every load."""
        from mist_jax.explore.jobs import JobsPlan

        plan = self.plan
        axes = tuple(
            Axis(a.name, a.values[lo:hi], a.units, True, False)
            for a, d, (lo, hi) in zip(plan.axes, plan.direct, self.box, strict=True)
            if d
        )
        kinds = (VARIABLES, block.EXTRA, POOL_VARIABLES, block.VECTORS)
        names = tuple(n for n in self.out if any(n in kind for kind in kinds))
        distinct = list(dict.fromkeys(members))
        jobs = JobsPlan([m.scenario for m in distinct], axes, ())
        jobs.dtype = plan.dtype
        jobs.variables = (
            *(n for n in names if n in jobs.known or n in block.VECTORS),
            *REQUEST_NEEDS,
            "status",
        )
        got = jobs.evaluate(tuple((0, n) for n in jobs.shape))
        # where each point of this box is in the jobs' product
        offsets = [k[at] - lo for k, d, (lo, _) in zip(self.index, plan.direct, self.box, strict=True) if d]
        which = np.array([distinct.index(m) for m in members])
        values = {n: v[(which, *offsets)] for n, v in got.items()}
        self.status[at] = values["status"]
        osl = (
            self.load["osl"][at]
            if "osl" in self.load
            else np.array([m.scenario.workload.osl for m in members])
        )
        values["energy_per_request_j"] = values["energy_per_output_token_j"] * osl
        values["cost_per_request_usd"] = values["cost_per_million_output_tokens_usd"] * osl * 1e-6
        main = self.plan.clients.index(MAIN)
        for name in self.out:
            if name in values:
                self.out[name][(at, main) if name in block.VECTORS else at] = values[name]
        if any(n in self.out for n in INTERVAL_VARIABLES):
            self._plain_intervals(at, members)

    def _plain_intervals(self, at: np.ndarray, members: list[Member]) -> None:
        """The engine alone as a pipeline of one LLM stage, whose steady state is the same."""
        known: dict[int, Member] = {}
        groups: dict[Any, list[int]] = {}
        for k in np.flatnonzero(np.isin(self.status[at], (Status.OK, Status.UNSTABLE))).tolist():
            if id(members[k]) not in known:
                scenario = members[k].scenario
                spec = dataclasses.replace(scenario.pipeline, stages={"generate": {}})
                one = dataclasses.replace(scenario, pipeline=spec)
                known[id(members[k])] = member_of(one, parse_pipeline(one))
            groups.setdefault(known[id(members[k])].structure, []).append(k)
        for places in groups.values():
            batch = Batch(
                [known[id(members[k])] for k in places],
                {name: values[at[places]] for name, values in self.load.items()},
                self.plan.dtype,
                self.plan.lots,
            )
            for name, value in intervals_of(batch, batch.solve()[0])[0].items():
                self.out[name][at[places]] = value

    def _judge(self, members: list[Any], place: np.ndarray) -> None:
        """Whether the mean latencies are within the limits of the SLO."""
        good = self.status == Status.OK
        for name in ("ttft", "tpot", "e2e"):
            own = [getattr(m.scenario.slo, name) if isinstance(m, Member) else None for m in members]
            limit = np.array([np.inf if v is None else v for v in own], float)[place]
            limit = self.limits.get(name, limit)
            good &= self.out[name + "_s"] <= limit
        self.out["meets_slo"][:] = good


#: What the figures per request are made of where the pipeline has no stages.
REQUEST_NEEDS = ("energy_per_output_token_j", "cost_per_million_output_tokens_usd")
