"""What the serving rows say wrongly or not at all, and how each fault is undone. DATA.md holds the counts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from calibration.datasets.names import MODELS, model_key, snake, system_key
from calibration.datasets.recipes import Pool, Recipe, recipes

#: what a backend's name contains → engine
ENGINES = {"trt": "trtllm", "tensorrt": "trtllm", "sgl": "sglang", "vllm": "vllm"}
#: weights, experts and KV cache behind a precision label; gpt-oss and the like override the experts
PRECISIONS = {
    "fp4": ("nvfp4", "nvfp4", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4", "fp8"),
    "mxfp4": ("bf16", "mxfp4", "bf16"),
    "fp8": ("fp8", "fp8", "fp8"),
    "fp8_block": ("fp8", "fp8", "fp8"),
    "int8": ("int8", "int8", "bf16"),
    "int4": ("bf16", "int4", "bf16"),
    "bf16": ("bf16", "bf16", "bf16"),
    "float16": ("bf16", "bf16", "bf16"),
    "fp16": ("bf16", "bf16", "bf16"),
}
_SPELLINGS = (
    ("mxfp4", "mxfp4"),
    ("fp4", "fp4"),
    ("fp8", "fp8"),
    ("w8a8", "int8"),
    ("int8", "int8"),
    ("w4a16", "int4"),
    ("int4", "int4"),
    ("awq", "int4"),
    ("gptq", "int4"),
)
DUMPS = (
    "2026-03-25",
    "2026-04-06",
    "db-dump/2026-04-27",
)  # InferenceX exports; the rest are fixed-length runs
_MTP_IMAGES = ("1.2.0rc6.post3",)  # TensorRT-LLM: the recipes use this release only with speculation
#: disaggregated SGLang on B200: (labelled precision, date, end of the image) → whether that run speculates. Of launches
#: that exist in one mode alone each of these runs has those of one mode, and no launch twice.
_RUN_SPECULATES = {
    ("fp8", "2026-02-07", ""): 0.0,
    ("fp8", "2026-02-13", ""): 1.0,
    ("fp4", "2026-02-11", "-runtime"): 0.0,
    ("fp4", "2026-02-11", "cu130"): 1.0,
}
_EP_PRODUCT_DUMPS = ("2026-04-06", "db-dump/2026-04-27")


@dataclass
class Notes:
    """Repairs and refusals of one row, in the order they were made."""

    repairs: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def number(value: object) -> float:
    """A finite float, nan for blanks and text."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def parse_source(text: str) -> dict[str, str]:
    """Fields of `silicon_data_source`: dump, concurrency, date, image, config_id, path."""
    fields: dict[str, str] = {}
    for part in str(text).split("; "):
        key, mark, value = part.partition("=")
        if mark and "/" not in key:
            fields[key.strip()] = value.strip()
        elif part.startswith("db-dump/"):
            fields["dump"] = part
        elif ":" in part:
            fields.setdefault("image", part.strip())
    path = fields.get("source_file", "")
    if "dump" not in fields:
        name = path.rsplit("/", 1)[-1].removesuffix(".csv")
        fields["dump"] = "gap-analysis" if "gap-analysis/data/" in path else (name or "unknown")
    fields["image"] = fields.get("image", "").replace("#", "/").rsplit("/", 1)[-1]
    fields["date"] = fields.get("measured", "")[:10]
    return fields


def version_family(engine: str, version: str, image: str, date: str) -> str:
    """Release line of the engine (`1.2`, `0.5.9`, `0.19`); Dynamo runtimes keep their own numbering."""
    text = version or image.rsplit(":", 1)[-1]
    dynamo = engine == "trtllm" and bool(re.match(r"v?0\.", text))
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text.replace("cu130", "").replace("cu129", ""))
    if found:
        major, minor, patch = found.groups()
        line = f"{major}.{minor}.{patch}" if engine == "sglang" and not dynamo else f"{major}.{minor}"
        return f"dynamo-{line}" if dynamo else line
    if "nightly" in text or "dev" in text or "glm5" in text:
        return "nightly"
    return f"{date[:4]}H{1 if date[5:7] < '07' else 2}" if date else "unknown"


