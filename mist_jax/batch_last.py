"""Functions of one point over a grid of them, with the grid in the last two axes of every array.

`jax.vmap` puts the mapped axis first, so that a program over [outer, inner] points works on arrays such as
[outer, inner, 2]: the innermost loops of the compiled program run over two operator times, not over points, and do not
vectorize. Here the function is traced for one point, and each of its operations is done again with the points behind.
What depends on the rows of the grid alone keeps one column, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

Array = Any


class _Points(NamedTuple):
    """An array of one point's shape, at every point: its last two axes are [rows or 1, columns or 1]."""

    array: Array


def over_grid(function: Callable[..., Any], *, rows: Any, columns: Any) -> Any:
    """`function(rows, columns)` at every pair of a row and a column.

    Args:
        function: (pytree, pytree) → pytree of arrays, for one point.
        rows: pytree of arrays that end in [rows]; an empty one stands for a single row.
        columns: pytree of arrays that end in [columns], or an empty one.

    Returns:
        The pytree of `function`'s results, each as [rows, columns, ...].
    """
    leaves = [jax.tree.leaves(rows), jax.tree.leaves(columns)]
    one = [jax.ShapeDtypeStruct(x.shape[:-1], x.dtype) for side in leaves for x in side]
    _, structure = jax.tree.flatten((rows, columns))
    closed, out = jax.make_jaxpr(
        lambda *flat: function(*jax.tree.unflatten(structure, flat)), return_shape=True
    )(*one)
    inputs = [_Points(x[..., :, None]) for x in leaves[0]] + [_Points(x[..., None, :]) for x in leaves[1]]
    size = _grid(inputs)
    values = [_wide(v, size) for v in _run(closed, inputs)]
    front = [jnp.moveaxis(x, (-2, -1), (0, 1)) for x in values]
    return jax.tree.unflatten(jax.tree.structure(out), front)


