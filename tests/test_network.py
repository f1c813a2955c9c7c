"""Laws of the hierarchical network, and its fit against public collective profiles."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mist_jax.errors import ConfigError
from mist_jax.physics.network import (
    Network,
    all_reduce_seconds,
    all_reduce_times,
    all_to_all_seconds,
    default_links,
    flow_rates,
    gather_seconds,
    members,
    packaged_links,
    send_seconds,
    top_level,
)
from mist_jax.pytree import replace

NET = Network(
    bandwidth=np.array([0.0, 450e9, 50e9, 50e9]),
    latency=np.array([0.0, 1e-6, 5e-6, 1e-5]),
    size=np.array([1.0, 8.0, 64.0, np.inf]),
    oversubscription=np.array([1.0, 1.0, 1.0, 4.0]),
    links=default_links(),
)
reduce_ = jax.jit(all_reduce_seconds)


def test_groups_span_the_levels_they_need():
    np.testing.assert_allclose(members(NET, 8), [1, 8, 1, 1])
    np.testing.assert_allclose(members(NET, 256), [1, 8, 8, 4])
    assert [int(top_level(NET, n)) for n in (1, 8, 9, 64, 65)] == [0, 1, 2, 2, 3]


def test_one_chip_needs_no_collective():
    assert float(all_reduce_seconds(NET, 1e6, 1)) == 0.0
    assert float(gather_seconds(NET, 1e6, 1)) == 0.0
    assert float(all_to_all_seconds(NET, 1e6, 1)) == 0.0


@pytest.mark.parametrize("chips", [2, 8, 16, 256])
def test_large_messages_reach_the_share_of_the_bandwidth(chips):
    """At least 2 (m-1)/m S over the bandwidth of an element of every level, and not far above."""
    size = 4e9
    seconds = float(reduce_(NET, size, chips))
    groups = np.asarray(members(NET, chips))
    below = np.concatenate([[1], np.cumprod(groups)[:-1]])
    bound = max(
        2 * (g - 1) / g * size / (b * 0.8 * w / o)
        for g, b, w, o in zip(groups, below, NET.bandwidth, NET.oversubscription) if g > 1
    )  # fmt: skip
    assert bound < seconds < 2.2 * bound


@pytest.mark.parametrize("collective", [all_reduce_seconds, gather_seconds, all_to_all_seconds])
def test_monotone_in_size_and_in_bandwidth(collective):
    f = jax.jit(collective)
    for chips in (2, 8, 32, 128):
        times = [float(f(NET, s, chips)) for s in np.geomspace(1e2, 1e9, 15)]
        assert np.all(np.diff(times) >= 0)
        better = replace(NET, bandwidth=NET.bandwidth * 1.5)
        assert all(float(f(better, s, chips)) <= float(f(NET, s, chips)) for s in (1e3, 1e6, 1e9))


def test_small_and_large_messages_choose_differently():
    small, large = all_reduce_times(NET, 1e3, 8), all_reduce_times(NET, 1e9, 8)
    assert np.unravel_index(np.argmin(small), small.shape)[1] == 0  # low latency
    assert np.unravel_index(np.argmin(large), large.shape)[1] == 1  # full bandwidth
    assert np.argmin(small[:, 0]) != np.argmin(large[:, 1])


def test_gather_and_scatter_are_an_all_reduce():
    """Reduce-scatter + all-gather moves what an all-reduce moves, at sizes where the start does not matter."""
    both = 2 * float(gather_seconds(NET, 4e9, 64))
    assert both == pytest.approx(float(all_reduce_times(NET, 4e9, 64)[0].min()), rel=1e-3)


def test_soft_choice_is_close_and_has_a_slope():
    for size in (1e4, 1e6, 1e8):
        hard, soft = float(reduce_(NET, size, 8)), float(reduce_(NET, size, 8, 0.1))
        assert hard * 0.8 <= soft <= hard
    slope = jax.grad(lambda b: all_reduce_seconds(replace(NET, bandwidth=b), 1e8, 16, 0.1))(NET.bandwidth)
    h = 1e-4
    difference = [
        (reduce_(replace(NET, bandwidth=NET.bandwidth * (1 + h * e)), 1e8, 16, 0.1)
         - reduce_(replace(NET, bandwidth=NET.bandwidth * (1 - h * e)), 1e8, 16, 0.1)) / (2 * h)
        for e in np.eye(4)
    ]  # fmt: skip
    np.testing.assert_allclose(slope * NET.bandwidth, difference, rtol=1e-5, atol=1e-12)


def test_oversubscription_slows_only_what_crosses_it():
    tight = replace(NET, oversubscription=np.array([1.0, 1.0, 1.0, 64.0]))
    assert float(reduce_(tight, 1e9, 64)) == float(reduce_(NET, 1e9, 64))
    assert float(reduce_(tight, 1e9, 128)) > float(reduce_(NET, 1e9, 128))
    assert float(send_seconds(tight, 1e9, 3)) == pytest.approx(
        16 * float(send_seconds(NET, 1e9, 3)), rel=1e-3
    )


def test_a_level_that_is_not_there_cannot_be_used():
    assert np.isinf(float(send_seconds(NET, 1e6, 0)))


def test_flows_share_their_ports():
    rates = flow_rates(NET, np.array([1, 2, 2]), np.array([1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(rates, [0.8 * 450e9, 0.4 * 50e9, 0.4 * 50e9])


def test_unknown_links_are_named():
    with pytest.raises(ConfigError, match="did you mean 'h100_all_reduce'"):
        packaged_links("h100_allreduce")


@pytest.mark.parametrize("system", ["a100", "h100"])
@pytest.mark.parametrize("operation", ["all_reduce", "send_recv"])
def test_packaged_fit_against_public_profiles(system, operation):
    """Median error at most 12 % above 64 KB (in sample; microsoft/vidur profiles)."""
    collectives = pytest.importorskip("calibration.datasets.collectives")
    from calibration.network import MIN_BYTES, predict

    if not collectives.path(system, operation).exists():
        pytest.skip(f"no {system} {operation} profile under MIST_DATA_DIR")
    rows = collectives.read(system, operation)
    rows = rows[rows["bytes"] > MIN_BYTES].iloc[::9]  # every ninth of several thousand, for speed
    error = np.abs(np.asarray(predict(system, operation, packaged_links(f"{system}_{operation}"), rows))
                   / rows["seconds"].to_numpy() - 1)  # fmt: skip
    assert np.median(error) < 0.12
