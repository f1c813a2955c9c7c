"""Which kernels experts run in where the catalogue of a chip holds others."""

from __future__ import annotations

import numpy as np
import pytest

from mist_jax.calibrations import packaged_kernels


def experts(chip: str, generation: str, engine: str, stored: str, dp: float):
    return packaged_kernels(chip, generation, engine, stored, stored, dp)[0].moe


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_exchanged_fp8_experts_on_blackwell_reach_the_share_of_the_peak_of_grouped_kernels(
    engine: str,
) -> None:
    alone, exchanged = (experts("gb200", "blackwell", engine, "fp8", dp) for dp in (1.0, 8.0))
    timed = [experts(f"{c}_sxm", "hopper", "trtllm", "fp8", 1.0).compute_efficiency for c in ("h100", "h200")]
    np.testing.assert_allclose(exchanged.compute_efficiency, np.sqrt(timed[0] * timed[1]), rtol=1e-12)
    assert np.all(exchanged.compute_efficiency[2] > 2.0 * alone.compute_efficiency[2])  # fp8
    np.testing.assert_array_equal(exchanged.memory_efficiency, alone.memory_efficiency)


@pytest.mark.parametrize(
    ("chip", "generation", "engine", "stored"),
    [
        ("h200_sxm", "hopper", "sglang", "fp8"),
        ("gb200", "blackwell", "vllm", "fp8"),
        ("gb200", "blackwell", "sglang", "nvfp4"),
    ],
)
def test_all_others_keep_their_own(chip: str, generation: str, engine: str, stored: str) -> None:
    alone, exchanged = (experts(chip, generation, engine, stored, dp) for dp in (1.0, 8.0))
    np.testing.assert_array_equal(exchanged.compute_efficiency, alone.compute_efficiency)
