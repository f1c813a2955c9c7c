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
# # Nine pipelines, stage by stage
#
# A question to a model is rarely a model alone: it is tokenized, embedded, looked up, reranked, guarded, answered in
# several turns or branches, and its KV cache travels. Nine pipelines come with the package (`conf/pipeline/`). Each is
# evaluated in steady state and played request by request here; the table of stages says where the mean and where the
# slowest hundredth of the requests spend their time.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.report.plots import use_style

use_style()

pipelines = {
    "chat": 4.0,
    "rag": 4.0,
    "rag_rerank_guard": 4.0,
    "agentic": 0.3,
    "reasoning_best_of_n": 0.2,
    "long_context_remote_kv": 0.6,
    "cascade": 4.0,
    "cross_vendor": 4.0,
    "cross_vendor_tpu": 4.0,
}  # questions per second

# %% [markdown]
# ## Evaluate and play
# The same 250 questions, Poisson arrivals. The command line does the same:
# `mist-jax pipeline=rag mode=play workload.rate=4 workload.requests=250`.

# %%
evaluated, played = {}, {}
for name, rate in pipelines.items():
    scenario = mist.load(
        [f"pipeline={name}", "workload.arrivals=poisson", f"workload.rate={rate}", "workload.requests=250"]
    )
    evaluated[name], played[name] = mist.evaluate(scenario), mist.play(scenario)
    a = played[name].attrs
    print(
        f"{name:24} end to end: steady state {float(evaluated[name].e2e_s):7.2f} s; played mean {a['e2e_mean_s']:7.2f} s, "
        f"p99 {a['e2e_p99_s']:7.2f} s; {a['cost_per_million_output_tokens_usd']:8.2f} $/1M tokens"
    )

# %% [markdown]
# ## Where the time goes
# Mean and 99th percentile of each stage (waiting included). `chat` has the engine's own stages.

# %%
for name, ds in played.items():
    stages = ds.stage_s.values
    mean, tail = np.nanmean(stages, axis=0), np.nanpercentile(stages, 99, axis=0)
    print(name)
    for i, stage in enumerate(ds.stage.values):
        if tail[i] > 0:
            print(
                f"    {stage:18} mean {mean[i] * 1e3:9.1f} ms   p99 {tail[i] * 1e3:9.1f} ms   {mean[i] / mean.sum():6.1%}"
            )

# %%
fig, axes = plt.subplots(3, 3, figsize=(9.6, 8), layout="constrained")
for ax, (name, ds) in zip(axes.flat, played.items(), strict=True):
    stages = ds.stage_s.values
    shown = [
        (str(s), np.nanmean(v), np.nanpercentile(v, 99))
        for s, v in zip(ds.stage.values, stages.T, strict=True)
    ]
    shown = sorted((row for row in shown if row[2] > 0), key=lambda row: -row[1])[:6][::-1]
    at = np.arange(len(shown))
    ax.barh(at + 0.2, [row[1] for row in shown], height=0.38, color="#0072B2", label="mean")
    ax.barh(at - 0.2, [row[2] for row in shown], height=0.38, color="#E69F00", label="p99")
    ax.set(
        yticks=at,
        yticklabels=[row[0].replace("_", " ") for row in shown],
        xscale="log",
        title=name.replace("_", " "),
    )
    ax.set_xlabel("s")
axes.flat[0].legend(loc="lower right", fontsize=8)
plt.show()

# %% [markdown]
# ## What bounds the whole
# The steady state knows the critical path, its bottleneck, and how much shorter it gets with more of each resource.

# %%
for name, ds in evaluated.items():
    path = ds.attrs.get("critical_path", "one engine, no stages")
    print(f"{name:24} {ds.attrs['bottleneck']:40} path: {path}")

# %% [markdown]
# ## Conclusion

# %%
outside, stretch, gap = {}, {}, {}
for name, ds in played.items():
    a, mean = ds.attrs, np.nanmean(ds.stage_s.values, axis=0)
    kinds = evaluated[name].stage_kind.values if "stage" in evaluated[name].dims else ["generate"] * mean.size
    calls = np.isin(kinds, ["generate", "reason", "verify", "guard_llm", "cascade"])
    outside[name] = mean[~calls].sum() / mean.sum()
    stretch[name] = a["e2e_p99_s"] / a["e2e_mean_s"]
    gap[name] = float(evaluated[name].e2e_s) / a["e2e_mean_s"] - 1
most, widest, worst = (max(d, key=lambda k: abs(d[k])) for d in (outside, stretch, gap))
print(
    f"Outside of its language models {most} spends {outside[most]:.0%} of its time. The tail is longest in {widest}: p99 is "
    f"{stretch[widest]:.1f} times the mean. The steady state's mean end to end is within {abs(gap[worst]):.0%} of the played one "
    f"everywhere (most off: {worst}, {gap[worst]:+.0%}), median {np.median(np.abs(list(gap.values()))):.0%}."
)
