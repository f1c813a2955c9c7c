"""Gradients of TTFT, TPOT and the iteration with respect to every hardware number, against central differences.

Slopes are logarithmic, d log y / d log h: 1 means proportional. One reverse-mode program for the closed loop and the
iteration serves all deployments; the differences use the forward programs of the other tests. The open loop is
checked number by number in the slow tests (its reverse-mode program takes as long to compile), and here in forward
mode along random directions through all numbers at once.

Left out, with reasons: numbers that are 0 (no such unit or link: no logarithm). `scale_up_domain` equals the ranks of
a group where a replica fills a domain; there the slope has two sides, so no deployment here sits on that kink.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from programs import closed, make_batch, make_system, make_workload, opened, quick, step

from mist_jax import elasticity
from mist_jax.elasticity import FIELDS as FIELDS_OF_RESOURCES
from mist_jax.elasticity import add_elasticity
from mist_jax.physics.step import step_seconds
from mist_jax.pytree import replace
from mist_jax.queueing import steady
from mist_jax.system.hardware import Hardware

CLOSED = ("closed ttft", "closed tpot", "step")
BATCH = make_batch(prefill=700, past=300, decode=40, context=1500)
FIELDS = tuple(f.name for f in dataclasses.fields(Hardware))

DEPLOYMENTS = {
    # dense, inside one domain
    "dense": ("llama3_1_70b", "h100_sxm", {"tp": 4}, {"rate": 2.0, "concurrency": 24}),
    # mixture of experts over two domains: scale-out links count
    "moe": ("mixtral_8x22b", "h100_sxm", {"tp": 16}, {"rate": 8.0, "concurrency": 60}),
    # latent attention, experts spread over data-parallel ranks, fp8
    "mla": ("deepseek_v3", "h200_sxm", {"dp": 16, "ep": 16}, {"rate": 20.0, "concurrency": 300}),
    # no links but PCIe, recurrent layers
    "pcie": ("qwen3_5_35b_a3b", "l40s", {"tp": 2}, {"rate": 1.0, "concurrency": 10}),
    # the KV cache is the limit: memory capacity has a slope
    "full": ("llama3_1_8b", "l4", {}, {"isl": 4000, "osl": 400, "rate": 0.03, "concurrency": 60}),
}


def latencies(state: steady.SteadyState) -> jax.Array:
    return jnp.stack([state.ttft, state.tpot])


def closed_latencies(system: Any, workload: Any) -> jax.Array:
    return latencies(steady.closed_loop(system, workload, 1.0))


def open_latencies(system: Any, workload: Any) -> jax.Array:
    return latencies(steady.open_loop(system, workload, 1.0))


def iteration(system: Any, workload: Any) -> jax.Array:
    return jnp.reshape(step_seconds(system, BATCH), (1,))


def reverse(function: Any) -> Any:
    """Values [k] and their gradients (leaves [k, ...]) in one backward pass, compiled."""

    def program(hardware: Hardware, rest: Any, workload: Any) -> tuple[Any, Hardware]:
        values, pull = jax.vjp(lambda h: function(replace(rest, hardware=h), workload), hardware)
        return values, jax.vmap(lambda seed: pull(seed)[0])(jnp.eye(values.size))

    return quick(program)


@cache
def program(loop: str) -> Any:
    return reverse(closed_latencies if loop == "closed" else open_latencies)


@cache
def step_program() -> Any:
    return reverse(iteration)


@cache
def deployment(name: str) -> tuple[Any, Any]:
    model, chip, parallel, load = DEPLOYMENTS[name]
    return make_system(model, chip, **parallel), make_workload(**{"isl": 1000, "osl": 200, **load})


@cache
def case(name: str, loop: str) -> tuple[np.ndarray, Hardware]:
    """(values, gradients) of the loop's TTFT and TPOT, and with the closed loop of the iteration."""
    system, workload = deployment(name)
    parts = [program(loop)(system.hardware, system, workload)]
    if loop == "closed":
        parts.append(step_program()(system.hardware, system, workload))
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x]), *parts)


def forward(system: Any, workload: Any, loop: str) -> np.ndarray:
    if loop == "open":
        state = opened(system, workload, 1.0)
        return np.array([state.ttft, state.tpot])
    state = closed(system, workload, 1.0)
    return np.array([state.ttft, state.tpot, step(system, BATCH).seconds])


def difference(name: str, loop: str, factors: dict[str, Any], h: float = 1e-4) -> np.ndarray:
    """(log y(e^+h f) - log y(e^-h f)) / 2 h, where number i moves by a factor e^(h f_i)."""
    system, workload = deployment(name)

    def shifted(sign: float) -> np.ndarray:
        moved = {
            k: np.asarray(getattr(system.hardware, k) * np.exp(sign * h * f)) for k, f in factors.items()
        }
        return forward(replace(system, hardware=replace(system.hardware, **moved)), workload, loop)

    return (np.log(shifted(1.0)) - np.log(shifted(-1.0))) / (2 * h)


@pytest.mark.parametrize("name", DEPLOYMENTS)
@pytest.mark.parametrize("loop", ["closed", pytest.param("open", marks=pytest.mark.slow)])
def test_values_and_gradients_are_finite(name: str, loop: str) -> None:
    values, slopes = case(name, loop)
    np.testing.assert_allclose(values, forward(*deployment(name), loop), rtol=1e-9)
    for field in FIELDS:
        assert np.all(np.isfinite(getattr(slopes, field))), field


