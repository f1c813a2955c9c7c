"""Points in the last axes: the same numbers as two nested `jax.vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mist_jax as mist
from mist_jax.batch_last import over_grid, over_points
from mist_jax.explore import pipeline_plan

ROWS, COLUMNS = 3, 5


def _carry_grows(r: Any, c: Any) -> Any:
    """A carry that starts alike at all points, then depends on the rows, then on the columns too."""

    def turn(carry: Any, x: Any) -> Any:
        a, b, d = carry
        return (a + 1.0, b + a * r["x"], d * 0.5 + b * c["y"].sum() + x), b * x

    return jax.lax.scan(turn, (jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(0.0)), jnp.arange(4.0))


def _scan_over_numbers(r: Any, c: Any) -> Any:
    return jax.lax.scan(lambda s, x: (s * r["x"] + x, s), 0.0 * r["x"], c["y"], reverse=True)


def _branch(r: Any, c: Any) -> Any:
    """A branch that all points take, whose results depend on different axes."""

    def turn(i: Any, s: Any) -> Any:
        return jax.lax.switch(i, [lambda: s + 1.0, lambda: s * r["x"], lambda: s + c["y"][0]])

    return jax.lax.fori_loop(0, 3, turn, jnp.asarray(2.0))


def _branch_of_a_point(r: Any, c: Any) -> Any:
    return jax.lax.cond(r["x"] > c["y"][1], lambda: c["y"], lambda: c["y"] * r["x"])


def _while_of_a_point(r: Any, c: Any) -> Any:
    return jax.lax.while_loop(lambda s: s < 3.0, lambda s: s * 1.5 + 0.1, r["x"] * c["y"][0])


def _choices(r: Any, c: Any) -> Any:
    v = r["v"]
    one_for_all = jnp.where(r["x"] > 0.5, v, -v)
    return (
        one_for_all + jnp.where(v > c["y"][:2], v, 0.0),
        jnp.clip(v, 0.2, c["y"][0]),
        jax.lax.select_n(r["x"] > c["y"][0], v, v * 2.0),
    )


def _shapes(r: Any, c: Any) -> Any:
    table = r["v"][:, None] * c["y"][None, :]
    stacked = jnp.stack([table, table * 2.0], axis=1)
    return {
        "table": table.T.reshape(-1),
        "sum": stacked.sum(axis=(0, 2)),
        "most": jnp.argmax(table, axis=1),
        "joined": jnp.concatenate([c["y"], r["v"], jnp.ones(1)]),
        "running": jnp.cumsum(c["y"]),
        "backwards": table[::-1, 1:3],
        "alike": jnp.arange(3.0),
        "dot": table @ c["y"],
        "parts": jnp.split(c["y"], 2),
    }


def _places(r: Any, c: Any) -> Any:
    one = jax.lax.dynamic_slice(c["y"], (jnp.asarray(1),), (2,))
    at = (r["x"] * 3.0).astype(int)
    return one, jax.lax.dynamic_slice(c["y"], (at,), (1,)), c["y"][at], jnp.zeros(4).at[at].add(c["y"][0])


@jax.custom_vjp
def _own_gradient(x: Any) -> Any:
    return jnp.sin(x) * 2.0


_own_gradient.defvjp(lambda x: (_own_gradient(x), x), lambda x, g: (g * x,))


def _functions(r: Any, c: Any) -> Any:
    smooth = jax.nn.relu(r["x"] - c["y"][0]) + jax.scipy.special.erfc(r["v"]).sum()
    return (
        smooth,
        jnp.sqrt(r["x"]) ** 3,
        r["x"] ** c["y"],
        jnp.log1p(r["v"]) / (1.0 + c["y"][3]),
        _own_gradient(r["v"]),
    )


@pytest.mark.parametrize(
    "function",
    [
        _carry_grows,
        _scan_over_numbers,
        _branch,
        _branch_of_a_point,
        _while_of_a_point,
        _choices,
        _shapes,
        _places,
        _functions,
    ],
)
def test_the_same_as_nested_maps(function: Any) -> None:
    rng = np.random.default_rng(0)
    rows = {"x": rng.uniform(0.1, 0.9, ROWS), "v": rng.uniform(0.1, 0.9, (2, ROWS))}
    columns = {"y": rng.uniform(0.1, 0.9, (4, COLUMNS))}
    over_columns = jax.vmap(function, in_axes=(None, -1))
    expected = jax.vmap(over_columns, in_axes=(-1, None))(rows, columns)
    found = jax.jit(lambda r, c: over_grid(function, rows=r, columns=c))(rows, columns)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_points_in_front_come_back_in_front() -> None:
    points = {"x": np.arange(3.0), "v": np.arange(6.0).reshape(3, 2)}
    expected = jax.vmap(lambda p: {"y": p["v"] * p["x"]})(points)
    np.testing.assert_array_equal(over_points(lambda p: {"y": p["v"] * p["x"]})(points)["y"], expected["y"])


@pytest.mark.slow  # two programs of its own
@pytest.mark.parametrize("pipeline", ["rag", "cross_vendor"])
def test_large_sweeps_of_pipelines_give_the_same(monkeypatch: pytest.MonkeyPatch, pipeline: str) -> None:
    scenario = mist.load([f"pipeline={pipeline}"])
    axes = {"workload.rate": np.linspace(0.05, 0.5, 5), "workload.osl": np.linspace(50, 500, 5)}
    few = mist.sweep(scenario, axes, progress=False)
    monkeypatch.setattr(pipeline_plan, "LOTS", 0)
    many = mist.sweep(scenario, axes, progress=False)
    assert (few.status == 0).any()
    for name in few.data_vars:
        np.testing.assert_allclose(many[name].values, few[name].values, rtol=1e-7, err_msg=str(name))


def test_an_empty_side_is_a_single_row() -> None:
    columns = np.arange(4.0)
    found = over_grid(lambda _, c: {"twice": c * 2.0, "alike": jnp.ones(2)}, rows=(), columns=columns)
    np.testing.assert_array_equal(found["twice"], [columns * 2.0])
    np.testing.assert_array_equal(found["alike"], np.ones((1, 4, 2)))


def test_points_are_behind() -> None:
    """Of an operation on two numbers of each point, the inner loops run over points."""

    def program(r: Any, c: Any) -> Any:
        return over_grid(lambda r, c: jnp.exp(r * c).sum(), rows=r, columns=c)

    text = jax.jit(program).lower(np.ones((2, ROWS)), np.ones((2, COLUMNS))).as_text()
    exponential = next(line for line in text.splitlines() if "exponential" in line)
    assert f"2x{ROWS}x{COLUMNS}x" in exponential
