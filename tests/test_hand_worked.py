"""FLOPs and bytes of prefill and decode, worked by hand from published architectures.

Every number on the right-hand sides is written out from the model cards (layers, widths, heads), not read from the
package; the package is asked only for its answer. A product C[m,n] = A[m,k] B[k,n] takes 2 m n k FLOPs and moves
its weights once, plus m (k + n) activations of 2 bytes. Causal attention of q tokens after p cached ones has
sum over i = 1..q of (p + i) query-key pairs, each 2 (d_qk + d_v) FLOPs a head; the package integrates instead of
summing, which leaves out the diagonal's half, q/2 pairs: hence 1e-3 (q = 1,000 or more) for attention cores.
"""

from __future__ import annotations

import pytest
from programs import make_batch, make_system, operators

EXACT = 1e-9
CORE = 1e-3


def gemm(m: float, n: float, k: float, weight_bytes: float = 2.0) -> tuple[float, float]:
    """(FLOPs, bytes) of one product with 16-bit activations."""
    return 2.0 * m * n * k, n * k * weight_bytes + 2.0 * m * (n + k)


def add(*parts: tuple[float, float]) -> tuple[float, float]:
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def times(factor: float, part: tuple[float, float]) -> tuple[float, float]:
    return factor * part[0], factor * part[1]


def agrees(
    got: dict[str, float], want: tuple[float, float], rel: float = EXACT, rel_bytes: float = EXACT
) -> None:
    assert got["flops"] == pytest.approx(want[0], rel=rel)
    assert got["bytes"] == pytest.approx(want[1], rel=rel_bytes)


def causal(q: int, past: int = 0, window: float = float("inf")) -> float:
    """Query-key pairs, one by one."""
    return float(sum(min(past + i, window) for i in range(1, q + 1)))


# --- Llama-3.1-8B: 32 layers of 4,096, 32 query and 8 KV heads of 128, SwiGLU 14,336, vocabulary 128,256 ---------


def test_llama_8b_prefill() -> None:
    got = operators(make_system("llama3_1_8b"), make_batch(prefill=2048))
    m = 2048
    # q 4,096 + k 1,024 + v 1,024 columns
    agrees(got["attention_in"], times(32, gemm(m, 6144, 4096)))
    agrees(got["attention_out"], times(32, gemm(m, 4096, 4096)))
    # gate and up in one product of 2 x 14,336 columns, then down
    agrees(got["ffn_dense"], times(32, add(gemm(m, 28672, 4096), gemm(m, 4096, 14336))))
    # pairs: 2,048 x 2,049 / 2 = 2,098,176 a head
    assert causal(2048) == 2_098_176
    core = 32 * 32 * 2 * (128 + 128) * 2_098_176
    # keys and values of 2,048 tokens once (8 heads x 256 x 2 bytes), queries in and outputs out (32 heads x 256 x 2)
    moved = 32 * 2048 * (8 * 256 * 2 + 32 * 256 * 2)
    agrees(got["attention_prefill"], (core, moved), rel=CORE)
    # LM head: the last token alone; float32 logits
    agrees(got["lm_head"], (2 * 128256 * 4096, 128256 * 4096 * 2 + 4096 * 2 + 128256 * 4))
    assert got["attention_decode"]["flops"] == 0
    assert got["experts"]["flops"] == 0
    # all in all: 2 FLOPs for each of the 6.979e9 weights in products and token, the LM head once, and attention
    weights = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    assert weights == 6_979_321_856
    total = sum(x.get("flops", 0.0) for x in got.values())
    assert total == pytest.approx(2 * 2048 * weights + 2 * 128256 * 4096 + core, rel=1e-4)


def test_llama_8b_decode() -> None:
    got = operators(make_system("llama3_1_8b"), make_batch(decode=64, context=2000))
    agrees(got["attention_in"], times(32, gemm(64, 6144, 4096)))
    agrees(got["ffn_dense"], times(32, add(gemm(64, 28672, 4096), gemm(64, 4096, 14336))))
    # 64 sequences read 2,000 tokens each: 131,072 bytes a token over all layers
    assert 32 * 8 * 256 * 2 == 131_072
    core = 32 * 32 * 2 * 256 * 64 * 2000
    agrees(got["attention_decode"], (core, 64 * 2000 * 131_072 + 32 * 64 * 32 * 256 * 2))
    agrees(got["lm_head"], (2 * 64 * 128256 * 4096, 128256 * 4096 * 2 + 64 * (4096 * 2 + 128256 * 4)))
    # weights once an iteration: 8.03e9 parameters less the input table (525,336,576) and norms, at 2 bytes
    read = 2 * (6_979_321_856 + 128256 * 4096)
    moved = sum(got[o]["bytes"] for o in ("attention_in", "attention_out", "ffn_dense", "lm_head"))
    assert read == pytest.approx(15.009e9, rel=1e-3)
    assert moved == pytest.approx(read, rel=0.03)  # the rest: 0.29 GB of activations, 0.03 GB of logits