def precisions(model: str, label: str, gemm: str, moe: str, notes: Notes) -> tuple[str, str, str]:
    """(weights, experts, KV cache) of a row."""
    known = MODELS.get(model)
    key = (label or gemm or moe or "").lower()
    if known and known.native:
        weights = "fp8" if known.native != "int4" and "deepseek" in model else "bf16"
        if key and PRECISIONS.get(key, ("", "", ""))[1] != known.native:
            notes.repairs.append(f"precision label {key}: {model} ships {known.native} experts")
        if model == "kimi_k2_5" and "fp4" in key:
            return "bf16", "nvfp4", "fp8"  # NVFP4 re-quantization of the experts
        return weights, known.native, "bf16" if "gpt_oss" in model else "fp8"
    if key not in PRECISIONS:
        # spelled otherwise: w4a16, fp8_dynamic, modelopt_fp4
        near = [(mark, k) for mark, k in _SPELLINGS if mark in key]
        key = near[0][1] if near else key
    if key not in PRECISIONS:
        notes.repairs.append(f"precision {key or 'blank'}: taken as bf16")
        key = "bf16"
    weights, experts, kv = PRECISIONS[key]
    if key == "fp4" and ("deepseek" in model or "kimi" in model or "glm" in model):
        weights = "fp8" if gemm == "fp8" else weights
    return weights, experts, kv


def aggregated_mtp(model: str, engine: str, system: str, label: str, row: dict, source: dict) -> float:
    """Probability that an aggregated row ran with speculative decoding, from what is known before measuring.

    Launch recipes (see recipes.py) plus dates: the 2026-04-27 dump holds only runs without; TensorRT-LLM
    images 1.2.0rc6.post3, and 1.1.0rc2.post2 from 2026-01 on, were launched with it; where both were run on
    one image, each is as likely as the other.
    """
    dump, image, date = source["dump"], source["image"], source["date"]
    known = MODELS.get(model)
    if dump.startswith("db-dump") or dump not in DUMPS or known is None or not known.draft:
        return 0.0
    if model.startswith("minimax"):
        return 0.0
    concurrency, isl, tp, ep = row["concurrency"], row["isl"], row["tp"], row["ep"]
    if engine == "trtllm":
        if any(tag in image for tag in _MTP_IMAGES):
            return 1.0
        return float("1.1.0rc2.post2" in image and date >= "2026-01")
    if (
        model.startswith("deepseek")
        and system == "b200_sxm"
        and label == "fp8"
        and "0.5.9" in image
        and tp == 8
    ):
        if concurrency > 64 or (isl == 8192 and concurrency > 4):
            return 1.0  # beyond what the recipe without speculation runs at TP8
        return 0.5
    if model.startswith("qwen3_5") and label == "fp8" and "0.5.9" in image:
        return float("amd64" not in image and system == "b200_sxm" and ep == 1)
    return 0.0


def disaggregated_mtp(share: float, engine: str, system: str, label: str, source: dict) -> float:
    """Probability of speculative decoding, from the `share` of the launches that agree and from the run."""
    if engine == "sglang" and system == "b200_sxm" and 0.0 < share < 1.0:
        for (precision, date, ending), known in _RUN_SPECULATES.items():
            if (label, source["date"]) == (precision, date) and source["image"].endswith(ending):
                return known
    return share


