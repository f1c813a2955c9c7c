"""Programs that evaluate a block of deployments: outer ones (chips, model, plan) by inner ones (load, settings).

The block is a product, so what depends on the outer deployment alone (rates, kernel coefficients, weights) is
worked out once per row. Blocks have few fixed shapes and are padded, so that each program compiles once.
"""

from __future__ import annotations

import threading
from typing import Any

import jax.numpy as jnp
import numpy as np

from mist_jax.batch_last import over_grid
from mist_jax.errors import Status
from mist_jax.explore.deployments import SLOTS, Deployment, Kind, Layout
from mist_jax.kept_programs import Kept
from mist_jax.physics.memory import memory_use
from mist_jax.programs import Effort
from mist_jax.pytree import replace
from mist_jax.queueing import steady
from mist_jax.queueing import steady_disaggregated as sd
from mist_jax.queueing.root import Form
from mist_jax.variables import POOL_VARIABLES, VARIABLES, figures, pool_figures

Array = Any

#: Outer x inner sizes of a block, and cost per point relative to the cheapest (measured in one run: 3.9, 3.2, 2.9, 2.2
#: and 2.3 us; what depends on the outer deployment alone costs little where many share it). No powers of two: the
#: arrays of such a block share the same lines of the cache.
FLAT = (4000, 1)
SHAPES = {FLAT: 1.75, (125, 16): 1.45, (8, 125): 1.3, (8, 500): 1.0, (2, 1000): 1.05}
#: How programs are written that are compiled with so much effort.
FORMS = {Effort.LEAST: Form.SHORT, Effort.FULL: Form.COMPACT}

#: What a sweep adds to `evaluate`'s variables.
EXTRA = {"meets_slo": ("1", "1: the mean latencies are within the limits of the SLO")}
#: Vector variables: name → (dimension, units, what it is)
VECTORS = {
    "breakdown_s": ("part", "s", "mean iteration by operator"),
    "power_share_w": ("share", "W", "power of a chip by cause"),
}
#: Figures that stay where the deployment does not work: they say by how much.
KEPT = (
    "status",
    "chips",
    "prefill_chips",
    "weights_bytes",
    "kv_budget_bytes",
    "kv_blocks",
    "kv_tokens",
    "meets_slo",
)


def inner_paths(kind: Kind) -> tuple[str, ...]:
    """Dotted paths of the inner numbers of a kind, in the order of a block's rows."""
    return tuple(p for p, s in SLOTS.items() if s.inner and (kind[1] or not p.startswith("prefill.")))


def variables_of(kind: Kind) -> dict[str, tuple[str, str]]:
    """name → (units, what it is) of the scalars that a kind gives."""
    return {**VARIABLES, **EXTRA, **(POOL_VARIABLES if kind[1] else {})}


def evaluate_deployment(kind: Kind, d: Deployment) -> dict[str, Array]:
    """All figures of one deployment (traced): the same functions and formulas as `mist.evaluate`.

    Unlike `evaluate` it raises nothing: what cannot work has a status and NaN figures.
    """
    memory = memory_use(d.system)
    par, work = d.system.parallel, d.workload
    if kind[1]:
        assert d.prefill is not None
        assert d.transfer is not None
        solve = sd.closed_loop_disaggregated if kind[0] == "closed" else sd.open_loop_disaggregated
        out = solve(d.system, d.prefill, d.transfer, work, d.replicas, d.prefill_replicas)
        state = out.decode
    else:
        out = None
        solve = steady.closed_loop if kind[0] == "closed" else steady.open_loop
        state = solve(d.system, work, d.replicas)
    values = figures(
        state,
        memory,
        isl=work.isl,
        osl=work.osl,
        chips=par.tp * par.pp * par.dp * d.replicas,
        lanes=d.replicas * par.dp * par.pp,
        usd_per_s=d.system.hardware.price,
        kv_blocks=jnp.where(jnp.isnan(d.kv_blocks), memory.kv_blocks, d.kv_blocks),
    )
    if out is not None:
        assert d.prefill is not None
        pre = d.prefill.parallel
        chips = pre.tp * pre.pp * pre.dp * d.prefill_replicas
        values |= pool_figures(
            values,
            out,
            chips=chips,
            usd_per_s=d.system.hardware.price,
            prefill_usd_per_s=d.prefill.hardware.price,
        )
        values["status"] = _prefill_status(values["status"], memory_use(d.prefill), work)
    status = values["status"]
    lost = (
        (status == Status.OUT_OF_MEMORY)
        | (status == Status.KV_TOO_SMALL)
        | (status == Status.CONTEXT_TOO_LONG)
    )
    values = {k: v if k in KEPT else jnp.where(lost, jnp.nan, v) for k, v in values.items()}
    limits = d.slo
    good = (values["ttft_s"] <= limits[0]) & (values["tpot_s"] <= limits[1]) & (values["e2e_s"] <= limits[2])
    values["meets_slo"] = jnp.where(good & (status == Status.OK), 1.0, 0.0)
    values["status"] = status.astype(jnp.int8)
    return values | {"breakdown_s": state.breakdown, "power_share_w": state.power}


