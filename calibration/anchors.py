"""What one measured point of a deployment says about its others: the tangent of the physics as a Gaussian process.

A deployment's coefficients differ from the sum of its levels, and what the physics leaves out differs with the load. To
first order, the log error of (TTFT, TPOT) at point p is

    e_p = J_p delta + a + b_p + n_p
    delta ~ N(0, D)            the deployment's own offsets; D: sums of the variances of the coefficients' levels
    a     ~ N(0, SHARED^2)     equal at all loads
    b_p   ~ N(0, LOCAL^2)      correlated as exp(-|log2(c_p / c_q)| / OCTAVES) between concurrencies c_p and c_q
    n_p   ~ N(0, NOISE^2)      each measurement's own

with J the slopes of the prediction, so a measured TPOT also tells about TTFT, and a point about those nearby in load
more than about far ones. The correction is the mean of e at the asked points given e at the measured ones (Gaussian
process regression: C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", MIT Press, 2006, eq. 2.25).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mist_jax.step_coefficients import COEFFICIENTS

#: Standard deviations of log TTFT and log TPOT, and octaves of concurrency over which the local part is alike. From the
#: held-out errors of unseen systems and models together, by the pseudo-Huber loss of the fit.
SHARED = np.array([0.003, 0.055])
LOCAL = np.array([0.145, 0.07])
NOISE = np.array([0.013, 0.017])
OCTAVES = 1.5
#: Errors beyond this count as this: another mode of operation, not another coefficient.
LARGEST = 2.5


def own_variance() -> np.ndarray:
    """Prior variance of a deployment's own offset of each coefficient, [K]."""
    return np.array([sum(sd**2 for _, sd in c.levels) for c in COEFFICIENTS])


def covariance(
    first: np.ndarray, second: np.ndarray, octaves_first: np.ndarray, octaves_second: np.ndarray
) -> np.ndarray:
    """Covariance of the errors, noise apart, [P, 2, Q, 2].

    Args:
        first, second: slopes of log (TTFT, TPOT) with the coefficients, [P, 2, K] and [Q, 2, K].
        octaves_first, octaves_second: log2 of the concurrencies, [P] and [Q].
    """
    out = np.einsum("pik,qjk->piqj", first * own_variance(), second)
    alike = np.exp(-np.abs(octaves_first[:, None] - octaves_second[None, :]) / OCTAVES)
    for target in (0, 1):
        out[:, target, :, target] += SHARED[target] ** 2 + LOCAL[target] ** 2 * alike
    return out


def correction(known: dict[str, Any], asked: dict[str, Any]) -> np.ndarray:
    """What to add to log (TTFT, TPOT) of the asked points of one deployment, [Q, 2].

    Args:
        known: at least one point: `slopes` [P, 2, K], `octaves` [P], `error` [P, 2] log (measured / predicted).
        asked: `slopes` [Q, 2, K], `octaves` [Q].
    """
    size = 2 * len(known["octaves"])
    own = covariance(known["slopes"], known["slopes"], known["octaves"], known["octaves"]).reshape(size, size)
    own += np.diag(np.tile(NOISE**2, size // 2))
    cross = covariance(asked["slopes"], known["slopes"], asked["octaves"], known["octaves"])
    error = np.clip(known["error"], -LARGEST, LARGEST).reshape(size)
    return (cross.reshape(-1, size) @ np.linalg.solve(own, error)).reshape(-1, 2)


def corrections(
    deployment: np.ndarray,
    octaves: np.ndarray,
    slopes: np.ndarray,
    error: np.ndarray,
    known: np.ndarray,
    asked: np.ndarray,
) -> np.ndarray:
    """Corrections of the rows `asked`, [len(asked), 2]; 0 where no row of the deployment is in `known`.

    Args:
        deployment, octaves, slopes, error: of all rows, [rows, ...].
        known, asked: positions.
    """
    out = np.zeros((len(asked), 2))
    measured = [i for i in known if np.isfinite(error[i]).all() and np.isfinite(slopes[i]).all()]
    for name in np.unique(deployment[asked]):
        at = [i for i in measured if deployment[i] == name]
        places = np.flatnonzero(deployment[asked] == name)
        if at:
            points = {"slopes": slopes[at], "octaves": octaves[at], "error": error[at]}
            there = asked[places]
            wanted = {"slopes": np.nan_to_num(slopes[there]), "octaves": octaves[there]}
            out[places] = correction(points, wanted)
    return out
