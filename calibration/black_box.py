"""Two references for the physics: boosted trees on sensible features, and a one-factor roofline.

`python -m calibration.black_box` prints the error tables of DATA.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from calibration.datasets.serving import read_serving
from calibration.splits import SPLITS, Split, make_splits

TARGETS = ("ttft_ms", "tpot_ms")
_CONF = Path(__file__).resolve().parents[1] / "conf"
#: bytes per weight element with scales: NVFP4 and MXFP4 carry an 8-bit scale per 16 and 32 elements (OCP MX)
_WEIGHT_BYTES = {"nvfp4": 0.5625, "mxfp4": 0.53125, "int4": 0.53, "fp8": 1.0, "int8": 1.0, "bf16": 2.0}
_KV_BYTES = {"fp8": 1.0, "bf16": 2.0}
_PEAK = {"nvfp4": "fp4", "mxfp4": "bf16", "int4": "bf16", "fp8": "fp8", "int8": "int8", "bf16": "bf16"}

#: (training rows, test rows) → predicted (ttft_ms, tpot_ms) of the test rows
Predictor = Callable[[pd.DataFrame, pd.DataFrame], tuple[np.ndarray, np.ndarray]]


@cache
def _hardware(system: str) -> dict[str, float]:
    """Numbers of conf/hardware in SI; empty for an unknown system."""
    import yaml

    from mist_jax.units import to_si

    path = _CONF / "hardware" / f"{system}.yaml"
    if not path.exists():
        return {}
    spec = yaml.safe_load(path.read_text())
    out = {f"peak_{k}": to_si(v, "flops") for k, v in spec["peak"].items() if v is not None}
    out["bandwidth"] = to_si(spec["memory"]["bandwidth"], "bandwidth")
    out["capacity"] = to_si(spec["memory"]["capacity"], "bytes")
    out["link"] = to_si(spec["scale_up"]["bandwidth"], "bandwidth") if spec.get("scale_up") else np.nan
    return out


@cache
def _model(name: str) -> dict[str, float]:
    """Weight elements by part and cached elements per token of conf/model; empty for an unknown model."""
    import yaml

    from mist_jax.io.export_model_yaml import parse_model_mapping
    from mist_jax.io.parameters import count_parameters

    path = _CONF / "model" / f"{name}.yaml"
    if not path.exists():
        return {}
    arch, _ = parse_model_mapping(yaml.safe_load(path.read_text()))
    counts = count_parameters(arch)
    cached = 0.0
    for group in arch.attention:
        if getattr(group, "kv_lora_rank", 0):
            cached += group.layers * (group.kv_lora_rank + group.rope_dim)
        elif not getattr(group, "state_size", 0) and group.kind not in (
            "gated_delta",
            "kda",
            "mamba1",
            "mamba2",
        ):
            cached += group.layers * group.kv_heads * (group.qk_dim + group.v_dim)
    return {
        "dense": float(counts.text - counts.experts - counts.input_table),
        "experts": float(counts.experts),
        "active": float(counts.active_without_input_table),
        "expert_share": arch.top_k / arch.experts if arch.experts else 1.0,
        "cached": cached,
        "hidden": float(arch.hidden),
        "layers": float(arch.layers),
    }


def physical(frame: pd.DataFrame) -> pd.DataFrame:
    """Bytes and FLOPs per GPU of a decode step and of a prompt, and the roofline times they imply (s).

    decode: t = max((dense/tp + touched experts/gpus) bytes + KV, FLOPs / peak); prefill: t = FLOPs / peak of
    all GPUs of a worker. Touched experts at batch b: 1 - (1 - k/E)^b of them. nan for unknown names.
    """
    rows = []
    for r in frame.itertuples():
        m, h = _model(r.model), _hardware(r.system)
        if not m or not h:
            rows.append({})
            continue
        bandwidth = h["bandwidth"]
        weight = _WEIGHT_BYTES.get(r.weight_precision, 2.0)
        expert = _WEIGHT_BYTES.get(r.expert_precision, 2.0)
        peak = h.get(f"peak_{_PEAK.get(r.expert_precision, 'bf16')}", h.get("peak_bf16", np.nan))
        batch = max(r.concurrency / (r.decode_replicas * r.decode_dp), 1.0)
        worker = r.decode_tp * r.decode_dp
        all_batch = batch * r.decode_dp
        touched = 1.0 - (1.0 - m["expert_share"]) ** all_batch
        context = r.length_mean * (r.isl + r.osl / 2)
        kv = batch * context * m["cached"] * _KV_BYTES.get(r.kv_precision, 2.0) / r.decode_tp
        bytes_ = m["dense"] * weight / r.decode_tp + touched * m["experts"] * expert / worker + kv
        flops = 2.0 * m["active"] * all_batch / worker
        tokens = r.length_mean * r.isl
        pool = r.prefill_tp * r.prefill_dp
        prefill = 2.0 * m["active"] * tokens / (pool * peak)
        rows.append(
            {
                "step_s": max(bytes_ / bandwidth, flops / peak),
                "prefill_s": prefill,
                "step_bytes": bytes_,
                "kv_bytes": kv,
                "weight_bytes": bytes_ - kv,
                "step_flops": flops,
                "kv_share": (all_batch * context * m["cached"] / worker) / h["capacity"],
                "prefill_load": prefill * r.concurrency / (r.prefill_replicas * r.length_mean * r.osl),
            }
        )
    return pd.DataFrame(rows, index=frame.index)


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of the boosted trees: logs of a row's numbers and of `physical`, and codes of the names."""
    phys = physical(frame)
    out = pd.DataFrame(index=frame.index)
    for column in phys:
        out[f"log_{column}"] = np.log(phys[column].astype(float).clip(lower=1e-30))
    numbers = ["isl", "osl", "concurrency", "decode_batch", "n_gpus"]
    numbers += [f"{p}_{k}" for p in ("prefill", "decode") for k in ("replicas", "tp", "dp", "ep", "gpus")]
    for column in numbers:
        out[f"log_{column}"] = np.log(frame[column].astype(float))
    out["mtp"] = frame.mtp
    out["mtp_depth"] = frame.mtp_depth
    out["log_max_batch"] = np.log(frame.max_batch)
    excess = (frame.concurrency / frame.slots - 1.0).clip(lower=0.0)  # requests that wait for a decode slot
    out["slot_wait_s"] = excess * frame.length_mean * frame.osl * phys.get("step_s", np.nan)
    out["disagg"] = (frame["mode"] == "disagg").astype(float)
    out["days"] = pd.to_datetime(frame.date, errors="coerce").map(
        lambda d: np.nan if pd.isna(d) else (d - pd.Timestamp("2025-01-01")).days
    )
    for column in ("engine", "system", "model", "expert_precision", "version_family"):
        names = sorted(frame[column].unique())
        out[column] = pd.Categorical(frame[column], categories=names).codes.astype(float)
    return out


