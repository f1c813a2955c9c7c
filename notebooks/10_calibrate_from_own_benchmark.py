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
# # Calibrating from your own benchmark
#
# Your server is not the average server: another driver, another image, a slower host. A handful of measured points of
# one deployment makes every other prediction for it better. Here the "measurements" are made by the model itself with
# hidden coefficients and noise, so that the truth is known; put your own benchmark files in their place.

# %%
# %matplotlib inline
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax.calibrate import calibrate_from_run
from mist_jax.compare import compare
from mist_jax.io.benchmarks import read_benchmark_result
from mist_jax.report.plots import use_style

use_style()

folder = Path(tempfile.mkdtemp())
closed = ["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=closed_1k_1k"]
packaged = mist.load(closed)
levels = [1, 4, 16, 64, 128]

# %% [markdown]
# ## Benchmark files
# Written in the form of `vllm bench serve --save-result`. The hidden server: kernels take longer than in the packaged
# calibration, the host twice as long. A calibration file holds such offsets, and any scenario may name one.

# %%
hidden = {"compute_scale": 0.11, "attention_scale": 0.11, "host_s": 0.7, "layer_s": 0.7}
(folder / "hidden.json").write_text(json.dumps({"offsets": hidden}))
server = mist.load([*closed, f"calibration={folder / 'hidden.json'}"])
rng = np.random.default_rng(3)
truth = mist.sweep(server, {"workload.concurrency": levels}, progress=False)
for concurrency in levels:
    point = truth.sel({"workload.concurrency": concurrency})
    ttft, tpot = np.array([point.ttft_s, point.tpot_s]) * np.exp(0.02 * rng.standard_normal(2))
    rate = concurrency / (ttft + 1023 * tpot)
    content = {
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "endpoint_type": "vllm", "max_concurrency": concurrency, "duration": 600.0,
        "completed": 10 * concurrency, "total_input_tokens": 10240 * concurrency, "total_output_tokens": 10240 * concurrency,
        "request_throughput": rate, "output_throughput": rate * 1024, "mean_ttft_ms": 1e3 * ttft, "mean_tpot_ms": 1e3 * tpot,
    }  # fmt: skip
    (folder / f"c{concurrency}.json").write_text(json.dumps(content))
runs = [read_benchmark_result(folder / f"c{c}.json") for c in levels]

# %% [markdown]
# ## Before: compare
# `mist-jax mode=compare compare.run=FILE` prints the same from the command line.

# %%
before = compare(packaged, runs[3])
print(before.to_dataframe()[["measured", "predicted", "ratio"]].round(4))
print(before.attrs["explanations"])

# %% [markdown]
# ## Calibrate
# A dozen coefficients of the engine are refitted, the packaged ones and their spread over many servers as the prior: few
# points move only what they determine. From the command line: `mist-jax mode=calibrate calibrate.from=FILE`.

# %%
fit = calibrate_from_run(packaged, runs[:4])  # the last run is kept to check
fit.write(folder / "mine.json")
for name, offset in sorted(fit.offsets.items(), key=lambda item: -abs(item[1]))[:6]:
    print(f"{name:18} x {np.exp(offset):5.2f} (hidden x {np.exp(hidden.get(name, 0.0)):.2f})")

# %% [markdown]
# ## After: every other prediction
# `calibration=FILE` in any scenario uses it: here the whole curve, with the run that was kept apart.

# %%
mine = mist.load([*closed, f"calibration={folder / 'mine.json'}"])
dense = [1, 2, 4, 8, 16, 32, 64, 128, 256]
curves = {
    name: mist.sweep(one, {"workload.concurrency": dense}, progress=False).tpot_s
    for name, one in (("packaged calibration", packaged), ("calibrated", mine))
}
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for (name, curve), style in zip(curves.items(), ("--", "-"), strict=True):
    ax.plot(dense, curve * 1e3, style, label=name)
ax.plot(levels[:4], [r.tpot.mean * 1e3 for r in runs[:4]], "ko", label="measured, fitted to")
ax.plot(levels[4], runs[4].tpot.mean * 1e3, "k*", markersize=11, label="measured, kept apart")
ax.set(xscale="log", xlabel="requests in flight", ylabel="TPOT (ms)")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Conclusion

# %%
held = {
    name: float(c.sel({"workload.concurrency": levels[4]})) / runs[4].tpot.mean - 1
    for name, c in curves.items()
}
longer = {"workload.isl": 4096, "workload.concurrency": 32}
other = {
    n: float(mist.evaluate(mist.with_overrides(s, longer)).tpot_s)
    for n, s in (("old", packaged), ("new", mine), ("true", server))
}
print(
    f"At {levels[4]} requests in flight, which the fit has not seen, TPOT was off by {held['packaged calibration']:+.1%} before and is off "
    f"by {held['calibrated']:+.1%} after {len(fit.measured)} runs; with four times the prompt it was off by "
    f"{other['old'] / other['true'] - 1:+.1%} and is off by {other['new'] / other['true'] - 1:+.1%}."
)