def over_points(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one point as one of many: leaves of arguments and results with a leading axis [points]."""

    def many(*arguments: Any) -> Any:
        behind = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), arguments)
        one_row = over_grid(lambda _, point: function(*point), rows=(), columns=behind)
        return jax.tree.map(lambda x: x[0], one_row)

    return many


def _grid(values: Sequence[Any]) -> tuple[int, int]:
    """The rows and columns of what depends on all of `values`."""
    sizes = [v.array.shape[-2:] for v in values if isinstance(v, _Points)]
    return max((s[0] for s in sizes), default=1), max((s[1] for s in sizes), default=1)


def _wide(value: Any, size: tuple[int, int]) -> Array:
    """The array of a value at all points of a grid."""
    x = value.array if isinstance(value, _Points) else jnp.asarray(value)[..., None, None]
    return x if x.shape[-2:] == size else jnp.broadcast_to(x, (*x.shape[:-2], *size))


def _run(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """The results of a closed jaxpr, one point's arrays or `_Points`."""
    jaxpr, known = closed.jaxpr, {}
    known.update(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        if any(isinstance(v, _Points) for v in values):
            out = _RULES.get(eqn.primitive.name, _mapped)(eqn, values)
        else:
            out = eqn.primitive.bind(*values, **eqn.params)
            out = out if eqn.primitive.multiple_results else [out]
        known.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _one(eqn: Any, *arrays: Array) -> list[_Points]:
    out = eqn.primitive.bind(*arrays, **eqn.params)
    return [_Points(x) for x in (out if eqn.primitive.multiple_results else [out])]


def _same(eqn: Any, values: list[Any]) -> list[_Points]:
    """Operations that leave axes beyond a point's own alone."""
    size = _grid(values)
    return _one(eqn, *(_wide(v, size) for v in values))


def _elementwise(eqn: Any, values: list[Any]) -> list[_Points]:
    """Scalars may stand beside arrays of any shape."""
    size = _grid(values)
    arrays = [_wide(v, size) for v in values]
    shape = max((x.shape for x in arrays), key=len)
    places = (len(shape) - 2, len(shape) - 1)
    return _one(eqn, *(x if x.ndim == len(shape) else lax.broadcast_in_dim(x, shape, places) for x in arrays))


def _broadcast_in_dim(eqn: Any, values: list[Any]) -> list[_Points]:
    (value,), shape = values, eqn.params["shape"]
    places = (*eqn.params["broadcast_dimensions"], len(shape), len(shape) + 1)
    x = value.array
    return [_Points(lax.broadcast_in_dim(x, (*shape, *x.shape[-2:]), places))]


def _reshape(eqn: Any, values: list[Any]) -> list[_Points]:
    x = values[0].array
    return [_Points(lax.reshape(x, (*eqn.params["new_sizes"], *x.shape[-2:])))]


def _transpose(eqn: Any, values: list[Any]) -> list[_Points]:
    order = eqn.params["permutation"]
    return [_Points(lax.transpose(values[0].array, (*order, len(order), len(order) + 1)))]


def _slice(eqn: Any, values: list[Any]) -> list[_Points]:
    x, p = values[0].array, eqn.params
    strides = p["strides"] or (1,) * (x.ndim - 2)
    limits = (*p["limit_indices"], *x.shape[-2:])
    return [_Points(lax.slice(x, (*p["start_indices"], 0, 0), limits, (*strides, 1, 1)))]


def _dynamic_slice(eqn: Any, values: list[Any]) -> list[_Points]:
    x, *at = values
    if not isinstance(x, _Points) or any(isinstance(i, _Points) for i in at):
        return _mapped(eqn, values)
    zero = jnp.zeros((), jnp.asarray(at[0]).dtype)
    sizes = (*eqn.params["slice_sizes"], *x.array.shape[-2:])
    return [_Points(lax.dynamic_slice(x.array, (*at, zero, zero), sizes))]


def _inside(eqn: Any, values: list[Any]) -> list[Any]:
    """A call: its own operations one by one."""
    closed = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return _run(closed, values)


def _cond(eqn: Any, values: list[Any]) -> list[Any]:
    which, *rest = values
    if isinstance(which, _Points):
        return _mapped(eqn, values)
    branches = [partial(_run, closed) for closed in eqn.params["branches"]]
    kinds = [_widest(k) for k in zip(*(_kinds(b, rest) for b in branches), strict=True)]
    return _unflat(kinds, lax.switch(which, [lambda b=b: _flat(b(rest), kinds) for b in branches]))


def _scan(eqn: Any, values: list[Any]) -> list[Any]:
    p = eqn.params
    a, b = p["num_consts"], p["num_consts"] + p["num_carry"]
    consts, carry, xs = values[:a], values[a:b], values[b:]

    def turn(carry: list[Any], x: list[Any]) -> list[Any]:
        return _run(p["jaxpr"], [*consts, *carry, *x])

    def first(v: Any) -> Any:
        return _Points(v.array[0]) if isinstance(v, _Points) else v[0]

    kinds = [_kind(v) for v in carry]
    while True:  # what the carry depends on grows until it stays
        found = _kinds(lambda c: turn(c, [first(x) for x in xs]), _unflat(kinds, _flat(carry, kinds)))
        grown = [_widest(pair) for pair in zip(kinds, found[: len(kinds)], strict=True)]
        if grown == kinds:
            break
        kinds = grown
    ys = found[len(kinds) :]

    def body(flat: list[Array], x: list[Any]) -> tuple[list[Array], list[Array]]:
        out = turn(_unflat(kinds, flat), x)
        return _flat(out[: len(kinds)], kinds), _flat(out[len(kinds) :], ys)

    end, stacked = lax.scan(
        body, _flat(carry, kinds), xs, p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    return [*_unflat(kinds, end), *_unflat(ys, stacked)]


#: None for what is the same at all points, else the rows and columns that it has.
_Kind = tuple[int, int] | None


def _kind(value: Any) -> _Kind:
    return value.array.shape[-2:] if isinstance(value, _Points) else None


def _kinds(function: Callable[[list[Any]], list[Any]], arguments: list[Any]) -> list[_Kind]:
    """The kinds of the function's results, without running it."""
    found: list[_Kind] = []

    def look(arguments: list[Any]) -> None:
        found.extend(_kind(v) for v in function(arguments))

    jax.eval_shape(look, arguments)
    return found


def _widest(kinds: Sequence[_Kind]) -> _Kind:
    known = [k for k in kinds if k is not None]
    return (max(k[0] for k in known), max(k[1] for k in known)) if known else None


def _flat(values: Sequence[Any], kinds: Sequence[_Kind]) -> list[Array]:
    return [v if k is None else _wide(v, k) for v, k in zip(values, kinds, strict=True)]


def _unflat(kinds: Sequence[_Kind], arrays: Sequence[Array]) -> list[Any]:
    return [x if k is None else _Points(x) for x, k in zip(arrays, kinds, strict=True)]


def _mapped(eqn: Any, values: list[Any]) -> list[_Points]:
    """Any other operation, by its own rule for a mapped axis, twice."""
    size = _grid(values)
    axes = tuple(-1 if isinstance(v, _Points) else None for v in values)
    arrays = [_wide(v, size) if isinstance(v, _Points) else v for v in values]

    def one(*flat: Array) -> list[Array]:
        out = eqn.primitive.bind(*flat, **eqn.params)
        return out if eqn.primitive.multiple_results else [out]

    out = jax.vmap(jax.vmap(one, axes, -1), axes, -1)(*arrays)
    return [_Points(x) for x in out]


#: Names of primitives whose operands have one shape, or are scalars.
_ELEMENTWISE = """
    abs add and atan2 cbrt ceil clamp convert_element_type copy cos div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter not or pow rem round
    rsqrt select_n sign sin sqrt square sub tan tanh xor
"""
#: Names of primitives that name axes of their own, counted from the front.
_OWN_AXES = """
    argmax argmin concatenate cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max reduce_min reduce_or
    reduce_prod reduce_sum rev split squeeze stack unstack
"""
_RULES: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_OWN_AXES.split(), _same),
    **dict.fromkeys(["jit", "pjit", "custom_jvp_call", "custom_vjp_call"], _inside),
    "broadcast_in_dim": _broadcast_in_dim,
    "cond": _cond,
    "dynamic_slice": _dynamic_slice,
    "reshape": _reshape,
    "scan": _scan,
    "slice": _slice,
    "transpose": _transpose,
}
