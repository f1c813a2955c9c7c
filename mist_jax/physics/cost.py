"""Money: rental by the hour, or owning; dollars per request and per million tokens.

    owning   $/h = capex * crf / 8760 / utilization + P * PUE * $/kWh + opex
             crf = r (1 + r)^n / ((1 + r)^n - 1)            capital recovery over n years at interest r
Rental prices are dated and live in `mist_jax/catalog/prices.json`; a chip's own is in `conf/hardware/`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jax.numpy as jnp

from mist_jax.errors import ConfigError, nearest

Array = Any

HOURS_PER_YEAR = 8760.0


@lru_cache(maxsize=1)
def price_table() -> dict[str, Any]:
    """The dated price file: chip → list of {usd_per_hour, kind, provider, date, source}."""
    return json.loads((files("mist_jax") / "catalog" / "prices.json").read_text())["chips"]


def rental_price(chip: str, kind: str = "on_demand") -> tuple[float, str]:
    """Latest $/h of a chip and where and when it was seen.

    Raises:
        ConfigError: unknown chip or kind of price, with what there is.
    """
    table = price_table()
    if chip not in table:
        raise ConfigError(f"no price of '{chip}'; there are {', '.join(sorted(table))}{nearest(chip, table)}")
    rows = [r for r in table[chip] if r["kind"] == kind]
    if not rows:
        kinds = sorted({r["kind"] for r in table[chip]})
        raise ConfigError(f"no {kind} price of '{chip}'; there are {', '.join(kinds)}")
    last = max(rows, key=lambda r: r["date"])
    return float(last["usd_per_hour"]), f"{last['provider']}, {last['date']}"


def capital_recovery(rate: Array, years: Array) -> Array:
    """Yearly share of the capital, r (1+r)^n / ((1+r)^n - 1); 1/n for r = 0 (annuity formula)."""
    rate = jnp.asarray(rate, float)
    some = jnp.abs(rate) > 1e-9
    r = jnp.where(some, rate, 0.05)
    growth = (1.0 + r) ** years
    return jnp.where(some, r * growth / (growth - 1.0), 1.0 / years)


def owning_usd_per_hour(
    capex_usd: Array,
    power_w: Array,
    usd_per_kwh: Array = 0.08,
    pue: Array = 1.2,
    years: Array = 4.0,
    rate: Array = 0.08,
    utilization: Array = 0.8,
    opex_usd_per_hour: Array = 0.0,
) -> Array:
    """Total cost of owning, $ per *useful* hour of the machine.

    Capital is paid for all hours and earned back in the useful ones (`utilization`); energy is paid for what
    is drawn. Defaults are assumptions: a four-year life at 8 %, PUE 1.2, 8 ct/kWh.
    """
    capital = capex_usd * capital_recovery(rate, years) / HOURS_PER_YEAR / utilization
    return capital + power_w / 1e3 * pue * usd_per_kwh + opex_usd_per_hour


def usd_per_million_tokens(usd_per_hour: Array, tokens_per_s: Array) -> Array:
    """$ per 10^6 tokens of a deployment that costs so much an hour: 1e6 p / (3600 X)."""
    return 1e6 * usd_per_hour / (3600.0 * tokens_per_s)


def usd_per_request(usd_per_hour: Array, requests_per_s: Array) -> Array:
    """$ per request of a deployment at its throughput."""
    return usd_per_hour / (3600.0 * requests_per_s)


def joules_to_usd(joules: Array, usd_per_kwh: Array = 0.08, pue: Array = 1.2) -> Array:
    """$ of energy at the meter: J * PUE / 3.6e6 * $/kWh."""
    return joules * pue / 3.6e6 * usd_per_kwh
