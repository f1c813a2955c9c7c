"""The ML.ENERGY runs as pairs of iterations, and the fit of their time per token.

A run keeps `batch` requests in flight. Its mean iteration is one of decodes, and prompts come in with lambda =
batch / output length per iteration:

    t_mean   = t_d + min(lambda, 1) (t_m - t_d)        one prompt, or lambda of them where lambda > 1
    t_median = t_d + w(lambda) (t_mean - t_d)          median over mean of a compound Poisson sum

Assumed, because the files do not say: prompts of 300 tokens (chat: LMArena conversations) and 250 (GPQA question with
choices and instructions), which the fit may change by the prefill share; lengths of answers spread with a
coefficient of variation of 0.63, so the mean context is prompt + 0.7 output; lengths of prompts are log-normal with
sigma = 1.2 (conversations of chat traces; the Azure conversation trace has 1.3), which matters for the median of an
iteration's prompt tokens alone; engine defaults of vLLM.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pandas as pd

from calibration import iterations
from calibration.datasets.energy import read_energy
from calibration.iterations import FACTORS, MEASURES
from mist_jax.schema import PrecisionSpec

PROMPT = {"lm-arena-chat": 300.0, "gpqa": 250.0, "sourcegraph-fim": 500.0}
#: Mean context of a decoding sequence over (prompt + this share of the mean output): (1 + 0.63^2) / 2.
CONTEXT_SHARE = 0.7
SECONDS, KERNELS = MEASURES.index("seconds"), MEASURES.index("kernel_seconds")

#: Free factors of the time: coefficient, key of the runs it holds for, standard deviation of its logarithm.
TIME_PARAMETERS = (
    ("host_s", "all", 0.7),
    ("host_per_seq_s", "all", 1.0),
    ("layer_s", "all", 0.7),
    ("prefill_host_s", "all", 0.7),
    ("compute_scale", "all", 0.2),
    ("many_tokens_scale", "all", 0.3),
    ("attention_scale", "all", 0.3),
    ("comm_scale", "all", 0.4),
    ("imbalance", "all", 0.7),
    ("expert_scale", "bf16", 0.1),
    ("expert_scale", "fp8", 0.4),
    ("expert_scale", "mxfp4", 0.4),
    ("expert_scale", "expert parallel", 0.4),
    ("prompt_length", "lm-arena-chat", 0.5),
    ("prompt_length", "gpqa", 0.5),
)
NOISE = 0.06
PROMPT_SIGMA = 1.2


@functools.cache
def median_table() -> tuple[np.ndarray, np.ndarray]:
    """(lambda, median over mean of a sum of a Poisson number of log-normal lengths), by seeded sampling."""
    rng = np.random.default_rng(0)
    rates = np.concatenate([[0.0], np.geomspace(0.5, 8.0, 40)])
    out = [0.0]
    for rate in rates[1:]:
        count = rng.poisson(rate, 8000)
        owner = np.repeat(np.arange(len(count)), count)
        size = rng.lognormal(-0.5 * PROMPT_SIGMA**2, PROMPT_SIGMA, count.sum())
        out.append(float(np.median(np.bincount(owner, size, len(count)))) / rate)
    return rates, np.array(out)


@dataclasses.dataclass(frozen=True)
class EnergyRuns:
    """Table of the runs and their iterations."""

    frame: pd.DataFrame
    runs: iterations.Runs

    @property
    def weight(self) -> np.ndarray:
        """A model of k runs counts as sqrt(k)."""
        return 1.0 / np.sqrt(self.frame.groupby("model").batch.transform("size").to_numpy())


def precision_spec(precision: str) -> PrecisionSpec:
    """Formats of a run: gpt-oss ships mxfp4 experts, the rest bf16, and multiplies in bf16 on Hopper."""
    if precision == "mxfp4":
        return PrecisionSpec(weights="bf16", experts="mxfp4", kv="bf16", activations="bf16")
    return PrecisionSpec(weights=precision, experts=precision, kv="bf16")


def packaged_step(r: Any, unseen: bool) -> Any:
    """The step coefficients that the product gives to such a run (`unseen`: as to a model that it never saw)."""
    from calibration.e2e_systems import hardware_spec
    from mist_jax import calibrations
    from mist_jax.step_coefficients import values

    spec = hardware_spec(r.system)
    assert spec is not None
    formats = precision_spec(r.precision)
    keys = {
        "engine": "vllm",
        "family": None,
        "generation": calibrations.KERNEL_GENERATION.get(spec.generation or "", spec.generation),
        "system": r.system,
        "weights": formats.weights,
        "experts": formats.experts,
        "model": None if unseen else r.model,
    }
    fitted = calibrations.packaged_step().get("offsets", {})
    step = values(calibrations.step_offsets(fitted, keys), np)
    return jax.tree.map(np.float64, step)


def load(folder: Any = None, step: str = "unseen") -> EnergyRuns:
    """The usable runs (`status` ok) with packaged kernels, and the step `packaged`, `unseen` or `priors`.

    `unseen`: packaged without what the serving benchmarks told of the model.
    """
    frame = read_energy(folder)
    frame = frame[frame.status == "ok"].reset_index(drop=True)
    frame["step_s"] = frame.batch / frame.tokens_per_s
    frame["prompts"] = frame.batch / frame.output_tokens
    pairs = []
    for r in frame.itertuples():
        system = iterations.make_system(
            r.system, r.model, r.model_file, precision_spec(r.precision), engine="vllm", tp=r.tp, ep=r.ep
        )
        if step != "priors":
            own = dataclasses.replace(system.calibration, step=packaged_step(r, step == "unseen"))
            system = dataclasses.replace(system, calibration=own)
        length = PROMPT[r.task]
        context = length + CONTEXT_SHARE * r.output_tokens
        decode = iterations.make_batch(r.batch, context)
        mixed = iterations.make_batch(r.batch, context, max(r.prompts, 1.0), length)
        pairs.append((system, (decode, mixed)))
    return EnergyRuns(frame, iterations.Runs.of(pairs))


def factors(frame: pd.DataFrame, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log factors [runs, K], log of the prompts' length over `PROMPT` [runs])."""
    x = np.zeros((len(frame), len(FACTORS)))
    prompt = np.zeros(len(frame))
    for (name, key, _), value in zip(TIME_PARAMETERS, theta, strict=True):
        if name == "prompt_length":
            prompt += np.where(frame.task == key, value, 0.0)
        else:
            hit = (frame.precision == key) | (key == "all")
            hit |= (frame.ep > 1) & (key == "expert parallel")
            x[:, FACTORS.index(name)] += np.where(hit, value, 0.0)
    return x, prompt