def boosted_trees(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Histogram gradient boosting of log TTFT and log TPOT, absolute error, weight one a measurement."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    # learn from what the measurements settled, predict with what is known without them
    known = train.assign(mtp=train.mtp_fit)
    both = features(pd.concat([known, test]))  # one coding of the names; targets play no part
    fit, ask = both.iloc[: len(train)], both.iloc[len(train) :]
    out = []
    for target in TARGETS:
        regressor = HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=250, learning_rate=0.08, min_samples_leaf=8, random_state=0
        )
        with threadpool_limits(1):  # small data: more threads wait for each other
            regressor.fit(fit.to_numpy(), np.log(train[target].to_numpy()), sample_weight=train.weight)
            out.append(np.exp(regressor.predict(ask.to_numpy())))
    return out[0], out[1]


def roofline(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Ideal times of `physical` times one factor a target and mode: the median over the training rows."""
    ideal_train, ideal_test = physical(train), physical(test)
    out = []
    for target, column in zip(TARGETS, ("prefill_s", "step_s")):
        ratio = train[target] / (1e3 * ideal_train[column])
        factor = test["mode"].map(ratio.groupby(train["mode"]).median()).fillna(ratio.median())
        out.append((factor * 1e3 * ideal_test[column]).to_numpy())
    return out[0], out[1]


PREDICTORS: dict[str, Predictor] = {"roofline": roofline, "trees": boosted_trees}


def evaluate(
    frame: pd.DataFrame,
    predictors: dict[str, Predictor] | None = None,
    kinds: tuple[str, ...] = SPLITS,
    anchored: tuple[str, ...] = (),
    seed: int = 0,
    suspects: bool = True,
) -> pd.DataFrame:
    """Errors of predictors on the same splits; a measurement counts once. `suspects`: judge the suspect rows too.

    Returns one row a (split, mode, predictor, target): n (distinct measurements), median and mean of the
    absolute relative error and the median of the signed one, in %. Kinds in `anchored` run a second time
    with anchors, named `<kind>+anchor`.
    """
    results = []
    plans = [(k, False) for k in kinds] + [(k, True) for k in anchored]
    for kind, anchor in plans:
        predicted: dict[str, list[pd.DataFrame]] = {}
        for split in make_splits(frame, kind, seed=seed, anchored=anchor):
            train, test = _rows(frame, split)
            if not len(test) or not len(train):
                continue
            if not suspects:
                test = test[test.suspect == ""]
            for name, predict in (predictors or PREDICTORS).items():
                ttft, tpot = predict(train, test)
                predicted.setdefault(name, []).append(
                    test[["measurement_id", "mode", *TARGETS]].assign(pred_ttft_ms=ttft, pred_tpot_ms=tpot)
                )
        for name, parts in predicted.items():
            results += _errors(pd.concat(parts), kind + ("+anchor" if anchor else ""), name)
    return pd.DataFrame(results)


def _rows(frame: pd.DataFrame, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    train = frame.loc[np.concatenate([split.train, split.anchors]).astype(frame.index.dtype)]
    return train[train.suspect == ""], frame.loc[split.test]  # suspects are predicted, never learnt from


def _errors(rows: pd.DataFrame, split: str, name: str) -> list[dict]:
    """One row of errors a mode and target; the labels of one measurement are averaged first."""
    out = []
    for mode, part in rows.groupby("mode"):
        for target in TARGETS:
            relative = part[f"pred_{target}"] / part[target] - 1.0
            signed = relative.groupby(part.measurement_id).mean().dropna()
            size = relative.abs().groupby(part.measurement_id).mean().dropna()
            out.append(
                {
                    "split": split,
                    "mode": mode,
                    "predictor": name,
                    "target": target.removesuffix("_ms"),
                    "n": len(size),
                    "median": 100 * size.median(),
                    "mean": 100 * size.mean(),
                    "signed": 100 * signed.median(),
                }
            )
    return out


def table(results: pd.DataFrame) -> str:
    """Markdown: one line a (split, mode, predictor), median / mean / signed of TTFT and TPOT."""
    lines = [
        "| split | mode | n | predictor | TTFT median / mean / signed, % | TPOT median / mean / signed, % |",
        "|---|---|---|---|---|---|",
    ]
    for (split, mode, name), part in results.groupby(["split", "mode", "predictor"], sort=False):
        cells = {r.target: f"{r.median:.1f} / {r.mean:.1f} / {r.signed:+.1f}" for r in part.itertuples()}
        lines.append(f"| {split} | {mode} | {part.n.iloc[0]} | {name} | {cells['ttft']} | {cells['tpot']} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--serving", type=Path, default=None, help="default: serving/train.csv of MIST_DATA_DIR"
    )
    args = parser.parse_args()
    frame = read_serving(args.serving)
    print(table(evaluate(frame, anchored=("system", "model"))))


if __name__ == "__main__":
    main()
