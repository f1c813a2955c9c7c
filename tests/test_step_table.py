"""The playback's table against `step_time` at random batches: interpolation errors below 0.5 %."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from programs import make_batch, make_system, quick

from mist_jax.physics.step import step_seconds
from mist_jax.queueing.step_table import build_step_table
from mist_jax.queueing.table import StepTable

#: (model, parallelism, chip): one of each family.
FAMILIES = {
    "dense GQA": ("llama3_1_70b", {"tp": 8}, "h100_sxm"),
    "dense, one chip": ("llama3_1_8b", {}, "a100_sxm"),
    "MoE": ("mixtral_8x7b", {"tp": 2}, "h100_sxm"),
    "fine-grained MoE": ("qwen3_30b_a3b", {"tp": 2}, "h200_sxm"),
    "MLA, data-parallel": ("deepseek_v3", {"dp": 8, "ep": 8}, "h200_sxm"),
    "sliding window": ("gpt_oss_120b", {"tp": 2}, "b200_sxm"),
    "linear attention": ("qwen3_5_35b_a3b", {"tp": 2}, "h100_sxm"),
    "Mamba": ("nemotron_nano_9b_v2", {}, "l40s"),
    "sparse indexer": ("deepseek_v3_2", {"tp": 8}, "h200_sxm"),
    "compressed": ("deepseek_v4_flash", {"tp": 8}, "h200_sxm"),
    "two stages": ("llama3_1_70b", {"tp": 4, "pp": 2}, "mi300x"),
}
TOLERANCE = 0.005
POINTS = 300
CONTEXT = 32768


@cache
def table(family: str) -> tuple[Any, StepTable]:
    model, parallel, chip = FAMILIES[family]
    system = make_system(model, chip, **parallel)
    return system, build_step_table(system, max_context=CONTEXT)


@cache
def many() -> Any:
    return quick(jax.vmap(step_seconds, (None, 0)))


def exact(system: Any, batches: list[Any]) -> np.ndarray:
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    return np.asarray(many()(system, stacked))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.round(np.exp(rng.uniform(np.log(low), np.log(high)))))


def shapes(kind: str, rng: np.random.Generator) -> list[dict[str, float]]:
    out = []
    for _ in range(POINTS):
        prefill = log_uniform(rng, 1, 8192 - 1024) if kind != "decode" else 0.0
        decode = log_uniform(rng, 1, 1024) if kind != "prefill" else 0.0
        out.append(
            {
                "prefill": prefill,
                "past": float(rng.integers(0, 20000)) if prefill and rng.random() < 0.5 else 0.0,
                "decode": decode,
                "context": log_uniform(rng, 16, 30000) if decode else 0.0,
                "emitting": float(prefill > 0 and rng.random() < 0.5),
            }
        )
    return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["decode", "prefill", "mixed"])
def test_interpolation(family: str, kind: str) -> None:
    """Random numbers of tokens, sequences, context and past: the table's iteration is that of `step_time`."""
    system, tabulated = table(family)
    points = shapes(kind, np.random.default_rng(3))
    want = exact(system, [make_batch(**p) for p in points])
    got = []
    for p in points:
        chunks = [(p["prefill"], p["past"])] if p["prefill"] else []
        emitting = int(p["decode"] + p["emitting"])
        got.append(tabulated.step_s(chunks, int(p["decode"]), p["context"], emitting))
    # sequences that do not emit (a chunk that is not the last) are not charged the per-sequence share by the table
    silent = np.array([float(p["prefill"] > 0 and not p["emitting"]) for p in points])
    want = want - silent * float(system.calibration.step.host_per_seq_s)
    error = np.abs(np.array(got) / want - 1)
    worst = int(np.argmax(error))
    assert error[worst] < TOLERANCE, (points[worst], got[worst], want[worst])


@pytest.mark.parametrize("family", ["dense GQA", "MoE", "linear attention"])
def test_chunks_of_one_iteration_against_one_launch(family: str) -> None:
    """Several prompts in one iteration: the playback sums the chunks, `step_time` fills one launch with all of them.

    The sum charges each chunk for the units that it alone would leave idle: never less, and up to 6 % of an
    iteration more (eight prompts of 256 tokens each; 2 % for two of 1,024).
    """
    system, tabulated = table(family)
    for count, tokens, past, bound in ((2, 1024, 0, 0.02), (4, 512, 256, 0.03), (8, 256, 1000, 0.06)):
        batch = make_batch(prefill=count * tokens, past=past, seqs=count, decode=16, context=2000)
        want = float(exact(system, [batch])[0])
        got = tabulated.step_s([(tokens, past)] * count, 16, 2000, 16 + count)
        assert -1e-3 < got / want - 1 < bound, (count, tokens, past)


@pytest.mark.parametrize("family", FAMILIES)
def test_times_grow_with_the_work(family: str) -> None:
    _, t = table(family)
    for values, axes in ((t.tokens_s, (0,)), (t.seqs_s, (0,)), (t.prefill_s, (0, 1)), (t.decode_s, (0, 1))):
        for axis in axes:
            assert np.all(np.diff(values, axis=axis) >= -1e-12)


def test_grids_cover_the_engine() -> None:
    system, t = table("dense GQA")
    assert t.tokens_grid[-1] >= float(system.engine.max_num_batched_tokens)
    assert t.seqs_grid[-1] >= float(system.engine.max_num_seqs)
    assert t.decode_context_grid[-1] >= CONTEXT
    assert t.pp == 1
    assert table("two stages")[1].pp == 2
