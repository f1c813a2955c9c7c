"""Vendors and engines beyond the kernel microbenchmarks: `python -m calibration.vendors`.

MLPerf offline and Server runs, AMD's published MI300X figures and Splitwise's DGX A100 runs, predicted from iterations
(`calibration.iterations`), with few named factors (`mist_jax.vendor_catalog.FACTORS`) fitted to logarithms of the
measured figures, with priors around 1. What is fitted on what, and what is a prediction, is in VENDORS.md, which this
writes beside mist_jax/catalog/vendors.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.datasets.mlperf import read_mlperf
from calibration.datasets.serving import data_dir
from calibration.datasets.splitwise import read_splitwise
from calibration.e2e_systems import hardware_spec
from calibration.iterations import FACTORS, MEASURES, Runs, make_batch, make_system
from mist_jax.schema import PrecisionSpec
from mist_jax.vendor_catalog import board_factor

ROOT = Path(__file__).resolve().parents[1]
SECONDS = MEASURES.index("seconds")
FP8 = PrecisionSpec(weights="fp8", experts="fp8", kv="fp8")
#: Formats of the MLPerf runs by that of their weights.
MLPERF_FORMATS = {
    "fp8": FP8,
    "nvfp4": PrecisionSpec(weights="nvfp4", experts="nvfp4", kv="fp8"),
    "int4": PrecisionSpec(weights="int4", activations="bf16", kv="bf16"),
}
BF16 = PrecisionSpec(weights="bf16", experts="bf16", kv="bf16")
#: Mean prompt of the MLPerf samples: ASSUMPTIONS (not published with the results). OpenOrca samples of up to 1,024
#: tokens about as long as their answers; CNN/DailyMail articles of about 780 words plus the instruction; the Mixtral
#: set is a third each of OpenOrca, GSM8K with five worked examples and MBXP.
MLPERF_PROMPT = {"llama2_70b": 300.0, "gptj_6b": 900.0, "mixtral_8x7b": 500.0}
#: MLPerf GPT-J decodes with 4 beams (mlcommons/inference, language/gpt-j).
BEAMS = {"gptj_6b": 4.0}
MAX_SEQS = 2048.0
#: Prior standard deviation of the logarithm of each factor.
PRIOR = {
    "compute_efficiency": 0.3,
    "memory_efficiency": 0.2,
    "link_efficiency": 0.5,
    "launch": 0.7,
    "host": 1.5,
}
NOISE = 0.1

#: 8 x MI300X, Llama-3.1-405B FP8, TP8, vLLM offline latency, 128 in and 128 out: batch, s (Oracle Cloud blog).
ORACLE_405B = {
    1: 3.530,
    2: 3.583,
    4: 3.734,
    8: 3.974,
    16: 4.375,
    32: 5.130,
    64: 6.919,
    128: 10.340,
    256: 17.750,
}
#: 8 x MI300X, Llama-3.1-70B FP8, TP8, vLLM 0.10.2, all prompts at once: (input, output, prompts) → output tokens/s
#: (AMD performance page, October 2025).
AMD_70B = {
    (128, 2048, 3200): 13212.5,
    (128, 4096, 1500): 11312.8,
    (500, 2000, 2000): 11376.7,
    (2048, 2048, 1500): 7252.1,
}
#: Sequences that vLLM runs at once on chips of 70 GiB and more (vLLM 0.10, EngineArgs defaults).
VLLM_SEQS = 1024


@dataclasses.dataclass(frozen=True)
class Figures:
    """Measured figures whose logarithm is a function of the measures of some runs.

    `predict(measures [runs, 2, M])` → [figures]; `group` names what is left out together.
    """

    name: str
    runs: Runs
    size: int
    predict: Callable[[np.ndarray], np.ndarray]
    measured: np.ndarray
    group: np.ndarray
    table: pd.DataFrame

    def log_error(self, factors: dict[str, float]) -> np.ndarray:
        """log(predicted / measured) under logarithmic factors."""
        x = np.zeros((self.size, len(FACTORS)))
        for name, value in factors.items():
            x[:, FACTORS.index(name)] = value
        return np.log(self.predict(self.runs.evaluate(x)) / self.measured)


def kv_tokens(systems: list[Any]) -> np.ndarray:
    """Tokens that the KV cache of each system holds."""
    import jax

    from mist_jax.physics.memory import memory_use

    out = []
    with jax.enable_x64(True):
        for system in systems:
            out.append(float(memory_use(system).kv_tokens))
    return np.array(out)


def linked(chip: str) -> bool:
    """Whether chips have fast links; else a pipeline is the usual way to split a model."""
    spec = hardware_spec(chip)
    up = spec.scale_up if spec is not None else None
    return up is not None and up.domain > 1 and (up.bandwidth or 0.0) > 64e9  # more than the host's PCIe


def smallest_split(chip: str, model: str, precision: PrecisionSpec, engine: str) -> float:
    """Fewest chips (1, 2, 4, 8) that hold the weights in 0.7 of their memory; inf if eight do not."""
    from mist_jax.physics.memory import weight_bytes_per_chip

    for tp in (1.0, 2.0, 4.0, 8.0):
        system = make_system(chip, model, "", precision, engine=engine, tp=tp)
        if float(weight_bytes_per_chip(system.model, system.parallel)) < 0.7 * float(
            system.hardware.memory_capacity
        ):
            return tp
    return float("inf")


def mlperf_offline() -> tuple[Figures, pd.DataFrame]:
    """(tokens/s of the offline runs, one figure a distinct system; refused runs with their reason)."""
    frame = read_mlperf()
    frame = frame[(frame.scenario == "offline")].copy()
    chosen, pairs, refused, cache = [], [], [], {}
    for r in frame.itertuples():
        reason = r.reason
        precision = MLPERF_FORMATS[r.precision]
        if not reason:
            key = (r.system, r.model, r.engine)
            if key not in cache:
                tp = smallest_split(r.system, r.model, precision, r.engine)
                system = None
                if tp <= 8:
                    # vLLM splits tensors everywhere, TensorRT-LLM builds pipelines where links are slow
                    tensor = linked(r.system) or r.engine == "vllm"
                    ways = {"tp": tp} if tensor else {"tp": 1.0, "pp": tp}
                    # quantized with one scale a tensor (NVIDIA's and AMD's submissions)
                    system = make_system(
                        r.system, r.model, "", precision, engine=r.engine, block_scaled=False, **ways
                    )
                cache[key] = (tp, system, kv_tokens([system])[0] if system is not None else 0.0)
            tp, system, room = cache[key]
            if system is None or tp > r.n_gpus:
                reason = f"weights need {tp:g} chips, the run names {r.n_gpus}"
        if reason:
            refused.append({"system": r.system, "model": r.model, "platform": r.platform, "reason": reason})
            continue
        prompt, out, beams = MLPERF_PROMPT[r.model], r.tokens_per_sample, BEAMS.get(r.model, 1.0)
        held = prompt + 0.7 * out * beams
        lanes = float(system.parallel.pp)  # micro-batches in flight of a pipeline share the cache
        batch = float(np.clip(room / held, lanes, MAX_SEQS / beams)) / lanes
        new = batch / out
        # beams of a request read its prompt's cache once
        context = prompt / beams + 0.7 * out
        decode = make_batch(batch * beams, context)
        mixed = make_batch(batch * beams, context, max(new, 1.0), prompt)
        pairs.append((system, (decode, mixed)))
        chosen.append(
            {**r._asdict(), "tp": tp, "batch": batch, "new": min(new, 1.0), "replicas": r.n_gpus / tp * lanes}
        )
    table = pd.DataFrame(chosen)
    batch, new, replicas = (table[c].to_numpy(float) for c in ("batch", "new", "replicas"))

    def predict(m: np.ndarray) -> np.ndarray:
        step = m[:, 0, SECONDS] + new * (m[:, 1, SECONDS] - m[:, 0, SECONDS])
        return batch * replicas / step

    figures = Figures(
        "MLPerf v4.1 offline, tokens/s",
        Runs.of(pairs),
        len(pairs),
        predict,
        table.tokens_per_s.to_numpy(float),
        table.system.to_numpy(),
        table,
    )
    return figures, pd.DataFrame(refused)


def amd_figures() -> tuple[Figures, Figures]:
    """(latency of Llama-3.1-405B over batch, output tokens/s of Llama-3.1-70B) on 8 x MI300X."""
    big = make_system("mi300x", "llama3_1_405b", "", FP8_WEIGHTS, engine="vllm", tp=8.0)
    batches = np.array(list(ORACLE_405B), float)
    pairs = [(big, (make_batch(b, 192.0), make_batch(0.0, 0.0, b, 128.0))) for b in batches]
    latency = Figures(
        "8 x MI300X, Llama-3.1-405B, s per batch",
        Runs.of(pairs),
        len(pairs),
        lambda m: 127.0 * m[:, 0, SECONDS] + m[:, 1, SECONDS],
        np.array(list(ORACLE_405B.values())),
        np.array(["405b"] * len(pairs)),
        pd.DataFrame({"batch": batches}),
    )
    small = make_system("mi300x", "llama3_1_70b", "", FP8_WEIGHTS, engine="vllm", tp=8.0)
    pairs, owner, repeats = [], [], []
    for i, (prompt, out, prompts) in enumerate(AMD_70B):
        whole, rest = divmod(prompts, VLLM_SEQS)
        for wave, times in ((VLLM_SEQS, whole), (rest, 1)):
            if wave and times:
                pairs.append(
                    (small, (make_batch(wave, prompt + 0.5 * out), make_batch(0.0, 0.0, wave, prompt)))
                )
                owner.append(i)
                repeats.append(times)
    owner_, repeats_ = np.array(owner), np.array(repeats, float)
    outs = np.array([k[1] for k in AMD_70B], float)
    tokens = np.array([k[1] * k[2] for k in AMD_70B], float)

    def throughput(m: np.ndarray) -> np.ndarray:
        each = repeats_ * ((outs[owner_] - 1.0) * m[:, 0, SECONDS] + m[:, 1, SECONDS])
        return tokens / np.bincount(owner_, each)

    table = pd.DataFrame(list(AMD_70B), columns=["input", "output", "prompts"])
    return latency, Figures(
        "8 x MI300X, Llama-3.1-70B, output tokens/s",
        Runs.of(pairs),
        len(pairs),
        throughput,
        np.array(list(AMD_70B.values())),
        np.array(["70b"] * len(AMD_70B)),
        table,
    )


#: fp8 weights, 16-bit cache: vLLM's defaults.
FP8_WEIGHTS = PrecisionSpec(weights="fp8", experts="fp8", kv="bf16")


def splitwise() -> tuple[Figures, Figures]:
    """(prompt time, time of a decode step) of the Splitwise runs on DGX A100, ms; an engine of 2023, eager."""
    frame = read_splitwise()
    frame = frame[frame.status == "ok"].reset_index(drop=True)
    pairs = []
    for r in frame.itertuples():
        system = make_system(r.system, r.model, "", BF16, engine="vllm", tp=float(r.tp), eager=1.0)
        context = r.prompt_tokens + 0.5 * r.output_tokens
        pairs.append((system, (make_batch(r.batch, context), make_batch(0.0, 0.0, r.batch, r.prompt_tokens))))
    runs = Runs.of(pairs)

    def figures(name: str, column: str, phase: int) -> Figures:
        return Figures(
            name,
            runs,
            len(frame),
            lambda m: m[:, phase, SECONDS] * 1e3,
            frame[column].to_numpy(float),
            frame.model.to_numpy(),
            frame,
        )

    return figures("Splitwise prompt", "prompt_ms", 1), figures("Splitwise token", "token_ms", 0)


def splitwise_energy() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Runs]:
    """(runs with a recorded power, work of decodes and prompt [runs, 2, M], measured s, runs)."""
    prompt, token = splitwise()
    legacy = fit([prompt, token], ("compute_efficiency", "link_efficiency", "launch", "host"))
    x = np.zeros((token.size, len(FACTORS)))
    for name, value in legacy.items():
        x[:, FACTORS.index(name)] = value
    frame = token.table
    steps = np.stack([frame.output_tokens.to_numpy(float) - 1.0, np.ones(len(frame))], axis=1)
    work = token.runs.evaluate(x) * steps[:, :, None]
    seconds = (frame.prompt_ms + (frame.output_tokens - 1) * frame.token_ms).to_numpy(float) * 1e-3
    at = np.flatnonzero(frame.average_power.notna().to_numpy())
    import jax

    part = Runs(*jax.tree.map(lambda leaf: leaf[at], (token.runs.system, token.runs.batches)))
    return frame.iloc[at].reset_index(drop=True), work[at], seconds[at], part


def fit(
    sets: Sequence[Figures],
    names: Sequence[str],
    masks: Sequence[np.ndarray] | None = None,
    start: dict[str, float] | None = None,
) -> dict[str, float]:
    """Logarithms of the factors `names` that fit the sets; each set weighs as the root of its figures.

    Args:
        masks: figures to use of each set (default: all). start: centre of the priors (default 0).
    """
    from scipy.optimize import least_squares

    masks = [np.ones(len(s.measured), bool) for s in sets] if masks is None else masks
    scale = np.array([PRIOR[n] for n in names])
    centre = np.array([(start or {}).get(n, 0.0) for n in names])

    def residual(theta: np.ndarray) -> np.ndarray:
        parts = [(theta - centre) / scale]
        named = dict(zip(names, theta, strict=True))
        for one, mask in zip(sets, masks, strict=True):
            if not mask.any():
                continue
            gap = one.log_error(named)[mask] / NOISE
            parts.append(np.sign(gap) * np.sqrt(np.log1p(gap**2) * 2.0) / mask.sum() ** 0.25)
        return np.concatenate(parts)

    found = least_squares(residual, centre, bounds=(-3.5, 3.5), max_nfev=60)
    return dict(zip(names, (float(v) for v in found.x), strict=True))


def tuned(kappa: float) -> dict[str, float]:
    """Logarithmic factors of a vendor-tuned engine: kernels nearer to the peak by kappa, the host's time less."""
    return {"compute_efficiency": kappa, "memory_efficiency": kappa, "launch": -kappa, "host": -kappa}


