"""The readers of public measurements: what they repair, that nothing is lost, and that splits do not leak."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from calibration import black_box, splits
from calibration.datasets import serving, serving_cleaning
from calibration.datasets.names import model_key, system_key
from calibration.datasets.recipes import Pool, parse_pool, recipes

SERVING = serving.data_dir() / "serving" / "train.csv"
needs_data = pytest.mark.skipif(
    not SERVING.exists(),
    reason="public measurements are not here: set MIST_DATA_DIR (see calibration/DATA.md)",
)


def raw(**changes: object) -> dict:
    """An aggregated row in the form of serving/train.csv."""
    row = {
        "id": "dsr1_x",
        "silicon_data_source": "source_file=2026-04-06.csv; model=DeepSeek-R1; silicon_concurrency=32; "
        "measured=2026-03-25T00:00:00.000Z; wip=False; image=lmsysorg/sglang:v0.5.9-cu130",
        "backend": "sglang",
        "backend_version": "0.5.9",
        "model_path": "deepseek-ai/DeepSeek-R1",
        "system": "b200_sxm",
        "precision": "fp4",
        "mode": "agg",
        "isl": 1024,
        "osl": 1024,
        "gemm_quant_mode": "nvfp4",
        "moe_quant_mode": "nvfp4",
        "batch_size": 32,
        "tp_size": 8,
        "pp_size": 1,
        "attention_dp_size": 1,
        "moe_tp_size": 8,
        "moe_ep_size": 1,
    }
    return row | changes


def layout(row: dict, pool: str = "decode") -> tuple:
    return tuple(row[f"{pool}_{k}"] for k in ("replicas", "tp", "dp", "moe_tp", "ep"))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return serving.read_serving(SERVING)


def test_names_of_quantized_repositories():
    assert model_key("nvidia/DeepSeek-R1-0528-NVFP4-v2") == "deepseek_r1"
    assert model_key("zhipuai/GLM-5") == "glm_5"
    assert model_key("nvidia/Llama-3.1-8B-Instruct-FP8") == model_key("meta-llama--Meta-Llama-3.1-8B")
    assert model_key("Qwen/Qwen3-30B-A3B-Instruct-2507") == "qwen3_30b_a3b"
    assert model_key("nobody/Nothing-7B") is None
    assert system_key("H100") == "h100_sxm"
    assert system_key("RTX PRO 6000") == "rtx_pro_6000_server"
    assert system_key("abacus") is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("B300", "b300_sxm"),
        ("NVIDIA B300 SXM6 AC", "b300_sxm"),
        ("gb300-nvl72", "gb300"),
        ("8xH100-80GB-HBM3", "h100_sxm"),
        ("gh200-144gb", "gh200_144gb"),
        ("AMD Instinct MI355X OAM", "mi355x"),
        ("b200-cw", "b200_sxm"),
        ("h100_pcie", "h100_pcie"),
        ("a100-pcie", None),
    ],
)
def test_systems_are_found_however_they_are_spelled(name, key):
    assert system_key(name) == key


def test_a_known_model_with_an_unknown_suffix_is_not_taken_for_another_size_or_a_student():
    assert model_key("nvidia/Kimi-K2.5-NVFP4-eagle3") == "kimi_k2_5"
    assert model_key("openai/gpt-oss-120b-Eagle3") == "gpt_oss_120b"
    assert model_key("zai-org/GLM-5.1-FP8-dynamic") == "glm_5_1"
    assert model_key("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B") is None
    assert model_key("Qwen/Qwen3.6-35B-A3B") is None
    assert model_key("deepseek-ai/DeepSeek-V9") is None


@pytest.mark.parametrize(
    "column", ["isl", "silicon_data_source", "tp_size", "moe_ep_size", "precision", "mode"]
)
@pytest.mark.parametrize("value", [None, math.nan, "abc", "", 0, -1, math.inf, 2.5])
def test_no_value_of_a_column_breaks_the_reader(column, value):
    for mode in ("agg", "disagg"):
        row = serving.canonical_row(raw(mode=mode, prefill_tp_size=8, decode_tp_size=8) | {column: value})
        assert row["status"] in ("ok", "repaired", "refused")
        assert bool(row["reason"]) == (row["status"] != "ok")


def test_unknown_names_stay_and_say_so():
    names = {
        "system": "mars",
        "backend": "dynamo-tensorrt_llm",
        "model_path": "x/Unheard-9B",
        "precision": "w4a16",
    }
    row = serving.canonical_row(raw(**names))
    assert (row["system"], row["engine"], row["model"]) == ("mars", "trtllm", "unheard_9b")
    assert (row["weight_precision"], row["expert_precision"]) == ("bf16", "int4")
    assert row["status"] == "repaired"
    assert "unknown system mars" in row["reason"]
    assert "unknown model x/Unheard-9B" in row["reason"]


@pytest.mark.parametrize(
    ("date", "ending", "mtp"), [("2026-02-07", "-amd64", 0.0), ("2026-02-13", "-amd64", 1.0)]
)
def test_a_run_that_launched_one_mode_of_speculation_settles_it(date, ending, mtp):
    source = f"source_file=2026-03-25.csv; silicon_concurrency=32; measured={date}T00:00:00Z; image=x/sglang:v0.5.8"
    row = {k: v for k, v in raw().items() if not k.startswith(("tp_", "moe_", "batch"))}
    row |= {
        "mode": "disagg",
        "precision": "fp8",
        "prefill_tp_size": 8,
        "prefill_moe_ep_size": 8,
        "decode_tp_size": 8,
    }
    out = serving.canonical_row(row | {"silicon_data_source": source + ending})
    assert (out["mtp"], out["layout_source"]) == (mtp, "recipe")


@pytest.mark.parametrize(
    ("columns", "expected", "gpus"),
    [
        ({"tp_size": 64, "moe_tp_size": 8, "moe_ep_size": 8}, (1, 8, 1, 1, 8), 8),
        ({"tp_size": 16, "moe_tp_size": 4, "moe_ep_size": 4}, (1, 4, 1, 1, 4), 4),
        (
            {"tp_size": 1, "attention_dp_size": 64, "moe_tp_size": 8, "moe_ep_size": 8, "batch_size": 0.5},
            (1, 1, 8, 1, 8),
            8,
        ),
        (
            {"tp_size": 4, "attention_dp_size": 4, "moe_tp_size": 1, "moe_ep_size": 16, "batch_size": 8},
            (1, 4, 1, 1, 4),
            4,
        ),
        ({}, (1, 8, 1, 8, 1), 8),
    ],
)
def test_product_of_parallel_degrees_is_undone(columns, expected, gpus):
    row = serving.canonical_row(raw(**columns))
    assert layout(row) == expected
    assert row["n_gpus"] == gpus
    assert row["status"] == ("repaired" if columns else "ok")


def test_layouts_are_consistent_whatever_is_written():
    for tp in (1, 2, 8, 12):
        for dp in (math.nan, 0, 1, 4):
            for ep in (0, 1, 2, 8):
                row = serving.canonical_row(raw(tp_size=tp, attention_dp_size=dp, moe_ep_size=ep))
                pool = Pool(*layout(row))
                assert pool.tp * pool.dp == pool.moe_tp * pool.ep


def test_lost_workers_come_from_the_launch_recipe():
    source = "source_file=2026-03-25.csv; silicon_concurrency={}; measured=2026-01-29T00; image=x:1"
    row = {k: v for k, v in raw().items() if not k.startswith(("tp_", "moe_", "batch"))}
    row |= {"backend": "trtllm", "mode": "disagg", "attention_dp_size": math.nan}
    row |= {"prefill_tp_size": 4, "prefill_moe_ep_size": 4, "decode_tp_size": 8, "decode_moe_ep_size": 4}
    out = serving.canonical_row(row | {"silicon_data_source": source.format(2192)})
    assert layout(out, "prefill") == (1, 1, 4, 1, 4)
    assert layout(out) == (2, 1, 8, 1, 8)
    assert (out["n_gpus"], out["mtp"], out["max_batch"]) == (20, 0.0, 128.0)
    assert out["decode_batch"] == 2192 / 16
    only_with_drafts = serving.canonical_row(row | {"silicon_data_source": source.format(875)})
    assert (only_with_drafts["mtp"], only_with_drafts["mtp_depth"]) == (1.0, 3.0)
    either = serving.canonical_row(row | {"silicon_data_source": source.format(45)})
    assert (either["mtp"], either["layout_source"]) == (0.5, "recipe")
    unheard = serving.canonical_row(row | {"silicon_data_source": source.format(7)})
    assert (unheard["status"], unheard["layout_source"]) == ("repaired", "assumed")


def test_precision_of_natively_quantized_experts():
    row = serving.canonical_row(raw(model_path="openai/gpt-oss-120b"))
    assert (row["weight_precision"], row["expert_precision"], row["kv_precision"]) == (
        "bf16",
        "mxfp4",
        "bf16",
    )
    assert "mxfp4" in row["reason"]
    modes = {"precision": math.nan, "gemm_quant_mode": math.nan, "moe_quant_mode": math.nan}
    blank = serving.canonical_row(raw(model_path="Qwen/Qwen3-32B", **modes))
    assert blank["weight_precision"] == "bf16"
    assert "precision" in blank["reason"]


def test_unknown_names_do_not_raise():
    row = serving.canonical_row(
        raw(model_path="new/Thing-9T", system="h9000", backend="ollama", precision="fp2")
    )
    assert (row["model"], row["system"], row["engine"]) == ("thing_9t", "h9000", "vllm")
    assert row["status"] == "repaired"
    for word in ("unknown system", "unknown engine", "unknown model", "precision"):
        assert word in row["reason"]


def test_refused_with_a_reason():
    row = serving.canonical_row(raw(isl=0))
    assert row["status"] == "refused"
    assert "lengths" in row["reason"]
    row = serving.canonical_row(raw(silicon_data_source="", batch_size=math.nan))
    assert row["status"] == "refused"
    assert "concurrency" in row["reason"]


def test_speculation_is_known_by_image():
    image = "silicon_data_source"
    text = (
        "source_file=2026-04-06.csv; silicon_concurrency=8; measured=2026-02-06; image=nvcr.io#a/release:{}"
    )
    on = serving.canonical_row(raw(backend="trtllm", **{image: text.format("1.2.0rc6.post3")}))
    off = serving.canonical_row(raw(backend="trtllm", **{image: text.format("1.2.0rc6.post2")}))
    assert (on["mtp"], off["mtp"]) == (1.0, 0.0)


def test_versions_to_families():
    family = serving_cleaning.version_family
    assert family("vllm", "0.19.0", "vllm-openai:v0.19.0-cu130", "2026-04-22") == "0.19"
    assert family("sglang", "", "sglang:v0.5.8.post1-cu130", "") == "0.5.8"
    assert family("trtllm", "0.8.1.post2", "tensorrtllm-runtime:0.8.1.post2", "") == "dynamo-0.8"
    assert family("trtllm", "1.2.0rc6.post2", "", "") == "1.2"
    assert family("sglang", "nightly-dev", "", "") == "nightly"
    assert family("vllm", "", "", "2025-10-29") == "2025H2"


def test_recipes_are_consistent():
    table = recipes()
    assert len(table) > 400
    for launches in table.values():
        for r in launches:
            for pool in (r.prefill, r.decode):
                assert pool.tp * pool.dp == pool.moe_tp * pool.ep
    assert parse_pool("5xE8") == Pool(5, 8, 1, 1, 8)
    with pytest.raises(ValueError, match="kind"):
        parse_pool("1xQ8")


def test_without_measurements(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame([raw(), raw(id="b", system="b300")]).to_csv(path, index=False)
    out = serving.read_serving(path)
    assert list(out.id) == ["dsr1_x", "b"]
    assert out.ttft_ms.isna().all()
    assert out.measurement_id.nunique() == 2
    assert list(out.weight) == [1.0, 1.0]
    pd.DataFrame([{"id": 1}]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="model_path"):
        serving.read_serving(path)


@needs_data
def test_every_row_has_a_place(frame):
    assert len(frame) == len(pd.read_csv(SERVING, usecols=["id"]))
    assert set(frame.status) <= {"ok", "repaired", "refused"}
    assert (frame.reason[frame.status != "ok"] != "").all()
    kept = frame[frame.status != "refused"]
    assert kept.measurement_id.nunique() >= 0.92 * frame.measurement_id.nunique()
    assert kept.groupby("measurement_id").weight.sum().sub(1).abs().max() < 1e-12
    for pool in ("prefill", "decode"):
        a = kept[f"{pool}_tp"] * kept[f"{pool}_dp"]
        assert (a == kept[f"{pool}_moe_tp"] * kept[f"{pool}_ep"]).all()
    assert (kept.concurrency >= 1).all()
    assert kept[["decode_batch", "n_gpus", "length_mean"]].notna().all().all()


@needs_data
def test_predictors_see_no_measurement(tmp_path):
    rows = pd.read_csv(SERVING, low_memory=False).iloc[::7]
    path = tmp_path / "blind.csv"
    rows.drop(columns=["silicon_ttft_ms", "silicon_tpot_ms"]).to_csv(path, index=False)
    blind = serving.read_serving(path).set_index("id")
    rows.to_csv(path, index=False)
    seen = serving.read_serving(path, use_measurements=False).set_index("id")
    measured = {"ttft_ms", "tpot_ms", "measurement_id", "weight"}
    for column in set(seen.columns) - measured:
        pd.testing.assert_series_equal(seen[column], blind[column])
    assert not seen.ttft_ms.isna().any()


@needs_data
def test_recipes_agree_with_rows_that_kept_their_layout(frame):
    rows = frame[(frame["mode"] == "disagg") & frame.dump.str.startswith("db-dump")]
    agree = known = 0
    for r in rows.itertuples():
        label = {"nvfp4": "fp4"}.get(r.expert_precision, r.expert_precision)
        launches = recipes().get(
            (r.model, r.system, r.engine, label, int(r.isl), int(r.osl), int(r.concurrency))
        )
        if launches:
            known += 1
            agree += any(
                (x.decode.replicas, x.decode.tp, x.decode.dp, x.prefill.replicas)
                == (r.decode_replicas, r.decode_tp, r.decode_dp, r.prefill_replicas)
                for x in launches
                if x.speculative == 0
            )
    assert known > 150
    assert agree >= 0.95 * known


@needs_data
@pytest.mark.parametrize("kind", splits.SPLITS)
def test_splits_do_not_leak(frame, kind):
    folds = splits.make_splits(frame, kind)
    tested = np.concatenate([s.test for s in folds])
    assert len(tested) == len(set(tested)) == (frame.status != "refused").sum()
    for s in folds:
        train, test = frame.loc[s.train], frame.loc[s.test]
        assert not set(train.measurement_id) & set(test.measurement_id)
        if kind == "deployment":
            assert not set(train.deployment) & set(test.deployment)
        if kind in ("system", "model", "engine"):
            assert not set(train[kind]) & set(test[kind])
    again = splits.make_splits(frame.sample(frac=1.0, random_state=1), kind)
    assert [set(s.test) for s in again] == [set(s.test) for s in folds]


@needs_data
def test_one_anchor_a_deployment(frame):
    for s in splits.make_splits(frame, "system", anchored=True):
        anchors, test = frame.loc[s.anchors], frame.loc[s.test]
        assert anchors.deployment.is_unique
        assert not set(anchors.measurement_id) & set(test.measurement_id)
    with pytest.raises(ValueError, match="unknown split"):
        splits.make_splits(frame, "phase of the moon")


@needs_data
def test_slots_explain_waiting(frame):
    """Closed loop: what exceeds the decode slots waits (c - slots) / slots of a service time."""
    rows = frame[(frame.layout_source == "recipe") & (frame.slots < 0.9 * frame.concurrency)]
    rows = rows[rows.mtp_fit.isin([0.0, 1.0])]
    wait = (rows.concurrency - rows.slots) / rows.slots * rows.length_mean * rows.osl * rows.tpot_ms
    assert len(rows) > 30
    assert 0.7 < (wait / rows.ttft_ms).median() < 1.1


@needs_data
def test_roofline_needs_a_factor_above_one(frame):
    ideal = black_box.physical(frame)
    known = ideal.step_s.notna()
    assert known.mean() > 0.95
    plain = known & (frame.mtp_fit == 0) & (frame.suspect == "") & (frame.layout_source == "row")
    ratio = frame.tpot_ms[plain] / (1e3 * ideal.step_s[plain])
    assert (ratio > 0.9).mean() > 0.97
    train, test = frame.iloc[::2], frame.iloc[1::2]
    ttft, tpot = black_box.roofline(train, test)
    assert np.isfinite(ttft[known.iloc[1::2]]).all()
    assert np.isfinite(tpot[known.iloc[1::2]]).all()


@needs_data
def test_other_readers():
    from calibration.datasets.energy import read_energy
    from calibration.datasets.engine_runs import read_engine_runs
    from calibration.datasets.mlperf import read_mlperf
    from calibration.datasets.splitwise import read_splitwise

    energy = read_energy()
    ok = energy[energy.status == "ok"]
    assert len(ok) > 150
    assert (ok.energy_j_per_token * ok.tokens_per_s / ok.power_w).between(0.98, 1.02).all()
    assert (ok.tp * ok.dp == ok.n_gpus).all()
    assert (energy.reason[energy.status == "refused"] != "").all()

    splitwise = read_splitwise()
    assert splitwise.repeats.sum() == len(read_splitwise(aggregate=False))
    assert splitwise.noise.median() < 0.01
    valid = splitwise[splitwise.e2e_valid]
    e2e = valid.prompt_ms + (valid.output_tokens - 1) * valid.token_ms
    assert (valid.e2e_ms / e2e).between(0.95, 1.05).all()

    mlperf = read_mlperf()
    assert (mlperf.reason[mlperf.status == "refused"] != "").all()
    server = mlperf[(mlperf.scenario == "server") & (mlperf.status == "ok")]
    assert (server.samples_per_s <= 1.05 * server.offered_per_s).all()
    assert mlperf[mlperf.model == "llama2_70b"].tokens_per_sample.dropna().between(285, 305).all()

    runs = read_engine_runs()
    assert {r.status for r in runs} == {"ok"}
    for run in runs:
        q = run.requests
        assert (q.status == "ok").all()
        assert q.arrival_s.is_monotonic_increasing
        assert (q.ttft_ms >= q.wait_ms - 1e-6).all()
        assert np.allclose(q.e2e_ms, q.ttft_ms + q.tpot_ms * (q.output_tokens - 1))
