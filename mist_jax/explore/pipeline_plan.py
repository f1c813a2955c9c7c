"""The plan of a sweep over pipelines of stages: described pipelines built once each, their points solved together.

A combination of groups, texts and numbers that a stage, a client or an engine has is built once (`Member`); the numbers
of the load (`DIRECT`) never pass through the schema again. All points whose pipelines are alike in structure (stages,
kinds, edges, clients, pools, open or closed loop) go through the same compiled programs, whatever their numbers.
Combinations whose pipeline has no stages are evaluated as in a sweep of the engine alone.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mist_jax import build
from mist_jax.compose import require_scenario
from mist_jax.errors import ConfigError, Status
from mist_jax.evaluate import VARIABLES
from mist_jax.evaluate_disaggregated import POOL_VARIABLES
from mist_jax.explore import block
from mist_jax.explore.axes import Axis, parse_axes
from mist_jax.explore.deployments import Sections
from mist_jax.explore.groups import brought_by, option_mapping
from mist_jax.explore.plan import Box, Plan
from mist_jax.kept_programs import fingerprint as sources
from mist_jax.pipelines.batch import LOAD, Batch
from mist_jax.pipelines.dag import parse_pipeline
from mist_jax.pipelines.figures import REQUEST_VARIABLES, STAGE_VARIABLES, figures_of, unstable_clients
from mist_jax.pipelines.llm import Pool
from mist_jax.pipelines.member import Member
from mist_jax.pipelines.points import BLOCK
from mist_jax.schema import Scenario

#: Points of a box: what is evaluated, stored and resumed as one.
BOX_POINTS = 1 << 12
#: Axes that are numbers of every point, beside those that a description is built for.
DIRECT = (*(f"workload.{n}" for n in LOAD), "slo.ttft", "slo.tpot", "slo.e2e")
#: Built pipelines that are kept.
KEEP = 1 << 12


class PipelinePlan(Plan):
    """What to evaluate, as `Plan`; variables are those of `evaluate`, and `STAGE_VARIABLES` along `stage`."""

    bar_from = 1000

    def __init__(
        self,
        scenario: Scenario,
        axes: Any,
        *,
        variables: Any = None,
        dtype: Any = np.float64,
        config_dir: str | Path | None = None,
        box_points: int = BOX_POINTS,
    ) -> None:
        require_scenario(scenario)
        self.scenario, self.dtype = scenario, np.dtype(dtype)
        self.config_dir = str(config_dir) if config_dir else None
        self.axes = self._parsed(axes)
        self.direct = tuple(self._direct(a) for a in self.axes)
        self.stages = self._stages()
        pools = POOL_VARIABLES if self._pools() else {}
        self.known = {**VARIABLES, **block.EXTRA, **pools, **REQUEST_VARIABLES, **STAGE_VARIABLES}
        self.variables = self._chosen(variables)
        self.box_points = box_points
        self.shape_of_block = (1, 1)

    def _parsed(self, axes: Any) -> tuple[Axis, ...]:
        return parse_axes(self.scenario, axes, self.config_dir)

    def _direct(self, axis: Axis) -> bool:
        return axis.numeric and axis.name in DIRECT

    def _vectors(self) -> tuple[str, ...]:
        return ()

    def _pipelines(self) -> tuple[str, ...]:
        """Options of the axis `pipeline`."""
        return next((a.values for a in self.axes if a.name == "pipeline"), ())

    def _pools(self) -> bool:
        brought = [
            group for o in self._pipelines() for group, _ in brought_by("pipeline", o, self.config_dir)
        ]
        return "prefill" in brought or super()._pools()

    def _stages(self) -> list[str]:
        """Names of all stages that occur, in the order in which they are written."""
        sections = [option_mapping("pipeline", o, self.config_dir)["stages"] for o in self._pipelines()]
        return list(
            dict.fromkeys(str(s) for section in sections or [self.scenario.pipeline.stages] for s in section)
        )

    def tail_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a variable's dimensions beyond the axes."""
        return (len(self.stages),) if name in STAGE_VARIABLES else ()

    def dims_of(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        return (*(a.name for a in self.axes), *(("stage",) if name in STAGE_VARIABLES else ()))

    @property
    def coords(self) -> dict[str, list[str]]:
        """Coordinates beside the axes."""
        return {"stage": self.stages}

    def prepare(self) -> None:
        """Nothing: pipelines are built as boxes need them."""

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_members", "_sections", "_known_pools")}

    def computed_fingerprint(self) -> str:
        """The fingerprint as this process works it out: description, axes, sources, and the numbers built from them."""
        table = hashlib.sha256(sources().encode())
        options = [(a.name, o) for a in self.axes if a.group for o in a.values]
        table.update(repr([option_mapping(*option, self.config_dir) for option in options]).encode())
        with jax.enable_x64(True):
            for index in itertools.islice(self._combinations(), 8):
                member = self.member(index)
                if isinstance(member, Member):
                    for pool in member.pools.values():
                        for leaf in jax.tree.leaves(pool.arguments):
                            table.update(np.asarray(leaf, np.float64).tobytes())
                    break
        return self._digest(table.hexdigest())

    @property
    def structural(self) -> list[int]:
        """Numbers of the axes that a pipeline is built for."""
        return [i for i, d in enumerate(self.direct) if not d]

    def _combinations(self) -> Any:
        return itertools.product(*(range(self.axes[i].size) for i in self.structural))

    @cached_property
    def _members(self) -> dict[tuple[int, ...], Any]:
        return {}

    @cached_property
    def _known_pools(self) -> dict[str, Pool]:
        return {}

    @cached_property
    def _sections(self) -> Sections:
        return Sections(self.scenario, tuple(self.axes[i] for i in self.structural), self.config_dir)

    def described(self, index: tuple[int, ...]) -> Scenario:
        """The scenario of a combination.

        Raises:
            ConfigError: it cannot be.
        """
        return self._sections.scenario(index)

    def member(self, index: tuple[int, ...]) -> Member | tuple[Status, str]:
        """The built pipeline of a combination, or why there is none."""
        if index not in self._members:
            if len(self._members) >= KEEP:
                self._members.clear()
                self._known_pools.clear()
            self._members[index] = self._built(index)
        return self._members[index]

    def _built(self, index: tuple[int, ...]) -> Member | tuple[Status, str]:
        status = Status.INVALID
        try:
            scenario = self.described(index)
            model = build.build_model(scenario.model)
            status = Status.BAD_PARALLELISM
            build.build_parallel(scenario.parallelism, model)
            if scenario.prefill is not None:
                build.build_parallel(scenario.prefill.parallelism, model, "prefill.parallelism")
            status = Status.INVALID
            if not scenario.pipeline.stages:
                build.build_workload(scenario)
                return Member(scenario, None, {})
            pipeline = parse_pipeline(scenario)
            llms = {c.name: c.llm for c in pipeline.clients.values() if c.llm is not None}
            pools = {name: self._pool(llm) for name, llm in llms.items()}
            _ = [
                pool.structure for pool in pools.values()
            ]  # what the steady state does not describe is refused here
        except ConfigError as exc:
            return status, str(exc)
        return Member(scenario, pipeline, pools)

    def _pool(self, llm: Scenario) -> Pool:
        """Pools that are described alike are built once."""
        parts = (
            llm.hardware, llm.model, llm.parallelism, llm.engine, llm.prefill, llm.transfer, llm.workload,
            llm.calibration,
        )  # fmt: skip
        key = repr(parts)
        if key not in self._known_pools:
            self._known_pools[key] = Pool(llm)
        return self._known_pools[key]

    def problems(self, status: Any) -> list[str]:
        """What the first few combinations that could not be built say."""
        bad = np.isin(np.asarray(status), (Status.INVALID, Status.BAD_PARALLELISM))
        direct = tuple(i for i, d in enumerate(self.direct) if d)
        out: list[str] = []
        with jax.enable_x64(True):
            for index in np.argwhere(bad.all(axis=direct)):
                found = self.member(tuple(map(int, index)))
                if not isinstance(found, Member) and found[1] not in out:
                    out.append(found[1])
                if len(out) == 8:
                    break
        return out

    def evaluate(self, box: Box) -> dict[str, np.ndarray]:
        """The chosen variables over one box, shaped like it; never fails for a bad point."""
        # a point that cannot keep up has no finite times; its status says so
        with jax.enable_x64(True), np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return _BoxOfPipelines(self, box).run()


class JobsPipelinePlan(PipelinePlan):
    """A plan whose first axis is a list of scenarios, and whose others are numbers of the load."""

    def __init__(self, scenarios: Sequence[Scenario], axes: tuple[Axis, ...], variables: Any = None) -> None:
        self.scenarios = list(scenarios)
        jobs = Axis("combination", tuple(float(i) for i in range(len(self.scenarios))), "", True, False)
        super().__init__(self.scenarios[0], (jobs, *axes), variables=variables)

    def _parsed(self, axes: Any) -> tuple[Axis, ...]:
        return axes

    def _pools(self) -> bool:
        return any(s.prefill is not None for s in self.scenarios)

    def _stages(self) -> list[str]:
        return list(dict.fromkeys(str(name) for s in self.scenarios for name in s.pipeline.stages))

    def problems(self, status: Any) -> list[str]:
        """What the first few scenarios that could not be built say."""
        return list(dict.fromkeys(m[1] for m in self._members.values() if not isinstance(m, Member)))[:8]

    def described(self, index: tuple[int, ...]) -> Scenario:
        """The scenario of a combination."""
        return self.scenarios[index[0]]


class _BoxOfPipelines:
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
            [members[k] for k in kept], {name: v[kept] for name, v in load.items()}, self.plan.dtype
        )
        times, busy = batch.solve()
        values = figures_of(batch, times, busy)
        status = np.where(unstable_clients(batch, times), Status.UNSTABLE, values.pop("status")).astype(
            np.int8
        )
        gone = unstable_clients(batch, times) | (status == Status.CONTEXT_TOO_LONG)
        self.status[at[kept]] = status
        columns = [self.plan.stages.index(s) for s in batch.pipeline.stages]
        for name, value in values.items():
            if name not in self.out:
                continue
            value = np.where(gone.reshape(-1, *(1,) * (value.ndim - 1)), np.nan, value)
            if name in STAGE_VARIABLES:
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
        names = tuple(n for n in self.out if n in VARIABLES or n in block.EXTRA or n in POOL_VARIABLES)
        distinct = list(dict.fromkeys(members))
        jobs = JobsPlan([m.scenario for m in distinct], axes, ())
        jobs.dtype = plan.dtype
        jobs.variables = (*(n for n in names if n in jobs.known), *REQUEST_NEEDS, "status")
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
        for name in self.out:
            if name in values:
                self.out[name][at] = values[name]

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
