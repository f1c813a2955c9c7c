"""Programs of one point run over many: the same numbers, in blocks that are compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

#: Points of a block; a short one repeats its last point, so that one program serves any number.
BLOCK = 256
#: Points up to which the program of one point runs in turn: `evaluate` compiles no block.
FEW = 12


class OverPoints:
    """A function of one point, mapped over points.

    Attributes:
        one: its compiled program.
        many: the compiled program of `BLOCK` points along a leading axis.
    """

    def __init__(self, one: Callable[..., Any], many: Callable[..., Any]) -> None:
        self.one, self.many = one, many

    def __call__(
        self,
        points: int,
        arguments: Callable[[np.ndarray], tuple],
        few: int = FEW,
        dtype: Any = np.float64,
    ) -> Any:
        """The results of all points as NumPy, leading axis [points].

        Args:
            arguments: indices of points → the function's arguments, each leaf with that leading axis.
            few: points up to which `one` is called in turn.
            dtype: of the program's numbers, float64 or float32; the latter in blocks alone, one compilation less.
        """
        if dtype != np.float64:
            with jax.enable_x64(False):
                return self._run(points, lambda at: _as(arguments(at), dtype), 0)
        return self._run(points, arguments, few)

    def _run(self, points: int, arguments: Callable[[np.ndarray], tuple], few: int) -> Any:
        parts = []
        if points <= few:
            for k in range(points):
                args = jax.tree.map(lambda x: np.asarray(x)[0], arguments(np.array([k])))
                parts.append(jax.tree.map(lambda x: np.asarray(x)[None], self.one(*args)))
        else:
            for o in range(0, points, BLOCK):
                at = np.minimum(np.arange(o, o + BLOCK), points - 1)
                out = self.many(*arguments(at))
                keep = min(BLOCK, points - o)
                parts.append(jax.tree.map(lambda x, keep=keep: np.asarray(x)[:keep], out))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _as(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, dtype), tree)


def stacked(trees: list[Any]) -> Any:
    """Pytrees of numbers alike as one, leading axis [trees]."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(v, dtype=np.float64) for v in x]), *trees)


def rows(tree: Any, at: Any) -> Any:
    """The rows `at` of every leaf."""
    return jax.tree.map(lambda x: np.asarray(x)[at], tree)
