# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A five-minute tour
#
# How fast, how dear and how power-hungry is Llama-3.1-70B on one server of eight H100? Five lines answer; the rest of
# this notebook looks behind the answer. The first evaluation compiles the model's program; after that an answer takes
# milliseconds.

# %%
# %matplotlib inline
import time

import mist_jax as mist

scenario = mist.load(["model=llama3_1_70b", "hardware=h100_sxm", "parallelism=tp8", "workload.rate=5"])
result = mist.evaluate(scenario)
print(f"TTFT {float(result.ttft_s) * 1e3:.1f} ms, TPOT {float(result.tpot_s) * 1e3:.1f} ms")
print(f"{float(result.cost_per_million_output_tokens_usd):.2f} $ per million output tokens")

# %% [markdown]
# ## What is in a result
# An xarray `Dataset`: every variable has a unit and a long name.

# %%
for name in (
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "load",
    "kv_occupancy",
    "kv_tokens",
    "power_w",
    "energy_per_output_token_j",
):
    variable = result[name]
    print(f"{name:28} {float(variable):12.5g} {variable.attrs['units']:5} {variable.attrs['long_name']}")

# %%
result.mist.breakdown()

# %% [markdown]
# ## What if?
# `with_overrides` changes numbers of the description, the command line's overrides do the same. Nothing is compiled
# again: chips, models and settings are numbers to the program.

# %%
start = time.perf_counter()
for hardware in ("h100_sxm", "h200_sxm", "mi300x", "b200_sxm"):
    other = mist.evaluate(
        mist.load(["model=llama3_1_70b", f"hardware={hardware}", "parallelism=tp8", "workload.rate=5"])
    )
    usd = float(other.cost_per_million_output_tokens_usd)
    print(
        f"{hardware:10} TTFT {float(other.ttft_s) * 1e3:6.1f} ms, TPOT {float(other.tpot_s) * 1e3:5.1f} ms, {usd:6.2f} $/1M"
    )
warm = time.perf_counter() - start
faster = mist.evaluate(mist.with_overrides(scenario, {"hardware.memory.bandwidth": "4.8 TB/s"}))
gain = 1 - float(faster.tpot_s) / float(result.tpot_s)
print(f"an H100 with 4.8 TB/s of memory bandwidth: TPOT {gain:.0%} lower")

# %% [markdown]
# ## Request by request
# The steady state knows means. `play` sends every request of a trace through the engine's scheduler, iteration by
# iteration: that gives percentiles, and the goodput under an SLO.

# %%
scenario = mist.with_overrides(scenario, {"workload.requests": 1500, "workload.rate": 12})
played = mist.play(scenario)
for metric in ("ttft", "tpot", "e2e"):
    p50, p99 = (played.attrs[f"{metric}_p{p}_s"] for p in (50, 99))
    print(f"{metric.upper():5} p50 {p50 * 1e3:8.1f} ms   p99 {p99 * 1e3:8.1f} ms")
print(f"{played.attrs['goodput_share']:.1%} of the requests meet the SLO '{scenario.slo.name}'")

# %%
played.mist.cdf()

# %%
played.mist.stages()

# %% [markdown]
# ## Take it away
# The command that starts the described server, and the numbers in the form you like.

# %%
from mist_jax.io.launch import launch_command

print(launch_command(scenario).shell())

# %% [markdown]
# ## Conclusion

# %%
tail = played.attrs["ttft_p99_s"] / played.attrs["ttft_p50_s"]
print(
    f"Four more answers took {warm:.2f} s together. At {scenario.workload.rate:g} requests/s the slowest 1 % of the requests "
    f"wait {tail:.1f} times as long for their first token as the median: plan with the playback's percentiles, "
    "search with the steady state."
)
