"""Numbers of common models, in the keys of their config.json, for `conf/model/`."""

from __future__ import annotations

from typing import Any

_LLAMA_31 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
_LLAMA_2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
_LLAMA_31_8B = _LLAMA_31 | {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 14336,
}
_LLAMA_31_70B = _LLAMA_31 | {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
}

_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 896,
}
_GEMMA3 = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
}
_NEMOTRON_NANO = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "max_position_embeddings": 131072,
}

#: file name → (Hugging Face repository whose config.json states the numbers, those numbers)
PUBLIC_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2_7b": (
        "meta-llama/Llama-2-7b-hf",
        _LLAMA_2
        | {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
        },
    ),
    "llama2_13b": (
        "meta-llama/Llama-2-13b-hf",
        _LLAMA_2
        | {
            "num_hidden_layers": 40,
            "hidden_size": 5120,
            "num_attention_heads": 40,
            "intermediate_size": 13824,
        },
    ),
    "llama2_70b": (
        "meta-llama/Llama-2-70b-hf",
        _LLAMA_2
        | {
            "num_hidden_layers": 80,
            "hidden_size": 8192,
            "num_attention_heads": 64,
            "intermediate_size": 28672,
        }
        | {"num_key_value_heads": 8},
    ),
    "llama_guard_3_8b": ("meta-llama/Llama-Guard-3-8B", _LLAMA_31_8B),
    "llama3_3_70b": ("meta-llama/Llama-3.3-70B-Instruct", _LLAMA_31_70B),
    "llama3_8b": ("meta-llama/Meta-Llama-3-8B", _LLAMA_31_8B | {"max_position_embeddings": 8192}),
    "llama3_70b": ("meta-llama/Meta-Llama-3-70B", _LLAMA_31_70B | {"max_position_embeddings": 8192}),
    "qwen3_4b": (
        "Qwen/Qwen3-4B",
        _QWEN3
        | {"num_hidden_layers": 36, "hidden_size": 2560, "num_attention_heads": 32, "intermediate_size": 9728}
        | {"tie_word_embeddings": True, "max_position_embeddings": 40960},
    ),
    "qwen3_14b": (
        "Qwen/Qwen3-14B",
        _QWEN3
        | {
            "num_hidden_layers": 40,
            "hidden_size": 5120,
            "num_attention_heads": 40,
            "intermediate_size": 17408,
        }
        | {"max_position_embeddings": 40960},
    ),
    "qwen2_5_7b": (
        "Qwen/Qwen2.5-7B-Instruct",
        {
            "model_type": "qwen2",
            "vocab_size": 152064,
            "num_hidden_layers": 28,
            "hidden_size": 3584,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "max_position_embeddings": 32768,
        },
    ),
    "mistral_7b": (
        "mistralai/Mistral-7B-v0.3",
        {
            "model_type": "mistral",
            "vocab_size": 32768,
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
        },
    ),
    "bloom_176b": (
        "bigscience/bloom",
        {
            "model_type": "bloom",
            "vocab_size": 250880,
            "n_layer": 70,
            "hidden_size": 14336,
            "num_attention_heads": 112,
            "seq_length": 2048,
        },
    ),
    "gptj_6b": (
        "EleutherAI/gpt-j-6b",
        {
            "model_type": "gptj",
            "vocab_size": 50400,
            "n_layer": 28,
            "n_embd": 4096,
            "n_head": 16,
            "n_positions": 2048,
        },
    ),
    "opt_66b": (
        "facebook/opt-66b",
        {
            "model_type": "opt",
            "vocab_size": 50272,
            "num_hidden_layers": 64,
            "hidden_size": 9216,
            "num_attention_heads": 72,
            "ffn_dim": 36864,
            "max_position_embeddings": 2048,
            "torch_dtype": "float16",
        },
    ),
    "gemma3_12b": (
        "google/gemma-3-12b-it",
        {
            "model_type": "gemma3",
            "mm_tokens_per_image": 256,
            "vision_config": _SIGLIP,
            "text_config": _GEMMA3
            | {"hidden_size": 3840, "num_hidden_layers": 48, "intermediate_size": 15360}
            | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256},
        },
    ),
    "gemma3_27b": (
        "google/gemma-3-27b-it",
        {
            "model_type": "gemma3",
            "mm_tokens_per_image": 256,
            "vision_config": _SIGLIP,
            "text_config": _GEMMA3
            | {"hidden_size": 5376, "num_hidden_layers": 62, "intermediate_size": 21504}
            | {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128},
        },
    ),
    "nemotron_nano_9b_v2": (
        "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
        _NEMOTRON_NANO
        | {"num_hidden_layers": 56, "hidden_size": 4480, "intermediate_size": 15680}
        | {"hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"},
    ),
    "nemotron_nano_12b_v2": (
        "nvidia/NVIDIA-Nemotron-Nano-12B-v2",
        _NEMOTRON_NANO
        | {"num_hidden_layers": 62, "hidden_size": 5120, "intermediate_size": 20480}
        | {"hybrid_override_pattern": "M-M-M-M*-" * 6 + "M-M-M-M-"},
    ),
    "bge_large": (
        "BAAI/bge-large-en-v1.5",
        {
            "model_type": "bert",
            "vocab_size": 30522,
            "num_hidden_layers": 24,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 512,
        },
    ),
}
