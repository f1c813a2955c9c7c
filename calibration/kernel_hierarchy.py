"""Hierarchical fit of one class of kernels in log-space: all -> format -> engine -> generation -> system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from calibration.kernel_classes import BOUNDS, KernelClass

Array = Any
Cell = tuple[str, str, str]  # system, engine, format

#: Prior standard deviations of the offsets, in log units: a coefficient is first that of all kernels of a
#: class, then of its number format, the engine's kernels, the chip's generation, and the system itself.
SCALES = {"all": 1.0, "format": 0.5, "engine": 0.3, "generation": 0.3, "system": 0.15}
LEVELS = tuple(SCALES)
#: Scatter of log(predicted / measured) taken for granted, and where the loss turns from square to linear.
NOISE = 0.1
#: A cell counts as at most this many independent observations: its rows share the misfit of the form.
EFFECTIVE_ROWS = 300.0


@dataclass(frozen=True)
class Problem:
    """Rows of all cells, padded to one length, with the members of each level."""

    cells: list[Cell]
    columns: dict[str, np.ndarray]  # [cells, rows]
    seconds: np.ndarray  # [cells, rows]
    weight: np.ndarray  # [cells, rows], 0 for padding
    hardware: Any  # stacked, leaves [cells, ...]
    groups: dict[str, list[Any]]  # level -> keys
    members: dict[str, np.ndarray]  # level -> [cells] index of the key


def keys_of(cell: Cell, generation: str) -> dict[str, Any]:
    """What a cell belongs to at each level."""
    system, engine, form = cell
    return {
        "all": "all",
        "format": form,
        "engine": (form, engine),
        "generation": (form, engine, generation),
        "system": (form, engine, system),
    }


def build_problem(
    table: pd.DataFrame, hardware: dict[str, Any], generations: dict[str, str], rows: int, seed: int
) -> Problem:
    """Draw at most `rows` rows of each cell (seeded) and pad them to a rectangle."""
    rng = np.random.default_rng(seed)
    skip = {"system", "engine", "format", "seconds", "distribution", "fallback"}
    names = [name for name in table.columns if name not in skip]
    cells: list[Cell] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    seconds, weight = [], []
    for key, group in table.groupby(["system", "engine", "format"], sort=True):
        take = min(rows, len(group))
        part = group.iloc[np.sort(rng.choice(len(group), take, replace=False))]
        index = np.r_[np.arange(take), np.zeros(rows - take, int)]
        for name in names:
            columns[name].append(part[name].to_numpy(float)[index])
        seconds.append(part["seconds"].to_numpy(float)[index])
        weight.append(np.r_[np.ones(take), np.zeros(rows - take)] * min(EFFECTIVE_ROWS, take) / take)
        cells.append(key)  # type: ignore[arg-type]
    groups: dict[str, list[Any]] = {}
    members: dict[str, np.ndarray] = {}
    for level in LEVELS:
        keys = [keys_of(cell, generations[cell[0]])[level] for cell in cells]
        groups[level] = sorted(set(keys))
        members[level] = np.array([groups[level].index(one) for one in keys])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[hardware[cell[0]] for cell in cells])
    data = {name: np.array(values) for name, values in columns.items()}
    return Problem(cells, data, np.array(seconds), np.array(weight), stacked, groups, members)


class Fit:
    """Maximum a posteriori fit of one class; `solve` may leave systems out."""

    def __init__(self, kind: KernelClass, problem: Problem) -> None:
        self.kind, self.problem = kind, problem
        self.names = list(kind.prior)
        bounds = np.log(np.array([BOUNDS[name] for name in self.names]))
        self.low, self.width = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        share = (np.log(list(kind.prior.values())) - self.low) / self.width
        self.centre = np.log(share / (1.0 - share))
        self.sizes = [len(problem.groups[level]) for level in LEVELS]
        data = (problem.columns, jnp.log(problem.seconds), problem.hardware)
        value_and_grad = jax.jit(jax.value_and_grad(self._loss))
        self._objective = lambda x, weight: value_and_grad(x, weight, data)
        self._predict = jax.jit(self._predictions)

    def values(self, offsets: Array) -> Array:
        """Coefficients of offsets in log units: bounded by a logistic of slope near 1 at the prior."""
        return jnp.exp(self.low + self.width * jax.nn.sigmoid(self.centre + 4.0 / self.width * offsets))

    def unpack(self, x: Array) -> dict[str, Array]:
        """Offsets by level, [keys, coefficients], in log units."""
        out, start, count = {}, 0, len(self.names)
        for level, size in zip(LEVELS, self.sizes):
            out[level] = SCALES[level] * x[start : start + size * count].reshape(size, count)
            start += size * count
        return out

    def _predictions(self, offsets: Array, columns: Any, hardware: Any) -> Array:
        def one(values: Array, hw: Any, cols: Any) -> Array:
            return self.kind.predict(self.kind.build(values), hw, cols)

        return jax.vmap(one)(self.values(offsets), hardware, columns)

    def cell_offsets(self, x: Array) -> Array:
        """Sum over the levels for each cell, [cells, coefficients]."""
        parts = self.unpack(x)
        return sum(parts[level][self.problem.members[level]] for level in LEVELS)  # type: ignore[return-value]

    def _loss(self, x: Array, weight: Array, data: Any) -> Array:
        columns, log_seconds, hardware = data
        residual = jnp.log(self._predictions(self.cell_offsets(x), columns, hardware)) - log_seconds
        # pseudo-Huber: square near 0, linear far out (kernels that an engine picks badly are outliers)
        robust = jnp.sqrt(1.0 + (residual / NOISE) ** 2) - 1.0
        return jnp.sum(weight * robust) + 0.5 * jnp.sum(x**2)

    def solve(
        self, leave_out: str | None = None, start: np.ndarray | None = None, steps: int = 400
    ) -> np.ndarray:
        """Offsets (scaled by `SCALES`) that minimize the loss, by L-BFGS from the prior or from `start`."""
        weight = self.problem.weight.copy()
        for position, cell in enumerate(self.problem.cells):
            if cell[0] == leave_out:
                weight[position] = 0.0
        x0 = np.zeros(sum(self.sizes) * len(self.names)) if start is None else start
        if leave_out is not None and start is not None:
            x0 = self._without(start, leave_out)

        def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self._objective(x, weight)
            return float(value), np.asarray(slope)

        result = minimize(fun, x0, jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 30})
        return result.x

    def _without(self, x: np.ndarray, system: str) -> np.ndarray:
        """A start that has not seen `system`: offsets that only its rows inform are set to 0."""
        seen = [cell[0] != system for cell in self.problem.cells]
        parts = []
        for level, block in self.unpack(x).items():
            block = np.array(block) / SCALES[level]
            informed = np.bincount(self.problem.members[level][seen], minlength=len(block)) > 0
            block[~informed] = 0.0
            parts.append(block.ravel())
        return np.concatenate(parts)

    def residuals(self, x: np.ndarray, problem: Problem | None = None) -> np.ndarray:
        """log(predicted / measured), [cells, rows], on the rows of the fit or another draw of the cells."""
        problem = problem or self.problem
        predicted = self._predict(self.cell_offsets(x), problem.columns, problem.hardware)
        return np.log(np.asarray(predicted)) - np.log(problem.seconds)