def fit_tuned(figures: Figures, mask: np.ndarray, others: dict[str, dict[str, float]]) -> float:
    """log of `tuned_engine` on the figures `mask`: one number; the robust centre of the fitted factor."""
    from scipy.optimize import minimize_scalar

    def loss(kappa: float) -> float:
        gap = error_with(figures, kappa, others)[mask] / NOISE
        count = pd.Series(figures.group[mask]).groupby(figures.group[mask]).transform("size").to_numpy()
        return float((np.log1p(gap**2) / np.sqrt(count)).sum() + (kappa / 0.3) ** 2)

    return float(minimize_scalar(loss, bounds=(-1.0, 1.0), method="bounded").x)


def error_with(figures: Figures, kappa: float, others: dict[str, dict[str, float]]) -> np.ndarray:
    """log errors with `tuned(kappa)`, and the factors of a system's own generation added (system → factors)."""
    x = np.zeros((figures.size, len(FACTORS)))
    for name, value in tuned(kappa).items():
        x[:, FACTORS.index(name)] += value
    boards = {s: board_factor(hardware_spec(s)) for s in figures.table.system.unique()}
    x[:, FACTORS.index("compute_efficiency")] += np.log(figures.table.system.map(boards).to_numpy())
    for system, factors in others.items():
        at = figures.table.system.to_numpy() == system
        for name, value in factors.items():
            x[at, FACTORS.index(name)] += value
    return np.log(figures.predict(figures.runs.evaluate(x)) / figures.measured)


def provenance() -> dict[str, str]:
    """Digest of the measurements, commit and date of the fit."""
    digest = hashlib.sha256()
    for name in ("mlperf/inference_v4_1_llm.csv", "splitwise/perf_model.csv"):
        digest.update((data_dir() / name).read_bytes())
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "source": "MLPerf Inference v4.1 (Apache-2.0), AMD performance page (October 2025), Oracle Cloud blog",
        "data_sha256": digest.hexdigest()[:16],
        "commit": commit,
        "date": date.today().isoformat(),
        "command": "python -m calibration.vendors",
    }


def main() -> None:
    """Fit, hold out, write the catalogue and the table."""
    from calibration.vendors_report import evaluate_all, text

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    results = evaluate_all()
    report = text(results)
    print(report)
    if arguments.dry:
        return
    content = {"provenance": provenance(), **results["catalogue"]}
    path = ROOT / "mist_jax" / "catalog" / "vendors.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (ROOT / "calibration" / "VENDORS.md").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
