"""A measured run beside its prediction."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.report.sweep_points import need

#: Band drawn around 1: two measurements of one deployment differ by up to 8 % in TPOT and 14 % in TTFT (90th
#: percentile; calibration/DATA.md, "Noise").
NOISE = 0.14


@styled
def plot_comparison(ds: xr.Dataset, *, width: float = style.WIDTH) -> Figure:
    """Predicted over measured of each quantity, on a log scale; the band is the noise between two runs.

    Args:
        ds: the result of `mist_jax.compare.compare`.
    """
    from mist_jax.compare import title

    need(ds, "ratio", "quantity")
    ratio = ds["ratio"].values.astype(float)
    at = np.flatnonzero(np.isfinite(ratio) & (ratio > 0))[::-1]
    fig, ax = panels(width=width, height=1.3 + 0.26 * max(at.size, 2))
    ax.axvspan(1 / (1 + NOISE), 1 + NOISE, color="#e4e4e4", linewidth=0, zorder=0)
    ax.axvline(1.0, color=style.INK, linewidth=0.9)
    rows = np.arange(at.size)
    ax.hlines(rows, 1.0, ratio[at], color=style.COLORS[0], linewidth=1.6)
    ax.plot(ratio[at], rows, "o", color=style.COLORS[0])
    reach = max(1.6, *(float(max(r, 1 / r)) ** 1.15 for r in ratio[at])) if at.size else 2.0
    ax.set_xscale("log")
    ax.set_xlim(1 / reach, reach)
    ticks = [t for t in (0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0, 10.0) if 1 / reach <= t <= reach]
    ax.set_xticks(ticks, [q.number(t) for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(rows, [title(str(ds["quantity"].values[i])) for i in at])
    ax.set_ylim(-0.6, at.size - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Predicted / measured (grey: noise of two runs)")
    ax.set_title("Prediction against measurement")
    return fig
