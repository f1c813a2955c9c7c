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
# # Reading a roofline and a stage breakdown
#
# Where does the time of an engine iteration go, and what would make it shorter? Decoding reads every weight for each
# iteration and a few tokens: it lives under the memory roof. Prefill does thousands of tokens a pass: it lives under
# the compute roof. The batch decides how far decoding climbs.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.report.plots import use_style

use_style()

base = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=closed_1k_1k"]
scenario = mist.load([*base, "workload.concurrency=16"])
result = mist.evaluate(scenario)

# %% [markdown]
# Each marker is an operator: its arithmetic intensity across, the rate it reaches upwards. Filled: a prefill iteration;
# hollow: a decode iteration.

# %%
result.mist.roofline(scenario)

# %% [markdown]
# The same iteration as bars: the longest bar is what to look at first. `host` is the time in which no kernel runs.

# %%
result.mist.breakdown()

# %% [markdown]
# ## More requests at once
# The weights are read once for the whole batch, the KV cache once for each request. So the price of an iteration
# grows slowly with the batch, and the tokens it yields in proportion to it, until the KV cache takes over.

# %%
batches = np.array([1, 4, 16, 64, 256])
points = [mist.evaluate(mist.with_overrides(scenario, {"workload.concurrency": float(c)})) for c in batches]
parts = points[0].part.values.tolist()
share = np.array([p.breakdown_s.values / p.breakdown_s.values.sum() for p in points])
attention = [parts.index(n) for n in ("attention_decode", "attention_prefill")]
groups = {
    "weights and activations": [i for i, n in enumerate(parts) if i not in attention and n != "host"],
    "attention over the KV cache": attention,
    "host": [parts.index("host")],
}
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
bottom = np.zeros(len(batches))
for label, members in groups.items():
    height = share[:, members].sum(axis=1)
    ax.bar([str(b) for b in batches], height, bottom=bottom, label=label)
    bottom += height
ax.set(xlabel="requests in flight", ylabel="share of the mean iteration")
ax.legend(loc="lower left", fontsize=8)
plt.show()

# %% [markdown]
# ## Which resource is worth buying?
# Raise one number of the chip by 1 % and see by how many per cent TPOT falls: the elasticity of TPOT. It is the share
# of the time which that resource binds; what neither of the two binds is launches, links and the host.

# %%
knobs = {
    "memory bandwidth": ("hardware.memory.bandwidth", scenario.hardware.memory.bandwidth),
    "bf16 rate": ("hardware.peak.bf16", scenario.hardware.peak.bf16),
}
gain = {}
for name, (path, value) in knobs.items():
    gain[name] = []
    for c, point in zip(batches, points, strict=True):
        more = mist.with_overrides(scenario, {path: 1.01 * value, "workload.concurrency": float(c)})
        change = np.log(float(mist.evaluate(more).tpot_s) / float(point.tpot_s))
        gain[name].append(-change / np.log(1.01))
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for (name, values), style in zip(gain.items(), ("o-", "s--"), strict=True):
    ax.plot(batches, values, style, label=name)
ax.set(xscale="log", xlabel="requests in flight", ylabel="% less TPOT per 1 % more", ylim=(-0.05, 1.05))
ax.legend()
plt.show()

# %% [markdown]
# ## Conclusion

# %%
low, high = points[0], points[-1]
speedup = float(high.output_tokens_per_s) / float(low.output_tokens_per_s)
slower = float(high.tpot_s) / float(low.tpot_s)
print(
    f"From {batches[0]} to {batches[-1]} requests in flight the chip yields {speedup:.0f} times the tokens while each "
    f"user's tokens come {slower:.1f} times slower. 1 % more memory bandwidth buys {gain['memory bandwidth'][0]:.2f} % "
    f"TPOT at batch {batches[0]} and {gain['memory bandwidth'][-1]:.2f} % at {batches[-1]}; 1 % more compute buys "
    f"{gain['bf16 rate'][0]:.2f} % and {gain['bf16 rate'][-1]:.2f} %."
)
