"""The closed-loop serving measurements as one canonical table: no row is dropped, each has a status."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pandas as pd

from calibration.datasets import serving_cleaning as cleaning
from calibration.datasets.names import MODELS, snake
from calibration.datasets.recipes import Pool, Recipe

#: TPOT with speculative decoding / without, below which two measurements of a set-up differ by it, not by
#: noise: measured pairs have 0.44-0.84, reruns 0.9-1.1 (DATA.md)
_MTP_GAP = 0.88
POOL_FIELDS = ("replicas", "tp", "pp", "dp", "moe_tp", "ep", "gpus")
DEPLOYMENT_FIELDS = (
    "mode",
    "model",
    "system",
    "engine",
    "weight_precision",
    "expert_precision",
    "isl",
    "osl",
    *(f"prefill_{f}" for f in POOL_FIELDS),
    *(f"decode_{f}" for f in POOL_FIELDS),
    "mtp_fit",
)


def data_dir() -> Path:
    """Folder of the public measurements: `MIST_DATA_DIR`, else `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("MIST_DATA_DIR", default))


def read_serving(path: str | Path | None = None, use_measurements: bool = True) -> pd.DataFrame:
    """Rows in the form of `serving/train.csv` → canonical rows, in the order of the file.

    Args:
        path: the CSV; measured columns (`silicon_ttft_ms`, `silicon_tpot_ms`) may be absent. None: train.csv.
        use_measurements: let a lossy row take the layout of the complete row that holds the same measurement,
            and let measurements settle `mtp_fit`. False where rows are to be predicted: then nothing but
            ttft_ms, tpot_ms, measurement_id and weight depends on the measured columns.

    Returns a frame with
        id, status (ok | repaired | refused), reason (of the repair or refusal; '; ' between several),
        system, engine, version, version_family, image, date, dump, source,
        model (key in conf/model), model_file (stem of the config.json or ''), weight_precision,
        expert_precision, kv_precision,
        mode (agg | disagg), isl, osl (nominal tokens), length_mean (mean length / nominal: 0.9 or 1.0),
        concurrency (requests in flight),
        prefill_*, decode_* for replicas, tp, pp, dp, moe_tp, ep, gpus (gpus of all workers of the pool; an
        aggregated row has the same pool in both), n_gpus,
        layout_source (row | recipe | ambiguous | assumed | total), max_batch (decode engine's limit per
        attention-DP rank as launched, nan if not stated), slots (max_batch x DP x decode workers),
        decode_batch (concurrency per attention-DP rank of a decode worker, slots not heeded),
        mtp (probability of speculative decoding, known without measuring), mtp_depth (drafted tokens per
        step, nan unknown), mtp_fit (as mtp, but 0 or 1 where the measurements of a pair tell),
        suspect ('' or why a measurement should not be fitted although it can be predicted),
        ttft_ms, tpot_ms (nan if absent),
        deployment (all concurrencies of one set-up), measurement_id (equal for one measurement under several
        labels), weight (1 / rows of that measurement).

    Raises ValueError only if the file lacks the columns that name a configuration.
    """
    path = data_dir() / "serving" / "train.csv" if path is None else Path(path)
    raw = pd.read_csv(path, low_memory=False)
    missing = {"id", "model_path", "system", "backend", "isl", "osl"} - set(raw.columns)
    if missing:
        raise ValueError(
            f"{path}: columns {sorted(missing)} are missing; the form is that of serving/train.csv"
        )
    frame = pd.DataFrame([canonical_row(row) for row in raw.to_dict("records")])
    frame["measurement_id"] = _measurement_ids(frame)
    frame["layout_seen"] = False
    if use_measurements:
        _inherit_layouts(frame)
    frame["mtp_fit"] = _observed_mtp(frame) if use_measurements else frame.mtp
    frame["slots"] = frame.max_batch * frame.decode_dp * frame.decode_replicas
    frame["deployment"] = _deployments(frame)
    usable = frame.status != "refused"
    count = frame[usable].groupby("measurement_id").id.transform("size")
    frame["weight"] = (1.0 / count).reindex(frame.index).fillna(0.0)
    return frame.drop(columns="layout_seen")


def canonical_row(row: dict) -> dict:
    """One raw row (column → value) → one canonical row without the columns that need the whole file."""
    notes = cleaning.Notes()
    text = {k: ("" if _blank(v) else str(v)) for k, v in row.items()}
    source = cleaning.parse_source(text.get("silicon_data_source", ""))
    system, engine, model = cleaning.resolve_names(text, notes)
    label = text.get("precision", "")
    weights, experts, kv = cleaning.precisions(
        model, label, text.get("gemm_quant_mode", ""), text.get("moe_quant_mode", ""), notes
    )
    if engine == "vllm" and system == "h100_sxm":
        kv = "bf16"  # where the cache binds, 16-bit entries fit the tokens held; elsewhere 8-bit (DATA.md)
    isl, osl = cleaning.number(row.get("isl")), cleaning.number(row.get("osl"))
    if not (isl >= 1 and osl >= 1):
        notes.refusals.append(f"lengths {text.get('isl')}/{text.get('osl')} are not positive")
    mode = "disagg" if text.get("mode", "agg").startswith("dis") else "agg"
    state = dict(row) | {"isl": isl, "osl": osl}
    state["concurrency"] = cleaning.number(source.get("silicon_concurrency"))
    image_version = source["image"].rsplit(":", 1)[-1].removeprefix("v")
    out = {
        "id": text.get("id", ""),
        "system": system,
        "engine": engine,
        "version": text.get("backend_version") or image_version,
        "version_family": cleaning.version_family(
            engine, text.get("backend_version", ""), source["image"], source["date"]
        ),
        "image": source["image"],
        "date": source["date"],
        "dump": source["dump"],
        "source": text.get("silicon_data_source", ""),
        "model": model,
        "model_file": _model_file(model, text.get("model_path", "")),
        "weight_precision": weights,
        "expert_precision": experts,
        "kv_precision": kv,
        "isl": isl,
        "osl": osl,
        "length_mean": 0.9
        if source["dump"] in cleaning.DUMPS or "gap-analysis.csv" in source["dump"]
        else 1.0,
    }
    if source["dump"].startswith("qwen3.5"):
        out["length_mean"] = 0.9
    total = cleaning.number(row.get("tp_size"))
    # older rack runs: an aggregated label whose tp is the sum of both pools (see DATA.md)
    split = (
        system in ("gb200", "gb300") and mode == "agg" and (total > 8) and source["dump"] in cleaning.DUMPS
    )
    if mode == "disagg" or split:
        layout = _disaggregated(
            state, model, system, engine, label, source, notes, total if split else math.nan
        )
        mode = "disagg"
    else:
        layout = _aggregated(state, model, system, engine, label, source, notes)
    out |= layout | {"mode": mode}
    if not out["concurrency"] >= 1:
        notes.refusals.append("no concurrency and no batch size")
    heads = MODELS[model].heads if model in MODELS else 0
    for pool in ("prefill", "decode"):
        tp = out[f"{pool}_tp"]
        if heads and tp and heads % tp:
            notes.repairs.append(f"{pool} TP{tp} does not divide {heads} heads: sharded as the average")
    ttft, tpot = cleaning.number(row.get("silicon_ttft_ms")), cleaning.number(row.get("silicon_tpot_ms"))
    out["ttft_ms"] = ttft if ttft > 0 else math.nan
    out["tpot_ms"] = tpot if tpot > 0 else math.nan
    out["suspect"] = cleaning.suspect(out)
    out["status"] = "refused" if notes.refusals else "repaired" if notes.repairs else "ok"
    out["reason"] = "; ".join(dict.fromkeys(notes.refusals + notes.repairs))
    return out


def _model_file(model: str, name: str) -> str:
    """Stem of the model's config.json among the public data; also of one that no table names."""
    if model in MODELS:
        return MODELS[model].file or ""
    bare = snake(name).replace("_", "")
    stems = {
        snake(p.stem.split("--")[-1]).replace("_", ""): p.stem for p in (data_dir() / "models").glob("*.json")
    }
    return max(
        ((k, v) for k, v in sorted(stems.items()) if bare.startswith(k)),
        default=("", ""),
        key=lambda x: len(x[0]),
    )[1]


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _pool_fields(prefix: str, pool: Pool) -> dict:
    values = (pool.replicas, pool.tp, 1, pool.dp, pool.moe_tp, pool.ep, pool.gpus)
    return {f"{prefix}_{name}": value for name, value in zip(POOL_FIELDS, values)}


def _assemble(prefill: Pool, decode: Pool, concurrency: float, origin: str, aggregated: bool) -> dict:
    return {
        **_pool_fields("prefill", prefill),
        **_pool_fields("decode", decode),
        "n_gpus": decode.gpus if aggregated else prefill.gpus + decode.gpus,
        "concurrency": concurrency,
        "decode_batch": concurrency / (decode.replicas * decode.dp),
        "layout_source": origin,
        "max_batch": math.nan,
        "mtp": 0.0,
        "mtp_depth": math.nan,
    }


def _aggregated(row: dict, model: str, system: str, engine: str, label: str, source: dict, notes) -> dict:
    pool = cleaning.aggregated_layout(row, source["dump"], model, notes)
    concurrency = row["concurrency"]
    if not concurrency >= 1:
        concurrency = cleaning.number(row.get("batch_size")) * pool.dp * pool.replicas
        if concurrency >= 1:
            notes.repairs.append("no concurrency stated: batch size x attention DP")
    pp = cleaning.number(row.get("pp_size"))
    out = _assemble(pool, pool, concurrency, "row", True)
    if pp > 1:
        out |= {"prefill_pp": int(pp), "decode_pp": int(pp), "n_gpus": int(pool.gpus * pp)}
    facts = {"concurrency": concurrency, "isl": row["isl"], "tp": pool.tp, "ep": pool.ep}
    out["mtp"] = cleaning.aggregated_mtp(model, engine, system, label, facts, source)
    if out["mtp"] > 0:
        out["mtp_depth"] = 1.0 if engine == "trtllm" and pool.dp > 1 else cleaning.drafted(model, engine)
        notes.repairs.append(
            "speculative decoding, unlabelled" if out["mtp"] == 1 else "speculative decoding possible"
        )
    return out


def _disaggregated(
    row: dict, model: str, system: str, engine: str, label: str, source: dict, notes, total: float
) -> dict:
    concurrency = row["concurrency"]
    prefill, decode = cleaning.pool_columns(row, "prefill"), cleaning.pool_columns(row, "decode")
    isl, osl = (int(row[k]) if row[k] >= 1 else 1 for k in ("isl", "osl"))
    if prefill is not None and decode is not None:
        if not concurrency >= 1:
            concurrency = cleaning.number(row.get("decode_batch_size")) * decode.replicas * decode.dp
            notes.repairs.append("no concurrency stated: decode batch x workers x attention DP")
        out = _assemble(prefill, decode, concurrency, "row", False)
        requests = int(concurrency) if concurrency >= 1 else 0
        known = cleaning.recipe_candidates(
            model, system, engine, label, isl, osl, requests, _gpu_columns(prefill, decode)
        )
        same = [r for r in known if r.speculative == 0 and r.decode.replicas == decode.replicas]
        if same and same[0].max_batch:
            out["max_batch"] = float(same[0].max_batch)
        return out
    if math.isnan(total):
        gpus = (cleaning.number(row.get("prefill_tp_size")), cleaning.number(row.get("decode_tp_size")))
        whole = (gpus[0] == gpus[1] and gpus[0] > 16) or (gpus == (1, 1) and model == "deepseek_r1")
        if whole:  # the older dump wrote the sum of both pools into each, or 1
            gpus = (gpus[0], math.nan) if gpus[0] > 16 else (math.nan, math.nan)
    else:
        gpus = (total, math.nan)
    requests = int(concurrency) if concurrency >= 1 else 0
    found = cleaning.recipe_candidates(model, system, engine, label, isl, osl, requests, row)
    origin, mtp, depth = "recipe", 0.0, math.nan
    if found and math.isnan(total):
        off = [r for r in found if r.speculative == 0]
        share = 1.0 - len(off) / len(found)
        mtp = cleaning.disaggregated_mtp(share, engine, system, label, source)
        on = [r for r in found if r.speculative != 0]
        recipe = (on if mtp == 1 else off or on)[0]
        depths = [r.speculative for r in on]
        if depths:
            depth = cleaning.drafted(model, engine) if math.isnan(depths[0]) else depths[0]
        origin = "recipe" if len({(r.prefill, r.decode) for r in found}) == 1 else "ambiguous"
        lost = "attention DP and worker counts lost: taken from the launch recipe"
        notes.repairs.append(lost if origin == "recipe" else lost + f" ({len(found)} agree)")
    else:
        recipe = cleaning.nearest_recipe(model, system, engine, label, isl, osl, max(requests, 1), *gpus)
        origin = "total" if math.isnan(gpus[1]) else "assumed"
        if recipe is None:
            recipe = _plain_recipe(gpus, concurrency)
        if engine == "trtllm" and model == "deepseek_r1":  # both modes were run; the launch is not known
            mtp = 0.3 if recipe.speculative == 0 else 0.6
        notes.repairs.append(
            "both pools in one GPU count: split as in the nearest known launch"
            if origin == "total"
            else "attention DP and worker counts lost: as in the nearest known launch"
        )
    if mtp > 0:
        notes.repairs.append(
            "speculative decoding, unlabelled" if mtp == 1 else "speculative decoding possible"
        )
    out = _assemble(recipe.prefill, recipe.decode, concurrency, origin, False)
    out |= {
        "mtp": mtp,
        "mtp_depth": depth,
        "max_batch": float(recipe.max_batch) if recipe.max_batch else math.nan,
    }
    return out


def _gpu_columns(prefill: Pool, decode: Pool) -> dict:
    return {
        "prefill_tp_size": prefill.tp * prefill.dp,
        "decode_tp_size": decode.tp * decode.dp,
        "prefill_moe_ep_size": prefill.ep,
    }


def _plain_recipe(gpus: tuple[float, float], concurrency: float) -> Recipe:
    """One worker a pool when nothing similar is known; attention DP from 16 requests a GPU on."""
    sizes = [int(g) if g >= 1 else 8 for g in gpus]
    shared = concurrency >= 16 * sizes[1]
    prefill = Pool(1, sizes[0], 1, sizes[0], 1)
    decode = Pool(1, 1, sizes[1], 1, sizes[1]) if shared else Pool(1, sizes[1], 1, sizes[1], 1)
    return Recipe(0.0, prefill, decode, 0)


def _measurement_ids(frame: pd.DataFrame) -> pd.Series:
    """Equal (TTFT, TPOT) of one system and lengths = one measurement; a row without them is its own.

    The sources round differently (some to 0.01 ms), hence two decimals of both.
    """
    has = frame.ttft_ms.notna() & frame.tpot_ms.notna()
    key = [
        f"{s}|{i:g}|{o:g}|{a:.2f}|{b:.2f}" if ok else f"row|{n}"
        for n, (s, i, o, a, b, ok) in enumerate(
            zip(frame.system, frame.isl, frame.osl, frame.ttft_ms, frame.tpot_ms, has)
        )
    ]
    return pd.Series(pd.factorize(pd.Series(key))[0], index=frame.index)


def _inherit_layouts(frame: pd.DataFrame) -> None:
    """A lossy row that repeats the measurement of a complete row gets that row's layout."""
    columns = [f"{p}_{f}" for p in ("prefill", "decode") for f in POOL_FIELDS]
    columns += ["n_gpus", "decode_batch", "layout_source", "mode", "max_batch"]
    whole = frame[frame.dump.str.startswith("db-dump") & frame.ttft_ms.notna()].drop_duplicates(
        "measurement_id"
    )
    donors = whole.set_index("measurement_id")
    lossy = frame.index[~frame.dump.str.startswith("db-dump") & frame.measurement_id.isin(donors.index)]
    frame["layout_seen"] = frame.index.isin(lossy)
    for column in columns if len(lossy) else ():
        frame.loc[lossy, column] = donors.loc[frame.loc[lossy, "measurement_id"], column].to_numpy()


def _observed_mtp(frame: pd.DataFrame) -> pd.Series:
    """`mtp`, settled by measurement: a row that repeats one without speculation is without; a row with a
    counterpart known to be without is with it if its TPOT is under 0.88 of the counterpart's (the gap between
    the two modes of the measured pairs, see DATA.md).
    """
    mtp = frame.mtp.copy()
    mtp[frame.layout_seen] = 0.0
    keys = ["mode", "model", "system", "engine", "expert_precision", "isl", "osl", "concurrency", "n_gpus"]
    distinct = frame.tpot_ms.notna() & ~frame.duplicated("measurement_id")
    for _, group in frame[frame.tpot_ms.notna()].groupby(keys):
        chance = mtp[group.index]
        unsettled = group.index[(chance > 0) & (chance < 1)]
        if not len(unsettled):
            continue
        without = group.tpot_ms[chance == 0]
        reference = without.median() if len(without) else group.tpot_ms[distinct[group.index]].max()
        fast = group.tpot_ms[unsettled] < _MTP_GAP * reference
        if len(without) or fast.any():
            mtp[unsettled] = fast.astype(float)
    return mtp


def _deployments(frame: pd.DataFrame) -> pd.Series:
    """Readable key of all concurrencies of one set-up."""

    def pool(row: object, prefix: str) -> str:
        r, tp, dp, ep = (int(getattr(row, f"{prefix}_{k}")) for k in ("replicas", "tp", "dp", "ep"))
        return f"{r}xTP{tp}DP{dp}EP{ep}"

    keys = []
    for row in frame.itertuples():
        lay = pool(row, "decode") if row.mode == "agg" else f"{pool(row, 'prefill')}+{pool(row, 'decode')}"
        keys.append(
            f"{row.model}|{row.system}|{row.engine}|{row.weight_precision}-{row.expert_precision}|"
            f"{row.isl:g}/{row.osl:g}|{row.mode}|{lay}|mtp{row.mtp_fit:.2g}"
        )
    return pd.Series(keys, index=frame.index)
