"""Measured kernel latencies as tables with SI columns, one reader per class of kernel.

Source: ai-dynamo/aiconfigurator performance database (Apache-2.0). Every table has `system`, `engine`,
`format` and `seconds`; the other columns are arguments of the kernel models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from calibration.datasets.kernel_collectives import all_gather, all_reduce, all_to_all, p2p, reduce_scatter
from calibration.datasets.kernel_files import read_family

#: Storage formats of the database: (index into COMPUTE_PRECISIONS, bytes per weight), scales included: one
#: float32 per 128 x 128 block (fp8_block), one fp8 per 16 (nvfp4), one 8-bit per 32 (mxfp4), one 16-bit per
#: 128 (int4). Activations come in as 16-bit numbers; quantizing them is part of the measured time.
FORMATS: dict[str, tuple[float, float]] = {
    "bf16": (1.0, 2.0),
    "fp8": (2.0, 1.0),
    "fp8_block": (2.0, 1.0 + 4.0 / 128**2),
    "int8": (3.0, 1.0),
    "nvfp4": (4.0, 0.5 + 1.0 / 16),
    "int8_wo": (1.0, 1.0),
    "int4_wo": (1.0, 0.5 + 2.0 / 128),
    "w4a16_mxfp4": (1.0, 0.5 + 1.0 / 32),
    "w4a8_mxfp4_mxfp8": (2.0, 0.5 + 1.0 / 32),
}
_NAMES = {"bfloat16": "bf16", "sq": "int8"}


def _formatted(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    rows = rows.assign(format=rows[column].replace(_NAMES))
    rows = rows[rows.format.isin(list(FORMATS))].reset_index(drop=True)
    table = pd.DataFrame.from_dict(FORMATS, orient="index", columns=["precision_index", "weight_bytes"])
    return rows.join(table, on="format").assign(activation_bytes=2.0)


def gemm() -> pd.DataFrame:
    """Dense products: m, n, k."""
    rows = _formatted(read_family("gemm"), "gemm_dtype")
    rows["output_bytes"] = 2.0
    keep = ["m", "n", "k", "weight_bytes", "activation_bytes", "output_bytes", "precision_index"]
    return rows[["system", "engine", "format", *keep, "seconds"]]


def _attention_format(rows: pd.DataFrame) -> pd.DataFrame:
    fp8_kv = rows.kv_cache_dtype.eq("fp8")
    fp8 = rows["attn_dtype" if "attn_dtype" in rows else "mla_dtype"].eq("fp8")
    return rows.assign(
        format=np.where(fp8, "fp8", np.where(fp8_kv, "bf16_kv_fp8", "bf16")),
        precision_index=np.where(fp8, 2.0, 1.0),
        kv_bytes_per_element=np.where(fp8_kv, 1.0, 2.0),
    )


def _softmax_attention(family: str) -> pd.DataFrame:
    rows = _attention_format(read_family(family))
    window = rows.window_size.fillna(0)
    kv_heads = rows.num_key_value_heads
    return rows.assign(
        fallback=rows.kernel_source.eq("vllm_triton_attn"),
        sequences=rows.batch_size,
        heads=rows.num_heads,
        kv_heads=np.where(kv_heads > 0, kv_heads, rows.num_heads),
        qk_dim=rows.head_dim,
        v_dim=rows.head_dim,
        window=np.where(window > 0, window, np.inf),
    )


_ATTENTION = [
    "sequences",
    "heads",
    "kv_heads",
    "qk_dim",
    "v_dim",
    "kv_bytes_per_element",
    "precision_index",
    "window",
]


def prefill_attention() -> pd.DataFrame:
    """Prefill attention: q_tokens, past (all 0 in the database), heads, window."""
    rows = _softmax_attention("context_attention")
    rows = rows.assign(q_tokens=rows.isl, past=rows.step)
    return rows[["system", "engine", "format", "q_tokens", "past", *_ATTENTION, "fallback", "seconds"]]


def decode_attention() -> pd.DataFrame:
    """Decode attention: sequences, context, heads, window."""
    rows = _softmax_attention("generation_attention")
    rows = rows.assign(context=rows.step + rows.isl)
    return rows[["system", "engine", "format", "context", *_ATTENTION, "fallback", "seconds"]]


def prefill_mla() -> pd.DataFrame:
    """Latent attention of DeepSeek-V3 in prefill, expanded: 192-wide keys, 128-wide values."""
    rows = _attention_format(read_family("context_mla"))
    rows = rows.assign(
        q_tokens=rows.isl,
        past=0.0,
        sequences=rows.batch_size,
        heads=rows.num_heads,
        kv_heads=rows.num_heads,
        qk_dim=192.0,
        v_dim=128.0,
        window=np.inf,
    )
    return rows[["system", "engine", "format", "q_tokens", "past", *_ATTENTION, "seconds"]]


def decode_mla() -> pd.DataFrame:
    """Latent attention of DeepSeek-V3 in decode, absorbed: one 576-wide key head, values its first 512."""
    rows = _attention_format(read_family("generation_mla"))
    rows = rows.assign(
        context=rows.step + rows.isl,
        sequences=rows.batch_size,
        heads=rows.num_heads,
        kv_heads=1.0,
        qk_dim=576.0,
        v_dim=512.0,
        window=np.inf,
        shared_kv=1.0,
    )
    return rows[["system", "engine", "format", "context", *_ATTENTION, "shared_kv", "seconds"]]


@functools.cache
def power_law_load(tokens: int, experts: int, top_k: int, ep: int, alpha: float) -> tuple[float, float]:
    """(load of the fullest rank over the mean, experts touched on it) under power-law routing.

    Monte Carlo: expert loads are drawn from a power law between 1 and 0.8 b (0.01 and 2 when b k <= E),
    scaled to b k whole tokens; contiguous experts form a rank and the fullest rank is timed, as the
    database's own collector does (aiconfigurator collector, `power_law_logits_v3`), 200 draws.
    """
    rng = np.random.default_rng([tokens, experts, top_k, ep, round(alpha * 100)])
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    exponent = 1.0 - alpha
    draw = rng.random((200, experts))
    share = ((high**exponent - low**exponent) * draw + low**exponent) ** (1.0 / exponent)
    share *= tokens * top_k / share.sum(1, keepdims=True)
    load = np.floor(share)  # whole tokens by largest remainder, so that none is lost
    short = np.round(tokens * top_k - load.sum(1)).astype(int)
    order = np.argsort(np.argsort(load - share, axis=1), axis=1)
    load = np.minimum(load + (order < short[:, None]), tokens)
    ranks = load.reshape(200, ep, experts // ep)
    fullest = ranks[np.arange(200), ranks.sum(2).argmax(1)]
    return float(fullest.sum(1).mean() * ep / (tokens * top_k)), float((fullest > 0).sum(1).mean())


def moe() -> pd.DataFrame:
    """Routed feed-forward of one rank: tokens of all ranks, local experts, imbalance and experts touched."""
    rows = _formatted(read_family("moe"), "moe_dtype")
    rows = rows.assign(
        tokens=rows.num_tokens,
        experts=rows.num_experts,
        experts_local=rows.num_experts / rows.moe_ep_size,
        top_k=rows.topk,
        hidden=rows.hidden_size,
        expert_ffn=rows.inter_size / rows.moe_tp_size,
        # ReLU-squared experts without a gate: two matrices (Nemotron-H model cards)
        matrices=np.where(rows.kernel_source.str.contains("nongated") | rows.hidden_size.eq(2688), 2.0, 3.0),
    )
    rows = rows[rows.experts_local >= 1]
    alpha = pd.to_numeric(rows.distribution.str.removeprefix("power_law_"), errors="coerce")
    keys = ["num_tokens", "num_experts", "topk", "moe_ep_size"]
    imbalance, touched = np.ones(len(rows)), np.full(len(rows), np.nan)
    skewed = alpha.notna().to_numpy()
    index = pd.MultiIndex.from_frame(rows.loc[skewed, keys].assign(alpha=alpha[skewed]))
    codes, unique = index.factorize()
    loads = np.array([power_law_load(*(int(v) for v in key[:4]), float(key[4])) for key in unique])
    if len(loads):
        imbalance[skewed], touched[skewed] = loads[codes, 0], loads[codes, 1]
    # balanced routing assigns tokens in turn: every expert is touched as soon as there are pairs enough
    pairs = rows.tokens * rows.top_k / rows.moe_ep_size
    touched = np.where(skewed, touched, np.minimum(pairs, rows.experts_local))
    rows = rows.assign(imbalance=imbalance, touched=touched)
    keep = ["tokens", "experts", "experts_local", "top_k", "hidden", "expert_ffn", "weight_bytes"]
    keep += ["activation_bytes", "precision_index", "imbalance", "matrices", "touched"]
    return rows[["system", "engine", "format", *keep, "distribution", "seconds"]].reset_index(drop=True)


def recurrent() -> pd.DataFrame:
    """Gated-delta mixers: convolution plus recurrence of one layer; `decode` marks single steps."""
    rows = read_family("gdn")
    keys = ["system", "engine", "phase", "batch_size", "num_tokens", "d_model", "num_k_heads", "num_v_heads"]
    rows = rows.drop_duplicates([*keys, "kernel_source"])
    both = rows.groupby([*keys, "head_k_dim", "head_v_dim"], as_index=False).agg(
        seconds=("seconds", "sum"), parts=("kernel_source", "nunique")
    )
    both = both[both.parts == 2]
    both = both.assign(
        format="bf16",
        decode=both.phase.eq("generation").astype(float),
        tokens=np.where(both.phase.eq("generation"), both.batch_size, both.num_tokens),
        sequences=both.batch_size,
        v_heads=both.num_v_heads,
        k_heads=both.num_k_heads,
        k_dim=both.head_k_dim,
        v_dim=both.head_v_dim,
    )
    keep = ["tokens", "sequences", "v_heads", "k_heads", "k_dim", "v_dim", "decode"]
    return both[["system", "engine", "format", *keep, "seconds"]].drop_duplicates().reset_index(drop=True)


def unusable(name: str, rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows that do not inform the model of class `name`: reason -> mask. All others take part."""
    if name == "gemm":
        return {
            "n or k below 128: no projection of a served model is that narrow": (rows.n < 128)
            | (rows.k < 128),
            "vLLM fp8_block: timed with 55-300 us of host code per call, the kernel is hidden behind it": (
                rows.engine.eq("vllm") & rows.format.eq("fp8_block")
            ),
        }
    if name == "moe":
        pairs = rows.tokens * rows.top_k * rows.experts_local / rows.experts
        return {"fewer token-expert pairs than ranks: the timed rank may be idle": pairs < 1}
    if name in ("prefill_attention", "decode_attention"):
        out = {
            "generic fall-back kernel (shape not supported by the engine's own)": rows.fallback,
            "heads wider than 256": rows.qk_dim > 256,
            "B60 with a window: the kernel computes the full square": rows.system.eq("b60")
            & np.isfinite(rows.window),
        }
        if name == "prefill_attention":
            out["prompt of fewer than 16 tokens"] = rows.q_tokens < 16
        else:
            out["more than 32 query heads per KV head (generic kernels, 3-10 times slower)"] = (
                rows.heads > 32 * rows.kv_heads
            )
        return out
    if name == "prefill_mla":
        return {"prompt of fewer than 16 tokens": rows.q_tokens < 16}
    return {}


def sample(rows: pd.DataFrame, per_cell: int, seed: int = 0) -> pd.DataFrame:
    """At most `per_cell` rows of each (system, engine, format), drawn without replacement, seeded."""
    rng = np.random.default_rng(seed)
    picked = []
    for _, group in rows.groupby(["system", "engine", "format"], sort=True):
        take = min(per_cell, len(group))
        picked.append(group.iloc[np.sort(rng.choice(len(group), take, replace=False))])
    return pd.concat(picked, ignore_index=True)


READERS: dict[str, Callable[[], pd.DataFrame]] = {
    "gemm": gemm,
    "moe": moe,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "prefill_mla": prefill_mla,
    "decode_mla": decode_mla,
    "recurrent": recurrent,
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "p2p": p2p,
}
