"""Model descriptions: parameter counts against published sizes, bytes by hand, the `Model` pytree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from mist_jax.errors import ConfigError
from mist_jax.io.architecture import CheckpointPrecision, override_precision
from mist_jax.io.export_model_yaml import parse_model_mapping
from mist_jax.io.parameters import count_parameters
from mist_jax.system.hardware import COMPUTE_PRECISIONS
from mist_jax.system.model_build import (
    build_model,
    bytes_per_element,
    compute_index,
    kv_bytes,
    kv_bytes_per_token,
    weight_bytes,
)

CONF = Path(__file__).resolve().parents[1] / "conf" / "model"
PACKAGED = sorted(p.stem for p in CONF.glob("*.yaml"))


def packaged(name: str):
    return parse_model_mapping(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")))


def model_of(name: str):
    return build_model(*packaged(name))


# Published sizes in 1e9 weights: (total, active, which of our counts the active figure is, source).
#   all: embedding and LM head counted; head: without the input table; body: with neither.
# Model cards round, and those of multimodal models include a vision tower that a text-only config leaves out.
PUBLISHED = {
    "llama3_1_8b": (8.03, None, "", "arXiv 2407.21783; safetensors total of the checkpoint"),
    "llama3_1_70b": (70.6, None, "", "the same"),
    "llama3_1_405b": (405.9, None, "", "the same"),
    "llama3_8b": (8.03, None, "", "model card"),
    "llama3_70b": (70.6, None, "", "model card"),
    "llama3_3_70b": (70.6, None, "", "model card"),
    "llama_guard_3_8b": (8.03, None, "", "model card"),
    "llama2_7b": (6.74, None, "", "checkpoint"),
    "llama2_13b": (13.02, None, "", "checkpoint"),
    "llama2_70b": (68.98, None, "", "checkpoint"),
    "llama4_scout": (109.0, 17.0, "all", "model card; 0.9 of the total is the vision tower"),
    "llama4_maverick": (400.0, 17.0, "all", "model card"),
    "mistral_7b": (7.25, None, "", "checkpoint"),
    "mixtral_8x7b": (46.7, 12.9, "all", "arXiv 2401.04088"),
    "mixtral_8x22b": (140.6, 39.0, "all", "model card"),
    "qwen2_5_7b": (7.61, None, "", "model card"),
    "qwen3_0_6b": (0.6, None, "", "model card"),
    "qwen3_1_7b": (1.7, None, "", "model card"),
    "qwen3_4b": (4.0, None, "", "model card"),
    "qwen3_8b": (8.2, None, "", "model card"),
    "qwen3_14b": (14.8, None, "", "model card"),
    "qwen3_32b": (32.8, None, "", "model card"),
    "qwen3_30b_a3b": (30.5, 3.3, "all", "model card"),
    "qwen3_235b_a22b": (235.0, 22.0, "all", "model card"),
    "qwen3_coder_480b_a35b": (480.0, 35.0, "all", "model card"),
    "qwen3_vl_2b": (2.13, None, "", "checkpoint"),
    "qwen3_vl_4b": (4.44, None, "", "checkpoint"),
    "qwen3_vl_8b": (8.77, None, "", "checkpoint"),
    "qwen3_vl_32b": (33.4, None, "", "checkpoint"),
    "qwen3_vl_30b_a3b": (31.1, None, "", "checkpoint"),
    "qwen3_vl_235b_a22b": (235.7, 22.0, "all", "checkpoint; name"),
    "qwen3_5_27b": (27.0, None, "", "model card"),
    "qwen3_5_35b_a3b": (35.0, None, "", "model card"),
    "qwen3_5_122b_a10b": (122.0, 10.0, "all", "model card"),
    "qwen3_5_397b_a17b": (397.0, 17.0, "all", "model card"),
    "deepseek_v3": (671.0, 37.0, "head", "arXiv 2412.19437"),
    "deepseek_r1": (671.0, 37.0, "head", "model card"),
    "deepseek_v3_2": (671.0, None, "", "as V3; the indexers add 0.85"),
    "deepseek_v4_flash": (284.0, 13.0, "head", "model card"),
    "deepseek_v4_pro": (1600.0, 49.0, "all", "model card"),
    # 1.3 % remain: 1.04 would be 61 layers of experts, the config has 60 and one dense layer.
    "kimi_k2": (1040.0, 32.6, "all", "arXiv 2507.20534, table 2"),
    "kimi_k2_5": (1040.0, 32.6, "all", "model card: as K2"),
    "kimi_k3": (2780.0, 104.2, "head", "arXiv 2607.24653"),
    "glm_5": (744.0, 40.0, "head", "model card"),
    "glm_5_1": (744.0, 40.0, "head", "model card: as GLM-5"),
    "glm_5_2": (744.0, 40.0, "head", "model card: as GLM-5"),
    "gpt_oss_120b": (116.83, 5.13, "head", "arXiv 2508.10925, table 1"),
    "gpt_oss_20b": (20.91, 3.61, "head", "arXiv 2508.10925, table 1"),
    "minimax_m2_5": (229.0, 10.0, "body", "checkpoint; model card"),
    "minimax_m2_7": (229.0, 10.0, "body", "the same"),
    "minimax_m3": (428.0, 23.0, "body", "model card; includes a vision tower"),
    "mimo_7b": (7.83, None, "", "model card; 0.21 of it is the draft layer, which we leave out"),
    "mimo_v2_flash": (309.0, 15.0, "head", "model card"),
    "step_3_7_flash": (196.0, 11.0, "all", "model card, language backbone"),
    "gemma_4_26b_a4b": (25.8, 3.8, "all", "model card: 25.2 and a vision encoder of 0.55"),
    "gemma3_12b": (12.2, None, "", "checkpoint"),
    "gemma3_27b": (27.4, None, "", "checkpoint"),
    "nemotron_nano_9b_v2": (8.89, None, "", "checkpoint"),
    "nemotron_nano_12b_v2": (12.31, None, "", "checkpoint"),
    "bloom_176b": (176.25, None, "", "arXiv 2211.05100"),
    "gptj_6b": (6.05, None, "", "model card"),
    "opt_66b": (66.0, None, "", "arXiv 2205.01068"),
    "bge_large": (0.335, None, "", "checkpoint"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_match_the_published_sizes(name):
    total, active, convention, _ = PUBLISHED[name]
    counts = count_parameters(packaged(name)[0])
    assert counts.total / 1e9 == pytest.approx(total, rel=0.03)
    if active is not None:
        ours = {
            "all": counts.active,
            "head": counts.active_without_input_table,
            "body": counts.active - counts.embedding,
        }[convention]
        assert ours / 1e9 == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize(
    ("name", "total", "rel"),
    [
        ("llama3_1_8b", 8030261248, 1e-6),
        ("llama3_1_70b", 70553706496, 1e-6),
        ("mixtral_8x7b", 46702792704, 1e-6),
        ("gpt_oss_20b", 20914757184, 1e-4),
        ("llama2_7b", 6738415616, 1e-6),
        ("qwen3_8b", 8190735360, 1e-5),
    ],
)
def test_exact_counts_of_checkpoints(name, total, rel):
    # Elements of the safetensors files; what is left are query and key norms and attention sinks.
    assert count_parameters(packaged(name)[0]).total == pytest.approx(total, rel=rel)


def test_llama_counts_by_hand():
    counts = count_parameters(packaged("llama3_1_8b")[0])
    assert counts.embedding == 2 * 128256 * 4096
    assert counts.attention == 32 * (4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096)
    assert counts.dense_ffn == 32 * 3 * 4096 * 14336
    assert counts.active == counts.total == counts.text


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("llama3_1_8b", 32 * 2 * 8 * 128 * 2),  # 131,072
        ("llama3_1_70b", 80 * 2 * 8 * 128 * 2),  # 327,680
        ("deepseek_v3", 61 * 576 * 2),  # 70,272
        ("deepseek_v3_2", 61 * (576 * 2 + 132)),  # and a 132-byte indexer key
        ("glm_5_2", 78 * 576 * 2 + 21 * 132),  # 21 layers own an indexer, 57 reuse its choice
        ("gpt_oss_120b", 36 * 2 * 8 * 64 * 2),
        ("qwen3_5_397b_a17b", 15 * 2 * 2 * 256 * 2),  # recurrent layers add nothing
        ("mimo_v2_flash", (9 * 4 + 39 * 8) * (192 + 128) * 2),
        ("gemma_4_26b_a4b", (25 * 8 * 256 + 5 * 2 * 512) * 2 * 2),
        ("kimi_k3", 24 * 576 * 2),
        ("minimax_m3", 60 * 2 * 4 * 128 * 2 + 57 * 128 * 2),
        ("nemotron_nano_9b_v2", 4 * 2 * 8 * 128 * 2),
    ],
)
def test_cache_bytes_per_token_by_hand(name, per_token):
    model = model_of(name)
    assert float(kv_bytes_per_token(model)) == pytest.approx(per_token, rel=1e-12)
    state = float(kv_bytes(model, 0.0))
    assert float(kv_bytes(model, 1.0)) - state == pytest.approx(per_token, rel=1e-9)


def test_windows_saturate():
    model = model_of("gpt_oss_120b")
    full = 18 * 2 * 8 * 64 * 2
    assert float(kv_bytes(model, 4096.0)) == full * (4096 + 128)
    assert float(kv_bytes(model, 8192.0)) - float(kv_bytes(model, 4096.0)) == full * 4096


def test_compressed_attention_cache():
    # DeepSeek-V4-Flash: all layers keep 128 tokens, 21 also n/4 entries and index keys, 20 also n/128 entries
    n, entry = 128000, 448 + 7 + 2 * 64
    expected = 43 * 128 * entry + 21 * n / 4 * (entry + 132) + 20 * n / 128 * entry
    assert float(kv_bytes(model_of("deepseek_v4_flash"), float(n))) == pytest.approx(expected, rel=1e-12)


def test_sparse_latent_cache_in_fp8_keeps_the_rotary_part_wide():
    architecture, checkpoint = packaged("deepseek_v3_2")
    model = build_model(architecture, override_precision(checkpoint, kv="fp8"))
    assert float(kv_bytes_per_token(model)) == 61 * (656 + 132)
    dense = build_model(packaged("deepseek_v3")[0], override_precision(checkpoint, kv="fp8"))
    assert float(kv_bytes_per_token(dense)) == 61 * 576


def test_recurrent_state_by_hand():
    model = model_of("qwen3_5_397b_a17b")
    layer = 64 * 128 * 128 + 3 * (2 * 16 * 128 + 64 * 128)
    assert float(kv_bytes(model, 0.0)) == 45 * layer * 4
    nano = model_of("nemotron_nano_9b_v2")
    assert float(kv_bytes(nano, 0.0)) == 27 * (128 * 80 * 128 + 3 * (128 * 80 + 2 * 8 * 128)) * 4


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        # Sizes of the safetensors files on the model pages; draft layers left out.
        ("llama3_1_8b", 16.06),
        ("llama3_1_70b", 141.1),
        ("mixtral_8x7b", 93.4),
        ("gpt_oss_120b", 65.25),
        ("gpt_oss_20b", 13.76),
        ("kimi_k2_5", 595.2),
        ("kimi_k2", 1029.0),
        ("qwen3_32b_fp8", 34.3),
    ],
)
def test_checkpoint_bytes(name, gigabytes):
    assert float(weight_bytes(model_of(name))) / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_bytes_per_element_with_scales():
    assert bytes_per_element("fp8") == 1 + 4 / 16384
    assert bytes_per_element("int4") == 0.5 + 2 / 128
    assert bytes_per_element("int4", 32) == 0.5625
    assert bytes_per_element("mxfp4") * 8 == 4.25
    assert bytes_per_element("nvfp4") * 8 == 4.5
    assert bytes_per_element("bf16") == bytes_per_element("fp16") == 2
    with pytest.raises(ConfigError, match="did you mean 'mxfp4'"):
        bytes_per_element("mxfp5")


@pytest.mark.parametrize(
    ("weights", "activations", "unit"),
    [
        ("bf16", None, "bf16"),
        ("fp16", None, "bf16"),
        ("fp32", None, "fp32"),
        ("fp8", None, "fp8"),
        ("fp8", "bf16", "bf16"),
        ("int8", None, "int8"),
        ("int4", None, "bf16"),
        ("int4", "fp8", "fp8"),
        ("mxfp4", None, "fp4"),
        ("mxfp4", "fp8", "fp8"),
        ("mxfp4", "bf16", "bf16"),
        ("nvfp4", None, "fp4"),
        ("bf16", "fp8", "bf16"),
    ],
)
def test_compute_unit(weights, activations, unit):
    assert COMPUTE_PRECISIONS[compute_index(weights, activations)] == unit


@pytest.mark.parametrize("name", PACKAGED)
def test_bytes_agree_with_parameters(name):
    """In bf16 throughout, weight bytes are twice the parameter count: no class is lost or counted twice."""
    architecture, _ = packaged(name)
    model = build_model(architecture, CheckpointPrecision())
    assert float(weight_bytes(model)) == pytest.approx(2.0 * count_parameters(architecture).total, rel=1e-12)


@pytest.mark.parametrize("name", PACKAGED)
def test_model_pytree_is_sound(name):
    architecture, precision = packaged(name)
    model = build_model(architecture, precision)
    att = model.attention
    for field in dataclasses.fields(att):
        leaf = getattr(att, field.name)
        assert leaf.shape == (3,)
        assert leaf.dtype == np.float64
        assert not np.isnan(leaf).any()
        assert (leaf >= 0).all()
    for name_ in ("heads", "kv_heads", "qk_dim", "v_dim", "decode_kv_heads", "compress", "kv_shards_max"):
        assert (getattr(att, name_) >= 1).all(), name_
    assert (att.window >= 1).all()
    assert float(att.layers.sum()) == sum(g.layers for g in architecture.attention)
    assert float(model.extra_params) >= float(model.vision_params) + float(model.latent_params)
    tokens = np.array([0.0, 1.0, 100.0, 1e4, 1e6])
    sizes = kv_bytes(model, tokens)
    assert sizes.shape == tokens.shape
    assert np.isfinite(sizes).all()
    assert (np.diff(sizes) >= 0).all()
    assert (np.diff(sizes) / np.diff(tokens) <= float(kv_bytes_per_token(model)) * (1 + 1e-9)).all()


def test_latent_attention_prefill_and_decode_forms():
    att = model_of("deepseek_v3").attention
    got = [float(getattr(att, k)[0]) for k in ("heads", "kv_heads", "qk_dim", "v_dim")]
    assert got == [128, 128, 192, 128]
    got = [
        float(getattr(att, k)[0]) for k in ("decode_kv_heads", "decode_qk_dim", "decode_v_dim", "kv_elements")
    ]
    assert got == [1, 576, 512, 576]
    assert float(att.kv_shards_max[0]) == 1
    assert float(att.is_mla[0]) == 1
    # DeepSeek-V3: q_b 1536 x 24576 and kv_b 512 x 32768 are split; q_a and kv_a stay whole on every rank.
    assert float(att.in_params[0]) == 1536 * 128 * 192 + 512 * 128 * 256
    assert float(att.in_params_replicated[0]) == 7168 * (1536 + 512 + 64)
    assert float(att.out_params[0]) == 128 * 128 * 7168


def test_sparse_attention_window_is_its_top_k_but_the_cache_keeps_all():
    att = model_of("deepseek_v3_2").attention
    assert float(att.window[0]) == 2048
    assert np.isinf(att.cache_window[0])
    assert float(att.index_heads[0]) == 64
    shared = model_of("glm_5_2").attention
    assert shared.layers.tolist() == [21, 57, 0]
    assert shared.index_heads.tolist() == [32, 0, 0]
    assert shared.window.tolist()[:2] == [2048, 2048]


def test_compressed_attention_reads_selected_entries_and_a_local_window():
    att = model_of("deepseek_v4_flash").attention
    assert att.layers.tolist() == [2, 21, 20]
    assert att.compress.tolist() == [1, 4, 128]
    assert att.window.tolist() == [128, 512, np.inf]
    assert att.local_window.tolist() == [0, 128, 128]
    assert att.cache_window.tolist() == [128, np.inf, np.inf]


def test_state_flops_of_the_delta_rule():
    att = model_of("qwen3_5_397b_a17b").attention
    channels = 2 * 16 * 128 + 64 * 128
    assert float(att.state_flops[0]) == 7 * 64 * 128 * 128 + 2 * 4 * channels
    assert float(att.state_flops[1]) == 0


def test_vision_flops_of_a_tower_by_hand():
    model = model_of("qwen3_vl_235b_a22b")
    n, h, f = 4096, 1152, 4304
    blocks = 27 * (2 * n * (4 * h * h + 2 * h * f) + 4 * n * n * h)
    mergers = 4 * 2 * (n / 4) * (4 * h) * (4 * h + 4096)
    assert float(model.vision_flops_per_image) == pytest.approx(blocks + mergers, rel=1e-12)
    assert float(model.vision_tokens_per_image) == 1024
    assert float(model_of("gemma_4_26b_a4b").vision_tokens_per_image) == 280
    assert float(model_of("llama3_1_8b").vision_flops_per_image) == 0


def test_one_program_serves_all_models_and_has_gradients():
    import jax
    import jax.numpy as jnp

    traces = []

    def both(model, context):
        traces.append(None)
        return weight_bytes(model) + kv_bytes(model, context)

    compiled = jax.jit(both)
    names = ("llama3_1_8b", "deepseek_v4_pro", "kimi_k3", "nemotron_nano_9b_v2", "gemma_4_26b_a4b")
    models = [model_of(n) for n in names]
    for model in models:
        expected = float(weight_bytes(model) + kv_bytes(model, 5000.0))
        assert float(compiled(model, 5000.0)) == pytest.approx(expected, rel=1e-6)
    assert len(traces) == 1
    stacked = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *models)
    batched = jax.vmap(both, in_axes=(0, None))(stacked, 5000.0)
    alone = [float(compiled(m, 5000.0)) for m in models]
    assert np.asarray(batched) == pytest.approx(alone, rel=1e-6)
    for model in models:
        floats = jax.tree.map(jnp.asarray, model)
        for leaf in jax.tree.leaves(jax.grad(both)(floats, 5000.0)):
            assert not np.isnan(np.asarray(leaf)).any()
