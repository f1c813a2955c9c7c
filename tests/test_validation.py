"""The validation table: its form, and what must be exact."""

from __future__ import annotations

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
