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
import itertools

import numpy as np
import xarray as xr

import mist_jax as mist
from mist_jax.io.kubernetes import kubernetes_manifest
from mist_jax.report.plots import plot_pareto

base = ["model=qwen3_32b", "workload=chat", "workload.rate=12", "slo=interactive"]
start = mist.load(base)
limits = start.slo
print(
    f"SLO '{limits.name}': TTFT {limits.ttft} s, TPOT {limits.tpot} s for {limits.target:.0%} of the requests"
)

# %% [markdown]
# ## All candidates in steady state
# Three axes: chip, tensor parallelism, replicas. What does not fit or cannot carry the load says so in its status and
# is no answer.

# %%
chips, degrees, replicas = ["h100_sxm", "h200_sxm", "mi300x", "l40s"], [1, 2, 4, 8], [1, 2, 4]
kept = ("ttft_s", "tpot_s", "tokens_per_s_per_user", "output_tokens_per_s_per_chip",
        "cost_per_million_output_tokens_usd", "load", "chips")  # fmt: skip
shape = (len(chips), len(degrees), len(replicas))
table = {name: np.full(shape, np.nan) for name in kept} | {"status": np.ones(shape)}
for (i, chip), (j, tp), (k, n) in itertools.product(
    enumerate(chips), enumerate(degrees), enumerate(replicas)
):
    candidate = mist.load([*base, f"hardware={chip}", f"parallelism.tp={tp}", f"parallelism.replicas={n}"])
    try:
        point = mist.evaluate(candidate)
    except mist.ConfigError:
        continue
    for name in kept:
        table[name][i, j, k] = float(point[name])
    table["status"][i, j, k] = int(point["status"])
axes = ("hardware", "tp", "replicas")
grid = xr.Dataset(
    {n: (axes, v, point[n].attrs if n in point else {}) for n, v in table.items()},
    coords={"hardware": chips, "tp": degrees, "replicas": replicas},
)
usable = grid["status"] == 0
print(f"{int(usable.sum())} of {usable.size} candidates carry the load")

# %%
plot_pareto(grid, by="hardware")

# %% [markdown]
# ## The cheapest that keeps its promises on average

# %%
good = usable & (grid.ttft_s <= limits.ttft) & (grid.tpot_s <= limits.tpot)
cost = grid.cost_per_million_output_tokens_usd.where(good)
order = np.argsort(cost.values, axis=None)[: int(min(4, good.sum()))]
shortlist = []
for flat in order:
    i, j, k = np.unravel_index(flat, shape)
    shortlist.append((chips[i], degrees[j], replicas[k]))
    at = {"hardware": i, "tp": j, "replicas": k}
    print(f"{chips[i]:9} TP{degrees[j]} x{replicas[k]}: {float(cost[at]):6.2f} $/1M, TTFT {float(grid.ttft_s[at]) * 1e3:6.0f} ms, "
          f"TPOT {float(grid.tpot_s[at]) * 1e3:5.1f} ms, load {float(grid['load'][at]):.0%}")  # fmt: skip

# %% [markdown]
# ## The shortlist, request by request
# An SLO is about the share of requests, so means are not enough. Each of the shortlist plays the same 1,500 requests.

# %%
verdicts = []
for chip, tp, n in shortlist:
    candidate = mist.load(
        [
            *base,
            f"hardware={chip}",
            f"parallelism.tp={tp}",
            f"parallelism.replicas={n}",
            "workload.requests=1500",
        ]
    )
    played = mist.play(candidate)
    share = played.attrs["goodput_share"]
    verdicts.append(
        (
            share >= limits.target,
            -float(played.attrs["cost_per_million_output_tokens_usd"]),
            share,
            candidate,
            played,
        )
    )
    print(f"{chip:9} TP{tp} x{n}: {share:6.1%} good, p99 TTFT {played.attrs['ttft_p99_s']:.2f} s, "
          f"p99 TPOT {played.attrs['tpot_p99_s'] * 1e3:.0f} ms")  # fmt: skip
best = max(verdicts, key=lambda v: v[:3])
best[4].mist.cdf(slo={"ttft_s": limits.ttft, "tpot_s": limits.tpot})

# %% [markdown]
# ## The winner as a manifest

# %%
print(kubernetes_manifest(best[3]))

# %% [markdown]
# ## Conclusion

# %%
winner = best[3]
print(
    f"{winner.hardware.name}, TP{winner.parallelism.tp:g}, {winner.parallelism.replicas:g} replica(s): {best[2]:.1%} of the "
    f"requests within the SLO at {-best[1]:.2f} $ per million output tokens. "
    f"{sum(v[0] for v in verdicts)} of {len(verdicts)} candidates that met the limits on average also met them for "
    f"{limits.target:.0%} of the requests."
)