def test_llama_8b_second_chunk() -> None:
    """512 new tokens after 1,536 cached ones: the attention core is that of rows 1,537 to 2,048."""
    got = operators(make_system("llama3_1_8b"), make_batch(prefill=512, past=1536))
    pairs = causal(512, 1536)
    assert pairs == causal(2048) - causal(1536)
    moved = 32 * (2048 * 8 * 256 * 2 + 512 * 32 * 256 * 2)
    agrees(got["attention_prefill"], (32 * 32 * 2 * 256 * pairs, moved), rel=CORE)


# --- Llama-3.1-70B: 80 layers of 8,192, 64 query and 8 KV heads of 128, SwiGLU 28,672 ------------------------------


def test_llama_70b_tp8() -> None:
    """Each of 8 chips: 8 query heads, 1 KV head, 1/8 of the feed-forward and of the vocabulary."""
    got = operators(make_system("llama3_1_70b", tp=8), make_batch(decode=32, context=4000))
    agrees(got["attention_in"], times(80, gemm(32, (8192 + 1024 + 1024) / 8, 8192)))
    agrees(got["attention_out"], times(80, gemm(32, 8192, 1024)))
    agrees(got["ffn_dense"], times(80, add(gemm(32, 7168, 8192), gemm(32, 8192, 3584))))
    core = 80 * 8 * 2 * 256 * 32 * 4000
    agrees(got["attention_decode"], (core, 80 * 32 * (4000 * 1 * 256 * 2 + 8 * 256 * 2)))
    agrees(got["lm_head"], (2 * 32 * 16032 * 8192, 16032 * 8192 * 2 + 32 * (8192 * 2 + 16032 * 4)))
    # two all-reduces a layer of 32 x 8,192 x 2 bytes; a ring sends 2 (8 - 1) / 8 of it
    assert got["all_reduce"]["sent"] == pytest.approx(160 * 2 * 7 / 8 * 32 * 8192 * 2, rel=EXACT)


def test_llama_70b_tp8_equals_eight_shares_of_tp1() -> None:
    """FLOPs of the products over 8 chips = those of one chip."""
    batch = make_batch(prefill=1024, past=512, decode=16, context=700)
    one, eight = (operators(make_system("llama3_1_70b", tp=tp), batch) for tp in (1, 8))
    for name in (
        "attention_in",
        "attention_out",
        "attention_prefill",
        "attention_decode",
        "ffn_dense",
        "lm_head",
    ):
        assert 8 * eight[name]["flops"] == pytest.approx(one[name]["flops"], rel=EXACT), name


def test_llama_70b_tp16_holds_a_whole_kv_head_on_every_chip() -> None:
    """8 KV heads over 16 chips: each keeps one head of K and one of V (256 columns), not half of each."""
    got = operators(make_system("llama3_1_70b", tp=16), make_batch(decode=32, context=4000))
    agrees(got["attention_in"], times(80, gemm(32, 8192 / 16 + 256, 8192)))
    agrees(got["attention_decode"], (80 * 4 * 2 * 256 * 32 * 4000, 80 * 32 * (4000 * 256 * 2 + 4 * 256 * 2)))


# --- Mixtral-8x7B: as Llama-8B's attention, 8 experts of SwiGLU 14,336, two a token --------------------------------


