"""Energy of iterations: laws of the coefficients, the packaged fit, how it carries over, factors of vendors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibration import energy_fit, energy_runs, vendors
from calibration.e2e_systems import hardware_spec
from calibration.iterations import FACTORS, MEASURES
from mist_jax import energy_catalog, vendor_catalog
from mist_jax.physics.step_energy import (
    ENERGY_SHARES,
    default_energy_coefficients,
    equivalent_flops,
    step_energy,
    unpacked_weights,
)

H100 = hardware_spec("h100_sxm")
CHIP = vendors.make_system("h100_sxm", "llama3_1_8b", "", vendors.FP8, engine="vllm", tp=1.0)


def joules(coef, flops=1e12, nbytes=1e10, sent=1e8, kernel=8e-3, seconds=1e-2, **more):
    return step_energy(coef, CHIP.hardware, flops, nbytes, sent, kernel, seconds, **more)


@pytest.fixture(scope="module")
def packaged():
    return energy_catalog.energy_coefficients(H100)[0]


def test_an_idle_iteration_draws_idle_power(packaged) -> None:
    shares = joules(packaged, 0.0, 0.0, 0.0, 0.0)
    assert float(shares.sum()) == pytest.approx(float(CHIP.hardware.idle_power) * 1e-2, rel=1e-9)


@pytest.mark.parametrize("load", [0.1, 1.0, 10.0, 1000.0])
def test_power_stays_between_idle_and_tdp_and_grows(packaged, load: float) -> None:
    def power(x):
        return (
            joules(packaged, 1e12 * x, 1e10 * x, 1e8 * x, attention_bytes=1e9 * x, unpacked=1e9 * x).sum()
            / 1e-2
        )

    value, slope = jax.value_and_grad(power)(load)
    assert float(CHIP.hardware.idle_power) < float(value) <= float(CHIP.hardware.tdp) * (1 + 1e-9)
    # at the limit the slope is 0 to the rounding of the power itself; false for NaN too
    assert float(slope) >= -np.finfo(float).eps * float(value)


def test_far_below_the_limit_shares_add_up(packaged) -> None:
    loose = dataclasses.replace(packaged, limit_sharpness=16.0)
    shares = dict(zip(ENERGY_SHARES, joules(loose, 1e9, 1e7, 1e6, 1e-3), strict=True))
    assert float(shares["compute"]) == pytest.approx(1e9 * float(packaged.joule_per_flop), rel=1e-3)
    assert float(shares["memory"]) == pytest.approx(1e7 * float(packaged.joule_per_byte), rel=1e-3)
    assert float(shares["network"]) == pytest.approx(1e6 * float(packaged.joule_per_sent_byte), rel=1e-3)


def test_gradients_at_rest_are_finite(packaged) -> None:
    gradient = jax.grad(lambda f: joules(packaged, f, 0.0, 0.0, 0.0).sum())(0.0)
    assert np.isfinite(gradient)
    nothing = jax.grad(lambda t: joules(packaged, 0.0, 0.0, 0.0, 0.0, t).sum())(0.0)
    assert np.isfinite(nothing)


def test_narrow_formats_cost_the_inverse_of_their_rate() -> None:
    flops = jnp.ones(16)
    fp8 = equivalent_flops(CHIP.hardware, CHIP.model, flops)
    bf16 = vendors.make_system("h100_sxm", "llama3_1_8b", "", vendors.BF16, engine="vllm", tp=1.0)
    wide = equivalent_flops(bf16.hardware, bf16.model, flops)
    np.testing.assert_allclose(wide, 1.0)
    assert float(fp8[0]) == pytest.approx(0.5, rel=0.01)
    none, half = (equivalent_flops(CHIP.hardware, CHIP.model, flops, s) for s in (0.0, 0.5))
    np.testing.assert_allclose(none, 1.0)
    np.testing.assert_allclose(half, 0.5 * (fp8 + none))


def test_only_four_bit_weights_in_16_bit_products_are_unpacked() -> None:
    assert float(unpacked_weights(CHIP.model, jnp.ones(16))) == 0.0
    spec = energy_runs.precision_spec("mxfp4")
    oss = vendors.make_system("h100_sxm", "gpt_oss_20b", "", spec, engine="vllm", tp=1.0)
    assert float(unpacked_weights(oss.model, jnp.ones(16))) == pytest.approx(
        1.0 / float(oss.model.expert_weight_bytes)
    )


def test_packaged_fit_is_bounded_and_says_where_it_comes_from() -> None:
    content = energy_catalog.catalogue()
    assert set(content["provenance"]) >= {"source", "data_sha256", "commit", "date"}
    for name, (low, _, high, _) in energy_fit.COEFFICIENTS.items():
        value = content["coefficients"][name]
        assert low * 1.01 < value < high * 0.99, f"{name} = {value} is at its bound"


@pytest.mark.parametrize(
    ("chip", "label"),
    [
        ("h100_sxm", "calibrated"),
        ("h200_sxm", "extrapolated"),
        ("b200_sxm", "physics-only"),
        ("l4", "physics-only"),
    ],
)
def test_every_chip_has_coefficients_with_a_label(chip: str, label: str) -> None:
    coef, found = energy_catalog.energy_coefficients(hardware_spec(chip))
    assert found == label
    assert all(float(getattr(coef, f.name)) > 0 for f in dataclasses.fields(coef))


def test_older_processes_and_graphics_memory_cost_more() -> None:
    one = energy_catalog.energy_coefficients(H100)[0]
    old = energy_catalog.energy_coefficients(hardware_spec("a100_sxm"))[0]
    graphics = energy_catalog.energy_coefficients(hardware_spec("l40s"))[0]
    assert 1.2 < old.joule_per_flop / one.joule_per_flop < 2.0
    assert graphics.joule_per_byte > 1.3 * one.joule_per_byte


def test_vendor_factors_scale_what_they_name_and_nothing_else() -> None:
    calibration = CHIP.calibration
    new = vendor_catalog.scaled(calibration, {"memory_efficiency": 0.5})
    np.testing.assert_allclose(
        new.kernels.gemm.memory_efficiency, 0.5 * calibration.kernels.gemm.memory_efficiency
    )
    np.testing.assert_allclose(
        new.kernels.gemm.compute_efficiency, calibration.kernels.gemm.compute_efficiency
    )
    same = vendor_catalog.scaled(calibration, {})
    jax.tree.map(np.testing.assert_allclose, same, calibration)
    with pytest.raises(KeyError, match="unknown factors"):
        vendor_catalog.scaled(calibration, {"magic": 2.0})


def test_labels_and_boards_of_vendors() -> None:
    assert vendor_catalog.vendor_factors(hardware_spec("mi300x"))[1] == "calibrated"
    assert vendor_catalog.vendor_factors(hardware_spec("mi355x"))[1] == "extrapolated"
    assert vendor_catalog.vendor_factors(hardware_spec("tpu_v5e")) == ({}, "physics-only")
    assert vendor_catalog.board_factor(H100) == 1.0
    assert 0.4 < vendor_catalog.board_factor(hardware_spec("h100_pcie")) < 0.8
    assert json.dumps(vendor_catalog.tuned_engine())


def test_amd_figures_within_twenty_percent() -> None:
    """RESEARCH's MI300X figures; the packaged factors are fitted to them."""
    factors = {
        n: float(np.log(v)) for n, v in vendor_catalog.catalogue()["generations"]["cdna3"]["factors"].items()
    }
    for figures in vendors.amd_figures():
        assert np.abs(np.expm1(figures.log_error(factors))).max() < 0.2


def test_held_out_figures_of_the_energy_runs(measured: Path) -> None:
    """One architecture left out, as ENERGY.md does for all: Qwen3-32B."""
    data = energy_runs.load()
    test = (data.frame.model == "qwen3_32b").to_numpy()
    theta = energy_runs.fit_time(data, ~test)
    work, itl = energy_runs.phases(data, theta)
    values = energy_fit.fit_power(data, work, ~test)
    step = work[:, :, MEASURES.index("seconds")].sum(1)
    power = energy_fit.watts(values, data.runs.system.hardware, work, step).sum(1)
    frame = data.frame
    joule = power * frame.n_gpus * step / frame.batch / frame.energy_j_per_token - 1
    assert np.median(np.abs(joule[test])) < 0.10
    assert np.median(np.abs(itl * 1e3 / frame.itl_median_ms - 1)[test]) < 0.10
    assert energy_catalog.catalogue()["error_percent"]["e_itl"] < 10.0


def test_priors_and_factor_names_agree() -> None:
    assert FACTORS[-len(vendor_catalog.FACTORS) :] == vendor_catalog.FACTORS
    assert default_energy_coefficients().joule_per_unpacked >= 0.0
