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
import itertools

import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist

base = ["model=qwen3_4b", "workload=summarization", "workload.rate=20", "slo=interactive"]
limits = mist.load(base).slo


def disaggregated(prefill, n_prefill, decode, n_decode, *more):
    """A prefill pool and a decode pool of single-chip replicas."""
    return mist.load([*base, "prefill=pool", f"hardware@prefill.hardware={prefill}", "prefill.parallelism.tp=1",
                      f"prefill.parallelism.replicas={n_prefill}", f"hardware={decode}", "parallelism.tp=1",
                      f"parallelism.replicas={n_decode}", *more])  # fmt: skip


# %% [markdown]
# ## The reference: every chip does both

# %%
together = {}
for chip, n in itertools.product(("h100_sxm", "a100_sxm", "l40s", "mi300x"), (2, 4, 8)):
    scenario = mist.load([*base, f"hardware={chip}", "parallelism.tp=1", f"parallelism.replicas={n}"])
    point = mist.evaluate(scenario)
    if int(point.status) == 0 and float(point.ttft_s) <= limits.ttft and float(point.tpot_s) <= limits.tpot:
        together.setdefault(chip, (n, point))
for chip, (n, point) in together.items():
    print(f"{n} x {chip:9} {float(point.cost_per_million_output_tokens_usd):6.2f} $/1M, TTFT {float(point.ttft_s) * 1e3:5.0f} ms, "
          f"TPOT {float(point.tpot_s) * 1e3:5.1f} ms, load {float(point['load']):.0%}")  # fmt: skip

# %% [markdown]
# ## Every pair of chips
# For each pair the smallest pools that carry the load within the SLO.

# %%
chips = ("h100_sxm", "a100_sxm", "l40s", "mi300x")
cost = np.full((len(chips), len(chips)), np.nan)
chosen, feasible = {}, []
for (i, prefill), (j, decode) in itertools.product(enumerate(chips), enumerate(chips)):
    for n_prefill, n_decode in itertools.product((1, 2, 4), (1, 2, 4)):
        point = mist.evaluate(disaggregated(prefill, n_prefill, decode, n_decode))
        if int(point.status) or float(point.ttft_s) > limits.ttft or float(point.tpot_s) > limits.tpot:
            continue
        usd = float(point.cost_per_million_output_tokens_usd)
        feasible.append((usd, prefill, n_prefill, decode, n_decode))
        if not usd > cost[i, j]:
            cost[i, j], chosen[prefill, decode] = usd, (n_prefill, n_decode, point)
fig, ax = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
image = ax.imshow(cost, cmap="viridis_r")
for i, j in itertools.product(range(len(chips)), repeat=2):
    if np.isfinite(cost[i, j]):
        n = chosen[chips[i], chips[j]][:2]
        ax.text(j, i, f"{cost[i, j]:.2f} $\n{n[0]}+{n[1]} chips", ha="center", va="center", fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1})  # fmt: skip
ax.set_xticks(range(len(chips)), chips, rotation=30)
ax.set_yticks(range(len(chips)), chips)
ax.set(xlabel="decode", ylabel="prefill", title="$ per million output tokens")
fig

# %% [markdown]
# ## Does it hold request by request?
# The means say yes; the SLO asks for a share of the requests. From the cheapest on, each is played until one holds, and
# then the cheapest of two different chips.


# %%
def verdict(option):
    """Share of good requests of one option, played."""
    usd, prefill, n_prefill, decode, n_decode = option
    played = mist.play(disaggregated(prefill, n_prefill, decode, n_decode, "workload.requests=800"))
    share = played.attrs["goodput_share"]
    print(
        f"{n_prefill} x {prefill:8} + {n_decode} x {decode:8} {usd:5.2f} $/1M: {share:6.1%} of the requests within the SLO"
    )
    return share >= limits.target


ranked = sorted(feasible)
holds = next((o for o in ranked[:6] if verdict(o)), ranked[0])
holds_mixed = next((o for o in [o for o in ranked if o[1] != o[3]][:6] if verdict(o)), None)

# %% [markdown]
# ## The link between the pools
# The KV cache of every prompt crosses from one pool to the other. A slow network makes TTFT, and at some point the link
# is the bottleneck of the whole deployment.

# %%
_, prefill, n_prefill, decode, n_decode = holds_mixed or holds
links = np.array([0.5, 1, 2, 5, 12.5, 25, 50])
seen = [
    mist.evaluate(disaggregated(prefill, n_prefill, decode, n_decode, f"transfer.bandwidth={g:g} GB/s"))
    for g in links
]
ttft = np.array([float(p.ttft_s) if int(p.status) == 0 else np.nan for p in seen])
busy = np.array([float(p.transfer_utilization) for p in seen])
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(links, ttft * 1e3, "o-")
ax.set(xscale="log", xlabel="GB/s from one prefill replica", ylabel="mean TTFT (ms)", ylim=(0, None))
fig

# %% [markdown]
# ## Conclusion

# %%
alone = min(together, key=lambda c: float(together[c][1].cost_per_million_output_tokens_usd))
reference = float(together[alone][1].cost_per_million_output_tokens_usd)
print(
    f"Cheapest chip that does both within the limits on average: {together[alone][0]} x {alone}, {reference:.2f} $/1M."
)
for name, option in (("of all", holds), ("of two different chips", holds_mixed)):
    if option is not None:
        usd, p, n_p, d, n_d = option
        print(
            f"Cheapest pair {name} that holds in play: {n_p} x {p} + {n_d} x {d}, {usd:.2f} $/1M ({usd / reference - 1:+.0%})."
        )
print(
    f"With {links[0]:g} GB/s between its pools the link is {busy[0]:.0%} busy, with {links[-1]:g} GB/s {busy[-1]:.0%}."
)
