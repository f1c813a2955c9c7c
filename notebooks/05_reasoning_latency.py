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
# # Reasoning and end-to-end latency
#
# A reasoning model thinks thousands of tokens before it answers. TTFT says little then: the user waits for the end.
# This notebook looks at what sets the end-to-end latency of Qwen3-14B on one H100, what sampling several chains
# costs, what speculation gives back, and which chip thinks cheapest (after the case study of MIST, arXiv 2504.09775).

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.report.plots import use_style
from mist_jax.stages.reason import mean_of_longest
from mist_jax.stages.speculate import PRESETS, tokens_per_step

use_style()

jax.config.update("jax_enable_x64", True)
base = ["model=qwen3_14b", "parallelism=tp1", "workload=reasoning", "workload.rate=0.5"]
scenario = mist.load([*base, "hardware=h100_sxm"])
spec = scenario.workload
print(f"{spec.isl:g} tokens in, {spec.osl:g} out on average, spread {spec.osl_cv:g} times the mean")

# %% [markdown]
# ## Where the time of a request goes

# %%
played = mist.play(mist.with_overrides(scenario, {"workload.requests": 600}))
for p in (50, 90, 99):
    print(
        f"p{p}: TTFT {played.attrs[f'ttft_p{p}_s'] * 1e3:8.0f} ms, end to end {played.attrs[f'e2e_p{p}_s']:7.1f} s"
    )
decode_share = played.attrs["stage_share_decode"]
slowest = played.e2e_s >= played.attrs["e2e_p99_s"]
waits = played.stage_s.sel(stage="queue").where(slowest).sum() / played.e2e_s.where(slowest).sum()
played.mist.stages()

# %% [markdown]
# ## More users, slower thoughts
# Throughput and patience trade off: each point is a rate, from an idle chip to a full one.

# %%
rates = np.array([0.05, 0.2, 0.5, 1.0, 1.5, 2.0])
points = [mist.evaluate(mist.with_overrides(scenario, {"workload.rate": float(r)})) for r in rates]
stable = np.array([int(p.status) == 0 for p in points])
e2e = np.array([float(p.e2e_s) for p in points])
cost = np.array([float(p.cost_per_million_output_tokens_usd) for p in points])
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(e2e[stable], cost[stable], "o-")
for r, x, y in zip(rates[stable], e2e[stable], cost[stable], strict=True):
    ax.annotate(f"{r:g}/s", (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
ax.set(xlabel="mean end-to-end latency (s)", ylabel="$ per million output tokens", ylim=(0, None))
ax.margins(0.1)
plt.show()

# %% [markdown]
# ## Several chains at once
# Best-of-N waits for the longest of N chains, and lengths are spread widely: the wait grows although every chain runs
# in parallel. (Log-normal lengths with DeepSeek-R1's mean and median, cut at 32k tokens.)

# %%
samples = np.array([1, 2, 4, 8, 16])
longest = np.array([float(mean_of_longest(2133.0, 1014.0, float(n), 32768.0)) for n in samples])
tpot = float(points[2].tpot_s)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(samples, longest * tpot, "o-", label="waiting for the longest chain")
ax.axhline(longest[0] * tpot, linestyle="--", color="0.5", label="one chain")
ax.set(xscale="log", xlabel="chains per question", ylabel="s of decoding", ylim=(0, None))
ax.set_xticks(samples, samples)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# ## Speculation
# Tokens that one iteration yields with a draft of k tokens, for acceptance curves of published drafts.

# %%
lengths = np.arange(0, 8)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for name, style in zip(
    ("dsv4_mtp_thinking", "dsv4_mtp_plain", "glm5_mtp"), ("o-", "s--", "^-."), strict=True
):
    alpha, decay = PRESETS[name]
    ax.plot(lengths, [float(tokens_per_step(alpha, decay, float(k))) for k in lengths], style, label=name)
ax.set(xlabel="tokens drafted per iteration", ylabel="tokens per iteration")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Which chip thinks cheapest?
# Thinking is decoding, and decoding wants memory bandwidth and room for many sequences. The same load on other chips.

# %%
table = {}
for chip, tp in (("h100_sxm", 1), ("h200_sxm", 1), ("a100_sxm", 1), ("l40s", 1), ("mi300x", 1)):
    point = mist.evaluate(mist.load([*base, f"hardware={chip}", f"parallelism.tp={tp}"]))
    if int(point.status) == 0:
        table[chip] = (
            float(point.e2e_s),
            float(point.cost_per_million_output_tokens_usd),
            float(point["load"]),
        )
for chip, (seconds, usd, load) in sorted(table.items(), key=lambda kv: kv[1][1]):
    print(
        f"{chip:9} end to end {seconds:6.1f} s, {usd:5.2f} $/1M output tokens at this rate, load {load:.0%}"
    )

# %% [markdown]
# ## Conclusion

# %%
cheapest = min(table, key=lambda c: table[c][1])
quickest = min(table, key=lambda c: table[c][0])
print(
    f"{decode_share:.1%} of a request's time is decoding. The median request ends after {played.attrs['e2e_p50_s']:.0f} s, "
    f"one in a hundred after {played.attrs['e2e_p99_s']:.0f} s or more, of which the queue is {float(waits):.1%}. "
    f"Sixteen chains take {longest[-1] / longest[0]:.1f} times as long as one. At {spec.rate:g} requests/s {cheapest} is cheapest "
    + (f"and quickest: {table[cheapest][0]:.0f} s end to end." if cheapest == quickest
       else f"({table[cheapest][0]:.0f} s end to end), {quickest} quickest ({table[quickest][0]:.0f} s).")
)  # fmt: skip
