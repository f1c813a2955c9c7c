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
# # Batching strategies for hybrid pipelines
#
# Summaries (long prompts, short answers) and chats (short prompts, longer answers) share one engine. How the
# scheduler packs prompts and decodes into iterations decides who waits: the same requests are played under five
# policies, over a range of token budgets, and on a prefill pool apart.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.queueing.trace import Trace
from mist_jax.report.plots import use_style

use_style()

scenario = mist.load(
    ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=chat", "engine.max_num_seqs=256"]
)

# %% [markdown]
# ## One trace, two kinds of requests
# Nine in ten are chats of a few hundred tokens, one in ten is a document of 12,000 tokens.

# %%
rng = np.random.default_rng(7)
count, rate = 1200, 14.0
document = rng.random(count) < 0.1
prompt = np.where(document, 12000, rng.lognormal(6.0, 0.6, count)).astype(int)
answer = np.where(document, 150, rng.lognormal(5.3, 0.5, count)).astype(int) + 1
trace = Trace(np.cumsum(rng.exponential(1 / rate, count)), prompt, answer, name="mixed")
print(f"{document.sum()} documents hold {prompt[document].sum() / prompt.sum():.0%} of the prompt tokens")


def chat_figures(ds):
    """Median TTFT, p99 TTFT and p99 TPOT of the chats, seconds."""
    ttft, tpot = ds.ttft_s.values[~document], ds.tpot_s.values[~document]
    return np.nanpercentile(ttft, 50), np.nanpercentile(ttft, 99), np.nanpercentile(tpot, 99)


# %% [markdown]
# ## Five policies
# *vllm*: decodes first, prompts in chunks with what is left of the budget. *sarathi*: the same, with memory reserved for
# whole prompts. *mixed*: a pool of prompts and decodes after Splitwise. *orca*: whole prompts beside decodes. *static*: a
# batch ends before the next begins.

# %%
policies = ("vllm", "sarathi", "mixed", "orca", "static")
by_policy = {}
for policy in policies:
    by_policy[policy] = mist.play(mist.with_overrides(scenario, {"engine.policy": policy}), trace)
    p50, p99, tpot = chat_figures(by_policy[policy])
    print(
        f"{policy:8} chats: TTFT p50 {p50 * 1e3:9.0f} ms, p99 {p99 * 1e3:9.0f} ms; TPOT p99 {tpot * 1e3:7.1f} ms"
    )

# %%
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for (policy, ds), line in zip(by_policy.items(), ("-", "--", "-.", ":", (0, (5, 1, 1, 1))), strict=True):
    values = np.sort(ds.ttft_s.values[~document])
    ax.plot(values * 1e3, np.arange(1, values.size + 1) / values.size, linestyle=line, label=policy)
ax.set(xscale="log", xlabel="TTFT of the chats (ms)", ylabel="share of the chats")
ax.legend()
plt.show()

# %% [markdown]
# ## The token budget
# A small budget cuts documents into many chunks: nobody's decode waits long, but prompts take more iterations. A large
# one is quick with prompts and makes decodes wait.

# %%
budgets = np.array([512, 1024, 2048, 4096, 8192, 16384])
figures = []
for budget in budgets:
    ds = mist.play(mist.with_overrides(scenario, {"engine.max_num_batched_tokens": float(budget)}), trace)
    figures.append(chat_figures(ds))
figures = np.array(figures) * 1e3
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
ax.plot(budgets, figures[:, 2], "o-", label="TPOT p99 (ms)")
ax.plot(budgets, figures[:, 1], "s--", label="TTFT p99 (ms)")
ax.set(xscale="log", yscale="log", xlabel="token budget of an iteration", ylabel="ms, chats only")
ax.set_xticks(budgets, budgets)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# ## Prompts on a chip of their own
# Disaggregation takes the prompts away altogether, at the price of a second chip and a transfer of the KV cache.

# %%
apart = mist.load(["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=chat", "engine.max_num_seqs=256",
                   "prefill=pool", "prefill.parallelism.tp=1"])  # fmt: skip
split = mist.play(apart, trace)
two = mist.play(mist.with_overrides(scenario, {"parallelism.replicas": 2}), trace)
for name, ds in (("one prefill + one decode chip", split), ("two chips, each doing both", two)):
    p50, p99, tpot = chat_figures(ds)
    print(f"{name:30} TTFT p50 {p50 * 1e3:6.0f} ms, p99 {p99 * 1e3:7.0f} ms; TPOT p99 {tpot * 1e3:6.1f} ms")

# %% [markdown]
# ## Conclusion

# %%
best_ttft = min(by_policy, key=lambda p: chat_figures(by_policy[p])[1])
best_tpot = min(by_policy, key=lambda p: chat_figures(by_policy[p])[2])
low, high = figures[0], figures[-1]
split_tpot, two_tpot = chat_figures(split)[2], chat_figures(two)[2]
print(
    f"Of the five policies {best_ttft} has the lowest p99 TTFT of the chats and {best_tpot} the lowest p99 TPOT. From a budget of "
    f"{budgets[0]} to {budgets[-1]} tokens their p99 TPOT goes from {low[2]:.0f} to {high[2]:.0f} ms and their p99 TTFT from "
    f"{low[1]:.0f} to {high[1]:.0f} ms. With two chips, keeping prompts apart changes p99 TPOT by "
    f"{split_tpot / two_tpot - 1:+.0%} against two that do both."
)
