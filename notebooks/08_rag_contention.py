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
# the same DRAM and over PCIe. Both slow each other down, and the model behind them waits. How many questions per
# second does one host carry?

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax import build
from mist_jax.physics.demand import INDEX, machine, seconds, seconds_by_resource, steady_together
from mist_jax.physics.memory import kv_bytes_total
from mist_jax.pytree import replace
from mist_jax.stages.protocol import Work
from mist_jax.stages.registry import get_stage

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The host and its work
# 16 cores and 150 GB/s of DRAM beside four H100 over PCIe. The index: 200 million vectors, IVF-PQ, on the host; the
# model: Llama-3.1-8B, one replica a chip, with a long history whose KV cache lies in host memory.

# %%
scenario = mist.load(
    [
        "model=llama3_1_8b",
        "hardware=h100_sxm",
        "parallelism=tp1",
        "parallelism.replicas=4",
        "workload.isl=8192",
        "workload.osl=200",
    ]
)
system = build.build_system(scenario)
token_bytes = float(kv_bytes_total(system.model, np.asarray(1000.0))) / 1000.0
host = machine(
    cpu=16.0,
    host_memory=150e9,
    host_link=4 * scenario.hardware.host.bandwidth,
    interference={"host_link": 0.2},
)
search = get_stage("vector_search").build(
    {
        "vectors": 2e8,
        "lists": 131072,
        "nprobe": 4096,
        "ef": 4096,
        "cores": 16,
        "documents": 8,
        "document_tokens": 256,
    }
)
load = get_stage("kv_load").build(
    {"tier": "host", "hit_rate": 1.0, "prefix_share": 0.9, "block_tokens": 256, "bandwidth": "200 GB/s"}
)
work = Work(prompt_tokens=8192.0, kv_bytes_per_token=token_bytes, kv_layers=float(system.model.layers))
BATCH = 16.0  # questions searched together, one a core
jobs = {
    "search": get_stage("vector_search").function(search, replace(work, batch=BATCH)),
    "KV load": get_stage("kv_load").function(load, work),
}
per_question = np.array([1.0 / BATCH, 1.0])  # jobs of each kind that a question brings
for name, job in jobs.items():
    bound = np.asarray(seconds_by_resource(job, host.rate))
    print(
        f"{name:8} alone {float(seconds(job, host.rate)) * 1e3:6.2f} ms, bound by {list(INDEX)[int(bound.argmax())]}"
    )

# %% [markdown]
# ## Together, over the rate of questions
# Questions are searched in batches that use all cores, and the four replicas load at once: a job alone has the whole
# host. Together each gets its max-min fair share of cores, DRAM and PCIe.

# %%
rates = np.array([1, 10, 20, 40, 60, 80, 100.0])
together = jax.jit(lambda r: steady_together(list(jobs.values()), per_question * r, host))
out = [{k: np.asarray(v) for k, v in together(r).items()} for r in rates]
slow = np.array([o["seconds"] for o in out])
alone = out[0]["alone"]
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for k, (name, style) in enumerate(zip(jobs, ("o-", "s--"), strict=True)):
    ax.plot(rates, slow[:, k] * 1e3, style, label=name)
    ax.axhline(alone[k] * 1e3, color="0.7", linewidth=0.8)
ax.set(xlabel="questions/s", ylabel="ms (grey: alone)", yscale="log")
ax.legend()
fig

# %% [markdown]
# ## What the user sees
# Search and load happen before the first token; the model prefills what was not loaded.

# %%
hit = 0.9
ttft = {"retrieval and KV load": [], "model": []}
model_ok = []
for rate, row in zip(rates, slow, strict=True):
    changes = {"workload.rate": float(rate), "engine.prefix_hit_rate": hit}
    point = mist.evaluate(mist.with_overrides(scenario, changes))
    model_ok.append(int(point.status) == 0)
    ttft["retrieval and KV load"].append(row.sum())
    ttft["model"].append(float(point.ttft_s))
model_ok = np.array(model_ok)
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
before, model = np.array(ttft["retrieval and KV load"]), np.array(ttft["model"])
ax.bar([f"{r:g}" for r in rates[model_ok]], before[model_ok] * 1e3, label="retrieval and KV load")
ax.bar(
    [f"{r:g}" for r in rates[model_ok]], model[model_ok] * 1e3, bottom=before[model_ok] * 1e3, label="model"
)
ax.set(xlabel="questions/s", ylabel="mean TTFT (ms)")
ax.legend()
fig

# %% [markdown]
# ## What helps?
# The slope of the search's time with respect to each resource of the host, at 60 questions/s: by how many per cent it
# falls if there is 1 % more.

# %%
at = 60.0
names = ("cpu", "host_memory", "host_link")


def search_seconds(log_scale):
    """Search under load with the host's resources scaled by exp(log_scale)."""
    rate = host.rate
    for k, name in enumerate(names):
        rate = rate.at[INDEX[name]].multiply(jax.numpy.exp(log_scale[k]))
    return jax.numpy.log(
        steady_together(list(jobs.values()), per_question * at, replace(host, rate=rate))["seconds"][0]
    )


slope = -np.asarray(jax.grad(search_seconds)(jax.numpy.zeros(3)))
for name, value in zip(names, slope, strict=True):
    print(f"1 % more {name:12} {value:6.2f} % less time in search")

# %% [markdown]
# ## Conclusion

# %%
i = int(np.argmin(abs(rates - at)))
share = before[i] / (before[i] + model[i])
print(
    f"Alone a search takes {alone[0] * 1e3:.1f} ms and a KV load {alone[1] * 1e3:.1f} ms; at {at:g} questions/s {slow[i, 0] * 1e3:.1f} and "
    f"{slow[i, 1] * 1e3:.1f} ms, {share:.0%} of TTFT. The host's {names[int(slope.argmax())]} is what to buy first."
)
