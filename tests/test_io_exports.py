"""What is written is read back equal, in every form."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mist_jax.errors import ConfigError
from mist_jax.io.exports import FORMS, export, load_export, to_table


def evaluation() -> xr.Dataset:
    """In the shape of `evaluate`: scalars and two label dimensions."""
    ds = xr.Dataset({
        "ttft_s": ((), 0.1 + 1e-17, {"units": "s", "long_name": "mean time to first token"}),
        "status": ((), np.int64(0), {"units": "1"}),
        "breakdown_s": ("part", np.array([1 / 3, 0.0, np.nan]), {"units": "s"}),
        "power_share_w": ("share", np.array([70.0, 1.5]), {"units": "W"}),
    })  # fmt: skip
    return ds.assign_coords(
        part=["attention, prefill", "ffn", "host"], share=["idle", "compute"]
    ).assign_attrs(model='a "name", with a comma', calibration="default", chips=8.0)


def playback() -> xr.Dataset:
    """In the shape of `play`: requests and stages, one not served."""
    rng = np.random.default_rng(0)
    n = 7
    ttft = rng.random(n)
    ttft[3] = np.nan
    return xr.Dataset(
        {
            "ttft_s": ("request", ttft, {"units": "s"}),
            "prompt_tokens": ("request", rng.integers(1, 9000, n), {"units": "1"}),
            "stage_s": (("request", "stage"), rng.random((n, 3)), {"units": "s"}),
        },
        coords={"request": [f"r{i}" for i in range(n)], "stage": ["queue", "prefill", "decode"]},
        attrs={"requests": n, "ttft_p99_s": float(np.nanpercentile(ttft, 99))},
    )


def grid() -> xr.Dataset:
    """In the shape of `sweep`: axes of text and numbers, a variable with fewer axes, one with a label."""
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "tpot_s": (("hardware", "workload.rate"), rng.random((2, 3)), {"units": "s"}),
            "chips": ("hardware", np.array([8.0, 4.0])),
            "breakdown_s": (("part", "hardware", "workload.rate"), rng.random((2, 2, 3))),
            "worst": ((), np.inf),
        },
        coords={
            "hardware": ["h100_sxm", "mi300x"], "workload.rate": ("workload.rate", [1.0, 2.5, 1e3], {"units": "1/s"}),
            "part": ["ffn", "host"],
        },
    )  # fmt: skip


@pytest.mark.parametrize("suffix", list(FORMS))
@pytest.mark.parametrize("make", [evaluation, playback, grid])
def test_round_trip(tmp_path, suffix, make):
    ds = make()
    back = load_export(export(ds, tmp_path / f"out{suffix}"))
    xr.testing.assert_identical(back, ds)
    for name, var in ds.variables.items():
        kinds = (back[name].dtype.kind, var.dtype.kind)
        assert kinds[0] == kinds[1] or set(kinds) <= set("OUT")  # text may come back as another kind of text


def test_table_has_a_row_a_point_and_a_column_a_label():
    table = to_table(playback())
    assert list(table.columns) == [
        "request", "ttft_s", "prompt_tokens", "stage_s[queue]", "stage_s[prefill]", "stage_s[decode]"
    ]  # fmt: skip
    assert len(table) == 7
    assert len(to_table(grid())) == 6
    assert len(to_table(evaluation())) == 1


def test_nothing_is_overwritten_unasked(tmp_path):
    path = export(evaluation(), tmp_path / "a.json")
    with pytest.raises(ConfigError, match="is there already"):
        export(evaluation(), path)
    export(playback(), path, overwrite=True)
    assert load_export(path).sizes["request"] == 7


def test_complaints_name_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown suffix '.parquett' \(did you mean '.parquet'\?\)"):
        export(evaluation(), tmp_path / "a.parquett")
    with pytest.raises(ConfigError, match="no such file"):
        load_export(tmp_path / "a.csv")
    foreign = tmp_path / "b.csv"
    foreign.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"b\.csv: has no line"):
        load_export(foreign)
    broken = tmp_path / "c.json"
    broken.write_text('{"coords": {}}')
    with pytest.raises(ConfigError, match=r"c\.json: not a result"):
        load_export(broken)
