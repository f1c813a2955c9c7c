"""The plan of a sweep: its axes, how it is cut into boxes, and how one box is evaluated (in any process)."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mist_jax
from mist_jax.compose import require_scenario
from mist_jax.errors import ConfigError, Status, nearest
from mist_jax.explore import block
from mist_jax.explore.axes import Axis, parse_axes
from mist_jax.explore.deployments import SLOTS, Structure, is_direct
from mist_jax.physics.step import STEP_PARTS
from mist_jax.physics.step_energy import ENERGY_SHARES
from mist_jax.programs import Effort
from mist_jax.schema import APPLICATION_KEYS, Scenario
from mist_jax.variables import POOL_VARIABLES, VARIABLES

#: Points of a box: what is evaluated, stored and resumed as one.
BOX_POINTS = 1 << 17

#: Boxes under way at once: XLA releases the interpreter while it runs, and one box hardly fills a core.
WORKERS = 2

#: A box: half-open index ranges, one an axis.
Box = tuple[tuple[int, int], ...]


class Plan:
    """What to evaluate. Cheap to pickle: the table of deployments is built where it is first used.

    Attributes:
        axes: in the caller's order, which is that of the result's dimensions.
        variables: names of the scalars and vectors to keep.
    """

    #: Points from which a sweep on a terminal shows a bar.
    bar_from = 100_000

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
        self.scenario = scenario
        self.config_dir = str(config_dir) if config_dir else None
        self.axes = self._parsed(axes)
        self.dtype = np.dtype(dtype)
        self.direct = tuple(self._direct(a) for a in self.axes)
        pools = POOL_VARIABLES if self._pools() else {}
        self.known: dict[str, tuple[str, str]] = {**VARIABLES, **block.EXTRA, **pools}
        self.variables = self._chosen(variables)
        # several blocks: a box for each worker
        share = -(-self.points // WORKERS) if self.points > math.prod(block.FLAT) else self.points
        self.box_points = min(box_points, share)
        self.effort = self._effort()
        self.shape_of_block = self._block()

    def _effort(self) -> Effort:
        """What is spent on compiling the programs."""
        return block.choose_effort(self.points)

    def _block(self) -> tuple[int, int]:
        """The shape of block that fits the boxes."""
        self.shape_of_block = (0, 0)  # not flat, for the count of inner points
        outer = inner = 1
        for axis, chunk in zip(self.axes, self._chunks(), strict=True):
            if self._inner(axis):
                inner *= chunk
            else:
                outer *= chunk
        return block.choose_shape(outer, inner, self.effort)

    def _parsed(self, axes: Any) -> tuple[Axis, ...]:
        return parse_axes(self.scenario, axes, self.config_dir)

    def _pools(self) -> bool:
        """Whether a prefill pool occurs."""
        return self.scenario.prefill is not None or any(a.name == "prefill" for a in self.axes)

    def _direct(self, axis: Axis) -> bool:
        """Whether the axis is a plain number for every combination of the other axes."""
        if not is_direct(axis, self.scenario):
            return False
        others = {a.name for a in self.axes} - {axis.name}
        if "prefill" in others:  # some combinations have no pool
            return not axis.name.startswith(("prefill.", "transfer.", "hardware.scale_out", "hardware.host."))
        # a group may bring a chip without the section that the path names
        chip = next((g for g, top in (("hardware", "hardware."), ("hardware@prefill.hardware", "prefill.hardware."))
                     if axis.name.startswith(top) and g in others), None)  # fmt: skip
        return chip is None or axis.name.endswith("usd_per_hour")

    def _inner(self, axis: Axis) -> bool:
        """Whether the axis varies along the inner side of blocks; flat blocks have none."""
        if self.shape_of_block[1] == 1:
            return False
        return self.direct[self.axes.index(axis)] and SLOTS[axis.name].inner

    def _chosen(self, variables: Any) -> tuple[str, ...]:
        if variables is None:
            return tuple(self.known)
        if isinstance(variables, str):
            variables = [variables]
        allowed = [*self.known, *self._vectors()]
        for name in variables:
            if name not in allowed:
                raise ConfigError(
                    f"variables: no '{name}'{nearest(name, allowed)}; there are: {', '.join(allowed)}"
                )
        return tuple(dict.fromkeys([*variables, "status"]))

    def _vectors(self) -> tuple[str, ...]:
        """Variables with a dimension of their own that must be named."""
        return tuple(block.VECTORS)

    @property
    def coords(self) -> dict[str, list[str]]:
        """Coordinates beside the axes."""
        known = {"part": STEP_PARTS, "share": ENERGY_SHARES}
        return {
            block.VECTORS[n][0]: list(known[block.VECTORS[n][0]])
            for n in self.variables
            if n in block.VECTORS
        }

    def prepare(self) -> None:
        """What workers need, built once."""
        _ = self.structure

    def problems(self, status: Any) -> list[str]:
        """What the first few combinations that could not be built say; `status`: of all points."""
        return self.structure.problems

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(a.size for a in self.axes)

    @property
    def points(self) -> int:
        """Number of points."""
        return int(np.prod([a.size for a in self.axes]))

    @cached_property
    def structure(self) -> Structure:
        """The table of deployments (built on first use)."""
        axes = tuple(a for a, d in zip(self.axes, self.direct, strict=True) if not d)
        whole = Structure(self.scenario, axes, self.config_dir)
        # what is compiled for a block or two is one program for all models
        return whole if self.effort is Effort.LEAST else whole.trimmed()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "structure"}

    @cached_property
    def fingerprint(self) -> str:
        """What must agree for results to be of the same sweep (travels with a pickled plan)."""
        return self.computed_fingerprint()

    def computed_fingerprint(self) -> str:
        """The fingerprint as this process works it out: description, axes, and the numbers built from them."""
        table = hashlib.sha256()
        for columns in self.structure.columns.values():
            table.update(columns.tobytes())
        return self._digest(table.hexdigest())

    def _digest(self, table: str) -> str:
        content = {
            "table": table,
            "version": mist_jax.__version__,
            "config": {k: v for k, v in self.scenario.config.items() if k not in APPLICATION_KEYS},
            "axes": [(a.name, list(a.values)) for a in self.axes],
            "variables": self.variables,
            "dtype": self.dtype.name,
            "chunks": self.chunks,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Box sizes by axis."""
        return self._chunks()

    def _chunks(self) -> tuple[int, ...]:
        """Outer axes are cut first, so that a box keeps whole inner products."""
        sizes = list(self.shape)
        order = sorted(range(len(sizes)), key=lambda i: (self._inner(self.axes[i]), self.direct[i], i))
        for i in order:
            rest = int(np.prod(sizes)) // sizes[i]
            if rest * sizes[i] <= self.box_points:
                break
            blocks = -(-sizes[i] // max(1, self.box_points // rest))
            sizes[i] = -(-sizes[i] // blocks)
        return tuple(sizes)

    def boxes(self) -> list[Box]:
        """All boxes, in order."""
        starts = [range(0, n, c) for n, c in zip(self.shape, self.chunks, strict=True)]
        return [
            tuple((a, min(a + c, n)) for a, c, n in zip(at, self.chunks, self.shape, strict=True))
            for at in itertools.product(*starts)
        ]

    def dims_of(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        extra = (block.VECTORS[name][0],) if name in block.VECTORS else ()
        return (*(a.name for a in self.axes), *extra)

    def tail_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a variable's dimensions beyond the axes."""
        return {"breakdown_s": (len(STEP_PARTS),), "power_share_w": (len(ENERGY_SHARES),)}.get(name, ())

    def dtype_of(self, name: str) -> Any:
        """Type in which a variable is kept."""
        return np.int8 if name == "status" else self.dtype

    def attrs_of(self, name: str) -> dict[str, str]:
        """`units` and `long_name`."""
        units, text = block.VECTORS[name][1:] if name in block.VECTORS else self.known[name]
        return {"units": units, "long_name": text}

    def evaluate(self, box: Box) -> dict[str, np.ndarray]:
        """The chosen variables over one box, shaped like it; never fails for a bad point."""
        return _BoxEvaluation(self, box).run()


class _BoxEvaluation:
    """One box: its axes sorted into structural, outer and inner ones, and the results scattered back."""

    def __init__(self, plan: Plan, box: Box) -> None:
        self.plan, self.box = plan, box
        number = range(len(plan.axes))
        self.structural = [i for i in number if not plan.direct[i]]
        inner = {i for i in number if plan._inner(plan.axes[i])}
        self.inner = sorted(inner)
        self.outer_direct = [i for i in number if plan.direct[i] and i not in inner]
        self.outer = [*self.structural, *self.outer_direct]
        self.outer_shape = tuple(box[i][1] - box[i][0] for i in self.outer)
        self.inner_shape = tuple(box[i][1] - box[i][0] for i in self.inner)

    def _grid(self, which: list[int]) -> list[np.ndarray]:
        """Index of each axis of `which` at every point of their product, flattened."""
        ranges = [np.arange(*self.box[i]) for i in which]
        return [g.ravel() for g in np.meshgrid(*ranges, indexing="ij")] if ranges else []

    def run(self) -> dict[str, np.ndarray]:
        plan, structure = self.plan, self.plan.structure
        n_outer = int(np.prod(self.outer_shape))
        n_inner = int(np.prod(self.inner_shape))
        grid = dict(zip(self.outer, self._grid(self.outer), strict=True))
        combination = np.zeros(n_outer, dtype=np.int64)
        if self.structural:
            sizes = tuple(plan.axes[i].size for i in self.structural)
            combination = np.ravel_multi_index(tuple(grid[i] for i in self.structural), sizes)
        out = {
            name: np.full((n_outer, n_inner, *plan.tail_of(name)), np.nan, plan.dtype)
            for name in plan.variables
            if name != "status"
        }
        status = np.broadcast_to(structure.status[combination][:, None], (n_outer, n_inner)).astype(np.int8)
        if "meets_slo" in out:
            out["meets_slo"][:] = 0.0
        out["status"] = status
        for number, kind in enumerate(structure.kinds):
            at = np.flatnonzero(structure.kind[combination] == number)
            if at.size:
                self._kind(kind, at, combination, grid, out, n_inner)
        # from (outer..., inner...) to the order of the axes
        order = np.argsort([*self.outer, *self.inner])
        shaped = {}
        for name, values in out.items():
            full = values.reshape(*self.outer_shape, *self.inner_shape, *plan.tail_of(name))
            tail = range(len(order), full.ndim)
            shaped[name] = np.ascontiguousarray(full.transpose(*order, *tail))
        return shaped

    def _kind(self, kind: Any, at: Any, combination: Any, grid: Any, out: Any, n_inner: int) -> None:
        plan = self.plan
        paths = block.inner_paths(kind)
        inner = np.full((len(paths), n_inner), np.nan)
        for i, index in zip(self.inner, self._grid(self.inner), strict=True):
            axis = plan.axes[i]
            if axis.name in paths:
                inner[paths.index(axis.name)] = axis.coordinate[index]
        rows, columns = plan.shape_of_block
        with jax.enable_x64(plan.dtype == np.float64):
            if plan.effort is Effort.FULL:
                at = self._worth_it(kind, at, combination, grid, inner, out)
            program = None
            for o in range(0, at.size, rows):
                # a short block repeats its last deployment
                places = at[np.minimum(np.arange(o, o + rows), at.size - 1)]
                part = self._columns(kind, places, combination, grid)
                program = program or self._program(kind)
                for c in range(0, n_inner, columns):
                    cells = np.minimum(np.arange(c, c + columns), n_inner - 1)
                    result = program(part, np.asarray(inner[:, cells], plan.dtype))
                    p, q = min(rows, at.size - o), min(columns, n_inner - c)
                    for name in plan.variables:
                        if name in result:
                            out[name][at[o : o + p], c : c + q] = np.asarray(result[name])[:p, :q]

    def _program(self, kind: Any) -> Any:
        plan = self.plan
        return block.PROGRAMS.get(
            kind, plan.structure.layouts[kind], plan.shape_of_block, plan.dtype, effort=plan.effort
        )

    def _columns(self, kind: Any, places: Any, combination: Any, grid: Any) -> np.ndarray:
        """Columns of the table for some outer deployments, their direct numbers written in."""
        plan, structure = self.plan, self.plan.structure
        part = structure.columns[kind][:, structure.column[combination[places]]]
        for i in self.outer_direct:
            row, scale = structure.layouts[kind].rows(plan.axes[i].name)
            part[row] = plan.axes[i].coordinate[grid[i][places]] * scale
        return np.asarray(part, plan.dtype)

    def _worth_it(self, kind: Any, at: Any, combination: Any, grid: Any, inner: Any, out: Any) -> np.ndarray:
        """Those of the outer deployments `at` that fit for some inner point; the others are written to `out`.

        What does not fit needs no solution, only its status and memory: a thousandth of the work.
        """
        plan, layout = self.plan, self.plan.structure.layouts[kind]
        rows, columns = plan.shape_of_block
        fits = np.zeros(at.size, dtype=bool)
        program = block.PROGRAMS.get(kind, layout, (rows, columns), plan.dtype, look=True)
        for o in range(0, at.size, rows):
            places = at[np.minimum(np.arange(o, o + rows), at.size - 1)]
            part = self._columns(kind, places, combination, grid)
            p = min(rows, at.size - o)
            for c in range(0, inner.shape[1], columns):
                cells = np.minimum(np.arange(c, c + columns), inner.shape[1] - 1)
                q = min(columns, inner.shape[1] - c)
                result = program(part, np.asarray(inner[:, cells], plan.dtype))
                fits[o : o + p] |= (np.asarray(result["status"])[:p, :q] == Status.OK).any(axis=1)
                # those that fit are overwritten by their solution
                for name in plan.variables:
                    if name in result:
                        out[name][at[o : o + p], c : c + q] = np.asarray(result[name])[:p, :q]
                if fits[o : o + p].all():
                    break  # the rest would be overwritten too
        return at[fits]


def status_text() -> str:
    """The meaning of the codes, for attributes."""
    return ", ".join(f"{int(s)}: {s.text}" for s in Status)
