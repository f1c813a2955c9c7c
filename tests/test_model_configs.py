"""Reading model descriptions: config.json and YAML, formats of checkpoints, errors, hybrids."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mist_jax.errors import ConfigError
from mist_jax.io.export_model_yaml import model_mapping, packaged_models, parse_model_mapping, short_name
from mist_jax.io.huggingface import (
    CheckpointPrecision,
    architecture_from_mapping,
    count_parameters,
    override_precision,
    precision_from_mapping,
    precision_to_mapping,
    read_config,
    to_mapping,
)
from mist_jax.io.public_models import PUBLIC_MODELS
from mist_jax.system.model_build import build_model, kv_bytes, kv_bytes_per_token

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf" / "model"
DATA = Path(os.environ.get("MIST_DATA_DIR", ROOT.parent / "shared" / "data")) / "models"
CONFIGS = sorted(DATA.glob("*.json")) if DATA.is_dir() else []
needs_configs = pytest.mark.skipif(not CONFIGS, reason="no config.json files: set MIST_DATA_DIR")
PACKAGED = sorted(p.stem for p in CONF.glob("*.yaml"))


def packaged(name: str):
    return parse_model_mapping(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")))


def model_of(name: str):
    return build_model(*packaged(name))


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
}


@needs_configs
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_round_trips(path):
    architecture, precision = read_config(path)
    assert not any("unknown" in note for note in architecture.notes)
    mapping = yaml.safe_load(yaml.safe_dump(model_mapping(architecture, precision, "a/b")))
    assert parse_model_mapping(mapping) == (architecture, precision)


@needs_configs
def test_packaged_yaml_is_what_the_exporter_writes():
    written = packaged_models(DATA)
    assert sorted(written) == PACKAGED
    for name, mapping in written.items():
        assert yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")) == mapping, name


@pytest.mark.parametrize("name", sorted(PUBLIC_MODELS))
def test_public_models_round_trip(name):
    _, config = PUBLIC_MODELS[name]
    architecture, precision = packaged(name)
    read, formats = read_config(config)
    assert dataclasses.replace(read, name=architecture.name) == architecture
    assert formats == precision


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_yaml_names_its_source_and_round_trips(name):
    mapping = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    assert mapping["source"].startswith("https://huggingface.co/")
    architecture, precision = parse_model_mapping(mapping)
    assert architecture_from_mapping(to_mapping(architecture)) == architecture
    assert precision_from_mapping(precision_to_mapping(precision)) == precision


def test_packaged_models_compose_in_the_application():
    from mist_jax.build import build_model as build
    from mist_jax.compose import load

    for name in ("gpt_oss_20b", "kimi_k2_5", "deepseek_v4_pro", "gemma_4_26b_a4b"):
        ours, theirs = model_of(name), build(load([f"model={name}"]).model)
        for field in dataclasses.fields(ours):
            if field.name != "attention":
                assert getattr(ours, field.name) == getattr(theirs, field.name), (name, field.name)


@needs_configs
def test_checkpoint_formats():
    def formats(stem):
        p = read_config(DATA / f"{stem}.json")[1]
        return p.attention, p.ffn, p.experts, p.kv, p.activations

    assert formats("deepseek-ai--DeepSeek-V3") == ("fp8", "fp8", "fp8", "bf16", None)
    assert formats("openai--gpt-oss-120b") == ("bf16", "bf16", "mxfp4", "bf16", None)
    assert formats("moonshotai--Kimi-K2.5") == ("bf16", "bf16", "int4", "bf16", None)
    assert formats("moonshotai--Kimi-K3") == ("bf16", "bf16", "mxfp4", "bf16", "bf16")
    assert formats("deepseek-ai--DeepSeek-V4-Flash") == ("fp8", "fp8", "mxfp4", "fp8", "fp8")
    assert formats("sgl-project--DeepSeek-V4-Flash-FP8") == ("fp8", "fp8", "fp8", "fp8", None)
    assert formats("Qwen--Qwen3-32B-FP8-Static-PerTensor") == ("fp8", "fp8", "fp8", "fp8", None)
    assert formats("Qwen--Qwen3-235B-A22B-FP8") == ("fp8", "fp8", "fp8", "bf16", None)
    assert formats("zai-org--GLM-5.2-FP8") == ("fp8", "fp8", "fp8", "bf16", None)
    assert formats("Qwen--Qwen3-8B") == ("bf16", "bf16", "bf16", "bf16", None)
    assert read_config(DATA / "moonshotai--Kimi-K2.5.json")[1].group_size == 32


@pytest.mark.parametrize(
    ("quantization", "attention", "experts", "kv", "activations", "group"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "int4", "bf16", None, 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, "int4", "int4", "bf16", None, 64),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", "int8", "bf16", "bf16", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "nvfp4", "bf16", None, None),
        (
            {
                "quantization": {
                    "quant_algo": "FP8",
                    "kv_cache_quant_algo": "FP8",
                    "exclude_modules": ["lm_head"],
                }
            },
            *("fp8", "fp8", "fp8", None, None),
        ),
        (
            {
                "quant_algo": "NVFP4",
                "quant_method": "modelopt",
                "exclude_modules": ["model.layers.*.self_attn*"],
            },
            *("bf16", "nvfp4", "bf16", None, None),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "int"},
                        "input_activations": {"num_bits": 8, "type": "int"},
                    }
                },
                "ignore": ["lm_head"],
            },
            *("int8", "int8", "bf16", None, None),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "float"}, "input_activations": None}
                },
            },
            *("fp8", "fp8", "bf16", "bf16", None),
        ),
    ],
)
def test_quantization_methods(quantization, attention, experts, kv, activations, group):
    precision = read_config(LLAMA | {"quantization_config": quantization})[1]
    assert (precision.attention, precision.experts, precision.kv) == (attention, experts, kv)
    assert precision.activations == activations
    assert precision.group_size == group
    assert precision.embedding == "bf16"


def test_an_exclusion_names_whole_modules():
    # "gate" is the router; it must not exempt gate_proj.
    quantization = {"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}
    assert read_config(LLAMA | {"quantization_config": quantization})[1].ffn == "fp8"


def test_unknown_quantization_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"'awk'.*did you mean 'awq'"):
        read_config(LLAMA | {"quantization_config": {"quant_method": "awk"}})


def test_unknown_model_type_loads_with_a_note():
    architecture, _ = read_config(LLAMA | {"model_type": "newest"})
    assert any("'newest'" in note for note in architecture.notes)
    known, _ = read_config(LLAMA)
    assert dataclasses.replace(architecture, notes=()) == known


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
def test_missing_key_is_named_with_what_was_found(key):
    config = {k: v for k, v in LLAMA.items() if k != key}
    with pytest.raises(ValueError, match=rf"missing.*{key}.*found.*num_attention_heads"):
        read_config(config)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_config(tmp_path / "bad.json")
    (tmp_path / "good.json").write_text(json.dumps(LLAMA))
    assert read_config(tmp_path / "good.json")[0].name == "good"


def test_mapping_errors_name_the_nearest_key():
    mapping = to_mapping(read_config(LLAMA)[0])
    with pytest.raises(ConfigError, match=r"architecture\.hiden: unknown key \(did you mean 'hidden'\?\)"):
        architecture_from_mapping({**mapping, "hiden": 3})
    with pytest.raises(ConfigError, match=r"architecture: missing vocab"):
        architecture_from_mapping({k: v for k, v in mapping.items() if k != "vocab"})
    group = mapping["attention"][0]
    with pytest.raises(ConfigError, match=r"attention\[0\]\.kv_head: unknown key \(did you mean 'kv_heads'"):
        architecture_from_mapping({**mapping, "attention": [{**group, "kv_head": 2}]})
    with pytest.raises(ConfigError, match=r"attention\[0\]\.kind: 'mll' is not one of"):
        architecture_from_mapping({**mapping, "attention": [{**group, "kind": "mll"}]})
    with pytest.raises(ConfigError, match=r"hidden: 'wide' is not a whole number"):
        architecture_from_mapping({**mapping, "hidden": "wide"})
    with pytest.raises(ConfigError, match="4 groups"):
        architecture_from_mapping({**mapping, "layers": 16, "attention": [group] * 4})
    with pytest.raises(ConfigError, match="more layers"):
        architecture_from_mapping({**mapping, "attention": [group, group]})
    with pytest.raises(ConfigError, match="0 < top_k <= experts"):
        architecture_from_mapping({**mapping, "moe_layers": 1, "experts": 4, "top_k": 8, "expert_ffn": 2})
    with pytest.raises(ConfigError, match="did you mean 'fp8'"):
        precision_from_mapping({"weights": "fp9"})
    with pytest.raises(ConfigError, match="unknown key"):
        precision_from_mapping({"weigths": "fp8"})


def test_override_precision():
    _, gpt_oss = packaged("gpt_oss_20b")
    assert override_precision(gpt_oss, kv="fp8").experts == "mxfp4"
    assert override_precision(gpt_oss, weights="fp8", experts="mxfp4").experts == "mxfp4"
    everything = override_precision(gpt_oss, weights="fp8")
    assert (everything.attention, everything.ffn, everything.experts, everything.embedding) == (
        "fp8",
    ) * 3 + ("bf16",)
    _, kimi = packaged("kimi_k2_5")
    assert override_precision(kimi, experts="mxfp4").group_size is None
    assert override_precision(CheckpointPrecision(), weights="fp32").embedding == "fp32"


# Hybrids and encoders that the folder lacks, by their published numbers.
JAMBA = {  # ai21labs/Jamba-v0.1
    "model_type": "jamba",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 65536,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
}
GRANITE = {  # ibm-granite/granite-4.0-h-small
    "model_type": "granitemoehybrid",
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 768,
    "shared_intermediate_size": 1536,
    "vocab_size": 100352,
    "num_local_experts": 72,
    "num_experts_per_tok": 10,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_d_conv": 4,
    "tie_word_embeddings": True,
}


def test_jamba():
    architecture, _ = read_config(JAMBA)
    assert [(g.kind, g.layers) for g in architecture.attention] == [("mamba", 28), ("softmax", 4)]
    assert (architecture.moe_layers, architecture.dense_layers) == (16, 16)
    counts = count_parameters(architecture)
    assert counts.total / 1e9 == pytest.approx(52, rel=0.03)  # arXiv 2403.19887
    assert counts.active / 1e9 == pytest.approx(12, rel=0.03)
    model = build_model(architecture)
    assert float(kv_bytes_per_token(model)) == 4 * 2 * 8 * 128 * 2  # 4 GB at 256K tokens, as its table 1 says
    assert float(kv_bytes(model, 0.0)) == 28 * 8192 * (16 + 3) * 4


def test_granite_hybrid():
    architecture, _ = read_config(GRANITE)
    assert [(g.kind, g.layers) for g in architecture.attention] == [("mamba2", 36), ("softmax", 4)]
    counts = count_parameters(architecture)
    assert counts.total / 1e9 == pytest.approx(32, rel=0.03)  # model card: 32B total, 9B active
    assert counts.active / 1e9 == pytest.approx(9, rel=0.03)


def test_layers_that_are_only_a_mixer_or_only_a_feed_forward():
    architecture, _ = packaged("nemotron_nano_9b_v2")
    assert [(g.kind, g.layers) for g in architecture.attention] == [("mamba2", 27), ("softmax", 4)]
    assert (architecture.dense_layers, architecture.layers, architecture.ffn_matrices) == (25, 56, 2)


def test_parallel_dense_and_expert_feed_forward():
    architecture, _ = packaged("gemma_4_26b_a4b")
    assert architecture.dense_layers == architecture.moe_layers == architecture.layers == 30


def test_encoder_is_not_causal():
    assert not packaged("bge_large")[0].causal
    assert packaged("llama3_1_8b")[0].causal


def test_short_names():
    assert short_name("meta-llama/Meta-Llama-3.1-8B") == "llama3_1_8b"
    assert short_name("meta-llama/Llama-4-Scout-17B-16E-Instruct") == "llama4_scout"
    assert short_name("mistralai/Mixtral-8x7B-v0.1") == "mixtral_8x7b"
    assert short_name("Qwen/Qwen3.5-397B-A17B") == "qwen3_5_397b_a17b"


def test_reading_a_config_needs_no_jax():
    code = "import sys, mist_jax.io.huggingface as h; h.read_config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_config_of_one_s_own_becomes_an_option(tmp_path, capsys, monkeypatch):
    """The recipe of CONTRIBUTING: one file, named after its folder, and a run that uses it."""
    import json

    import mist_jax as mist
    from mist_jax.io import export_model_yaml

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "num_hidden_layers": 4,
              "num_attention_heads": 8, "intermediate_size": 1024, "vocab_size": 1000}  # fmt: skip
    (tmp_path / "My-Model").mkdir()
    source = tmp_path / "My-Model" / "config.json"
    source.write_text(json.dumps(config))
    arguments = ["export", str(source), "--out", str(tmp_path / "own" / "model")]
    monkeypatch.setattr("sys.argv", arguments)
    export_model_yaml.main()
    assert capsys.readouterr().out.split() == [str(tmp_path / "own" / "model" / "my_model.yaml")]
    scenario = mist.load(["model=my_model"], config_dir=tmp_path / "own")
    assert (scenario.model.name, scenario.model.source) == ("My-Model", "config.json of My-Model")
    source.write_text("{}")
    with pytest.raises(SystemExit) as stop:
        export_model_yaml.main()
    assert stop.value.code == 2
