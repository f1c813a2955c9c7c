"""What a sweep prints: all points of a small one, the front of a large one, nothing where nothing is possible."""

import numpy as np
import pytest
import xarray as xr

from mist_jax.report.fitting import console
from mist_jax.report.sweep_tables import ALL, ROWS, heads, print_sweep, save_front, shown_points


def made(sizes, status=0):
    rng = np.random.default_rng(0)
    dims = ("hardware", "engine.max_num_seqs")[: len(sizes)]
    coords = {
        "hardware": [f"chip{i}" for i in range(sizes[0])],
        "engine.max_num_seqs": np.arange(1.0, sizes[-1] + 1),
    }
    names = (
        "ttft_s",
        "tpot_s",
        "tokens_per_s_per_user",
        "output_tokens_per_s_per_chip",
        "cost_per_million_output_tokens_usd",
    )
    data = {n: (dims, rng.uniform(0.1, 1.0, sizes)) for n in names}
    data["status"] = (dims, np.full(sizes, status))
    return xr.Dataset(data, coords={d: coords[d] for d in dims})


def printed(ds):
    out = console(width=100)
    with out.capture() as text:
        print_sweep(ds, out)
    return text.get()


def test_a_small_sweep_shows_every_point():
    text = printed(made((3, 4)))
    assert text.count("chip0") == 4
    assert "seqs" in text
    assert "Pareto" not in text


def test_heads_that_would_read_the_same_say_whose_they_are():
    axes = ["hardware", "hardware@pipeline.clients.encoder.hardware", "engine.max_num_seqs"]
    assert heads(axes) == ["hardware", "encoder hardware", "max num seqs"]


def test_a_large_sweep_shows_points_that_none_beats():
    ds = made((20, 20))
    points, text = shown_points(ds)
    assert points.sizes["point"] <= ROWS < ALL < 400
    assert "of 400 possible ones" in text
    x, y = ds["tokens_per_s_per_user"].values, ds["output_tokens_per_s_per_chip"].values
    for i in range(points.sizes["point"]):
        at = points.isel(point=i)
        beats = (x >= float(at["tokens_per_s_per_user"])) & (y >= float(at["output_tokens_per_s_per_chip"]))
        assert beats.sum() == 1  # itself alone
        here = ds.sel(
            {"hardware": at["hardware"].item(), "engine.max_num_seqs": at["engine.max_num_seqs"].item()}
        )
        assert float(here["ttft_s"]) == float(at["ttft_s"])


def test_nothing_possible_prints_nothing(tmp_path):
    assert printed(made((2, 2), status=1)) == ""
    save_front(made((2, 2), status=1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [(2, 2), (20, 20)])
def test_the_front_is_drawn(tmp_path, sizes):
    save_front(made(sizes), tmp_path)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
