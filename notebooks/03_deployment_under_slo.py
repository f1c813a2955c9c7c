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
# # Choosing a deployment under an SLO
#
# A chat service for Qwen3-32B, 12 requests/s, with limits on TTFT and TPOT. Which chip, how many, in which layout?
# The steady state goes over all candidates, the playback checks the shortlist, and the winner leaves as a manifest.

# %%
# %matplotlib inline
import numpy as np

import mist_jax as mist
from mist_jax.io.kubernetes import kubernetes_manifest
from mist_jax.report.load_curve import load_curve
from mist_jax.report.plots import plot_heatmap, plot_pareto

start = mist.load(["model=qwen3_32b", "workload=chat", "workload.rate=12", "slo=interactive"])
limits = start.slo
print(
    f"SLO '{limits.name}': TTFT {limits.ttft} s, TPOT {limits.tpot} s for {limits.target:.0%} of the requests"
)

# %% [markdown]
# ## All candidates in steady state
# `mist.sweep` evaluates every combination of its axes in one compiled program and returns them as a Dataset with named
# dimensions. What does not fit or cannot carry the load says so in its `status`.

# %%
grid = mist.sweep(
    start,
    {
        "hardware": ["h100_sxm", "h200_sxm", "mi300x", "l40s"],
        "parallelism.tp": [1, 2, 4, 8],
        "parallelism.replicas": [1, 2, 4],
    },
    progress=False,
)
usable = grid["status"] == int(mist.Status.OK)
print(f"{int(usable.sum())} of {usable.size} candidates carry the load")

# %%
plot_pareto(grid.where(usable), by="hardware")

# %% [markdown]
# ## The cheapest that keeps its promises on average

# %%
good = usable & (grid.ttft_s <= limits.ttft) & (grid.tpot_s <= limits.tpot)
cost = grid.cost_per_million_output_tokens_usd.where(good)
plot_heatmap(cost.min("parallelism.replicas").to_dataset(), "cost_per_million_output_tokens_usd")

# %%
ranked = (
    cost.stack(design=("hardware", "parallelism.tp", "parallelism.replicas"))
    .dropna("design")
    .sortby(lambda c: c)
)
for design in ranked.design.values[:4]:
    point = grid.sel(dict(zip(("hardware", "parallelism.tp", "parallelism.replicas"), design, strict=True)))
    print(f"{design[0]:9} TP{design[1]:g} x{design[2]:g}: {float(point.cost_per_million_output_tokens_usd):6.2f} $/1M, "
          f"TTFT {float(point.ttft_s) * 1e3:6.0f} ms, TPOT {float(point.tpot_s) * 1e3:5.1f} ms, load {float(point['load']):.0%}")  # fmt: skip

# %% [markdown]
# ## The recommendation
# An SLO is about the share of requests, so means are not enough. `mist.recommend` looks over chips, plans, token budgets
# and separate prefill pools, plays the cheapest request by request until the share is met, and says what binds.

# %%
answer = mist.recommend(start, check=True, max_chips=32)
print(answer)

# %% [markdown]
# ## The same, request by request

# %%
winner = mist.with_overrides(answer.scenario, {"workload.requests": 1500})
played = mist.play(winner)
played.mist.cdf(slo={"ttft_s": limits.ttft, "tpot_s": limits.tpot})

# %% [markdown]
# ## Under other loads
# The mean with the interval of the calibration, and played percentiles, as far as the fleet keeps up. Where the band
# stops, a server at the slow end of what was measured would not keep up.

# %%
loads = start.workload.rate * np.array([0.25, 0.5, 0.75, 1.0, 1.1, 1.25])
curve = load_curve(winner, loads, played=True, requests=600)
curve.mist.load(slo={"ttft_s": limits.ttft, "tpot_s": limits.tpot})

# %% [markdown]
# ## The winner as a manifest

# %%
print(kubernetes_manifest(winner))

# %% [markdown]
# ## Conclusion

# %%
first = ranked.design.values[0]
swept, best = float(ranked[0]), answer.best
print(
    f"The cheapest of the sweep on average is {first[0]} TP{first[1]:g} x{first[2]:g} at {swept:.2f} $ per million output tokens. Over "
    f"{answer.candidates} fleets the recommendation is {best.text} at {best.usd_per_million_tokens:.2f} $; played, "
    f"{played.attrs['goodput_share']:.1%} of its requests keep the SLO, and {answer.bottleneck} is what binds."
)
if "headroom" in answer.intervals:
    low, high = answer.intervals["headroom"]
    print(
        f"On a server between the slow and the quick end of the 80 % interval the traffic may grow {low:.2f} to {high:.2f} times"
        + ("." if low >= 1 else f": at the slow end it is too much already, and {next(reversed(answer.would_change.values()), 'no fleet')} "
           "would be the answer.")
    )  # fmt: skip