def aggregated_layout(row: dict, dump: str, model: str, notes: Notes) -> Pool:
    """Parallelism of an aggregated row; undoes the product of TP and EP, the lost DP, and replicas."""
    tp, dp, ep, moe_tp = (
        number(row.get(k)) for k in ("tp_size", "attention_dp_size", "moe_ep_size", "moe_tp_size")
    )
    concurrency, batch = row["concurrency"], number(row.get("batch_size"))
    tp = tp if tp >= 1 else 1.0
    ep = ep if ep >= 1 else 1.0
    moe_tp = moe_tp if moe_tp >= 1 else 1.0
    known = MODELS.get(model)
    is_moe = known.moe if known else moe_tp * ep > 1
    replicas = 1.0
    if dump in _EP_PRODUCT_DUMPS:
        if ep > 1 and moe_tp > 1 and tp == moe_tp * ep:  # 64 = 8 x 8: TP8 EP8 on 8 GPUs
            notes.repairs.append(f"tp {tp:.0f} is the product of TP and EP")
            tp, moe_tp = moe_tp, 1.0
        elif ep > 1 and tp > 1 and dp == tp and ep == tp * dp:  # tp4 dp4 ep16: TP4 EP4, batch divided by dp
            notes.repairs.append(f"tp {tp:.0f} dp {dp:.0f} ep {ep:.0f} is TP{tp:.0f} EP{tp:.0f}")
            dp, ep, moe_tp = 1.0, tp, 1.0
        elif dp > 1 and ep > 1 and moe_tp > 1 and dp == moe_tp * ep:  # dp 64 = 8 x 8: DP8 EP8
            notes.repairs.append(f"dp {dp:.0f} is the product of DP and EP")
            dp, tp, moe_tp = ep, 1.0, 1.0
        elif ep > 1 and tp * max(dp, 1.0) != moe_tp * ep and moe_tp > 1 and tp == ep * moe_tp:
            tp = moe_tp
    if not dp >= 1:
        dp = max(moe_tp * ep / tp, 1.0) if is_moe else 1.0
        dp = dp if dp == round(dp) else 1.0
        if dp > 1:
            notes.repairs.append(f"blank attention DP: {dp:.0f} from the experts' sharding")
    if is_moe and tp * dp != moe_tp * ep:
        if (tp * dp) % ep == 0:
            if moe_tp * ep > 1:
                notes.repairs.append(
                    f"TP x DP = {tp * dp:.0f} but MoE TP x EP = {moe_tp * ep:.0f}: MoE TP set"
                )
            moe_tp = tp * dp / ep
        else:
            notes.repairs.append(f"TP x DP = {tp * dp:.0f} not divisible by EP {ep:.0f}: EP set to 1")
            ep, moe_tp = 1.0, tp * dp
    elif not is_moe:
        ep, moe_tp = 1.0, tp * dp
    if dump not in DUMPS and batch >= 1 and concurrency >= 1:
        ratio = concurrency / (batch * dp)
        if ratio > 1 and ratio == round(ratio):
            replicas = ratio
            notes.repairs.append(f"concurrency / batch = {ratio:.0f}: replicas behind one router")
    return Pool(int(replicas), int(tp), int(dp), int(moe_tp), int(ep))


