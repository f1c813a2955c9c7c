"""The validation table: its form, and what must be exact."""

from __future__ import annotations

import itertools
import json

import pytest

validate = pytest.importorskip("calibration.validate")


def test_rows_have_the_agreed_fields_and_exact_rows_are_exact(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    names = ["rago", "mooncake_break_even", "halugate", "power_cap", "pcie_both_ways"]
    assert validate.main(["--json", str(file), *(a for n in names for a in ("--only", n))]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {r["case"] for r in rows} == set(names)
    for r in rows:
        assert {"case", "quantity", "measured", "predicted", "unit", "source"} <= set(r)
        assert r["basis"] in ("exact", "fitted", "predicted", "trend")
        if r["basis"] == "exact":
            assert abs(validate.error_percent(r)) < 3.0  # published figures are rounded
    assert "median |error|" in capsys.readouterr().out


def test_unknown_case_is_named(capsys):
    assert validate.main(["--only", "ragoo"]) == 2
    assert "no case ragoo" in capsys.readouterr().err


def test_missing_data_is_a_reason_not_a_failure(monkeypatch, tmp_path):
    monkeypatch.setenv("MIST_DATA_DIR", str(tmp_path))
    rows, skipped = validate.run(["mooncake_hits", "faiss_bigann"])
    assert rows == []
    assert "missing" in skipped["mooncake_hits"]
    assert "big-ann-benchmarks" in skipped["faiss_bigann"]


@pytest.mark.slow
def test_where_loading_a_prefix_and_computing_it_change_sides():
    """4,096 tokens: computing wins at 2 GB/s, loading over 100G and 400G, one NVMe drive is about the tie."""
    ratio = [r["predicted"] for r in validate.cases()["load_or_recompute"]()]
    over_400g, over_100g, nvme, slow, crossing = ratio
    assert over_400g < over_100g < 1.0 < slow
    assert 0.7 < nvme < 1.5
    assert 2.0 < crossing < 11.8


@pytest.mark.slow
def test_a_slower_tier_helps_long_prefixes_and_hurts_short_ones():
    rows = list(validate.cases()["lmcache_tiers"]())
    changes = [r["predicted"] for r in rows]
    assert changes[0] == pytest.approx(0.0, abs=1e-6)  # fitted there
    assert rows[0]["setting"]["change_at_500"] > 3.0
    assert all(a > b for a, b in itertools.pairwise(changes))
    assert changes[-2:] == pytest.approx([r["measured"] for r in rows[-2:]], abs=15.0)  # points of per cent
