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
# A die has a fixed area. Matrix units and memory interfaces compete for it: more FLOP/s for prompts or more bytes/s for
# answers? The model is differentiable in the chip's numbers, so the slope says which way to go. `mist.search` follows
# it from several starts, under limits on area and latency, and finds a different balance for each workload.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.build import build_hardware
from mist_jax.explore.chip import ChipModel, die_area
from mist_jax.pytree import replace
from mist_jax.report.plots import plot_convergence, use_style

use_style()

FLOPS = "hardware.peak.bf16,hardware.peak.fp8,hardware.peak.int8"  # move together
BANDWIDTH, RATE = "hardware.memory.bandwidth", "workload.rate"
workloads = {"summaries": (4096, 128), "chat": (1024, 256), "reasoning": (512, 2048)}


def scenario(isl, osl, *more):
    """Llama-3.1-8B on one H100 with prompts and answers of these lengths."""
    return mist.load(["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload.arrivals=poisson",
                      "workload.rate=2", f"workload.isl={isl}", f"workload.osl={osl}", *more])  # fmt: skip


# %% [markdown]
# ## The question
# Most tokens per second from one chip no larger than the H100's die, with limits on TTFT and TPOT. Area: matrix units in
# proportion to their rate, SRAM, PHYs of HBM and links (`mist_jax.explore.chip` has the sources); the load goes up
# until a limit holds it.

# %%
AREA = 814.0
limits = {"die_area_mm2": f"<= {AREA}", "ttft_s": "<= 2.0", "tpot_s": "<= 0.05"}
bounds = {FLOPS: ("100 TFLOP/s", "2000 TFLOP/s"), BANDWIDTH: ("1 TB/s", "8 TB/s"), RATE: (0.1, 200)}
rates = np.geomspace(0.5, 100, 100)
kept = ["output_tokens_per_s_per_chip", "ttft_s", "tpot_s", "status"]


def carried(ds):
    """Tokens per second where the chip keeps up and the limits on latency hold."""
    return ds.output_tokens_per_s_per_chip.where((ds.status == 0) & (ds.ttft_s <= 2.0) & (ds.tpot_s <= 0.05))


found, same_chip = {}, {}
for name, lengths in workloads.items():
    start = scenario(*lengths)
    found[name] = mist.search(
        start, "output_tokens_per_s_per_chip", bounds, limits, starts=3, steps=10, polish=6
    )
    same_chip[name] = float(carried(mist.sweep(start, {RATE: rates}, variables=kept, progress=False)).max())
    best = found[name].best
    print(
        f"{name:10} {best['hardware.peak.bf16'] / 1e12:5.0f} TFLOP/s and {best[BANDWIDTH] / 1e12:4.2f} TB/s on "
        f"{found[name].figures['die_area_mm2']:.0f} mm²: {found[name].objective:7.0f} tokens/s, H100 {same_chip[name]:7.0f}"
    )

# %%
plot_convergence(found["chat"].history)

# %% [markdown]
# ## Against a grid
# The same question for chat, answered by brute force: a sweep over rate of the matrix units, bandwidth and load.

# %%
flops, bandwidth = np.geomspace(100e12, 2000e12, 12), np.geomspace(1e12, 8e12, 12)
grid = mist.sweep(
    scenario(*workloads["chat"]),
    {"hardware.peak.bf16": flops, BANDWIDTH: bandwidth, RATE: rates},
    variables=kept,
    progress=False,
)
chip = build_hardware(scenario(*workloads["chat"]).hardware)
area = np.array(
    [
        [
            float(
                die_area(
                    replace(chip, peak_flops=chip.peak_flops * f / chip.peak_flops[1], memory_bandwidth=b),
                    ChipModel(),
                )
            )
            for b in bandwidth
        ]
        for f in flops
    ]
)
tokens = carried(grid).where((area <= AREA)[:, :, None]).max(RATE)
fig, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
mesh = ax.pcolormesh(bandwidth / 1e12, flops / 1e12, tokens, shading="nearest")
fig.colorbar(mesh, label="tokens/s (white: too large, or too slow)")
ax.plot(3.35, 989.4, "wo", markeredgecolor="k", label="H100")
best = found["chat"].best
ax.plot(best[BANDWIDTH] / 1e12, best["hardware.peak.bf16"] / 1e12, "r*", markersize=12, label="found")
ax.set(xscale="log", yscale="log", xlabel="TB/s", ylabel="TFLOP/s (bf16)", title="chat")
ax.set_xticks([1, 2, 4, 8], [1, 2, 4, 8])
ax.set_yticks([100, 200, 500, 1000, 2000], [100, 200, 500, 1000, 2000])
ax.minorticks_off()
ax.legend(loc="lower left", fontsize=8)
plt.show()

# %% [markdown]
# ## Conclusion

# %%
gains = {n: found[n].objective / same_chip[n] - 1 for n in found}
wants = {n: r.best[BANDWIDTH] / r.best["hardware.peak.bf16"] * 1e3 for n, r in found.items()}
texts = ", ".join(f"{n} {wants[n]:.1f} bytes per 1,000 FLOP ({gains[n]:+.0%} tokens)" for n in found)
edge = float(tokens.max())
print(
    f"On the H100's area ({3.35e12 / 989.4e12 * 1e3:.1f} bytes per 1,000 FLOP) the search asks for {texts}. For chat its "
    f"{found['chat'].evaluations} evaluations end {found['chat'].objective / edge - 1:+.1%} from the best of a grid of {grid.ttft_s.size:,}. Not "
    "in this model: power, yield, other processes, and kernels written for the new balance."
)
