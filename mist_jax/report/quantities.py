"""Numbers and names for people: seconds as ms, bytes as GB, `ttft_s` as "TTFT"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: variable → (short name, unit shown, factor from SI to that unit)
SHOWN: dict[str, tuple[str, str, float]] = {
    "ttft_s": ("TTFT", "ms", 1e3),
    "tpot_s": ("TPOT", "ms", 1e3),
    "itl_s": ("ITL", "ms", 1e3),
    "e2e_s": ("End-to-end latency", "s", 1.0),
    "request_rate": ("Completed requests", "req/s", 1.0),
    "output_tokens_per_s": ("Generated tokens", "tok/s", 1.0),
    "total_tokens_per_s": ("Tokens in and out", "tok/s", 1.0),
    "output_tokens_per_s_per_chip": ("Throughput per chip", "tok/s", 1.0),
    "tokens_per_s_per_user": ("Speed per user", "tok/s", 1.0),
    "running": ("Sequences decoding", "", 1.0),
    "waiting": ("Requests waiting", "", 1.0),
    "step_s": ("Engine iteration", "ms", 1e3),
    "prefill_share": ("Steps with prefill", "%", 100.0),
    "load": ("Load", "%", 100.0),
    "kv_occupancy": ("KV cache used", "%", 100.0),
    "flops_utilization": ("Compute used", "%", 100.0),
    "bandwidth_utilization": ("Memory bandwidth used", "%", 100.0),
    "power_w": ("Power per chip", "W", 1.0),
    "energy_per_output_token_j": ("Energy per generated token", "J", 1.0),
    "cost_per_million_output_tokens_usd": ("Cost per million generated tokens", "USD", 1.0),
    "chips": ("Chips", "", 1.0),
    "weights_bytes": ("Weights per chip", "GB", 1e-9),
    "kv_budget_bytes": ("KV budget per chip", "GB", 1e-9),
    "kv_blocks": ("KV blocks", "", 1.0),
    "kv_tokens": ("KV cache", "tok", 1.0),
    "prefill_wait_s": ("Prefill queue", "ms", 1e3),
    "prefill_s": ("Prefill", "ms", 1e3),
    "transfer_s": ("KV transfer", "ms", 1e3),
    "prefill_utilization": ("Prefill pool busy", "%", 100.0),
    "transfer_utilization": ("KV links busy", "%", 100.0),
    "prefill_power_w": ("Power per prefill chip", "W", 1.0),
    "prefill_chips": ("Prefill chips", "", 1.0),
    "goodput_share": ("Requests within the SLO", "%", 100.0),
    "goodput_per_s": ("Goodput", "req/s", 1.0),
    "die_area_mm2": ("Die area", "mm2", 1.0),
    "chip_cost_usd": ("Cost of a chip", "USD", 1.0),
    "chip_power_w": ("Power limit of a chip", "W", 1.0),
    "memory_need": ("KV cache that one request needs", "%", 100.0),
    "hypervolume": ("Hypervolume", "share of the box", 1.0),
    "hit_rate": ("Hit rate", "%", 100.0),
    "concurrency": ("Concurrency", "requests", 1.0),
    "rate": ("Offered rate", "requests/s", 1.0),
    "isl": ("Prompt length", "tokens", 1.0),
    "osl": ("Answer length", "tokens", 1.0),
    "tp": ("Tensor parallelism", "", 1.0),
    "pp": ("Pipeline parallelism", "", 1.0),
    "dp": ("Attention data parallelism", "", 1.0),
    "ep": ("Expert parallelism", "", 1.0),
    "replicas": ("Replicas", "", 1.0),
    "max_num_batched_tokens": ("Token budget of an iteration", "tokens", 1.0),
    "max_num_seqs": ("Sequences of an iteration", "", 1.0),
}

#: operator, stage, share or resource → words
WORDS: dict[str, str] = {
    "attention_in": "attention in-projection",
    "attention_prefill": "prefill attention",
    "attention_decode": "decode attention",
    "attention_index": "sparse-attention index",
    "recurrence": "recurrence",
    "attention_out": "attention out-projection",
    "ffn_dense": "feed-forward",
    "ffn_shared": "shared experts",
    "router": "router",
    "experts": "experts",
    "elementwise": "norms, rotary, activation",
    "all_reduce": "all-reduce",
    "expert_dispatch": "expert dispatch",
    "pipeline_send": "pipeline send",
    "lm_head": "LM head",
    "host": "host",
    "request": "request handling",
    "queue": "queue",
    "prefill": "prefill",
    "handover": "handover (KV transfer and wait)",
    "decode": "decode",
    "transfer": "KV transfer",
    "accelerator": "compute",
    "device_memory": "memory bandwidth",
    "memory_capacity": "memory capacity",
    "scale_up": "scale-up links",
    "storage_io": "reads of storage",
}
MISSING = "n/a"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def words(name: str) -> str:
    """An operator, stage or share in words; unknown names lose their underscores."""
    return WORDS.get(name, name.replace("_", " "))


def duration(seconds: Any) -> str:
    """Seconds in the unit that reads best: `80.5 ms`, `3.71 s`, `12.4 min`."""
    value = float(seconds)
    if not math.isfinite(value):
        return MISSING
    # the largest value of a unit that does not round up to the next one
    for limit, factor, unit in (
        (0.9995e-3, 1e6, "us"),
        (0.9995, 1e3, "ms"),
        (120.0, 1.0, "s"),
        (7200.0, 1 / 60, "min"),
    ):
        if abs(value) < limit:
            return f"{number(value * factor)} {unit}" if value else "0 s"
    return f"{number(value / 3600)} h"


def number(value: Any) -> str:
    """Three significant digits without an exponent where that stays short; thousands are separated."""
    value = float(value)
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}" if size < 1e7 else prefixed(value).strip()
    if size < 1e-3:
        return f"{value:.2e}"
    # round first: 0.9996 is 1.00, and 99.96 is 100
    value = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def prefixed(value: Any, unit: str = "") -> str:
    """A number with a decimal prefix: 5.655e10, "B" → `56.5 GB`."""
    value = float(value)
    if not math.isfinite(value):
        return MISSING
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{number(value)} {unit}"


def percent(share: Any) -> str:
    """A share as per cent."""
    value = float(share)
    if not math.isfinite(value):
        return MISSING
    return f"{100 * value:.1f} %" if 0 < abs(value) < 0.1 else f"{100 * value:.0f} %"


def dollars(value: Any) -> str:
    """US dollars, cents for small sums."""
    value = float(value)
    if not math.isfinite(value):
        return MISSING
    return f"${value:,.2f}" if abs(value) >= 0.1 else f"${value:.4f}"


def show(name: str, value: Any) -> str:
    """The value of a variable as a person writes it."""
    if name.endswith("_usd") or "_usd" in name:
        return dollars(value)
    if name.endswith("_s") and not name.endswith("per_s"):
        return duration(value)
    if name.endswith("_bytes"):
        return prefixed(value, "B")
    _, unit, factor = SHOWN.get(name, (name, "", 1.0))
    if unit == "%":
        return percent(value)
    value = float(value) * factor
    return (prefixed(value, unit) if abs(value) >= 1e6 else f"{number(value)} {unit}").strip()


def title(name: str) -> str:
    """The short name of a variable or of a dotted path: `workload.rate` → "Offered rate"."""
    short = name.rsplit(".", 1)[-1]
    if name in SHOWN:
        return SHOWN[name][0]
    if short in SHOWN:
        return SHOWN[short][0]
    text = " ".join(name.rsplit(".", 2)[-2:]).replace("_", " ")
    return text[:1].upper() + text[1:]


def played(figures: Mapping[str, float], missed: Sequence[str]) -> str:
    """What a playback of a found design said: means and 99th percentiles, and the limits that it missed."""
    parts = []
    for name in ("ttft", "tpot", "e2e"):
        mean, tail = figures.get(f"{name}_mean_s"), figures.get(f"{name}_p99_s")
        if mean is not None and tail is not None:
            parts.append(f"{title(name + '_s')} {duration(mean)} (p99 {duration(tail)})")
    limits = f"misses {', '.join(missed)}" if missed else "within all limits"
    return f"{figures.get('requests', 0):g} requests played: {', '.join(parts)}; {limits}"


def axis_label(name: str, units: str = "") -> str:
    """The label of an axis with its unit: `ttft_s` → "TTFT (ms)"; `units` serves names not known here."""
    short = name if name in SHOWN else name.rsplit(".", 1)[-1]
    unit = SHOWN[short][1] if short in SHOWN else ("" if units == "1" else units)
    return f"{title(name)} ({unit})" if unit else title(name)


def scaled(name: str, values: Any) -> np.ndarray:
    """Values of a variable in the unit that `axis_label` names."""
    return np.asarray(values, dtype=float) * (SHOWN[name][2] if name in SHOWN else 1.0)


def of_config(path: str, value: Any) -> str:
    """A value of the configuration in SI, with its unit: `hardware.memory.bandwidth`, 8e12 → "8 TB/s"."""
    from mist_jax.explore.axes import _field
    from mist_jax.units import DIMENSIONS

    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    short = path.rsplit(".", 1)[-1]
    if short in SHOWN:
        return show(short, value)
    # several keys that move together are separated by commas
    field, _ = _field(path.split(",")[0])
    dimension = field.metadata.get("dimension") if field is not None else None
    if dimension is None:
        return number(value)
    if dimension == "time":
        return duration(value)
    return prefixed(value, DIMENSIONS[dimension][0].replace("byte", "B")).strip()
