"""One table of the names under which models and systems appear in public measurements."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ModelName:
    """A model's key in conf/model, the stem of its config.json (None: not at hand), and its shape in short.

    `heads` is the number of query heads (0 unknown), `moe` whether it has routed experts, `draft` whether the
    checkpoint ships multi-token-prediction layers, `native` the precision of the published expert weights
    where every deployment uses it.
    """

    key: str
    file: str | None
    heads: int = 0
    moe: bool = False
    draft: bool = False
    native: str | None = None


#: heads, experts and draft layers: each model's Hugging Face config.json
_MODELS = (
    ModelName("deepseek_r1", "deepseek-ai--DeepSeek-R1", 128, True, True),
    ModelName("deepseek_v3", "deepseek-ai--DeepSeek-V3", 128, True, True),
    ModelName("deepseek_v3_2", "deepseek-ai--DeepSeek-V3.2", 128, True, True),
    ModelName("deepseek_v4_flash", "deepseek-ai--DeepSeek-V4-Flash", 64, True, True, "mxfp4"),
    ModelName("deepseek_v4_pro", "deepseek-ai--DeepSeek-V4-Pro", 128, True, True, "mxfp4"),
    ModelName("gpt_oss_120b", "openai--gpt-oss-120b", 64, True, False, "mxfp4"),
    ModelName("gpt_oss_20b", "openai--gpt-oss-20b", 64, True, False, "mxfp4"),
    ModelName("minimax_m2_5", "MiniMaxAI--MiniMax-M2.5", 48, True, True),
    ModelName("minimax_m2_7", "MiniMaxAI--MiniMax-M2.7", 48, True, True),
    ModelName("minimax_m3", "MiniMaxAI--MiniMax-M3", 64, True, True),
    ModelName("qwen3_5_397b_a17b", "Qwen--Qwen3.5-397B-A17B", 32, True, True),
    ModelName("qwen3_5_122b_a10b", "Qwen--Qwen3.5-122B-A10B", 32, True, True),
    ModelName("qwen3_5_35b_a3b", "Qwen--Qwen3.5-35B-A3B", 16, True, True),
    ModelName("qwen3_5_27b", "Qwen--Qwen3.5-27B", 24, False, True),
    ModelName("qwen3_235b_a22b", "Qwen--Qwen3-235B-A22B", 64, True),
    ModelName("qwen3_30b_a3b", "Qwen--Qwen3-30B-A3B", 32, True),
    ModelName("qwen3_coder_480b_a35b", "Qwen--Qwen3-Coder-480B-A35B-Instruct", 96, True),
    ModelName("qwen3_coder_30b_a3b", None, 32, True),
    ModelName("qwen3_32b", "Qwen--Qwen3-32B", 64),
    ModelName("qwen3_14b", None, 40),
    ModelName("qwen3_8b", "Qwen--Qwen3-8B", 32),
    ModelName("qwen3_1_7b", "Qwen--Qwen3-1.7B", 16),
    ModelName("qwen3_0_6b", "Qwen--Qwen3-0.6B", 16),
    ModelName("qwen3_vl_235b_a22b", "Qwen--Qwen3-VL-235B-A22B-Instruct", 64, True),
    ModelName("qwen3_vl_30b_a3b", "Qwen--Qwen3-VL-30B-A3B-Instruct", 32, True),
    ModelName("qwen3_vl_32b", "Qwen--Qwen3-VL-32B-Instruct", 64),
    ModelName("qwen3_vl_8b", "Qwen--Qwen3-VL-8B-Instruct", 32),
    ModelName("qwen3_vl_4b", "Qwen--Qwen3-VL-4B-Instruct", 32),
    ModelName("qwen3_vl_2b", "Qwen--Qwen3-VL-2B-Instruct", 16),
    ModelName("llama3_1_8b", "meta-llama--Meta-Llama-3.1-8B", 32),
    ModelName("llama3_1_70b", "meta-llama--Meta-Llama-3.1-70B", 64),
    ModelName("llama3_1_405b", "meta-llama--Meta-Llama-3.1-405B", 128),
    ModelName("llama4_maverick", "meta-llama--Llama-4-Maverick-17B-128E-Instruct", 40, True),
    ModelName("llama4_scout", "meta-llama--Llama-4-Scout-17B-16E-Instruct", 40, True),
    ModelName("llama2_70b", None, 64),
    ModelName("bloom_176b", None, 112),
    ModelName("gptj_6b", None, 16),
    ModelName("mixtral_8x7b", "mistralai--Mixtral-8x7B-v0.1", 32, True),
    ModelName("mixtral_8x22b", "mistralai--Mixtral-8x22B-v0.1", 48, True),
    ModelName("kimi_k2", "moonshotai--Kimi-K2-Instruct", 64, True),
    ModelName("kimi_k2_5", "moonshotai--Kimi-K2.5", 64, True, False, "int4"),
    ModelName("kimi_k3", "moonshotai--Kimi-K3", 96, True),
    ModelName("glm_5", "zai-org--GLM-5", 64, True, True),
    ModelName("glm_5_1", "zai-org--GLM-5.1", 64, True, True),
    ModelName("glm_5_2", "zai-org--GLM-5.2", 64, True, True),
    ModelName("gemma_4_26b_a4b", "google--gemma-4-26B-A4B", 16, True),
    ModelName("gemma3_12b", None, 16),
    ModelName("gemma3_27b", None, 32),
    ModelName("nemotron_nano_9b", None, 40),
    ModelName("nemotron_nano_12b", None, 40),
    ModelName("mimo_7b", "XiaomiMiMo--MiMo-7B-Base", 32, False, True),
    ModelName("mimo_v2_flash", "XiaomiMiMo--MiMo-V2-Flash", 64, True),
    ModelName("step_3_7_flash", "stepfun-ai--Step-3.7-Flash", 64, True, True),
)
MODELS = {m.key: m for m in _MODELS}

#: bare names (no publisher, quantization or tuning suffix; letters and digits) that differ from the key
_MODEL_ALIASES = {
    "deepseekr10528": "deepseek_r1",
    "dsr1": "deepseek_r1",
    "deepseekv30324": "deepseek_v3",
    "deepseekv31": "deepseek_v3",  # same architecture as V3
    "deepseekv31terminus": "deepseek_v3",
    "dsv4": "deepseek_v4_pro",
    "deepseekv4": "deepseek_v4_pro",
    "gptoss": "gpt_oss_120b",
    "minimaxm2": "minimax_m2_5",  # same architecture
    "minimaxm21": "minimax_m2_5",
    "qwen35": "qwen3_5_397b_a17b",
    "qwen35397b": "qwen3_5_397b_a17b",
    "qwen330ba3binstruct2507": "qwen3_30b_a3b",
    "qwen330ba3bthinking2507": "qwen3_30b_a3b",
    "qwen3235ba22b2507": "qwen3_235b_a22b",
    "qwen3coder480ba35b": "qwen3_coder_480b_a35b",
    "qwen3vl32bthinking": "qwen3_vl_32b",
    "llama318b": "llama3_1_8b",
    "llama38b": "llama3_1_8b",  # same shape
    "llama3170b": "llama3_1_70b",
    "llama3370b": "llama3_1_70b",  # same shape
    "llama370b": "llama3_1_70b",
    "llama31405b": "llama3_1_405b",
    "llama4maverick17b128e": "llama4_maverick",
    "llama4scout17b16e": "llama4_scout",
    "llama270b99": "llama2_70b",
    "gptj": "gptj_6b",
    "gptj99": "gptj_6b",
    "mixtral8x7b": "mixtral_8x7b",
    "deepseekr1distillllama8b": "llama3_1_8b",  # same shape
    "deepseekr1distillllama70b": "llama3_1_70b",  # same shape
    "deepseekr1distillqwen7b": "qwen2_5_7b",  # same shape
    "kimik25": "kimi_k2_5",
    "kimik2thinking": "kimi_k2",
    "glm5": "glm_5",
    "gemma312bit": "gemma3_12b",
    "gemma327bit": "gemma3_27b",
    "nvidianemotronnano9b": "nemotron_nano_9b",
    "nvidianemotronnano12b": "nemotron_nano_12b",
    "bloom176b": "bloom_176b",
    "bloom": "bloom_176b",
}
_NOISE = re.compile(
    r"(nvfp4|mxfp4|fp8|fp4|bf16|int4|int8|awq|gptq|w4a16|fp8block|fp8staticpertensor|instruct|chat|base|hf|v2|v01|"
    r"thinking2507|instruct2507|v03|2507|2506|0528|0711|0905|999|99)$"
)

#: spelled as conf/hardware spells them
SYSTEMS = (
    "a100_sxm",
    "h100_sxm",
    "h100_pcie",
    "h100_nvl",
    "h200_sxm",
    "b200_sxm",
    "b300_sxm",
    "gb200",
    "gb300",
    "gh200_96gb",
    "gh200_144gb",
    "h20",
    "l4",
    "l40s",
    "a10",
    "b60",
    "rtx_pro_6000_server",
    "jetson_orin",
    "mi300x",
    "mi325x",
    "mi355x",
)
_SYSTEM_ALIASES = {
    "a100": "a100_sxm",
    "a10040gb": "a100_sxm_40gb",
    "a10080gb": "a100_sxm",
    "a800": "a800_sxm",
    "h800": "h800_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200sxm": "gb200",
    "gb200nvl72": "gb200",
    "gb300sxm": "gb300",
    "gb300nvl72": "gb300",
    "gh200": "gh200_96gb",
    "rtxpro6000": "rtx_pro_6000_server",
    "mi300xsxm": "mi300x",
}

#: GPUs reachable over the scale-up links of one node (rack for the NVL72 systems); vendor datasheets
NODE_GPUS = {"gb200": 72, "gb300": 72}


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@cache
def _model_index() -> dict[str, str]:
    index = {_bare(m.key): m.key for m in _MODELS}
    index |= {_bare(m.file.split("--")[-1]): m.key for m in _MODELS if m.file}
    packaged = Path(__file__).resolve().parents[2] / "conf" / "model"
    index = {_bare(p.stem): p.stem for p in sorted(packaged.glob("*.yaml"))} | index
    return index | _MODEL_ALIASES


@cache
def model_key(name: str) -> str | None:
    """Key in conf/model of a name such as `nvidia/DeepSeek-R1-0528-NVFP4-v2`; None if unknown."""
    text = _bare(str(name).replace("--", "/").rstrip("/").split("/")[-1].removeprefix("Meta-"))
    index = _model_index()
    while text:
        if text in index:
            return index[text]
        shorter = _NOISE.sub("", text)
        if shorter == text:
            break
        text = shorter
    # an unknown suffix: the longest known name that the text starts with, unless it is another size, version or student
    other = re.compile(r"[0-9]|[a-z]?[0-9]+b|.*distill")
    known = [k for k in index if len(k) >= 5 and text.startswith(k) and not other.match(text[len(k) :])]
    return index[max(known, key=len)] if known else None


#: words around the name of a chip that say nothing new
_VENDORS = ("nvidia", "geforce", "amd", "instinct", "intel", "google", "aws")
_FORM = re.compile(
    r"((16|24|40|48|64|80|94|96|141|144|180|192|256|288)gb|sxm[2-6]?|hbm[23]?e?|oam|gpu|blackwell|serveredition|server)$"
)


@cache
def _system_index() -> dict[str, str]:
    packaged = Path(__file__).resolve().parents[2] / "conf" / "hardware"
    index = {_bare(p.stem): p.stem for p in sorted(packaged.glob("*.yaml"))}
    return index | {_bare(system): system for system in SYSTEMS} | _SYSTEM_ALIASES


@cache
def system_key(name: str) -> str | None:
    """Key in conf/hardware of a name such as `NVIDIA H100 80GB HBM3` or `b300-sxm6-ac`; None if unknown.

    Words at the end (sites, boards) are left off one by one until the rest is known.
    """
    words = re.findall(r"[a-z0-9]+", re.sub(r"^[0-9]+ ?x ?", "", str(name).lower()))
    for count in range(len(words), 0, -1):
        found = _chip("".join(words[:count]))
        if found or words[count - 1] == "pcie":  # another chip than the one without
            return found
    return None


def _chip(text: str) -> str | None:
    for word in _VENDORS:
        text = text.removeprefix(word)
    index = _system_index()
    while text:
        if text in index:
            return index[text]
        shorter = _FORM.sub("", text)
        if shorter == text:
            return None
        text = shorter
    return None


def has_architecture(model: str) -> bool:
    """Whether conf/model describes the model, or its config.json is among the public data."""
    root = Path(__file__).resolve().parents[2]
    if (root / "conf" / "model" / f"{model}.yaml").exists():
        return True
    known = MODELS.get(model)
    return bool(known and known.file)


def snake(name: str) -> str:
    """A usable key for a name that no table knows."""
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", str(name).split("/")[-1].lower())).strip("_")
