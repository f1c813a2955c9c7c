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
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mist_jax import build
from mist_jax.compose import require_scenario
from mist_jax.errors import ConfigError, Status
from mist_jax.explore import block
from mist_jax.explore.axes import Axis, parse_axes
from mist_jax.explore.deployments import Sections
from mist_jax.explore.groups import brought_by, option_mapping
from mist_jax.explore.pipeline_box import BoxOfPipelines
from mist_jax.explore.plan import Box, Plan
from mist_jax.intervals import LEVEL
from mist_jax.kept_programs import fingerprint as sources
from mist_jax.physics.demand import RESOURCES
from mist_jax.physics.step import STEP_PARTS
from mist_jax.physics.step_energy import ENERGY_SHARES
from mist_jax.pipelines.batch import LOAD
from mist_jax.pipelines.clients import MAIN
from mist_jax.pipelines.dag import parse_pipeline
from mist_jax.pipelines.elasticities import CLIENT_VARIABLES
from mist_jax.pipelines.figures import REQUEST_VARIABLES, STAGE_VARIABLES
from mist_jax.pipelines.intervals import INTERVAL_VARIABLES, label_of_pipeline
from mist_jax.pipelines.llm import Pool
from mist_jax.pipelines.member import Member
from mist_jax.schema import Scenario
from mist_jax.variables import POOL_VARIABLES, VARIABLES

if TYPE_CHECKING:
    import xarray as xr

#: Points of a box: what is evaluated, stored and resumed as one.
BOX_POINTS = 1 << 12
#: Points from which programs of LLM pools are compiled to be quick: 4 s more for 50 to 90 us less a point.
LOTS = 60_000
#: Axes that are numbers of every point, beside those that a description is built for.
DIRECT = (*(f"workload.{n}" for n in LOAD), "slo.ttft", "slo.tpot", "slo.e2e")
#: Labels of the dimensions of `block.VECTORS`.
POOL_PARTS = {"part": STEP_PARTS, "share": ENERGY_SHARES}
#: Built pipelines that are kept.
KEEP = 1 << 12


class PipelinePlan(Plan):
    """What to evaluate, as `Plan`; variables are those of `evaluate`, `STAGE_VARIABLES` along `stage`, and, where they
    are named, `CLIENT_VARIABLES` along `client` and `resource` and `block.VECTORS` along `client` and their own."""

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
        intervals: bool = False,
    ) -> None:
        """As `Plan`; `intervals`: add `INTERVAL_VARIABLES`, also to variables that are named."""
        require_scenario(scenario)
        self.scenario, self.dtype = scenario, np.dtype(dtype)
        self.config_dir = str(config_dir) if config_dir else None
        self.axes = self._parsed(axes)
        self.direct = tuple(self._direct(a) for a in self.axes)
        self.stages, self.clients = self._stages(), self._clients()
        pools = POOL_VARIABLES if self._pools() else {}
        self.known = {**VARIABLES, **block.EXTRA, **pools, **REQUEST_VARIABLES, **STAGE_VARIABLES}
        self.variables = self._chosen(variables)
        if intervals:
            self.known |= INTERVAL_VARIABLES
            self.variables = (*self.variables, *INTERVAL_VARIABLES)
        self.box_points = box_points
        self.shape_of_block = (1, 1)
        self.lots = self.points >= LOTS

    def _parsed(self, axes: Any) -> tuple[Axis, ...]:
        return parse_axes(self.scenario, axes, self.config_dir)

    def _direct(self, axis: Axis) -> bool:
        return axis.numeric and axis.name in DIRECT

    def _vectors(self) -> tuple[str, ...]:
        return (*CLIENT_VARIABLES, *block.VECTORS)

    def _pipelines(self) -> tuple[str, ...]:
        """Options of the axis `pipeline`."""
        return next((a.values for a in self.axes if a.name == "pipeline"), ())

    def _pools(self) -> bool:
        brought = [
            group for o in self._pipelines() for group, _ in brought_by("pipeline", o, self.config_dir)
        ]
        return "prefill" in brought or super()._pools()

    def _written(self, section: str) -> list[Mapping[str, Any]]:
        """`stages` or `clients` of every pipeline."""
        options = [option_mapping("pipeline", o, self.config_dir) for o in self._pipelines()]
        return [o.get(section) or {} for o in options] or [getattr(self.scenario.pipeline, section)]

    def _stages(self) -> list[str]:
        """Names of all stages that occur, in the order in which they are written."""
        return list(dict.fromkeys(str(s) for stages in self._written("stages") for s in stages))

    def _clients(self) -> list[str]:
        """Names of all clients that occur, the scenario's own pool first."""
        return list(dict.fromkeys([MAIN, *(str(c) for clients in self._written("clients") for c in clients)]))

    def _along(self, name: str) -> dict[str, list[str]]:
        """Dimension → labels of a variable beyond the axes."""
        if name in STAGE_VARIABLES:
            return {"stage": self.stages}
        if name in CLIENT_VARIABLES:
            return {"client": self.clients, "resource": list(RESOURCES)}
        if name in block.VECTORS:
            dimension = block.VECTORS[name][0]
            return {"client": self.clients, dimension: list(POOL_PARTS[dimension])}
        return {}

    def tail_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a variable's dimensions beyond the axes."""
        return tuple(map(len, self._along(name).values()))

    def dims_of(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        return (*(a.name for a in self.axes), *self._along(name))

    def attrs_of(self, name: str) -> dict[str, str]:
        """`units` and `long_name`."""
        if name in block.VECTORS:
            return super().attrs_of(name)
        units, text = CLIENT_VARIABLES.get(name) or self.known[name]
        return {"units": units, "long_name": text}

    @property
    def coords(self) -> dict[str, list[str]]:
        """Coordinates beside the axes."""
        out = {"stage": self.stages}
        for name in self.variables:
            out |= self._along(name)
        return out

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

    def with_reach(self, ds: xr.Dataset) -> xr.Dataset:
        """`ds` with how far the calibration reaches each combination of the axes that are no numbers, "" where there is
        none, and the level of its intervals."""
        listed = [i for i in self.structural if not self.axes[i].numeric]
        labels = np.full([self.axes[i].size for i in listed], "", dtype=object)
        with jax.enable_x64(True):
            for at in np.ndindex(labels.shape):
                place = dict(zip(listed, at, strict=True))
                member = self.member(tuple(place.get(i, 0) for i in self.structural))
                labels[at] = label_of_pipeline(member) if isinstance(member, Member) else ""
        ds["calibration_label"] = (tuple(self.axes[i].name for i in listed), labels.astype(str))
        ds.attrs["interval_level"] = LEVEL
        return ds

    def evaluate(self, box: Box) -> dict[str, np.ndarray]:
        """The chosen variables over one box, shaped like it; never fails for a bad point."""
        # a point that cannot keep up has no finite times; its status says so
        with jax.enable_x64(True), np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return BoxOfPipelines(self, box).run()


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

    def _written(self, section: str) -> list[Mapping[str, Any]]:
        return [getattr(s.pipeline, section) for s in self.scenarios]

    def problems(self, status: Any) -> list[str]:
        """What the first few scenarios that could not be built say."""
        return list(dict.fromkeys(m[1] for m in self._members.values() if not isinstance(m, Member)))[:8]

    def described(self, index: tuple[int, ...]) -> Scenario:
        """The scenario of a combination."""
        return self.scenarios[index[0]]
