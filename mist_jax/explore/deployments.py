"""Deployments of a sweep as one table of numbers: built once per structural combination, then gathered.

A `Deployment` is everything the steady state needs. Flattened to one vector it is a column of a table; groups of
options, texts and numbers that change derived quantities make columns (`Structure`), plain numbers are written into
their slot of a column (`SLOTS`), so that they never pass through the schema again.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mist_jax import build, schema
from mist_jax.compose import copied, set_path
from mist_jax.errors import ConfigError, Status
from mist_jax.explore.axes import Axis, set_pipeline_path
from mist_jax.explore.groups import GROUPS, brought_by, option_mapping, section_of
from mist_jax.pytree import pytree
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System, Transfer, Workload
from mist_jax.system.hardware import COMPUTE_PRECISIONS

Array = Any


@pytree
class Deployment:
    """Pools, load and objective as leaves. `prefill` and `transfer` are None in an aggregated deployment."""

    system: System
    prefill: System | None
    transfer: Transfer | None
    workload: Workload
    replicas: Array
    prefill_replicas: Array
    kv_blocks: Array  #: NaN: as many as memory leaves
    slo: Array  #: [3] s, limits on TTFT, TPOT, E2E; inf: none


#: "closed" or "open" load, and whether there is a prefill pool: what needs a program of its own.
Kind = tuple[str, bool]


def build_deployment(
    scenario: Scenario, model: Any = None, calibration_of: Callable[..., Any] = build.pool_calibration
) -> Deployment:
    """The numbers of `scenario`, as Python numbers or arrays.

    Raises:
        ConfigError: see `build.build_system`.
    """
    if scenario.pipeline.stages:
        raise ConfigError(
            "pipeline: a sweep covers the model's engine alone; evaluate a pipeline of stages with mist.evaluate"
        )
    model = build.build_model(scenario.model) if model is None else model
    pool, slo = scenario.prefill, scenario.slo
    blocks = scenario.engine.num_gpu_blocks

    def system(part: Any, where: str = "") -> System:
        own = None if part is scenario else part
        return build.assemble_system(scenario, own, where, model, calibration_of(scenario, part))

    return Deployment(
        system=system(scenario),
        prefill=None if pool is None else system(pool, "prefill."),
        transfer=None if pool is None else build.build_transfer(scenario),
        workload=build.build_workload(scenario),
        replicas=scenario.parallelism.replicas,
        prefill_replicas=1.0 if pool is None else pool.parallelism.replicas,
        kv_blocks=np.nan if blocks is None else blocks,
        slo=np.array([np.inf if v is None else v for v in (slo.ttft, slo.tpot, slo.e2e)]),
    )


def kind_of(scenario: Scenario) -> Kind:
    """Which program evaluates `scenario`."""
    return ("closed" if scenario.workload.arrivals == "closed" else "open", scenario.prefill is not None)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a dotted path's number goes: a leaf of `Deployment`, an element of it, and a factor.

    `inner` slots leave kernels' coefficients and rates alone: load, lengths, engine settings, counts.
    """

    leaf: str
    index: int = 0
    scale: float = 1.0
    inner: bool = False


def _chip(path: str, where: str) -> dict[str, Slot]:
    leaves = {
        "units": "units",
        "clock": "clock",
        "memory.capacity": "memory_capacity",
        "memory.bandwidth": "memory_bandwidth",
        "cache.capacity": "cache_capacity",
        "cache.bandwidth": "cache_bandwidth",
        "scale_up.bandwidth": "scale_up_bandwidth",
        "scale_up.latency": "scale_up_latency",
        "scale_up.domain": "scale_up_domain",
        "scale_out.bandwidth": "scale_out_bandwidth",
        "scale_out.latency": "scale_out_latency",
        "host.bandwidth": "host_bandwidth",
        "host.latency": "host_latency",
        "host.memory_capacity": "host_memory_capacity",
        "host.memory_bandwidth": "host_memory_bandwidth",
        "power.tdp": "tdp",
        "power.idle": "idle_power",
    }
    out = {f"{path}.{k}": Slot(f"{where}.hardware.{v}") for k, v in leaves.items()}
    for i, name in enumerate(COMPUTE_PRECISIONS):
        out[f"{path}.peak.{name}"] = Slot(f"{where}.hardware.peak_flops", i)
    out[f"{path}.price.usd_per_hour"] = Slot(f"{where}.hardware.price", 0, 1.0 / build.HOUR, True)
    return out


