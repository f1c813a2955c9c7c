"""One style for all pictures: readable in print, in grey and by colour-blind people; no pyplot state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as _Figure

P = ParamSpec("P")
R = TypeVar("R")

#: Eight colours that colour-blind people tell apart (Okabe and Ito, "Color Universal Design", 2008); the
#: yellow is darkened to be seen on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#5D3A9B", "#4D4D4D")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xx", "--", "++", "oo")
INK, FAINT = "#1a1a1a", "#8a8a8a"
SEQUENTIAL = "viridis"
#: inches: a picture is as wide as a text column on a phone and half a page on a desk
WIDTH, HEIGHT = 4.4, 3.1

RC: Any = {
    "axes.prop_cycle": cycler(color=COLORS),
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.fontsize": 8.0,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "mist-jax",
}


class Figure(_Figure):
    """A matplotlib figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the common style, whatever the process has set."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return inside


def use_style() -> None:
    """Give pictures of one's own, drawn with pyplot, the style of this package (for the whole process)."""
    matplotlib.rcParams.update(RC)


def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = HEIGHT, **kwargs: Any
) -> Any:
    """`(figure, axes)`; axes is one `Axes` for a single panel, else an array."""
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, **kwargs)
    return fig, axes


def legend_below(fig: _Figure, *args: Any, most: int = 3, note: str = "") -> None:
    """A legend under the picture, in as many columns (at most `most`) as its width holds.

    Args:
        args: handles and labels; default: those of the axes.
        note: text above the legend.
    """
    title: Any = {"title": note, "title_fontsize": 8, "alignment": "left"} if note else {}
    renderer = FigureCanvasAgg(fig).get_renderer()
    for columns in range(most, 0, -1):
        legend = fig.legend(*args, loc="outside lower left", ncols=columns, **title)
        if columns == 1 or legend.get_window_extent(renderer).width < fig.bbox.width:
            return
        legend.remove()


def png(fig: _Figure, dpi: float = 160.0) -> bytes:
    """The figure as PNG."""
    buffer = BytesIO()
    with matplotlib.rc_context(RC):
        fig.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(fig: _Figure) -> bytes:
    """The figure as SVG, the same bytes for the same picture."""
    buffer = BytesIO()
    with matplotlib.rc_context(RC):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def color(index: int) -> str:
    """The colour of the series number `index`."""
    return COLORS[index % len(COLORS)]


def text_on(rgba: Any) -> str:
    """Black or white, whichever reads better on the colour (relative luminance of WCAG 2.1)."""
    rgb = np.asarray(rgba[:3], dtype=float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.18 else "white"


def overlapping_texts(fig: _Figure) -> list[tuple[str, str]]:
    """Pairs of visible texts whose boxes overlap, and texts that leave the figure.

    A check for tests and for one's own pictures: an empty list means that nothing lies on anything else.
    """
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = _ticks_out_of_view(fig)
    boxes = []
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
    width, height = fig.bbox.width, fig.bbox.height
    bad = [
        (name, "figure edge")
        for name, b in boxes
        if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1
    ]
    for i, (first, a) in enumerate(boxes):
        for second, b in boxes[i + 1 :]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            down = min(a.y1, b.y1) - max(a.y0, b.y0)
            if across > 1 and down > 1:
                bad.append((first, second))
    return bad


def _ticks_out_of_view(fig: _Figure) -> set[int]:
    """Ids of tick labels outside of the view, which exist but are not drawn."""
    out = set()
    for axes in fig.axes:
        for axis, index, view in (
            (axes.xaxis, 0, axes.viewLim.intervalx),
            (axes.yaxis, 1, axes.viewLim.intervaly),
        ):
            low, high = sorted(view)
            slack = 1e-9 * max(abs(low), abs(high), 1e-30)
            for minor in (False, True):
                for label in axis.get_ticklabels(minor=minor):
                    if not low - slack <= label.get_position()[index] <= high + slack:
                        out.add(id(label))
    return out