def test_mixtral_prefill_and_decode() -> None:
    expert = 3 * 4096 * 14336
    assert expert == 176_160_768
    many = operators(make_system("mixtral_8x7b"), make_batch(prefill=2048))
    # every token visits 2 experts; all 8 are read: (6/8)^2048 is nothing
    flops = 32 * 2 * 2048 * 2 * expert
    moved = 32 * (8 * expert * 2 + 2048 * 2 * (2 * 4096 + 3 * 14336) * 2)
    agrees(many["experts"], (flops, moved))
    agrees(many["router"], times(32, (2 * 2048 * 8 * 4096, 8 * 4096 * 2 + 2048 * (4096 * 2 + 8 * 4))))
    assert many["ffn_dense"]["flops"] == 0
    # one sequence: 2 of 8 experts; three sequences: 8 (1 - (3/4)^3) = 8 x 37/64 = 4.625
    one = operators(make_system("mixtral_8x7b"), make_batch(decode=1, context=100))
    agrees(one["experts"], times(32, (2 * 2 * expert, 2 * expert * 2 + 2 * (2 * 4096 + 3 * 14336) * 2)))
    three = operators(make_system("mixtral_8x7b"), make_batch(decode=3, context=100))
    agrees(
        three["experts"], times(32, (3 * 2 * 2 * expert, 4.625 * expert * 2 + 6 * (2 * 4096 + 3 * 14336) * 2))
    )


def test_mixtral_tp2_and_ep2() -> None:
    """Tensor parallel: half of each expert. Expert parallel: half of the experts, and half of the visits."""
    batch = make_batch(decode=3, context=100)
    half = 3 * 4096 * 7168
    tp = operators(make_system("mixtral_8x7b", tp=2), batch)
    agrees(tp["experts"], times(32, (3 * 2 * 2 * half, 4.625 * half * 2 + 6 * (2 * 4096 + 3 * 7168) * 2)))
    ep = operators(make_system("mixtral_8x7b", tp=2, ep=2), batch)
    whole = 3 * 4096 * 14336
    agrees(ep["experts"], times(32, (3 * 2 * whole, 2.3125 * whole * 2 + 3 * (2 * 4096 + 3 * 14336) * 2)))


# --- DeepSeek-V3: 61 layers of 7,168 (3 dense of 18,432), MLA, 256 experts of 2,048 (8 a token) and one shared -----

#: fp8 with one float32 scale a block of 128 x 128
FP8 = 1 + 4 / 16384
#: MLA: q through rank 1,536 to 128 heads of 192; latent 512 and rotary key 64; up to 128 x (128 + 128)
DOWN = 1536 + 512 + 64
Q_UP, KV_UP = 128 * 192, 128 * 256


def test_deepseek_v3_mla_projections() -> None:
    """The same in prefill and decode: absorbed, W_UK (128 x 512 a head) acts on the query, W_UV on the output."""
    m = 64
    flops = 61 * 2 * m * (7168 * DOWN + 1536 * Q_UP + 512 * KV_UP)
    for batch in (make_batch(decode=m, context=3000), make_batch(prefill=m)):
        got = operators(make_system("deepseek_v3"), batch)["attention_in"]
        assert got["flops"] == pytest.approx(flops, rel=EXACT)
        weights = (7168 * DOWN + 1536 * Q_UP + 512 * KV_UP) * FP8
        moved = weights + m * 2 * (7168 + DOWN + 1536 + 512 + Q_UP + KV_UP)
        # the two up-projections are one product of their mean depth: their inputs are a little fewer
        assert got["bytes"] == pytest.approx(61 * moved, rel=0.003)
    out = operators(make_system("deepseek_v3"), make_batch(decode=m, context=3000))["attention_out"]
    agrees(out, times(61, gemm(m, 7168, 16384, FP8)))


def test_deepseek_v3_mla_cores() -> None:
    # decode: 128 heads over a shared key of 576 and a value of 512; 576 x 2 bytes a token and layer are read once
    got = operators(make_system("deepseek_v3"), make_batch(decode=16, context=5000))["attention_decode"]
    flops = 61 * 128 * 2 * (576 + 512) * 16 * 5000
    agrees(got, (flops, 61 * 16 * (5000 * 576 * 2 + 128 * (576 + 512) * 2)))
    # prefill: expanded to 128 heads, keys of 192 and values of 128
    got = operators(make_system("deepseek_v3"), make_batch(prefill=4096))["attention_prefill"]
    flops = 61 * 128 * 2 * (192 + 128) * causal(4096)
    agrees(got, (flops, 61 * 4096 * 2 * 128 * (192 + 128) * 2), rel=CORE)