def _settings(path: str, where: str) -> dict[str, Slot]:
    names = (
        "max_num_batched_tokens",
        "max_num_seqs",
        "block_size",
        "memory_utilization",
        "prefix_hit_rate",
        "draft_tokens",
    )
    out = {f"{path}.{n}": Slot(f"{where}.engine.{n}", inner=True) for n in names}
    out[f"{path}.reserve"] = Slot(f"{where}.engine.reserve_bytes", inner=True)
    return out


#: Dotted path → slot, for every number that is a leaf as it stands (up to a factor).
SLOTS: dict[str, Slot] = {
    **{
        f"workload.{n}": Slot(f"workload.{n}", inner=True)
        for n in ("isl", "osl", "isl_cv", "osl_cv", "concurrency", "rate", "burst_share")
    },
    **{f"slo.{n}": Slot("slo", i, inner=True) for i, n in enumerate(("ttft", "tpot", "e2e"))},
    **{f"transfer.{n}": Slot(f"transfer.{n}") for n in ("bandwidth", "latency", "overlap")},
    "parallelism.replicas": Slot("replicas", inner=True),
    "prefill.parallelism.replicas": Slot("prefill_replicas", inner=True),
    **_settings("engine", "system"),
    **_settings("prefill.engine", "prefill"),
    **_chip("hardware", "system"),
    **_chip("prefill.hardware", "prefill"),
}


def is_direct(axis: Axis, scenario: Scenario) -> bool:
    """Whether an axis is a plain number of the table for this scenario (else its values are built one by one)."""
    if not axis.numeric or axis.name not in SLOTS:
        return False
    if axis.name.startswith(("prefill.", "transfer.")) and scenario.prefill is None:
        return False
    for prefix, chip in (
        ("hardware.", scenario.hardware),
        ("prefill.hardware.", scenario.prefill and scenario.prefill.hardware),
    ):
        if not axis.name.startswith(prefix):
            continue
        key = axis.name.removeprefix(prefix)
        # a chip without a cache takes its memory for one
        if key.startswith("memory.") and chip.cache is None:  # type: ignore[union-attr]
            return False
        # the default link of a KV transfer follows the NIC or the host link
        if (
            scenario.prefill is not None
            and scenario.transfer.bandwidth is None
            and key in ("scale_out.bandwidth", "host.bandwidth")
        ):
            return False
    if axis.name.endswith("parallelism.replicas"):
        return all(v == int(v) for v in axis.values)
    return True


@lru_cache(maxsize=64)
def _names(tree: Any) -> tuple[str, ...]:
    """Dotted names of the leaves of a structure."""
    numbered = jax.tree.unflatten(tree, range(tree.num_leaves))
    with_paths, _ = jax.tree_util.tree_flatten_with_path(numbered)
    return tuple(".".join(str(getattr(p, "name", p)) for p in path) for path, _ in with_paths)