def _prefill_status(status: Array, memory: Any, work: Any) -> Array:
    """The decode pool's status, or that the prefill pool lacks memory."""
    short = jnp.where(memory.kv_tokens < work.isl + work.osl, Status.KV_TOO_SMALL, Status.OK)
    short = jnp.where(memory.kv_budget <= 0, Status.OUT_OF_MEMORY, short)
    first = (status == Status.OK) | (status == Status.UNSTABLE)
    return jnp.where(first & (short != Status.OK), short, status)


def point_function(kind: Kind) -> Any:
    """(deployment, inner [len(inner_paths)]) → figures; a NaN inner number leaves the deployment's own, None all."""

    def point(deployment: Deployment, inner: Array | None) -> dict[str, Array]:
        return evaluate_deployment(kind, _deployment(kind, deployment, inner))

    return point


def _deployment(kind: Kind, d: Deployment, inner: Array | None) -> Deployment:
    if inner is not None:
        for k, slot in enumerate(SLOTS[p] for p in inner_paths(kind)):
            d = _written(d, slot.leaf.split("."), slot.index, inner[k] * slot.scale)
    return d


def _written(node: Any, parts: list[str], index: int, value: Array) -> Any:
    """`node` with the leaf at `parts` replaced by `value` where that is a number."""
    if parts:
        return replace(node, **{parts[0]: _written(getattr(node, parts[0]), parts[1:], index, value)})
    given = ~jnp.isnan(value)
    # sanitized before the select: a NaN in the unused branch would reach gradients
    number = jnp.where(given, value, 1.0)
    if node.ndim:
        return jnp.where(given & (jnp.arange(node.shape[0]) == index), number, node)
    return jnp.where(given, number, node)


def memory_function(kind: Kind) -> Any:
    """(deployment, inner) → the figures that memory and context decide, status included: a cheap first look."""

    def point(deployment: Deployment, inner: Array | None) -> dict[str, Array]:
        d = _deployment(kind, deployment, inner)
        memory, par = memory_use(d.system), d.system.parallel
        need = d.workload.isl + d.workload.osl
        status = steady._status(memory.kv_budget, memory.kv_tokens, need, d.system.model.max_context, False)
        chips = par.tp * par.pp * par.dp * d.replicas
        out = {}
        if d.prefill is not None:
            status = _prefill_status(status, memory_use(d.prefill), d.workload)
            pre = d.prefill.parallel
            out["prefill_chips"] = pre.tp * pre.pp * pre.dp * d.prefill_replicas
            chips = chips + out["prefill_chips"]
        return out | {
            "chips": chips,
            "weights_bytes": memory.weights,
            "kv_budget_bytes": memory.kv_budget,
            "kv_blocks": jnp.where(jnp.isnan(d.kv_blocks), memory.kv_blocks, d.kv_blocks),
            "kv_tokens": memory.kv_tokens,
            "meets_slo": jnp.zeros_like(chips),
            "status": status.astype(jnp.int8),
        }

    return point


class Programs:
    """Compiled block programs of this process; compiled under a lock, run from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Any, Any] = {}

    def get(
        self,
        kind: Kind,
        layout: Layout,
        shape: tuple[int, int],
        dtype: Any,
        *,
        look: bool = False,
        effort: Effort = Effort.FULL,
    ) -> Any:
        """The program (columns [rows, outer], inner [numbers, inner]) → {name: [outer, inner, ...]}.

        With `look` it is `memory_function` instead; compiled when first called.
        """
        key = (kind, layout.key, shape, np.dtype(dtype).name, look, effort)
        with self._lock:
            if key not in self._known:
                function = (memory_function if look else point_function)(kind)
                self._known[key] = Kept(
                    block_function(function, layout, shape),
                    f"block {key}",
                    effort=effort,
                    form=FORMS[effort],
                )
            return self._known[key]


PROGRAMS = Programs()


def block_function(function: Any, layout: Layout, shape: tuple[int, int]) -> Any:
    """`function` over a block: (columns [rows, outer], inner [numbers, inner]) → {name: [outer, inner, ...]}.

    A flat block is a single row of points: its inner numbers are in its columns.
    """

    def nested(columns: Array, inner: Array) -> dict[str, Array]:
        return over_grid(function, rows=layout.unflatten(columns), columns=inner)

    def flat(columns: Array, _: Array) -> dict[str, Array]:
        one_row = over_grid(lambda _, d: function(d, None), rows=(), columns=layout.unflatten(columns))
        return {name: x.swapaxes(0, 1) for name, x in one_row.items()}

    return nested if shape[1] > 1 else flat


def choose_effort(points: int) -> Effort:
    """How to compile for a sweep of `points`: a block's worth, or more."""
    return Effort.LEAST if points <= FLAT[0] else Effort.FULL


def choose_shape(outer: int, inner: int, effort: Effort) -> tuple[int, int]:
    """The block shape that evaluates boxes of `outer` x `inner` points at the least cost."""
    if effort is Effort.LEAST:
        return FLAT

    def cost(shape: tuple[int, int]) -> float:
        if shape == FLAT:  # every point is a row of its own
            return -(-outer * inner // shape[0]) * shape[0] * SHAPES[shape]
        return -(-outer // shape[0]) * -(-inner // shape[1]) * shape[0] * shape[1] * SHAPES[shape]

    return min(SHAPES, key=cost)
