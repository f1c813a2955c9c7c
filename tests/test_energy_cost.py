"""Energy, power caps and money."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mist_jax.errors import ConfigError
from mist_jax.physics.cost import (
    capital_recovery,
    joules_to_usd,
    owning_usd_per_hour,
    rental_price,
    usd_per_million_tokens,
    usd_per_request,
)
from mist_jax.physics.demand import demand, machine, seconds
from mist_jax.physics.energy import capped_seconds, dynamic_joules, energy_rates, stage_joules

CHIP = machine(accelerator=700e12, device_memory=3e12)
PROMPT = demand(accelerator=700e12, device_memory=1e11)  # 1 s, bound by compute
TOKEN = demand(accelerator=70e12, device_memory=3e12)  # 1 s, bound by memory


def rates(peak_w, idle_w):
    """Such that PROMPT draws peak_w at full clock."""
    base = energy_rates(idle_w)
    other = float(dynamic_joules(PROMPT, base)[1])
    return energy_rates(idle_w, accelerator=(peak_w - idle_w - other) / 700e12)


def test_energy_is_idle_and_dynamic():
    e = energy_rates(70.0)
    time = float(seconds(PROMPT, CHIP.rate))
    assert float(stage_joules(PROMPT, e, time)) == pytest.approx(70 + 700e12 * 0.45e-12 + 1e11 * 60e-12)
    assert float(stage_joules(PROMPT, e, 2 * time)) > float(stage_joules(PROMPT, e, time))


def test_a_cap_of_70_percent_slows_prompts_by_30_and_tokens_by_none():
    """splitwise-sim SKU dgx-h100-pcap: 7,140 of 10,200 W; prompt time 1.30, token time 1.00."""
    e = rates(10200.0 / 8, 0.30 * 10200.0 / 8 - 6.0)
    prompt, clock = capped_seconds(PROMPT, CHIP.rate, e, 7140.0 / 8)
    assert float(prompt) == pytest.approx(1.30, rel=0.02)
    assert float(clock) == pytest.approx(1 / 1.30, rel=0.02)
    token, clock = capped_seconds(TOKEN, CHIP.rate, e, 7140.0 / 8)
    assert float(token) == pytest.approx(1.0)
    assert float(clock) == 1.0


def test_caps_are_monotone_and_differentiable():
    e = rates(700.0, 100.0)
    caps = np.array([250.0, 350.0, 450.0, 600.0, 800.0])
    times = np.array([float(capped_seconds(PROMPT, CHIP.rate, e, c)[0]) for c in caps])
    assert np.all(np.diff(times) <= 1e-9)
    assert times[-1] == pytest.approx(1.0)

    def time(cap):
        return capped_seconds(PROMPT, CHIP.rate, e, cap)[0]

    slope = float(jax.grad(time)(400.0))
    assert slope == pytest.approx(float(time(400.5) - time(399.5)), rel=1e-4)
    assert float(jax.grad(time)(800.0)) == 0.0


def test_capital_recovery_pays_the_loan_back():
    share = float(capital_recovery(0.08, 4.0))
    debt = 1.0
    for _ in range(4):
        debt = debt * 1.08 - share
    assert debt == pytest.approx(0.0, abs=1e-12)
    assert float(capital_recovery(0.0, 4.0)) == 0.25
    assert np.isfinite(float(jax.grad(capital_recovery)(0.0, 4.0)))


def test_owning_by_hand():
    value = float(owning_usd_per_hour(8760.0, 1000.0, 0.1, 1.5, 1.0, 0.0, 0.5, 0.25))
    assert value == pytest.approx(1 / 0.5 + 1.0 * 1.5 * 0.1 + 0.25)


def test_units_of_money():
    assert usd_per_million_tokens(3.6, 1000.0) == pytest.approx(1.0)
    assert usd_per_request(3.6, 1.0) == pytest.approx(1e-3)
    assert joules_to_usd(3.6e6, 0.1, 1.2) == pytest.approx(0.12)


def test_prices_are_dated_and_unknown_chips_named():
    price, seen = rental_price("h100_sxm")
    assert 1 < price < 10
    assert "20" in seen
    with pytest.raises(ConfigError, match="did you mean 'h100_sxm'"):
        rental_price("h100_sxn")
    with pytest.raises(ConfigError, match="no monthly price"):
        rental_price("l4", "monthly")
    assert jnp.isfinite(price)
