"""What the HTML report says of a pipeline: its stages, the critical path, what binds and what more of it would give."""

from __future__ import annotations

from html import escape

import numpy as np
import xarray as xr

from mist_jax.pipelines.tables import gains, stage_rows
from mist_jax.report import quantities as q
from mist_jax.report.html_parts import table


def stages(ds: xr.Dataset) -> str:
    """The stages of an evaluated or played pipeline; nothing where there is no pipeline."""
    if "pipeline" not in ds.attrs:
        return ""
    if "stage_p99_s" in ds:
        values = ds["stage_s"].values
        rows = []
        for i, name in enumerate(ds["stage"].values):
            column = values[:, i][np.isfinite(values[:, i])]
            if column.size:
                marks = np.percentile(column, (50, 90, 99))
                rows.append([str(name), q.duration(column.mean()), *(q.duration(v) for v in marks)])
        note = f'<p class="soft">{escape(str(ds.attrs["sharing"]))}.</p>'
        return table(["Stage", "Mean", "p50", "p90", "p99"], rows) + note
    head = [
        "Stage",
        "Client",
        "Mean",
        "Alone",
        "Runs a request",
        "Bound by",
        "Energy",
        "USD per 1,000 requests",
    ]
    rows = [[*row[:6], f"{row[6]} J", row[7]] for row in stage_rows(ds)]
    stage, colon, what = str(ds.attrs["bottleneck"]).partition(": ")
    text = f"<p>Critical path: {escape(ds.attrs['critical_path'])}. "
    text += f"What binds: {escape(stage + colon + q.words(what))}.</p>"
    items = "".join(f"<li>{escape(line)}</li>" for line in gains(ds))
    return text + table(head, rows) + (f"<ul>{items}</ul>" if items else "")
