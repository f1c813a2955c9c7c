"""What measured points of a deployment say about its others (`calibration.anchors`)."""

from __future__ import annotations

import numpy as np
import pytest

from calibration import anchors
from mist_jax.step_coefficients import COEFFICIENTS, NAMES

K = len(COEFFICIENTS)


def slopes_of(**given: tuple[float, float]) -> np.ndarray:
    """[2, K]: slopes of (TTFT, TPOT) with the named coefficients, 0 with the others."""
    out = np.zeros((2, K))
    for name, pair in given.items():
        out[:, NAMES.index(name)] = pair
    return out


def test_an_offset_that_moves_both_is_found_from_either():
    """The conditional mean of two points that share one coefficient, by the formula for two normal numbers."""
    slopes = np.stack([slopes_of(host_s=(0.4, 0.8)), slopes_of(host_s=(0.2, 0.9))])
    octaves = np.array([2.0, 40.0])  # too far apart for the local part
    error = np.array([[0.1, 0.2]])
    known = {"slopes": slopes[:1], "octaves": octaves[:1], "error": error}
    found = anchors.correction(known, {"slopes": slopes[1:], "octaves": octaves[1:]})
    variance = anchors.own_variance()[NAMES.index("host_s")]
    own = variance * np.outer([0.4, 0.8], [0.4, 0.8])
    own += np.diag(anchors.SHARED**2 + anchors.LOCAL**2 + anchors.NOISE**2)
    cross = variance * np.outer([0.2, 0.9], [0.4, 0.8]) + np.diag(anchors.SHARED**2)
    assert found[0] == pytest.approx(cross @ np.linalg.inv(own) @ error[0], rel=1e-6)
    assert found[0, 1] > 0.1  # most of the measured error in TPOT carries over


def test_a_near_load_follows_a_point_more_than_a_far_one():
    same = np.stack([slopes_of()] * 3)
    known = {"slopes": same[:1], "octaves": np.array([4.0]), "error": np.array([[0.5, 0.0]])}
    found = anchors.correction(known, {"slopes": same[1:], "octaves": np.array([4.5, 9.0])})
    assert found[0, 0] > 3.0 * found[1, 0] > 0.0
    assert found[:, 1] == pytest.approx(0.0, abs=1e-12)


def test_a_measured_point_is_nearly_reproduced():
    slopes = np.stack([slopes_of(request_s=(0.6, 0.0), host_s=(0.1, 0.7))])
    points = {"slopes": slopes, "octaves": np.array([3.0])}
    error = np.array([[-0.4, 0.3]])
    found = anchors.correction({**points, "error": error}, points)
    assert found == pytest.approx(error, rel=0.02)


def test_rows_of_other_deployments_stay():
    deployment = np.array(["a", "a", "b", "a"])
    slopes = np.stack([slopes_of(host_s=(0.3, 0.9))] * 4)
    error = np.array([[0.2, 0.3], [np.nan, np.nan], [np.nan, np.nan], [np.nan, 0.1]])
    args = (deployment, np.arange(4.0), slopes, error)
    found = anchors.corrections(*args, np.array([0, 3]), np.array([1, 2]))
    assert (found[0] > 0.05).all()
    assert (found[1] == 0.0).all()
