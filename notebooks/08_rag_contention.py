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
# # A RAG pipeline on a CPU-GPU host, with contention
#
# Retrieval scans its index in host memory with the host's cores. The KV cache that is kept in host memory comes through
# the same DRAM and over PCIe. On one host both slow each other down, and the model behind them waits. Does retrieval
# deserve a host of its own?

# %%
# %matplotlib inline
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.report.plots import use_style
from mist_jax.schema import PipelineSpec

use_style()

# %% [markdown]
# ## The host and its work
# Four H100 with Llama-3.1-8B, 32 cores and 50 GB/s of DRAM (four channels, shared with others). The index: 50 million
# vectors, IVF-PQ. The prompts: 8,192 tokens, most of which nine requests in ten find in the host's KV cache.

# %%
scenario = mist.load(["model=llama3_1_8b", "parallelism=tp4", "hardware.host.memory_bandwidth=12.5 GB/s", "workload.isl=8192",
                      "workload.osl=100", "workload.arrivals=poisson", "workload.requests=800"])  # fmt: skip
search = {"kind": "vector_search", "vectors": 5e7, "lists": 131072, "nprobe": 8192, "cores": 32, "documents": 8,
          "document_tokens": 256, "max_batch": 16}  # fmt: skip
load = {
    "kind": "kv_load",
    "client": "engine",
    "tier": "host",
    "hit_rate": 0.9,
    "prefix_share": 0.9,
    "bandwidth": "150 GB/s",
}
clients = {
    "engine": {"cores": 32, "tiers": {"host": "2 TB"}},
    "retrieval": {"hardware": dataclasses.asdict(mist.load(["hardware=xeon_8480"]).hardware), "cores": 32},
}


def rag(place, rate):
    """The pipeline with its search on the client `place`, at `rate` questions per second."""
    stages = {"search": {**search, "client": place}, "load": load, "generate": {"client": "engine"}}
    spec = PipelineSpec(
        name=f"RAG, search on {place}",
        stages=stages,
        clients={name: clients[name] for name in {"engine", place}},
    )
    workload = dataclasses.replace(scenario.workload, rate=rate)
    return dataclasses.replace(scenario, pipeline=spec, workload=workload)


# %% [markdown]
# ## In steady state, over the rate of questions
# Each job alone has the whole host; together each gets its max-min fair share of cores, DRAM and PCIe.

# %%
rates = np.array([1, 5, 10, 15, 20.0])
places = {"engine": "on the model's host", "retrieval": "on a host of its own"}
means = {place: [mist.evaluate(rag(place, rate)) for rate in rates] for place in places}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, stage in zip(axes, ("search", "load"), strict=True):
    for (place, results), style in zip(means.items(), ("o-", "s--"), strict=True):
        ax.plot(
            rates,
            [float(r.stage_s.sel(stage=stage)) * 1e3 for r in results],
            style,
            label=f"search {places[place]}",
        )
    ax.axhline(float(means["engine"][0].stage_alone_s.sel(stage=stage)) * 1e3, color="0.7", linewidth=0.8)
    ax.set(
        xlabel="questions/s",
        ylabel="ms (grey: alone)",
        title={"search": "search", "load": "KV load"}[stage],
    )
    ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Request by request
# The playback queues every job; the slowest hundredth of the requests meets searches and loads in bursts.

# %%
played = {place: mist.play(rag(place, rates[-1])) for place in places}
for place, ds in played.items():
    print(f"search {places[place]}, {rates[-1]:g} questions/s")
    for stage in ds.stage.values:
        row = ds.sel(stage=stage)
        print(
            f"    {stage:9} mean {float(row.stage_mean_s) * 1e3:9.1f} ms   p99 {float(row.stage_p99_s) * 1e3:9.1f} ms"
        )

# %%
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for (place, ds), style in zip(played.items(), ("-", "--"), strict=True):
    ttft = np.sort(ds.ttft_s.values)
    ax.plot(ttft * 1e3, np.arange(1, ttft.size + 1) / ttft.size, style, label=f"search {places[place]}")
ax.set(xlabel="TTFT (ms)", ylabel="share of the requests")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What helps?
# The slope of the end-to-end time with respect to each resource: by how much it falls if there is a little more.

# %%
slope = means["engine"][-1].elasticity
gains = {
    (c, r): float(slope.sel(client=c, resource=r)) for c in slope.client.values for r in slope.resource.values
}
for (client, resource), value in sorted(gains.items(), key=lambda item: item[1])[:5]:
    if value < -1e-4:
        print(f"1 % more {resource.replace('_', ' '):16} of {client:10} {-value:6.3f} % less time end to end")

# %% [markdown]
# ## Conclusion

# %%
alone = float(means["engine"][0].stage_alone_s.sel(stage="load"))
both, apart = (float(played[p].stage_mean_s.sel(stage="load")) for p in places)
shared, own = (played[p].attrs["ttft_p99_s"] for p in places)
print(
    f"A KV load alone takes {alone * 1e3:.0f} ms. At {rates[-1]:g} questions/s it takes {both * 1e3:.0f} ms beside the search and "
    f"{apart * 1e3:.0f} ms without it; a host of its own for retrieval changes p99 TTFT from {shared * 1e3:.0f} to {own * 1e3:.0f} ms "
    f"({own / shared - 1:+.0%}) and costs {played['retrieval'].attrs['cost_usd'] / played['engine'].attrs['cost_usd'] - 1:+.0%}."
)