def test_deepseek_v3_feed_forward() -> None:
    expert = 3 * 7168 * 2048
    assert expert == 44_040_192
    got = operators(make_system("deepseek_v3"), make_batch(decode=32, context=1000))
    agrees(got["ffn_dense"], times(3, add(gemm(32, 2 * 18432, 7168, FP8), gemm(32, 7168, 18432, FP8))))
    agrees(got["ffn_shared"], times(58, add(gemm(32, 2 * 2048, 7168, FP8), gemm(32, 7168, 2048, FP8))))
    # 32 tokens with 8 of 256 each: 256 (1 - (31/32)^32) = 256 x 0.63794 = 163.3 experts
    touched = 256 * (1 - (31 / 32) ** 32)
    assert touched == pytest.approx(163.3, abs=0.05)
    moved = 58 * (touched * expert * FP8 + 32 * 8 * (2 * 7168 + 3 * 2048) * 2)
    agrees(got["experts"], (58 * 2 * 32 * 8 * expert, moved))
    # the element-wise passes: 10 over the residual, 3 over the gated widths (3 layers of 18,432, 58 of 2,048)
    gated = (3 * 18432 + 58 * 2048) / 61
    assert got["elementwise"]["bytes"] == pytest.approx(61 * 32 * (10 * 7168 + 3 * gated) * 2, rel=EXACT)


def test_deepseek_v3_dp8_ep8() -> None:
    """Attention data-parallel: 32 sequences on each of 8 chips; 32 experts a chip see the tokens of all."""
    got = operators(make_system("deepseek_v3", dp=8, ep=8), make_batch(decode=32, context=1000))
    expert = 3 * 7168 * 2048
    touched = 32 * (1 - (31 / 32) ** 256)
    visits = 8 * 32 * 8 / 8
    moved = 58 * (touched * expert * FP8 + visits * (2 * 7168 + 3 * 2048) * 2)
    agrees(got["experts"], (58 * 2 * visits * expert, moved), rel_bytes=1e-6)
    # attention and its cache are not split
    agrees(
        got["attention_decode"], (61 * 128 * 2 * 1088 * 32 * 1000, 61 * 32 * (1000 * 1152 + 128 * 1088 * 2))
    )


# --- Qwen3-30B-A3B: 48 layers of 2,048, 32 query and 4 KV heads of 128, 128 experts of 768, 8 a token --------------


def test_qwen3_30b_a3b() -> None:
    expert = 3 * 2048 * 768
    got = operators(make_system("qwen3_30b_a3b"), make_batch(decode=16, context=1000))
    agrees(got["attention_in"], times(48, gemm(16, 4096 + 512 + 512, 2048)))
    agrees(got["attention_out"], times(48, gemm(16, 2048, 4096)))
    agrees(
        got["attention_decode"],
        (48 * 32 * 2 * 256 * 16 * 1000, 48 * 16 * (1000 * 4 * 256 * 2 + 32 * 256 * 2)),
    )
    # 128 (1 - (15/16)^16) = 128 x 0.64393 = 82.42 experts
    touched = 128 * (1 - (15 / 16) ** 16)
    assert touched == pytest.approx(82.42, abs=0.01)
    agrees(
        got["experts"],
        times(48, (2 * 16 * 8 * expert, touched * expert * 2 + 128 * (2 * 2048 + 3 * 768) * 2)),
    )
    # active weights in products: 3.3e9 less the input table, as the model card's name says
    one = operators(make_system("qwen3_30b_a3b"), make_batch(decode=1, context=1))
    flops = sum(x.get("flops", 0.0) for x in one.values())
    assert flops / 2 == pytest.approx(3.34e9 - 151936 * 2048, rel=0.02)


# --- gpt-oss-120b: 36 layers of 2,880 (18 with a window of 128), 64 query and 8 KV heads of 64, 128 experts, 4 a token


