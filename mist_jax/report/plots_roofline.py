"""The roofline of a chip with the operators of a prefill and of a decode iteration on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mist_jax.report import quantities as q
from mist_jax.report import style
from mist_jax.report.style import Figure, panels, styled
from mist_jax.schema import HardwareSpec, Scenario


def operator_points(
    scenario: Scenario, seqs: float, context: float, chunk: float
) -> dict[str, dict[str, Any]]:
    """`{"prefill" | "decode": {operator: (seconds, FLOPs, bytes)}}` of one chip, all layers of an iteration.

    Args:
        scenario: its (decode) pool is taken.
        seqs, context: sequences of the decode iteration (one attention-DP rank) and their mean cached tokens.
        chunk: prompt tokens of the prefill iteration.
    """
    import jax

    from mist_jax import build
    from mist_jax.physics.operators import OPERATORS
    from mist_jax.physics.step import step_time
    from mist_jax.system.batch import decode_batch, prefill_batch

    out = {}
    with jax.enable_x64(True):
        system = build.build_system(scenario)
        program = jax.jit(step_time)
        batches = {
            "prefill": prefill_batch(float(chunk)),
            "decode": decode_batch(float(seqs), float(context)),
        }
        for name, batch in batches.items():
            step = program(system, build.as_float64(batch))
            rows = zip(
                OPERATORS,
                np.asarray(step.by_operator),
                np.asarray(step.flops),
                np.asarray(step.bytes),
                strict=False,
            )
            out[name] = {o: (float(s), float(f), float(b)) for o, s, f, b in rows if s > 0}
    return out


@styled
def plot_roofline(
    scenario: Scenario,
    ds: xr.Dataset | None = None,
    *,
    seqs: float | None = None,
    chunk: float | None = None,
    width: float = style.WIDTH,
) -> Figure:
    """Achieved FLOP/s over arithmetic intensity of each operator, under the chip's memory and compute roofs.

    Filled markers are a prefill iteration, hollow ones a decode iteration; a larger marker takes more of the
    time. Operators without FLOPs (element-wise work, collectives) are left out; the share shown is stated.

    Args:
        scenario: the deployment.
        ds: its result from `mist_jax.evaluate`, which says how many sequences decode at once.
        seqs: sequences of the decode iteration of one attention-DP rank (default: from `ds`, else 64).
        chunk: prompt tokens of the prefill iteration (default: the prompt, at most the token budget).
    """
    work, par = scenario.workload, scenario.parallelism
    if seqs is None:
        seqs = (
            float(ds["running"]) / (par.replicas * par.dp * par.pp)
            if ds is not None and "running" in ds
            else 64.0
        )
    seqs = max(seqs, 1.0)
    chunk = min(work.isl, scenario.engine.max_num_batched_tokens) if chunk is None else chunk
    points = operator_points(scenario, seqs, work.isl + 0.5 * work.osl, chunk)
    names = list(
        dict.fromkeys(o for phase in points.values() for o, (_, flops, _) in phase.items() if flops > 0)
    )
    fig, ax = panels(width=width, height=3.3 + 0.17 * -(-(len(names) + 4) // 2))
    covered = {}
    everything = []
    for phase, operators in points.items():
        total = sum(s for s, _, _ in operators.values())
        covered[phase] = sum(s for s, f, _ in operators.values() if f > 0) / total
        for name, (seconds, flops, nbytes) in operators.items():
            if flops <= 0 or nbytes <= 0:
                continue
            k = names.index(name)
            look = {
                "marker": _marker(k),
                "s": 22 + 160 * seconds / total,
                "linewidths": 1.2,
                "zorder": 3,
            }
            face = style.color(k) if phase == "prefill" else "none"
            ax.scatter(
                [flops / nbytes], [flops / seconds], facecolors=face, edgecolors=style.color(k), **look
            )
            everything.append((flops / nbytes, flops / seconds))
    for k, name in enumerate(names):
        ax.plot([], [], marker=_marker(k), linestyle="none", color=style.color(k), label=q.words(name))
    _roofs(ax, scenario.hardware, everything)
    ax.set_xlabel("Arithmetic intensity (FLOP/byte)")
    ax.set_ylabel("Achieved (FLOP/s per chip)")
    ax.set_title(f"Roofline of {scenario.hardware.name}")
    note = (
        f"Filled: prefill of {q.number(chunk)} tokens; hollow: decode of {q.number(seqs)} sequences.\n"
        f"The operators shown take {q.percent(covered['prefill'])} of the prefill iteration's kernel time,\n"
        f"{q.percent(covered['decode'])} of the decode iteration's."
    )
    style.legend_below(fig, most=2, note=note)
    return fig


def _marker(index: int) -> str:
    """A marker that differs from that of the operator with the same colour."""
    return style.MARKERS[(index + index // len(style.COLORS)) % len(style.MARKERS)]


def _roofs(ax: Any, hardware: HardwareSpec, points: list[tuple[float, float]]) -> None:
    """Memory and compute roofs, and the view that holds them and the operators."""
    bandwidth = hardware.memory.bandwidth
    peaks: dict[float, list[str]] = {}
    for name in ("bf16", "fp8", "int8", "fp4"):
        rate = getattr(hardware.peak, name)
        if rate:
            peaks.setdefault(rate, []).append(name)
    top = max(peaks)
    low_x = min([0.3, *(x for x, _ in points)]) / 2
    high_x = max([top / bandwidth, *(x for x, _ in points)]) * 4
    low_y = min([bandwidth * low_x * 2, *(y for _, y in points)]) / 2
    for n, (rate, precisions) in enumerate(sorted(peaks.items())):
        xs = np.array([rate / bandwidth, high_x])
        label = f"{', '.join(precisions)} {q.prefixed(rate, 'FLOP/s')}"
        ax.plot(xs, [rate, rate], color=style.INK, linewidth=1.2, linestyle=style.LINES[n + 1], label=label)
    xs = np.array([low_x, top / bandwidth])
    ax.plot(
        xs, bandwidth * xs, color=style.INK, linewidth=1.2, label=f"memory {q.prefixed(bandwidth, 'B/s')}"
    )
    ax.set(xscale="log", yscale="log", xlim=(low_x, high_x), ylim=(low_y, top * 3.5))
