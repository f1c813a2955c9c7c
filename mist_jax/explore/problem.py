"""The problem of a search: variables between bounds, choices, the objective and its constraints, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mist_jax.compose import require_scenario, with_overrides
from mist_jax.errors import ConfigError, Status, nearest
from mist_jax.explore.axes import parse_axes
from mist_jax.explore.deployments import SLOTS, Structure, is_direct
from mist_jax.explore.groups import GROUPS, option_mapping
from mist_jax.figures import LESS
from mist_jax.schema import Scenario

#: Variables that are whole numbers.
WHOLE = ("max_num_batched_tokens", "max_num_seqs", "block_size", "replicas", "units", "domain", "isl", "osl")
#: Relative slack within which a constraint counts as met.
SLACK = 1e-6
#: What a violation costs in `merit` beside the objective, and the objective of a design that does not work.
PENALTY, LOST = 100.0, 1e3


class Problem:
    """A search problem as arrays; `evaluate` gives figures at positions in the unit cube."""

    def __init__(
        self,
        scenario: Scenario,
        objective: str | Mapping[str, float],
        variables: Mapping[str, Any],
        constraints: Mapping[str, Any] | None = None,
        choices: Mapping[str, Any] | None = None,
        maximize: bool | None = None,
        tails: Mapping[str, Any] | None = None,
    ) -> None:
        """As `search`; `tails` are limits on percentiles, for which the steady state has its means stand in."""
        from mist_jax.explore import gradient

        require_scenario(scenario)
        self.scenario = scenario
        self.choice_axes = parse_axes(scenario, choices) if choices else ()
        for axis in self.choice_axes:
            if axis.name in variables:
                raise ConfigError(f"{axis.name}: is both a variable and a choice")
        self.structure = Structure(scenario, self.choice_axes)
        if len(self.structure.kinds) != 1:
            why = (
                "; ".join(self.structure.problems)
                or "both closed and open load, or with and without a prefill pool"
            )
            raise ConfigError(f"search: the choices must be of one kind ({why})")
        self.kind = self.structure.kinds[0]
        self.layout = self.structure.layouts[self.kind]
        self.table = self.structure.columns[self.kind]
        self.names = gradient.names_of(self.kind)
        self.paths, self.whole, self.units = list(variables), [], []
        if not 1 <= len(self.paths) <= gradient.MAX_VARIABLES:
            raise ConfigError(
                f"variables: got {len(self.paths)}; a search takes 1 to {gradient.MAX_VARIABLES}"
            )
        size = gradient.MAX_VARIABLES
        self.low, self.high = np.zeros(size), np.zeros(size)
        self.bounds = np.zeros((0, 2))
        self.spread, self.moved = np.zeros((len(self.table), size)), np.zeros(len(self.table), dtype=bool)
        for k, (path, bounds) in enumerate(variables.items()):
            self._add(k, path, bounds)
        self.sign, self.exponents = self._objective(objective, maximize)
        self.upper, self.lower, self.judged = self._constraints(constraints or {})
        self.mean_upper = np.where(self.judged[0], self.upper, np.inf)
        self.tails = self._tails(tails or {})
        always = np.zeros_like(self.judged)
        for name in (
            "memory_need",
            *(n for n in self.names if n.endswith(("_mm2", "chip_cost_usd", "chip_power_w"))),
        ):
            always[:, self.names.index(name)] = True
        self.arrays = {
            "low": self.low, "high": self.high, "spread": self.spread, "moved": self.moved,
            "objective": self.exponents * self.sign, "upper": self.upper, "lower": self.lower,
            "judged": self.judged, "always": always,
        }  # fmt: skip
        self.evaluations = 0
        self.log: list[np.ndarray] = []

    def _add(self, k: int, path: str, bounds: Any) -> None:
        """One variable; several paths joined by commas keep their ratios."""
        tied = [p.strip() for p in path.split(",")]
        for name in tied:
            if name not in SLOTS:
                raise ConfigError(
                    f"variables: '{name}' is no number that moves freely{nearest(name, SLOTS)}; put it under choices"
                )
        try:
            low, high = bounds
        except (TypeError, ValueError):
            raise ConfigError(f"{path}: got {bounds!r}; expected (low, high)") from None
        axis = parse_axes(self.scenario, {tied[0]: [low, high]})[0]
        if not is_direct(axis, self.scenario):
            raise ConfigError(
                f"variables: '{tied[0]}' does not move freely in this scenario; put it under choices"
            )
        low, high = axis.values
        if not 0 < low < high:
            raise ConfigError(f"{path}: got ({low:g}, {high:g}); a search in log space needs 0 < low < high")
        self.low[k], self.high[k] = np.log(low), np.log(high)
        self.bounds = np.vstack([self.bounds, [low, high]])
        first = None
        for name in tied:
            row, scale = self.layout.rows(name)
            value = float(self.table[row, 0]) / scale
            first = value if first is None else first
            self.spread[row, k] = scale * (value / first if first else 1.0)
            self.moved[row] = True
        self.units.append(axis.units)
        self.whole.append(tied[0].rsplit(".", 1)[-1] in WHOLE)

    def figure(self, name: str, what: str) -> int:
        """Place of a figure in `names`; `what` asks for it."""
        if name not in self.names:
            raise ConfigError(
                f"{what}: no '{name}'{nearest(name, self.names)}; there are: {', '.join(self.names)}"
            )
        return self.names.index(name)

    def _objective(
        self, objective: str | Mapping[str, float], maximize: bool | None
    ) -> tuple[float, np.ndarray]:
        powers = {objective: 1.0} if isinstance(objective, str) else dict(objective)
        out = np.zeros(len(self.names))
        for name, power in powers.items():
            out[self.figure(name, "objective")] = power
        if maximize is None:
            maximize = isinstance(objective, str) and objective not in LESS
        return (-1.0 if maximize else 1.0), out

    def _constraints(self, constraints: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        upper, lower = np.zeros(len(self.names)), np.zeros(len(self.names))
        judged = np.zeros((2, len(self.names)), dtype=bool)
        limits = {name: _limits(name, value) for name, value in constraints.items()}
        # always: a request fits in the KV cache; open load below saturation
        limits["memory_need"] = (None, 1.0)
        if self.kind[0] == "open":
            low, high = limits.get("load", (None, None))
            limits["load"] = (low, min(1.0, high) if high is not None else 1.0)
        for name, (low, high) in limits.items():
            at = self.figure(name, "constraints")
            if high is not None:
                upper[at], judged[0, at] = np.log(high), True
            if low is not None:
                lower[at], judged[1, at] = np.log(low), True
        return upper, lower, judged

    def _tails(self, tails: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
        """percentile → (figure whose mean stands in for it, limit); narrows the limits of those figures."""
        out = {}
        for name, value in tails.items():
            low, high = _limits(name, value)
            if high is None or low is not None:
                raise ConfigError(
                    f"constraints.{name}: got {value!r}; a percentile has an upper limit, '<= 2.0'"
                )
            at = self.figure(f"{name.split('_')[0]}_s", "constraints")
            limit = np.log(high)
            self.upper[at] = min(self.upper[at], limit) if self.judged[0, at] else limit
            self.judged[0, at] = True
            out[name] = (at, high)
        return out

    def columns(self, choice: np.ndarray) -> np.ndarray:
        """Table columns of choices, [designs, rows]."""
        return self.table[:, self.structure.column[choice]].T

    def values(self, x: np.ndarray) -> np.ndarray:
        """Numbers of the variables at positions [..., variables]."""
        n = len(self.paths)
        values = np.exp(self.low[:n] + x[..., :n] * (self.high - self.low)[:n])
        return np.clip(values, *self.bounds.T)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Positions with whole variables at the nearest whole number within the bounds."""
        out, n = x.copy(), len(self.paths)
        for k in range(n):
            if self.whole[k]:
                low, high = np.ceil(np.exp(self.low[k]) - 1e-9), np.floor(np.exp(self.high[k]) + 1e-9)
                value = np.clip(
                    np.round(np.exp(self.low[k] + x[..., k] * (self.high[k] - self.low[k]))), low, high
                )
                out[..., k] = (np.log(value) - self.low[k]) / (self.high[k] - self.low[k])
        return out

    def evaluate(
        self,
        x: np.ndarray,
        choice: np.ndarray,
        multipliers: Any = None,
        weight: float = 10.0,
        *,
        slopes: bool = False,
    ) -> Any:
        """Figures and constraints of designs, slopes if asked; adds `score` (signed log objective; inf where not
        feasible)."""
        from mist_jax.explore import gradient

        if multipliers is None:
            multipliers = np.zeros((len(x), 2, len(self.names)))
        problem = {**self.arrays, "weight": np.float64(weight)}
        out = gradient.evaluate_designs(
            self.kind,
            self.layout,
            x,
            self.columns(choice),
            multipliers,
            problem,
            directions=len(self.paths) if slopes else 1,
        )
        worst = self.worst(out["c"])
        logs = np.log(out["y"]) @ (self.exponents * self.sign)
        good = (out["status"] == Status.OK) & (worst <= SLACK)
        out["score"] = np.where(good, logs, np.inf)
        works = np.isin(out["status"], (Status.OK, Status.UNSTABLE))
        out["merit"] = np.where(works, logs, LOST) + PENALTY * np.maximum(worst, 0.0)
        self.evaluations += len(x)
        whole = (
            ~np.array([False]) if not any(self.whole) else np.all(np.abs(self.rounded(x) - x) < 1e-9, axis=1)
        )
        self.log.append(np.where(whole, out["score"], np.inf) * np.ones(len(x)))
        return out

    def worst(self, c: np.ndarray) -> np.ndarray:
        """The limit that is missed most, or met least, of each design: [designs, 2, figures] → [designs]."""
        return np.where(self.judged, c, -1.0).max(axis=(1, 2))

    def described(self, x: np.ndarray, choice: int) -> dict[str, Any]:
        """path → value of a design, choices included; tied paths get their own entries."""
        shape = tuple(a.size for a in self.choice_axes)
        index = np.unravel_index(choice, shape) if shape else ()
        out: dict[str, Any] = {a.name: a.values[int(i)] for a, i in zip(self.choice_axes, index, strict=True)}
        for k, (path, value) in enumerate(zip(self.paths, self.values(x), strict=True)):
            for name in (p.strip() for p in path.split(",")):
                row, scale = self.layout.rows(name)
                number = float(value * self.spread[row, k] / scale)
                out[name] = float(round(number)) if self.whole[k] else number
        return out

    def scenario_at(self, x: np.ndarray, choice: int) -> Scenario:
        """The base scenario with a design's choices and numbers."""
        design = self.described(x, choice)
        changes: dict[str, Any] = {GROUPS[k]: option_mapping(k, v) for k, v in design.items() if k in GROUPS}
        changes |= {k: v for k, v in design.items() if k not in GROUPS}
        return with_overrides(self.scenario, changes)


def _limits(name: str, value: Any) -> tuple[float | None, float | None]:
    """(low, high) of a constraint: "<= 2", ">= 100", (low, high); a number limits the bad side."""
    if isinstance(value, str):
        sign, text = value.strip()[:2], value.strip()[2:]
        try:
            number = float(text)
        except ValueError:
            raise ConfigError(
                f"constraints.{name}: got {value!r}; write '<= 2.0' or '>= 100' in SI units"
            ) from None
        if sign not in ("<=", ">="):
            raise ConfigError(f"constraints.{name}: got {value!r}; write '<= 2.0' or '>= 100' in SI units")
        pair: tuple[Any, Any] = (None, number) if sign == "<=" else (number, None)
    elif isinstance(value, int | float):
        pair = (None, float(value)) if name in LESS else (float(value), None)
    else:
        low, high = value
        pair = (low, high)
    if any(v is not None and v <= 0 for v in pair):
        raise ConfigError(f"constraints.{name}: got {value!r}; limits must be positive")
    return pair
