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
# hidden coefficients and 2 % noise, so that the truth is known; put your own benchmark files in their place.

# %%
# %matplotlib inline
import json
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import mist_jax as mist
from mist_jax import build
from mist_jax.compare import compare
from mist_jax.evaluate import programs
from mist_jax.io.benchmarks import read_benchmark_result
from mist_jax.pytree import replace

jax.config.update("jax_enable_x64", True)
scenario = mist.load(["model=llama3_1_8b", "hardware=h100_sxm", "parallelism=tp1", "workload=closed_1k_1k"])
system = build.build_system(scenario)
closed = programs()["closed"]


def predict(log_factors, concurrency):
    """Mean TTFT and TPOT (s) with the coefficients of the engine's step multiplied by exp(log_factors)."""
    step = system.calibration.step
    kernels, host = np.exp(log_factors)
    step = replace(
        step,
        compute_scale=step.compute_scale * kernels,
        attention_scale=step.attention_scale * kernels,
        host_s=step.host_s * host,
        host_per_seq_s=step.host_per_seq_s * host,
        layer_s=step.layer_s * host,
    )
    load = build.build_workload(mist.with_overrides(scenario, {"workload.concurrency": float(concurrency)}))
    state = closed(replace(system, calibration=replace(system.calibration, step=step)), load, 1.0)
    return float(state.ttft), float(state.tpot)


# %% [markdown]
# ## Benchmark files
# Written in the form of `vllm bench serve --save-result`. The hidden server: kernels take 12 % longer than in the
# packaged calibration, and the host twice as long.

# %%
hidden, rng = np.log([1.12, 2.0]), np.random.default_rng(3)
folder = Path(tempfile.mkdtemp())
for concurrency in (1, 4, 16, 64, 128):
    ttft, tpot = np.array(predict(hidden, concurrency)) * np.exp(0.02 * rng.standard_normal(2))
    rate = concurrency / (ttft + 1023 * tpot)
    content = {
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "endpoint_type": "vllm", "max_concurrency": concurrency, "duration": 600.0,
        "completed": 10 * concurrency, "total_input_tokens": 10240 * concurrency, "total_output_tokens": 10240 * concurrency,
        "request_throughput": rate, "output_throughput": rate * 1024, "mean_ttft_ms": 1e3 * ttft, "mean_tpot_ms": 1e3 * tpot,
    }  # fmt: skip
    (folder / f"c{concurrency}.json").write_text(json.dumps(content))
runs = [read_benchmark_result(p) for p in sorted(folder.glob("*.json"), key=lambda p: int(p.stem[1:]))]

# %% [markdown]
# ## Before: compare
# `mist-jax mode=compare compare.run=FILE` prints the same from the command line.

# %%
before = compare(scenario, runs[3])
print(before.to_dataframe()[["measured", "predicted", "ratio"]].round(4))
print(before.attrs["explanations"])

# %% [markdown]
# ## Fit two factors
# One for the kernels, one for the host: few, so that a few points determine them. Gauss-Newton on the logarithms, pulled
# towards 1 as far as the measurements do not say otherwise.

# %%
use = runs[:4]  # the last one is kept to check


def residuals(x):
    """ln(predicted / measured), weighted by how well each repeats, and the pull towards 1."""
    out = []
    for run in use:
        ttft, tpot = predict(x, run.concurrency)
        out += [np.log(tpot / run.tpot.mean) / 0.02, np.log(ttft / run.ttft.mean) / 0.05]
    return np.array([*out, *(x / 1.0)])


x = np.zeros(2)
for _ in range(6):
    r = residuals(x)
    jacobian = np.stack([(residuals(x + d) - residuals(x - d)) / 2e-3 for d in 1e-3 * np.eye(2)], axis=1)
    x = x - np.linalg.solve(jacobian.T @ jacobian, jacobian.T @ r)
spread = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
for name, value, s, truth in zip(("kernels", "host"), x, spread, hidden, strict=True):
    print(
        f"{name:8} x {np.exp(value):.3f} (one standard error {np.exp(value - s):.3f} to {np.exp(value + s):.3f}; hidden {np.exp(truth):.2f})"
    )

# %% [markdown]
# ## After: a run that was not fitted

# %%
levels = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
curves = {
    name: np.array([predict(at, c)[1] for c in levels])
    for name, at in (("packaged", np.zeros(2)), ("fitted", x))
}
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
ax.plot(levels, curves["packaged"] * 1e3, "--", label="packaged calibration")
ax.plot(levels, curves["fitted"] * 1e3, "-", label="fitted")
ax.plot([r.concurrency for r in use], [r.tpot.mean * 1e3 for r in use], "ko", label="measured, fitted to")
ax.plot(runs[4].concurrency, runs[4].tpot.mean * 1e3, "k*", markersize=11, label="measured, kept apart")
ax.set(xscale="log", xlabel="requests in flight", ylabel="TPOT (ms)")
ax.legend(fontsize=8)
fig

# %% [markdown]
# ## Conclusion

# %%
held = runs[4]
errors = {
    name: predict(at, held.concurrency)[1] / held.tpot.mean - 1
    for name, at in (("before", np.zeros(2)), ("after", x))
}
print(
    f"At {held.concurrency:g} requests in flight, which the fit has not seen, TPOT was off by {errors['before']:+.1%} before and is "
    f"off by {errors['after']:+.1%} after fitting two numbers to {len(use)} runs."
)
