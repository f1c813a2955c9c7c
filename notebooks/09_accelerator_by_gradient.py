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
# # Designing an accelerator by gradient
#
# A die has a fixed area. Matrix units and memory controllers compete for it: more FLOP/s for prompts or more bytes/s for
# answers? The model is differentiable in the chip's numbers, so the slope says which way to go, and a few steps find the
# balance, a different one for each workload.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import mist_jax as mist
from mist_jax import build
from mist_jax.physics.step import step_seconds
from mist_jax.pytree import replace
from mist_jax.system.batch import decode_batch, prefill_batch

jax.config.update("jax_enable_x64", True)
scenario = mist.load(["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1"])
system = build.build_system(scenario)

# %% [markdown]
# ## Area
# A stack of HBM needs a PHY of 10.45 mm² for its 1,024 bits (LLMCompass, ISCA 2024), and with controller and routing
# about three times that here (assumption); five stacks give the H100 its 3.35 TB/s. What is left of 400 mm² for compute
# and memory (assumption) goes to matrix units in proportion to their rate.

# %%
AREA, STACK_MM2, STACK_BYTES_PER_S = 400.0, 3 * 10.45, 3.35e12 / 5
H100_STACKS = 5.0
MM2_PER_FLOPS = (AREA - H100_STACKS * STACK_MM2) / scenario.hardware.peak.bf16


def chip(stacks):
    """The system on a die with so many stacks of HBM (a real number); the rest of the area computes."""
    flops = (AREA - stacks * STACK_MM2) / MM2_PER_FLOPS
    scale = flops / scenario.hardware.peak.bf16
    hardware = replace(
        system.hardware,
        peak_flops=system.hardware.peak_flops * scale,
        memory_bandwidth=stacks * STACK_BYTES_PER_S,
    )
    return replace(system, hardware=hardware)


def seconds_per_request(stacks, isl, osl, batch):
    """Chip time of one request: its prefill, and its share of the decode iterations."""
    on = chip(stacks)
    return (
        step_seconds(on, prefill_batch(isl))
        + osl * step_seconds(on, decode_batch(batch, isl + osl / 2)) / batch
    )


workloads = {
    "summaries": (4096.0, 128.0, 64.0),
    "chat": (1024.0, 256.0, 64.0),
    "reasoning": (512.0, 2048.0, 64.0),
}

# %% [markdown]
# ## The slope, and whether it is right

# %%
slope = jax.jit(
    jax.value_and_grad(lambda log_stacks, w: jnp.log(seconds_per_request(jnp.exp(log_stacks), *w)))
)
for name, w in workloads.items():
    x, h = jnp.log(H100_STACKS), 1e-4
    _, g = slope(x, jnp.array(w))
    difference = (slope(x + h, jnp.array(w))[0] - slope(x - h, jnp.array(w))[0]) / (2 * h)
    print(
        f"{name:10} d ln(time) / d ln(stacks) = {float(g):+.4f} (finite differences {float(difference):+.4f})"
    )

# %% [markdown]
# ## Following it
# Adam on the logarithm of the number of stacks, from one stack on.

# %%
paths = {}
optimizer = optax.adam(0.15)
for name, w in workloads.items():
    x = jnp.log(1.0)
    state = optimizer.init(x)
    path = []
    for _ in range(60):
        value, g = slope(x, jnp.array(w))
        path.append((float(jnp.exp(x)), float(jnp.exp(value))))
        step, state = optimizer.update(g, state)
        x = jnp.clip(x + step, jnp.log(0.5), jnp.log(AREA / STACK_MM2 - 0.5))
    paths[name] = np.array(path)

# %%
grid = np.linspace(0.5, 12.0, 47)
fig, ax = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
best = {}
for (name, w), color in zip(workloads.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
    curve = np.array([float(jnp.exp(slope(jnp.log(s), jnp.array(w))[0])) for s in grid])
    ax.plot(grid, curve / curve.min(), color=color, label=name)
    ax.plot(paths[name][:, 0], paths[name][:, 1] / curve.min(), ".", color=color, markersize=4)
    # a stack is whole: round both ways, evaluate again, keep the better
    whole = [np.floor(paths[name][-1, 0]), np.ceil(paths[name][-1, 0])]
    cost = [float(slope(jnp.log(max(s, 1.0)), jnp.array(w))[0]) for s in whole]
    best[name] = (max(whole[int(np.argmin(cost))], 1.0), float(np.exp(min(cost))), grid[curve.argmin()])
ax.set(
    xlabel="stacks of HBM on the die", ylabel="chip time per request / best", ylim=(0.95, 3), xlim=(0, 12.5)
)
ax.legend()
fig

# %% [markdown]
# ## The design under load
# The rounded designs as chips of the catalogue, evaluated as any other.

# %%
for name, (stacks, _, _) in best.items():
    isl, osl, _ = workloads[name]
    rate = (AREA - stacks * STACK_MM2) / MM2_PER_FLOPS
    load = {
        "workload.isl": isl,
        "workload.osl": osl,
        "workload.arrivals": "closed",
        "workload.concurrency": 64.0,
    }
    design = {"hardware.memory.bandwidth": stacks * STACK_BYTES_PER_S, "hardware.peak.bf16": rate}
    old, new = (mist.evaluate(mist.with_overrides(scenario, {**load, **d})) for d in ({}, design))
    print(f"{name:10} {stacks:2.0f} stacks, {rate / 1e12:5.0f} TFLOP/s: {float(new.request_rate) / float(old.request_rate) - 1:+.1%} "
          f"requests/s against the H100's split")  # fmt: skip

# %% [markdown]
# ## Conclusion

# %%
texts = [f"{name} wants {stacks:.0f} stacks" for name, (stacks, _, _) in best.items()]
close = max(abs(paths[n][-1, 0] / best[n][2] - 1) for n in best)
print(
    f"On the same area {', '.join(texts)}. Sixty steps of gradient descent end within {close:.0%} of the best of a grid of "
    f"{grid.size} evaluations. Not in this model: power, yield, caches, and kernels written for the new balance."
)
