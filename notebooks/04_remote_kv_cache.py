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
# # Remote KV cache: when to load, when to recompute
#
# The KV cache of a long prefix may lie in host memory, on an NVMe drive, or behind a network. Loading it takes bytes
# over bandwidth; computing it again takes a prefill. Which is faster depends on the prefix, the tier and the chip.
# This is one of the case studies of MIST (arXiv 2504.09775): with slow tiers, recomputing competes.

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax import build
from mist_jax.io.arrivals import conversations, poisson
from mist_jax.physics.memory import kv_bytes_total
from mist_jax.physics.step import step_seconds
from mist_jax.programs import compiled
from mist_jax.queueing.cache_curve import cache_curve
from mist_jax.report.plots import use_style
from mist_jax.stages.kv_cache import TIER_DEFAULTS, KVTier, load_alone_seconds
from mist_jax.stages.protocol import Work
from mist_jax.system.batch import prefill_batch

use_style()

jax.config.update("jax_enable_x64", True)
scenario = mist.load(["model=llama3_1_70b", "hardware=h100_sxm", "parallelism=tp8"])
system = build.build_system(scenario)
prefixes = 2.0 ** np.arange(9, 17)

# %% [markdown]
# ## What computing costs
# The time of an engine iteration that prefills the prefix and nothing else.

# %%
prefill = compiled(jax.vmap(lambda tokens: step_seconds(system, prefill_batch(tokens))))
compute_s = np.asarray(prefill(prefixes))
kv_bytes = np.asarray(kv_bytes_total(system.model, 1000.0)) / 1000.0
print(f"{kv_bytes / 1e3:.0f} kB of KV cache per token")

# %% [markdown]
# ## What loading costs
# Each tier has a latency and a bandwidth of one reader (sources: `mist_jax.physics.memory_tiers`).

# %%
load_s = {}
for tier in TIER_DEFAULTS:
    params = KVTier(tier=tier, block_tokens=256.0)
    load_s[tier] = np.array([
        float(load_alone_seconds(params, Work(prompt_tokens=p, kv_bytes_per_token=kv_bytes,
                                              kv_layers=float(system.model.layers))))
        for p in prefixes
    ])  # fmt: skip
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (tier, seconds), line in zip(
    load_s.items(), ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))), strict=True
):
    ax.plot(prefixes, seconds * 1e3, linestyle=line, label=f"load, {tier.replace('_', ' ')}")
ax.plot(prefixes, compute_s * 1e3, "k-o", linewidth=2, label="compute")
ax.set(xscale="log", yscale="log", xlabel="tokens of the prefix", ylabel="ms")
ax.set_xticks(prefixes[::2], [f"{p / 1024:g}k" for p in prefixes[::2]])
ax.minorticks_off()
ax.legend(fontsize=7, ncols=2)
plt.show()

# %% [markdown]
# ## Where the lines cross
# The bandwidth at which loading is as fast as computing. Attention grows with the square of the prefix, its cache
# linearly: the longer the prefix, the slower a tier may be.

# %%
break_even = kv_bytes * prefixes / compute_s
verdict = {t: s < compute_s for t, s in load_s.items()}
print(f"{'tokens':>8} {'compute':>10} {'break even':>12}   load pays from")
for p, c, b, *wins in zip(prefixes, compute_s, break_even, *verdict.values(), strict=True):
    tiers = [t for t, w in zip(verdict, wins, strict=True) if w]
    print(f"{p:8.0f} {c * 1e3:8.1f} ms {b / 1e9:7.1f} GB/s   {', '.join(tiers) or 'none'}")

# %% [markdown]
# ## Is the prefix there at all?
# A cache helps as far as it holds what is asked for. Conversations come back with everything that was said before;
# this is the share of prompt blocks found, over the size of the cache.

# %%
trace = conversations(
    poisson(300, rate=0.5),
    turns=lambda n, rng: 1 + rng.geometric(0.25, n),
    message_tokens=lambda n, rng: rng.lognormal(5.5, 0.8, n),
    answer_tokens=lambda n, rng: rng.lognormal(5.3, 0.6, n),
    think_s=lambda n, rng: rng.exponential(60.0, n),
    system_tokens=1024, unit_tokens=256, seed=1,
)  # fmt: skip
unit_bytes = 256 * kv_bytes
sizes = np.array([1e9, 3e9, 1e10, 3e10, 1e11, 3e11, 1e12])
hits = cache_curve(trace, sizes / unit_bytes)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(sizes / 1e9, hits * 100, "o-")
ax.set(xscale="log", xlabel="cache (GB)", ylabel="% of prompt blocks found", ylim=(0, 100))
plt.show()

# %% [markdown]
# ## Conclusion

# %%
slow = [t for t in load_s if not verdict[t].any()]
always = [t for t in load_s if verdict[t].all()]
at = int(np.searchsorted(prefixes, 4096))
print(
    f"On this deployment loading always pays from: {', '.join(always) or 'no tier'}; never from: {', '.join(slow) or 'none'}. "
    f"At 4k tokens a tier must give one request {break_even[at] / 1e9:.0f} GB/s to beat computing, at 64k only "
    f"{break_even[-1] / 1e9:.0f} GB/s. {sizes[-1] / 1e9:g} GB find {hits[-1]:.0%} of the blocks of these conversations, "
    f"{sizes[2] / 1e9:g} GB {hits[2]:.0%}."
)