def phases(data: EnergyRuns, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(measures of the decodes and of the prompts of a mean iteration [runs, 2, M], median ITL in s [runs])."""
    x, prompt = factors(data.frame, theta)
    two = data.runs.evaluate(x)
    prompts = data.frame.prompts.to_numpy()
    extra = (two[:, 1] - two[:, 0]) * np.exp(prompt)[:, None]
    both = np.stack([two[:, 0], np.minimum(prompts, 1.0)[:, None] * extra], axis=1)
    share = np.minimum(prompts, 1.0) * np.interp(prompts, *median_table())
    return both, two[:, 0, SECONDS] + share * extra[:, SECONDS]


def mean_iteration(data: EnergyRuns, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(measures of the mean iteration [runs, M], median inter-token latency in s [runs])."""
    both, itl = phases(data, theta)
    return both.sum(axis=1), itl


def fit_time(data: EnergyRuns, train: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Factors that fit median and mean iteration of the runs `train` (a mask); robust least squares with priors."""
    from scipy.optimize import least_squares

    scale = np.array([sd for _, _, sd in TIME_PARAMETERS])
    median = np.log(data.frame.itl_median_ms.to_numpy() * 1e-3)
    mean = np.log(data.frame.step_s.to_numpy())
    weight = np.sqrt(data.weight)[train]

    def residual(theta: np.ndarray) -> np.ndarray:
        measures, itl = mean_iteration(data, theta)
        gaps = np.concatenate(
            [np.log(itl)[train] - median[train], np.log(measures[train, SECONDS]) - mean[train]]
        )
        gaps = gaps / NOISE
        robust = np.sign(gaps) * np.sqrt(np.log1p(gaps**2))
        return np.concatenate([np.concatenate([weight, weight]) * robust, theta / scale])

    start = np.zeros(len(scale)) if start is None else start
    return least_squares(residual, start, bounds=(-3.0, 3.0), max_nfev=25).x
