"""Run the operations of a JAX function one by one in NumPy: the same formulas, array by array.

This is what a NumPy version of the function would execute, in the same order and on the same shapes, and it
cannot fall behind the function. What it lacks beside JAX is fusion: each operation passes over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

Array = np.ndarray


def _broadcast(x: Array, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...], **_: Any) -> Array:
    full = [1] * len(shape)
    for axis, target in enumerate(broadcast_dimensions):
        full[target] = np.shape(x)[axis]
    return np.broadcast_to(np.reshape(x, full), shape)


def _dot(a: Array, b: Array, *, dimension_numbers: Any, **_: Any) -> Array:
    (left, right), (batch_left, batch_right) = dimension_numbers
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names_a = [next(letters) for _ in range(np.ndim(a))]
    names_b = [next(letters) for _ in range(np.ndim(b))]
    for i, j in [*zip(batch_left, batch_right), *zip(left, right)]:
        names_b[j] = names_a[i]
    out = [names_a[i] for i in batch_left]
    out += [n for i, n in enumerate(names_a) if i not in (*batch_left, *left)]
    out += [n for j, n in enumerate(names_b) if j not in (*batch_right, *right)]
    return np.einsum(f"{''.join(names_a)},{''.join(names_b)}->{''.join(out)}", a, b)


def _slice(x: Array, *, start_indices: Any, limit_indices: Any, strides: Any, **_: Any) -> Array:
    steps = strides or [1] * len(start_indices)
    return x[tuple(slice(a, b, s) for a, b, s in zip(start_indices, limit_indices, steps))]


def _iota(*, dtype: Any, shape: tuple[int, ...], dimension: int, **_: Any) -> Array:
    line = np.arange(shape[dimension], dtype=dtype)
    return _broadcast(line, shape=shape, broadcast_dimensions=(dimension,))


def _select(which: Array, *cases: Array, **_: Any) -> Array:
    return np.where(which, cases[1], cases[0])


def _gather(x: Array, indices: Array, **params: Any) -> Array:
    # too many forms for a rule of its own, and too rare to matter for the time
    return np.asarray(jax.lax.gather_p.bind(x, indices, **params))


def _plain(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *x, **_: function(*x)


RULES: dict[str, Callable[..., Any]] = {
    "mul": _plain(np.multiply), "add": _plain(np.add), "div": _plain(np.divide), "sub": _plain(np.subtract),
    "max": _plain(np.maximum), "min": _plain(np.minimum), "neg": _plain(np.negative), "sign": _plain(np.sign),
    "abs": _plain(np.abs), "sqrt": _plain(np.sqrt), "exp": _plain(np.exp), "log": _plain(np.log),
    "log1p": _plain(np.log1p), "expm1": _plain(np.expm1), "pow": _plain(np.power), "square": _plain(np.square),
    "gt": _plain(np.greater), "ge": _plain(np.greater_equal), "lt": _plain(np.less), "le": _plain(np.less_equal),
    "eq": _plain(np.equal), "ne": _plain(np.not_equal), "and": _plain(np.logical_and), "or": _plain(np.logical_or),
    "not": _plain(np.logical_not), "is_finite": _plain(np.isfinite), "add_any": _plain(np.add),
    "floor": _plain(np.floor), "ceil": _plain(np.ceil), "stop_gradient": _plain(np.asarray), "copy": _plain(np.asarray),
    "integer_pow": lambda x, *, y, **_: x**y,
    "convert_element_type": lambda x, *, new_dtype, **_: np.asarray(x, dtype=new_dtype),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda x, *, new_sizes, **_: np.reshape(x, new_sizes),
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, tuple(dimensions)),
    "expand_dims": lambda x, *, dimensions, **_: np.expand_dims(x, tuple(dimensions)),
    "transpose": lambda x, *, permutation, **_: np.transpose(x, permutation),
    "concatenate": lambda *x, dimension, **_: np.concatenate(x, axis=dimension),
    "stack": lambda *x, axis=0, **_: np.stack(x, axis=axis),
    "reduce_sum": lambda x, *, axes, **_: np.sum(x, axis=tuple(axes)),
    "reduce_max": lambda x, *, axes, **_: np.max(x, axis=tuple(axes)),
    "reduce_min": lambda x, *, axes, **_: np.min(x, axis=tuple(axes)),
    "reduce_and": lambda x, *, axes, **_: np.all(x, axis=tuple(axes)),
    "clamp": lambda low, x, high, **_: np.clip(x, low, high),
    "dot_general": _dot, "gather": _gather, "slice": _slice, "iota": _iota, "select_n": _select,
}  # fmt: skip


def numpy_version(function: Callable[..., Any], *example: Any) -> Callable[..., list[Array]]:
    """`function` as a list of NumPy operations on the shapes of `example`; returns the flat list of results.

    Raises:
        NotImplementedError: the function uses an operation without a rule here.
    """
    closed = jax.make_jaxpr(function)(*example)

    def run(*arguments: Any) -> list[Array]:
        flat = [np.asarray(x) for x in jax.tree.leaves(arguments)]
        with np.errstate(all="ignore"):
            return _evaluate(closed.jaxpr, closed.consts, flat)

    return run


def _scan(
    body: Any,
    consts: Any,
    inputs: list[Any],
    *,
    length: int,
    num_consts: int,
    num_carry: int,
    reverse: bool,
    **_: Any,
) -> list[Any]:
    fixed, carry, steps = (
        inputs[:num_consts],
        inputs[num_consts : num_consts + num_carry],
        inputs[num_consts + num_carry :],
    )
    rows = []
    for i in reversed(range(length)) if reverse else range(length):
        out = _evaluate(body, consts, [*fixed, *carry, *(x[i] for x in steps)])
        carry = out[:num_carry]
        rows.append(out[num_carry:])
    if reverse:
        rows.reverse()
    return [*carry, *(np.stack(column) for column in zip(*rows))]


def _evaluate(jaxpr: Any, consts: Any, arguments: list[Array]) -> list[Array]:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        name = eqn.primitive.name
        if name == "scan":
            outputs = _scan(inner.jaxpr, inner.consts, inputs, **eqn.params)
        elif inner is not None:
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        elif name == "split":
            ends = np.cumsum(eqn.params["sizes"])[:-1]
            outputs = np.split(inputs[0], ends, axis=eqn.params["axis"])
        elif name == "unstack":
            outputs = list(np.moveaxis(inputs[0], eqn.params.get("axis", 0), 0))
        elif name in RULES:
            outputs = [RULES[name](*inputs, **eqn.params)]
        else:
            raise NotImplementedError(f"no NumPy rule for the operation '{name}'")
        values.update(zip(eqn.outvars, outputs))
    return [np.asarray(read(v)) for v in jaxpr.outvars]