def test_gpt_oss_120b() -> None:
    system = make_system("gpt_oss_120b")
    pre = operators(system, make_batch(prefill=2048))
    agrees(pre["attention_in"], times(36, gemm(2048, 4096 + 512 + 512, 2880)))
    # windowed layers: rows 1..128 see 1..128 keys (8,256 pairs), the other 1,920 rows 128 each (245,760)
    windowed, full = causal(2048, 0, 128), causal(2048)
    assert windowed == 8256 + 245_760
    assert pre["attention_prefill"]["flops"] == pytest.approx(18 * 64 * 2 * 128 * (windowed + full), rel=CORE)
    # all 2,048 new keys are read once in both kinds of layers
    assert pre["attention_prefill"]["bytes"] == pytest.approx(36 * 2048 * 128 * (8 + 64) * 2, rel=EXACT)
    dec = operators(system, make_batch(decode=8, context=3000))
    # a windowed layer reads 128 tokens, a full one 3,000
    flops = 18 * 64 * 2 * 128 * 8 * (128 + 3000)
    agrees(dec["attention_decode"], (flops, 18 * 8 * 8 * 128 * 2 * 3128 + 36 * 8 * 64 * 128 * 2))
    # experts in mxfp4: 4.25 bits; 8 tokens touch 128 (1 - (31/32)^8) of them
    expert = 3 * 2880 * 2880
    touched = 128 * (1 - (31 / 32) ** 8)
    moved = 36 * (touched * expert * 4.25 / 8 + 8 * 4 * (2 * 2880 + 3 * 2880) * 2)
    agrees(dec["experts"], (36 * 2 * 8 * 4 * expert, moved))
    agrees(dec["lm_head"], (2 * 8 * 201088 * 2880, 201088 * 2880 * 2 + 8 * (2880 * 2 + 201088 * 4)))


# --- beyond the six: compressed and recurrent mixers ---------------------------------------------------------------


def test_deepseek_v4_compressed_attention_counts_compressed_pairs() -> None:
    """V4-Flash: 2 layers see 128 tokens, 21 see 128 and 512 of 4-token entries, 20 see 128 and all 128-token ones."""
    system = make_system("deepseek_v4_flash")
    q = 8192
    near = causal(q, 0, 128)
    fourth = sum(min(i / 4, 512) for i in range(1, q + 1))
    coarse = sum(i / 128 for i in range(1, q + 1))
    pairs = 2 * near + 21 * (near + fourth) + 20 * (near + coarse)
    got = operators(system, make_batch(prefill=q))["attention_prefill"]
    assert got["flops"] == pytest.approx(64 * 2 * (512 + 512) * pairs, rel=CORE)
    got = operators(system, make_batch(decode=4, context=20000))["attention_decode"]
    entries = 2 * 128 + 21 * (128 + 512) + 20 * (128 + 20000 / 128)
    assert got["flops"] == pytest.approx(64 * 2 * 1024 * 4 * entries, rel=EXACT)


def test_qwen3_5_recurrence_state_is_read_and_written_once_a_step() -> None:
    """30 gated-delta layers: 32 heads of a 128 x 128 float32 state and 3 past inputs of the convolution."""
    got = operators(make_system("qwen3_5_35b_a3b"), make_batch(decode=10, context=4000))
    state = 32 * 128 * 128 + 3 * (32 * 128 + 2 * 16 * 128)
    assert got["recurrence"]["bytes"] == pytest.approx(30 * 10 * 2 * state * 4, rel=EXACT)
    # decay 1, read 2, update 2, query 2 per state element; 4 taps of the convolution
    assert got["recurrence"]["flops"] == pytest.approx(
        30 * 10 * (7 * 32 * 128 * 128 + 2 * 4 * 8192), rel=EXACT
    )
    # 10 softmax layers of 16 heads of 256 over 2 KV heads
    agrees(
        got["attention_decode"],
        (10 * 16 * 2 * 512 * 10 * 4000, 10 * 10 * (4000 * 2 * 512 * 2 + 16 * 512 * 2)),
    )


def test_pipeline_stages_share_the_work() -> None:
    """PP = 2 at TP = 8: a chip does half of the layers; the time of a micro-batch is that of all of them."""
    batch = make_batch(decode=32, context=4000)
    one = operators(make_system("llama3_1_70b", tp=8), batch)
    two = operators(make_system("llama3_1_70b", tp=8, pp=2), batch)
    for name in ("attention_in", "attention_decode", "ffn_dense", "all_reduce"):
        assert two[name]["seconds"] == pytest.approx(one[name]["seconds"], rel=EXACT)
        assert 2 * two[name]["flops"] == pytest.approx(one[name]["flops"], rel=EXACT)
        assert 2 * two[name]["bytes"] == pytest.approx(one[name]["bytes"], rel=EXACT)
        assert 2 * two[name]["sent"] == pytest.approx(one[name]["sent"], rel=EXACT)