def pool_columns(row: dict, prefix: str) -> Pool | None:
    """The pool as written in a disaggregated row; None if the worker count is lost."""
    workers, tp, dp, moe_tp, ep = (
        number(row.get(f"{prefix}_{k}"))
        for k in ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    if not (workers >= 1 and tp >= 1):
        return None
    dp = dp if dp >= 1 else 1.0
    ep = ep if ep >= 1 else 1.0
    moe_tp = tp * dp / ep if (tp * dp) % ep == 0 else tp * dp
    return Pool(int(workers), int(tp), int(dp), int(moe_tp), int(ep))


def recipe_candidates(
    model: str, system: str, engine: str, label: str, isl: int, osl: int, concurrency: int, row: dict
) -> list[Recipe]:
    """Known launches that agree with the GPU counts per worker that a lossy row still states."""
    prefill, decode, ep = (
        number(row.get(k)) for k in ("prefill_tp_size", "decode_tp_size", "prefill_moe_ep_size")
    )
    found = [
        r
        for r in recipes().get((model, system, engine, label, isl, osl, concurrency), ())
        if r.prefill.tp * r.prefill.dp == prefill and r.decode.tp * r.decode.dp == decode
    ]
    return [r for r in found if r.prefill.ep == ep] or found


def nearest_recipe(
    model: str,
    system: str,
    engine: str,
    label: str,
    isl: int,
    osl: int,
    concurrency: int,
    prefill: float,
    decode: float,
) -> Recipe | None:
    """The launch of the nearest relative: same GPUs a worker, then closest lengths, precision, concurrency.

    `decode` may be nan, when `prefill` is the total of both pools; with both nan every launch is a candidate.
    """
    best, best_distance = None, math.inf
    for (m, s, e, p, i, o, c), launches in recipes().items():
        if m != model and m != "deepseek_r1":
            continue
        for r in launches:
            if math.isnan(decode):
                fits = math.isnan(prefill) or r.prefill.gpus + r.decode.gpus == prefill
            else:
                fits = r.prefill.tp * r.prefill.dp == prefill and r.decode.tp * r.decode.dp == decode
            if not fits:
                continue
            distance = abs(math.log(max(concurrency, 1) / c))
            distance += 1.0 * abs(math.log((isl / osl) / (i / o))) / math.log(8.0)
            distance += 0.3 * (r.speculative != 0) + 2.0 * (e != engine) + 1.0 * (s != system)
            distance += 0.7 * (p != label) + 1.0 * (m != model)
            if distance < best_distance:
                best, best_distance = r, distance
    return best


def resolve_names(row: dict, notes: Notes) -> tuple[str, str, str]:
    """(system, engine, model) keys; unknown names stay usable and are said to be unknown."""
    system = system_key(str(row.get("system", "")))
    if system is None:
        system = snake(str(row.get("system", ""))) or "unknown"
        notes.repairs.append(f"unknown system {row.get('system')}")
    backend = re.sub(r"[^a-z]", "", str(row.get("backend", "")).lower())
    engine = next((key for mark, key in ENGINES.items() if mark in backend), "")
    if not engine:
        engine = "vllm"
        notes.repairs.append(f"unknown engine {row.get('backend')}: taken as vllm")
    name = str(row.get("model_path", ""))
    model = model_key(name)
    if model is None:
        model = snake(name) or "unknown"
        notes.repairs.append(f"unknown model {name}")
    elif model == "deepseek_v3":
        model = "deepseek_r1"  # one architecture
        if str(row.get("id", "")).startswith("dsr1"):
            notes.repairs.append("DeepSeek-R1 run labelled DeepSeek-V3")
    return system, engine, model


def drafted(model: str, engine: str) -> float:
    """Tokens drafted per iteration where the launch's name does not say.

    SGLang's launches of DeepSeek-R1 take two steps (`speculative-num-steps: 2`, `num-draft-tokens: 3` counts the root:
    github.com/NVIDIA/srt-slurm, recipes/h200 and recipes/b200-fp8, Apache-2.0), the others three.
    """
    return 2.0 if engine == "sglang" and model == "deepseek_r1" else 3.0


def suspect(row: dict) -> str:
    """Series that contradict themselves, named by what they have in common (DATA.md, "suspect")."""
    date = row["date"]
    if row["model"] == "qwen3_32b" and row["system"] == "gb200" and date in ("2026-03-22", "2026-03-23"):
        return "TPOT rises and falls with concurrency"
    if row["engine"] == "sglang" and date == "2025-11-10" and row["system"] == "b200_sxm":
        return "TTFT holds seconds of start-up work"
    if row["model"] == "gpt_oss_120b" and row["concurrency"] == 512 and date in ("2025-12-05", "2025-12-08"):
        return "TPOT of a batch of six at concurrency 512"
    if row["dump"] == "gap-analysis" and row["model"] == "deepseek_r1" and row["system"] == "b200_sxm":
        return "TPOT of 90 ms whatever the load"
    if row["dump"] == "gap-analysis" and row["model"] == "llama3_1_8b" and row["engine"] == "vllm":
        return "prompts at up to 96 % of the peak FLOP/s: found in the prefix cache"
    return ""
