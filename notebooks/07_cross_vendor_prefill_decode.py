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
# # Cross-vendor prefill and decode
#
# Prefill wants FLOP/s, decode wants bytes/s and room for the KV cache, and no vendor sells the best of both at the best
# price. A disaggregated deployment may take its prompts to one chip and its answers to another. Does it pay? After the
# case study of MIST (arXiv 2504.09775), where A100 prefill with L40S decode beat eight H100 in tokens per dollar.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.report.plots import plot_heatmap, use_style

use_style()

base = ["model=qwen3_4b", "workload=summarization", "workload.rate=20", "slo=interactive", "parallelism=tp1"]
limits = mist.load(base).slo
chips = ["h100_sxm", "a100_sxm", "l40s", "mi300x"]
CO, REPLICAS = "cost_per_million_output_tokens_usd", "parallelism.replicas"
DECODE, PREFILL, PREFILL_REPLICAS = "hardware", "hardware@prefill.hardware", "prefill.parallelism.replicas"


def within(ds):
    """Cost where the load is carried and the means keep the SLO."""
    return ds[CO].where((ds.status == 0) & (ds.ttft_s <= limits.ttft) & (ds.tpot_s <= limits.tpot))


# %% [markdown]
# ## The reference: every chip does both

# %%
together = within(mist.sweep(mist.load(base), {DECODE: chips, REPLICAS: [2, 4, 8]}, progress=False))
for chip in chips:
    column = together.sel({DECODE: chip}).dropna(REPLICAS)
    if column.size:
        print(
            f"{float(column[REPLICAS][column.values.argmin()]):g} x {chip:9} {float(column.min()):6.2f} $/1M"
        )
alone = together.stack(design=together.dims).dropna("design")
reference = float(alone.min())
reference_is = alone.design.values[int(alone.values.argmin())]

# %% [markdown]
# ## Every pair of chips, every size of the pools
# A prefill pool and a decode pool of single-chip replicas; one sweep over both chips and both counts.

# %%
apart = mist.load([*base, "prefill=pool", "prefill.parallelism.tp=1"])
pairs = mist.sweep(
    apart,
    {PREFILL: chips, DECODE: chips, PREFILL_REPLICAS: [1, 2, 3, 4], REPLICAS: [1, 2, 3, 4]},
    progress=False,
)
cost = within(pairs)
print(f"{int(cost.notnull().sum())} of {cost.size} deployments carry the load within the limits on average")
plot_heatmap(cost.min([PREFILL_REPLICAS, REPLICAS]).to_dataset(name=CO), CO)

# %% [markdown]
# ## Does it hold request by request?
# The means say yes; the SLO asks for a share of the requests. From the cheapest on, each is played until one holds, and
# then the cheapest of two different chips.


# %%
def scenario_of(design):
    """The scenario of one (prefill chip, decode chip, prefill replicas, decode replicas)."""
    prefill, decode, n_prefill, n_decode = design
    return mist.load([*base, "prefill=pool", "prefill.parallelism.tp=1", f"hardware@prefill.hardware={prefill}",
                      f"prefill.parallelism.replicas={n_prefill:g}", f"hardware={decode}", f"parallelism.replicas={n_decode:g}",
                      "workload.requests=800"])  # fmt: skip


def holds(design):
    """Whether the share of good requests of one design, played, is what the SLO asks."""
    share = mist.play(scenario_of(design)).attrs["goodput_share"]
    print(
        f"{design[2]:g} x {design[0]:8} + {design[3]:g} x {design[1]:8}: {share:6.1%} of the requests within the SLO"
    )
    return share >= limits.target


ranked = cost.stack(design=cost.dims).dropna("design")
ranked = [ranked.design.values[i] for i in np.argsort(ranked.values, kind="stable")]
best = next((d for d in ranked[:6] if holds(d)), ranked[0])
mixed = next((d for d in [d for d in ranked if d[0] != d[1]][:6] if holds(d)), None)

# %% [markdown]
# ## The link between the pools
# The KV cache of every prompt crosses from one pool to the other. A slow network makes TTFT, and at some point the link
# is the bottleneck of the whole deployment.

# %%
links = np.array([0.5, 1, 2, 5, 12.5, 25, 50]) * 1e9
seen = mist.sweep(
    scenario_of(mixed or best),
    {"transfer.bandwidth": links},
    variables=["ttft_s", "transfer_utilization", "status"],
    progress=False,
)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
carried = (seen.status == 0).values
ax.plot(links / 1e9, seen.ttft_s.where(carried) * 1e3, "o-")
if not carried.all():
    ax.axvspan(
        links[0] / 1e9, links[~carried].max() / 1e9, color="0.9", label="the link cannot carry the load"
    )
    ax.legend()
ax.set(xscale="log", xlabel="GB/s from one prefill replica", ylabel="mean TTFT (ms)", ylim=(0, None))
ax.set_xticks(links / 1e9, [f"{x:g}" for x in links / 1e9])
ax.minorticks_off()
plt.show()

# %% [markdown]
# ## As a pipeline
# `pipeline=cross_vendor` (MI300X prefill, H100 decode) and `pipeline=cross_vendor_tpu` (TPU v6e prefill) come with the
# package; the stages before and after the model are part of the request.

# %%
stages = {}
for name in ("cross_vendor", "cross_vendor_tpu"):
    one = mist.load(
        [f"pipeline={name}", "workload.arrivals=poisson", "workload.rate=4", "workload.requests=400"]
    )
    stages[name] = mist.play(one)
    for stage in stages[name].stage.values:
        row = stages[name].sel(stage=stage)
        print(
            f"{name:18} {stage:12} mean {float(row.stage_mean_s) * 1e3:9.2f} ms, p99 {float(row.stage_p99_s) * 1e3:9.2f} ms"
        )

# %% [markdown]
# ## Conclusion

# %%
print(
    f"Cheapest chip that does both within the limits on average: {reference_is[1]:g} x {reference_is[0]}, {reference:.2f} $/1M."
)
for name, design in (("of all", best), ("of two different chips", mixed)):
    if design is not None:
        usd = float(cost.sel(dict(zip(cost.dims, design, strict=True))))
        print(f"Cheapest pair {name} that holds in play: {design[2]:g} x {design[0]} + {design[3]:g} x {design[1]}, {usd:.2f} $/1M "
              f"({usd / reference - 1:+.0%}).")  # fmt: skip
two_chips = cost.where(cost[DECODE] != cost[PREFILL])
verdict = "dearer" if float(two_chips.min()) > reference else "cheaper"
enough = (
    f"{links[carried].min() / 1e9:g} GB/s of those tried" if carried.any() else "more than all of those tried"
)
a, b = (stages[n].attrs["e2e_p99_s"] for n in ("cross_vendor", "cross_vendor_tpu"))
print(
    f"So for this model, load and price list two different chips are {verdict} than the best chip that does both. The link between "
    f"the pools needs at least {enough}. With "
    f"TPU instead of MI300X prefill the pipeline's p99 end to end changes by {b / a - 1:+.0%}."
)
