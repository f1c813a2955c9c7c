"""Splitwise's characterization: prompt, token and end-to-end time of static batches on a DGX A100."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from calibration.datasets.names import has_architecture, model_key, snake, system_key
from calibration.datasets.serving import data_dir

GROUP = ["model", "system", "tp", "prompt_tokens", "batch", "output_tokens"]


def read_splitwise(path: str | Path | None = None, aggregate: bool = True) -> pd.DataFrame:
    """`perf_model.csv` → one row a configuration (repeats averaged), or one a repeat.

    Columns: model, system, tp, prompt_tokens, batch, output_tokens, prompt_ms, token_ms (a decode step),
    e2e_ms, peak_power, average_power (fraction of TDP; 0 = not recorded → nan), repeats, noise (relative
    standard deviation of token_ms over repeats), precision (half precision: Splitwise, ISCA 2024, section 3),
    e2e_valid, status (ok | refused), reason.

    e2e = prompt + (output_tokens - 1) x token holds within 5 % where all tokens were generated; longer
    outputs stopped early in part of the repeats: `e2e_valid` is then False while prompt and token times
    stay usable.
    """
    path = data_dir() / "splitwise" / "perf_model.csv" if path is None else Path(path)
    raw = pd.read_csv(path).rename(
        columns={
            "prompt_size": "prompt_tokens",
            "batch_size": "batch",
            "token_size": "output_tokens",
            "prompt_time": "prompt_ms",
            "token_time": "token_ms",
            "e2e_time": "e2e_ms",
            "tensor_parallel": "tp",
        }
    )
    names = {n: model_key(n) for n in raw.model.unique()}
    systems = {n: system_key(n) for n in raw.hardware.unique()}
    raw["model"], label = raw.model.map(lambda n: names[n] or snake(n)), raw.model
    raw["system"] = raw.hardware.map(lambda n: systems[n] or snake(n))
    raw["reason"] = [
        "; ".join(
            filter(
                None,
                (
                    "" if names[n] and has_architecture(names[n]) else f"no architecture of {n}",
                    "" if systems[h] else f"unknown hardware {h}",
                ),
            )
        )
        for n, h in zip(label, raw.hardware)
    ]
    for power in ("peak_power", "average_power"):
        raw[power] = raw[power].where(raw[power] > 0)
    expected = raw.prompt_ms + (raw.output_tokens - 1) * raw.token_ms
    raw["e2e_valid"] = (raw.e2e_ms / expected).between(0.95, 1.05)
    raw["precision"] = "bf16"
    raw["repeats"], raw["noise"] = 1, float("nan")
    columns = ["prompt_ms", "token_ms", "e2e_ms", "peak_power", "average_power"]
    if aggregate:
        grouped = raw.groupby(GROUP, as_index=False)
        mean = grouped[columns].mean()
        spread = grouped.token_ms.agg(lambda x: x.std(ddof=0) / x.mean()).rename(
            columns={"token_ms": "noise"}
        )
        rest = grouped.agg(
            repeats=("token_ms", "size"), e2e_valid=("e2e_valid", "all"), reason=("reason", "first")
        )
        raw = mean.merge(spread, on=GROUP).merge(rest, on=GROUP).assign(precision="bf16")
    raw["status"] = raw.reason.map(lambda r: "refused" if r else "ok")
    keep = [*GROUP, *columns, "precision", "repeats", "noise", "e2e_valid", "status", "reason"]
    return raw[keep].reset_index(drop=True)