class Layout:
    """Names and places of the leaves in a column, for one kind of tree."""

    def __init__(self, example: Deployment) -> None:
        leaves, self.tree = jax.tree.flatten(example)
        self.names = _names(self.tree)
        self._lay([np.shape(leaf) for leaf in leaves])

    def _lay(self, shapes: list[tuple[int, ...]]) -> None:
        self.shapes = shapes
        sizes = [math.prod(s) for s in shapes]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.place = dict(zip(self.names, self.starts[:-1].tolist(), strict=True))
        self.scalars = [k for k, s in enumerate(shapes) if s == ()]
        self.vectors = [k for k, s in enumerate(shapes) if s != ()]
        #: rows of the vectors' numbers
        self.within = np.concatenate([np.arange(self.starts[k], self.starts[k + 1]) for k in self.vectors])

    def column(self, deployment: Deployment) -> np.ndarray:
        """The numbers of a deployment, [rows]."""
        leaves = jax.tree.leaves(deployment)
        out = np.empty(self.starts[-1])
        out[self.starts[self.scalars]] = [leaves[k] for k in self.scalars]
        out[self.within] = np.concatenate([leaves[k].ravel() for k in self.vectors])
        return out

    @property
    def key(self) -> tuple[Any, ...]:
        """What programs are told apart by."""
        return (self.tree, tuple(self.shapes))

    def trimmed(self, columns: np.ndarray) -> tuple[Layout, np.ndarray]:
        """(layout with as many attention groups as `columns` use, the rows of `columns` that it keeps)."""
        where = "model.attention."
        spans = {n: self.place[n] for n in self.names if n.endswith(where + "layers")}
        total = next(s[0] for n, s in zip(self.names, self.shapes, strict=True) if n in spans)
        used = [(columns[at : at + total] > 0).any(axis=1) for at in spans.values()]
        # groups are filled from the front
        groups = 1 + max((int(np.flatnonzero(u)[-1]) for u in used if u.any()), default=0)
        keep, shapes = [], []
        for name, shape, a, b in zip(self.names, self.shapes, self.starts[:-1], self.starts[1:], strict=True):
            cut = where in name and shape[:1] == (total,)
            shapes.append((groups, *shape[1:]) if cut else shape)
            keep.extend(range(a, a + (b - a) // total * groups if cut else b))
        out = copy.copy(self)
        out._lay(shapes)
        return out, np.asarray(keep)

    def rows(self, path: str) -> tuple[int, float]:
        """Row of a dotted path's number in a column, and its factor."""
        slot = SLOTS[path]
        return self.place[slot.leaf] + slot.index, slot.scale

    def unflatten(self, column: Array) -> Deployment:
        """A `Deployment` from one column [rows], or many from [rows, n], whose leaves end in n (traced)."""
        many = column.shape[1:]
        parts = jax.lax.split(jnp.asarray(column), np.diff(self.starts).tolist())
        leaves = [part.reshape(*shape, *many) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.tree, leaves)


class Structure:
    """The structural combinations of a sweep, built once each.

    Attributes:
        columns: kind → [rows, combinations of that kind].
        layouts: kind → `Layout`.
        kind, column: per combination (C order over the structural axes) the kind's number in `kinds` (-1: could not
            be built) and its column.
        status: per combination; OK, BAD_PARALLELISM or INVALID.
        problems: what the first few of those that could not be built said.
    """

    def __init__(
        self, scenario: Scenario, axes: tuple[Axis, ...], config_dir: str | Path | None = None
    ) -> None:
        shape = tuple(a.size for a in axes)
        sections = Sections(scenario, axes, config_dir)
        members = (lambda i=i: sections.scenario_and_model(i) for i in itertools.product(*map(range, shape)))
        self._build(members, int(np.prod(shape)))

    @classmethod
    def of(cls, scenarios: Sequence[Scenario]) -> Structure:
        """A structure of these scenarios, in this order; models that are described alike are built once."""
        models: dict[str, Any] = {}

        def member(scenario: Scenario) -> tuple[Scenario, Any]:
            key = repr(scenario.model)
            if key not in models:
                models[key] = build.build_model(scenario.model)
            return scenario, models[key]

        out = cls.__new__(cls)
        out._build((lambda s=s: member(s) for s in scenarios), len(scenarios))
        return out

    def _build(self, members: Iterable[Callable[[], tuple[Scenario, Any]]], total: int) -> None:
        self.kind = np.full(total, -1)
        self.column = np.zeros(total, dtype=np.int64)
        self.status = np.zeros(total, dtype=np.int8)
        self.kinds: list[Kind] = []
        self.layouts: dict[Kind, Layout] = {}
        self.problems: list[str] = []
        columns: dict[Kind, list[np.ndarray]] = {}
        calibrations = Calibrations()
        for number, member in enumerate(members):
            try:
                combination, model = member()
                kind = kind_of(combination)
            except ConfigError as exc:
                self._fail(number, Status.INVALID, str(exc))
                continue
            try:
                build.build_parallel(combination.parallelism, model)
                if combination.prefill is not None:
                    build.build_parallel(combination.prefill.parallelism, model, "prefill.parallelism")
            except ConfigError as exc:
                self._fail(number, Status.BAD_PARALLELISM, str(exc))
                continue
            try:
                deployment = build_deployment(combination, model, calibrations)
            except ConfigError as exc:
                self._fail(number, Status.INVALID, str(exc))
                continue
            if kind not in self.layouts:
                self.layouts[kind] = Layout(deployment)
                self.kinds.append(kind)
                columns[kind] = []
            self.kind[number] = self.kinds.index(kind)
            self.column[number] = len(columns[kind])
            columns[kind].append(self.layouts[kind].column(deployment))
        self.columns = {k: np.ascontiguousarray(np.stack(v, axis=1)) for k, v in columns.items()}

    def trimmed(self) -> Structure:
        """The same table without the attention groups that none of its models has: the others cost nothing then."""
        out = copy.copy(self)
        out.layouts, out.columns = {}, {}
        for kind, layout in self.layouts.items():
            out.layouts[kind], keep = layout.trimmed(self.columns[kind])
            out.columns[kind] = np.ascontiguousarray(self.columns[kind][keep])
        return out

    def _fail(self, number: int, status: Status, text: str) -> None:
        self.status[number] = status
        if text not in self.problems and len(self.problems) < 8:
            self.problems.append(text)


class Calibrations:
    """`build.pool_calibration`, worked out once for all combinations that share their sections."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def __call__(self, scenario: Scenario, part: Any) -> Any:
        parsed = (part.hardware, part.engine, scenario.model)
        key = (scenario.calibration, part.parallelism.dp, *map(id, parsed))
        if key not in self.known:  # `parsed` is kept, so that its identities stay those of the key
            self.known[key] = build.pool_calibration(scenario, part), parsed
        return self.known[key][0]


class Sections:
    """The scenario of a combination, each of its sections parsed once per distinct content."""

    def __init__(self, scenario: Scenario, axes: tuple[Axis, ...], config_dir: str | Path | None) -> None:
        self.base, self.axes, self.config_dir = scenario, axes, config_dir
        self.tops = [(section_of(a.name) or a.name).split(".")[0] for a in axes]
        self.pipeline = next((i for i, a in enumerate(axes) if a.name == "pipeline"), None)
        #: what each option of the pipeline brings along, where no axis says otherwise: [(group, option)]
        self.brought: list[list[tuple[str, str]]] = []
        if self.pipeline is not None:
            named = {a.name for a in axes}
            for option in axes[self.pipeline].values:
                found = brought_by("pipeline", option, config_dir)
                self.brought.append([(g, o) for g, o in found if g not in named])
        self.further = {GROUPS[g].split(".")[0] for found in self.brought for g, _ in found}
        # a whole section first, then the options inside it, then its numbers
        self.order = sorted(range(len(axes)), key=lambda i: (not axes[i].group, axes[i].name.count("."), i))
        self.hints = schema.hints_of(Scenario)
        self.parsed: dict[tuple[Any, ...], Any] = {}
        self.models: dict[tuple[Any, ...], Any] = {}

    def _key(self, top: str, index: tuple[int, ...]) -> tuple[Any, ...]:
        by_pipeline = self.pipeline is not None and top in self.further
        return (
            top,
            *(i for t, i in zip(self.tops, index, strict=True) if t == top),
            *((index[self.pipeline],) if by_pipeline else ()),  # type: ignore[index]
        )

    def _section(self, top: str, index: tuple[int, ...]) -> Any:
        mapping: dict[str, Any] = {top: copied(self.base.config.get(top))}
        groups = [] if self.pipeline is None else list(self.brought[index[self.pipeline]])
        groups += [
            (self.axes[i].name, self.axes[i].values[index[i]]) for i in self.order if self.axes[i].group
        ]
        write = set_pipeline_path if top == "pipeline" else set_path
        for name, value in sorted(groups, key=lambda g: g[0].count(".")):
            section = str(section_of(name))
            if section.split(".")[0] == top:
                write(mapping, section, option_mapping(name, value, self.config_dir))
        for i in self.order:
            axis = self.axes[i]
            if self.tops[i] == top and not axis.group:
                write(mapping, axis.name, axis.values[index[i]])
        return schema._value(mapping[top], self.hints[top], {}, top)

    def scenario(self, index: tuple[int, ...]) -> Scenario:
        """The scenario at `index`; its `config` is still that of the base."""
        changes = {}
        for top in dict.fromkeys([*self.tops, *sorted(self.further)]):
            key = self._key(top, index)
            if key not in self.parsed:
                try:
                    self.parsed[key] = self._section(top, index)
                except ConfigError as exc:
                    self.parsed[key] = exc
            if isinstance(self.parsed[key], ConfigError):
                raise self.parsed[key]
            changes[top] = self.parsed[key]
        return dataclasses.replace(self.base, **changes)

    def scenario_and_model(self, index: tuple[int, ...]) -> tuple[Scenario, Any]:
        """The scenario at `index` and its built model."""
        scenario = self.scenario(index)
        return scenario, self.model(index, scenario)

    def model(self, index: tuple[int, ...], scenario: Scenario) -> Any:
        """The built model at `index`."""
        key = self._key("model", index)
        if key not in self.models:
            try:
                self.models[key] = build.build_model(scenario.model)
            except ConfigError as exc:
                self.models[key] = exc
        if isinstance(self.models[key], ConfigError):
            raise self.models[key]
        return self.models[key]
