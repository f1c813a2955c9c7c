"""Prefix caches and routing of a played scenario: what the description says reaches the playback."""

from __future__ import annotations

import numpy as np
import pytest

from mist_jax import load, play
from mist_jax.errors import ConfigError
from mist_jax.queueing.trace import Trace

BASE = [
    "hardware=h100_sxm",
    "model=llama3_1_8b",
    "parallelism.tp=1",
    "parallelism.replicas=4",
    "workload=chat",
]


def sessions(count: int = 20, turns: int = 8) -> Trace:
    """Turns of conversations, mixed: each repeats what came before in its conversation."""
    rng = np.random.default_rng(0)
    who = rng.permutation(np.repeat(np.arange(count), turns))
    turn = np.zeros(count, int)
    units, sizes = [], []
    for c in who:
        turn[c] += 1
        units += [1000 * c + i for i in range(2 * turn[c])]
        sizes.append(2 * turn[c])
    prompt = 512 * np.array(sizes)
    arrival = np.cumsum(rng.exponential(0.2, len(who)))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Trace(
        arrival,
        prompt,
        np.full(len(who), 20),
        units=np.array(units),
        unit_offsets=offsets,
        unit_tokens=512,
    )


def hit_rate(*overrides: str) -> float:
    return play(load([*BASE, *overrides]), sessions()).attrs.get("prefix_hit_rate", 0.0)


def test_affinity_finds_what_other_rules_scatter():
    assert hit_rate() == 0.0  # no cache asked for
    scattered = hit_rate("engine.prefix_caching=true", "routing.rule=round_robin")
    found = hit_rate("engine.prefix_caching=true", "routing.rule=prefix_affinity")
    one = hit_rate("engine.prefix_caching=true", "parallelism.replicas=1")
    assert 0.0 < scattered < 0.8 * found
    assert found <= one + 1e-9


def test_hits_shorten_the_first_token():
    with_cache, without = (
        play(load([*BASE, "routing.rule=prefix_affinity", f"engine.prefix_caching={on}"]), sessions())
        for on in ("true", "false")
    )
    assert with_cache.attrs["ttft_mean_s"] < 0.9 * without.attrs["ttft_mean_s"]


def test_an_unknown_rule_is_named():
    with pytest.raises(ConfigError, match=r"routing\.rule: got 'affinity'"):
        load([*BASE, "routing.rule=affinity"])
