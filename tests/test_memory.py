"""Device memory worked by hand: weights, KV cache, blocks, and by how much a deployment does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from programs import MODELS, make_system, memory

from mist_jax.physics.memory import kv_bytes_per_chip, kv_bytes_total
from mist_jax.pytree import replace
from mist_jax.system.model_build import kv_bytes, weight_bytes


def chip_kv(system, context: float) -> float:
    return float(kv_bytes_per_chip(system.model, system.parallel, np.asarray(context)))


@pytest.mark.parametrize(
    ("model", "parallel", "parameters_bytes"),
    [
        # 8.030e9 parameters x 2 bytes
        ("llama3_1_8b", {}, 8.030e9 * 2),
        # 70.55e9 x 2 bytes over 8 chips
        ("llama3_1_70b", {"tp": 8}, 70.55e9 * 2 / 8),
        # two stages of 8: a stage holds half of the layers and one of the two tables of 128,256 x 8,192
        ("llama3_1_70b", {"tp": 8, "pp": 2}, (70.55e9 - 2 * 128256 * 8192) * 2 / 16 + 128256 * 8192 * 2 / 8),
        ("mixtral_8x7b", {"tp": 2}, 46.70e9 * 2 / 2),
        # expert parallel: half of the experts each, the same bytes
        ("mixtral_8x7b", {"tp": 2, "ep": 2}, 46.70e9 * 2 / 2),
        ("qwen3_30b_a3b", {}, 30.53e9 * 2),
    ],
)
def test_weights(model: str, parallel: dict[str, int], parameters_bytes: float) -> None:
    use = memory(make_system(model, **parallel))
    # routers and norms are on every rank: 1 per mille at most
    assert float(use.weights) == pytest.approx(parameters_bytes, rel=2e-3)


def test_weights_of_deepseek_v3() -> None:
    """dp8 ep8: a chip holds all of attention, dense and shared feed-forward and embeddings, 1/8 of the experts."""
    expert = 3 * 7168 * 2048
    mla = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    fp8 = 61 * mla + 3 * 3 * 7168 * 18432 + 58 * expert + 58 * 32 * expert
    bf16 = 2 * 129280 * 7168 + 58 * 256 * 7168 + (2 * 61 + 1) * 7168
    use = memory(make_system("deepseek_v3", dp=8, ep=8))
    assert float(use.weights) == pytest.approx(fp8 * (1 + 4 / 16384) + bf16 * 2, rel=1e-4)
    # 671e9 parameters in all, of which 0.92e9 x 2 in bf16
    whole = memory(make_system("deepseek_v3"))
    assert float(whole.weights) == pytest.approx(671.0e9 + 1.96e9, rel=2e-3)


def test_weights_of_gpt_oss() -> None:
    """116.8e9 parameters; 36 x 128 experts of 3 x 2,880^2 in mxfp4 (4.25 bits), the rest in bf16: 65.3 GB on disk."""
    use = memory(make_system("gpt_oss_120b"))
    experts = 36 * 128 * 3 * 2880**2
    assert float(use.weights) == pytest.approx(experts * 4.25 / 8 + (116.83e9 - experts) * 2, rel=0.01)
    assert float(use.weights) == pytest.approx(65.3e9, rel=0.02)


@pytest.mark.parametrize(
    ("model", "parallel", "bytes_per_token"),
    [
        ("llama3_1_8b", {}, 32 * 8 * 256 * 2),
        ("llama3_1_70b", {"tp": 8}, 80 * 1 * 256 * 2),
        # 16 ranks, 8 KV heads: a head on each
        ("llama3_1_70b", {"tp": 16}, 80 * 1 * 256 * 2),
        ("llama3_1_70b", {"tp": 8, "pp": 2}, 40 * 1 * 256 * 2),
        ("mixtral_8x7b", {"tp": 2}, 32 * 4 * 256 * 2),
        ("qwen3_30b_a3b", {"tp": 8}, 48 * 1 * 256 * 2),
        # MLA: a latent of 512 and a rotary key of 64 on every rank
        ("deepseek_v3", {"tp": 8}, 61 * 576 * 2),
        ("deepseek_v3", {"dp": 8, "ep": 8}, 61 * 576 * 2),
        # fp8 latent of 512, 4 float32 scales, rotary part in bf16: 656 bytes; indexer 128 fp8 + a float32 scale
        ("deepseek_v3_2", {"tp": 8}, 61 * (656 + 132)),
    ],
)
def test_kv_per_token(model: str, parallel: dict[str, int], bytes_per_token: float) -> None:
    fp8 = {"precision": {"kv": "fp8"}} if model == "deepseek_v3_2" else {}
    system = make_system(model, **parallel, **fp8)
    assert chip_kv(system, 1000.0) == pytest.approx(1000 * bytes_per_token, rel=1e-9)
    assert float(memory(system).kv_per_token) == pytest.approx(bytes_per_token, rel=1e-9)


def test_sliding_windows_keep_their_window() -> None:
    """gpt-oss: 18 layers keep 128 tokens, 18 keep all; a layer and token is 8 x 128 x 2 = 2,048 bytes."""
    system = make_system("gpt_oss_120b")
    for n in (50, 128, 1000):
        assert chip_kv(system, float(n)) == 18 * 2048 * n + 18 * 2048 * min(n, 128)


def test_kv_blocks_as_the_engine_counts_them() -> None:
    """Llama-3.1-8B on H100: 0.9 x 81,559 MiB - weights - activations - 2 GB, in blocks of 16 x 131,072 bytes."""
    system = make_system("llama3_1_8b")
    use = memory(system)
    budget = 0.9 * 81559 * 2**20 - float(use.weights) - float(use.activations) - 2e9
    assert float(use.kv_budget) == pytest.approx(budget, rel=1e-12)
    assert float(use.kv_blocks) == int(budget / (16 * 131072))
    # vLLM reports 26,000 to 29,000 blocks for this deployment; the default token budget moves it
    assert 24_000 < float(use.kv_blocks) < 30_000


def test_sglang_takes_activations_from_the_rest() -> None:
    """Llama-3.1-8B on a chip of 80 GB at 0.88: 444,500 tokens in the log of SGLang's documentation (send_request,
    2025-01-23), of 78.81 GiB before and 63.72 GiB after the weights were loaded."""
    apart = make_system("llama3_1_8b", name="sglang", memory_utilization=0.88)
    use = memory(apart)
    budget = 0.88 * 81559 * 2**20 - float(use.weights) - 2e9
    assert float(use.kv_budget) == pytest.approx(budget, rel=1e-12)
    assert float(use.kv_tokens) == pytest.approx(444_500, rel=0.03)
    # what the other 12 % cannot hold comes from the cache, token by token
    rest = 0.12 * 81559 * 2**20
    heavy = replace(apart, engine=replace(apart.engine, activation_bytes_per_token=np.float64(2e6)))
    over = memory(heavy)
    assert float(over.activations) > rest
    assert float(over.kv_budget) == pytest.approx(budget + rest - float(over.activations), rel=1e-12)


def test_what_does_not_fit_says_by_how_much() -> None:
    """Llama-3.1-70B (141.1 GB) on one H100: short of all that is beyond 0.9 x 85.5 GB."""
    use = memory(make_system("llama3_1_70b"))
    short = 141.1e9 + float(use.activations) + 2e9 - 0.9 * 81559 * 2**20
    assert -float(use.kv_budget) == pytest.approx(short, rel=2e-3)
    assert float(use.kv_blocks) == 0


@pytest.mark.parametrize("model", MODELS)
def test_one_chip_holds_what_the_model_weighs(model: str) -> None:
    """Sharded over one chip = not sharded, for weights and caches of every model."""
    system = make_system(model)
    use = memory(system)
    assert float(use.weights) == pytest.approx(float(weight_bytes(system.model)), rel=1e-9)
    for n in (1.0, 100.0, 5000.0):
        want = float(kv_bytes(system.model, np.asarray(n)))
        assert float(kv_bytes_total(system.model, np.asarray(n))) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("model", ["llama3_1_70b", "deepseek_v3", "gpt_oss_120b", "qwen3_5_35b_a3b"])
def test_more_chips_never_hold_fewer_tokens(model: str) -> None:
    heads = [int(h) for h in make_system(model).model.attention.heads if h > 1]
    degrees = [tp for tp in (1, 2, 4, 8, 16) if all(h % tp == 0 for h in heads)]
    tokens = [float(memory(make_system(model, tp=tp)).kv_tokens) for tp in degrees]
    assert tokens == sorted(tokens)


def test_narrower_formats_hold_more() -> None:
    wide = memory(make_system("llama3_1_8b"))
    weights = memory(make_system("llama3_1_8b", precision={"weights": "fp8"}))
    cache = memory(make_system("llama3_1_8b", precision={"kv": "fp8"}))
    assert float(weights.weights) < 0.6 * float(wide.weights)
    assert float(cache.kv_tokens) == pytest.approx(2 * float(wide.kv_tokens), rel=1e-9)


def test_memory_is_compiled_once() -> None:
    for model in MODELS:
        memory(make_system(model, "mi300x"))
    assert memory.traces == 1


def test_a_reported_number_of_blocks_goes_before_ours():
    import mist_jax as mist

    few = mist.evaluate(mist.load(["engine.num_gpu_blocks=500", "workload.rate=0.5"]))
    assert float(few.kv_blocks) == 500
    assert float(few.kv_tokens) == 500 * 16
    many = mist.evaluate(mist.load(["workload.rate=0.5"]))
    assert float(many["load"]) < float(few["load"])  # a smaller cache saturates earlier