@pytest.mark.parametrize("name", DEPLOYMENTS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("loop", ["closed", pytest.param("open", marks=pytest.mark.slow)])
def test_gradient_against_differences(name: str, field: str, loop: str) -> None:
    system, _ = deployment(name)
    values, slopes = case(name, loop)
    numbers, slopes = np.atleast_1d(getattr(system.hardware, field)), getattr(slopes, field)
    slopes = slopes.reshape(values.size, -1)
    for at, number in enumerate(numbers):
        if number == 0:
            continue
        factors = np.zeros(numbers.size)
        factors[at] = 1.0
        want = difference(name, loop, {field: factors if field == "peak_flops" else 1.0})
        got = slopes[:, at] * number / values
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-5, err_msg=f"{field} {at} {loop}")


@pytest.mark.parametrize(
    ("name", "step", "near"),
    [
        ("dense", elasticity.STEP, 0.02),
        ("moe", elasticity.STEP, 0.02),
        ("full", elasticity.STEP, 0.06),
        ("full", 0.1 * elasticity.STEP, 0.01),
    ],
)
def test_the_elasticities_that_evaluate_gives_are_the_derivative(
    name: str, step: float, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a closed loop, of every resource; the completed rate is clients over (TTFT + decode).

    A per cent of the memory is four of the cache where weights take most of it ("full"), and bends the curve by as
    much: with a tenth of the step the difference goes.
    """
    monkeypatch.setattr(elasticity, "STEP", step)
    system, workload = deployment(name)
    ds = add_elasticity(xr.Dataset(), {"engine": system}, lambda s: closed(s["engine"], workload, 1.0), True)
    values, slopes = case(name, "closed")
    for field, resource in FIELDS_OF_RESOURCES.items():
        number = np.atleast_1d(getattr(system.hardware, field))
        want = (getattr(slopes, field).reshape(values.size, -1) * number).sum(axis=1) / values
        got = ds.elasticity.sel(client="engine", resource=resource)
        for figure, i in (("ttft_s", 0), ("tpot_s", 1)):
            assert float(got.sel(figure=figure)) == pytest.approx(want[i], rel=near, abs=2e-3), (
                field,
                figure,
            )
    e2e = ds.elasticity.sel(figure="e2e_s", client="engine")
    assert ds.bottleneck == f"engine: {e2e.resource.values[np.argmin(e2e.values)]}"


def test_what_a_deployment_cannot_lose_a_per_cent_of_bounds_it() -> None:
    """Its slopes are unknown there, the others as they are."""
    system, _ = deployment("dense")

    def state(systems: Any) -> Any:
        chip = systems["engine"].hardware
        time = (
            np.nan if chip.memory_capacity < system.hardware.memory_capacity else 1.0 / chip.memory_bandwidth
        )
        return SimpleNamespace(ttft=time, tpot=time, e2e=time, rate=1.0 / time, load=0.5)

    ds = add_elasticity(xr.Dataset(), {"engine": system}, state, closed=False)
    assert ds.bottleneck == "engine: memory_capacity"
    assert np.isnan(ds.elasticity.sel(resource="memory_capacity")).all()
    known = ds.elasticity.sel(client="engine", resource="device_memory")
    np.testing.assert_allclose(known.values, [-1.0, -1.0, -1.0, 1.0], rtol=1e-9)


@cache
def along() -> Any:
    def program(hardware: Hardware, tangent: Hardware, rest: Any, workload: Any) -> Any:
        return jax.jvp(lambda h: open_latencies(replace(rest, hardware=h), workload), (hardware,), (tangent,))

    return quick(program)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_open_loop_along_random_directions(name: str) -> None:
    """All hardware numbers move at once, each by its own factor: the slope is the sum over all gradients."""
    system, workload = deployment(name)
    rng = np.random.default_rng(5)
    for _ in range(4):
        factors = {f: rng.normal(size=np.shape(getattr(system.hardware, f))) for f in FIELDS}
        tangent = Hardware(**{f: np.asarray(getattr(system.hardware, f) * factors[f]) for f in FIELDS})
        values, slope = (np.asarray(x) for x in along()(system.hardware, tangent, system, workload))
        np.testing.assert_allclose(values, forward(system, workload, "open"), rtol=1e-9)
        want = difference(name, "open", factors)
        np.testing.assert_allclose(slope / values, want, rtol=2e-3, atol=2e-5)


def slope_of(name: str, output: str, field: str, at: int | None = None) -> float:
    system, _ = deployment(name)
    values, slopes = case(name, "closed")
    number, slope = getattr(system.hardware, field), getattr(slopes, field)
    if at is not None:
        number, slope = number[at], slope[:, at]
    i = CLOSED.index(output)
    return float(slope[i] * number / values[i])


def test_the_numbers_that_matter_have_slopes() -> None:
    """What a person would expect to gain from: bandwidth for TPOT, arithmetic for TTFT, memory where it is full."""
    assert -1.0 < slope_of("dense", "closed tpot", "memory_bandwidth") < -0.3
    assert -1.5 < slope_of("dense", "closed ttft", "peak_flops", 1) < -0.2
    assert slope_of("dense", "step", "scale_up_bandwidth") < -0.01
    assert slope_of("moe", "step", "scale_out_bandwidth") < -0.01
    assert slope_of("moe", "step", "scale_out_latency") > 0
    assert slope_of("mla", "step", "peak_flops", 2) < -0.01
    assert slope_of("pcie", "step", "scale_up_bandwidth") < -0.01
    assert slope_of("full", "closed ttft", "memory_capacity") < -0.1
    assert slope_of("dense", "closed tpot", "memory_capacity") == 0.0
    assert slope_of("dense", "step", "price") == 0.0
