"""README.md of this folder: error tables of the fit, next to the references, on the same held-out measurements.

`python -m calibration.fit step` writes it after fitting; `python -m calibration.readme HELD.csv` from the held-out
predictions that `python -m calibration.end_to_end --out HELD.csv` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from calibration import black_box, uncertainty
from calibration.datasets.serving import read_serving
from calibration.end_to_end import errors
from calibration.evaluate import error_table, predict_serving
from mist_jax.step_coefficients import COEFFICIENTS, values

FOLDER = Path(__file__).resolve().parent
#: Splits whose errors are shown by system, model, engine and concurrency.
DETAILED = ("deployment", "system", "model")
#: Measurements of one (model, system) from which on a rank correlation says something.
LEAST_RANKED = 8
#: Share of a coefficient's range (of its logarithm where it is positive) from either end that counts as at the bound.
AT_BOUND = 0.02
#: Coefficients that may be at a bound, and why.
EXPLAINED = {
    "comm_overlap": "not fitted: no measurement tells it from `comm_scale`",
    "eager_layer_s": "not fitted: all runs capture graphs",
}


def markdown(frame: pd.DataFrame, digits: int = 1) -> str:
    """A table."""
    cells = frame.map(lambda v: f"{v:.{digits}f}" if isinstance(v, float) else str(v))
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells.to_numpy())])


def rank_fidelity(held: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation over the configurations of each (model, system), mean weighted by their measurements."""
    part = held[(held.suspect == "") & ~held.anchor].drop_duplicates(["kind", "measurement_id"]).copy()
    for name, prefix in (("measured", ""), ("predicted", "pred_")):
        cycle = part[f"{prefix}ttft_ms"] + part.length_mean * part.osl * part[f"{prefix}tpot_ms"]
        part[name] = part.concurrency * part.osl / cycle / part.n_gpus
    pairs = {"TPOT": ("tpot_ms", "pred_tpot_ms"), "TTFT": ("ttft_ms", "pred_ttft_ms")}
    pairs["throughput per GPU"] = ("measured", "predicted")
    rows = []
    for (kind, *_), group in part.groupby(["kind", "model", "system"]):
        if len(group) >= LEAST_RANKED:
            ranks = {k: group[a].rank().corr(group[b].rank()) for k, (a, b) in pairs.items()}
            rows.append({"split": kind, "n": len(group), **ranks})
    table = pd.DataFrame(rows)
    out = []
    for kind, group in table.groupby("split"):
        mean = {k: np.average(group[k], weights=group.n) for k in pairs}
        out.append({"split": kind, "groups": len(group), **mean})
    return pd.DataFrame(out)


def shift_coverage(held: pd.DataFrame, table: dict) -> pd.DataFrame:
    """Coverage and width of the packaged intervals on splits that they were not made from (labels as `evaluate`)."""
    rows = []
    for kind, label in (("engine", "extrapolated"), ("isl", "extrapolated")):
        part = held[(held.kind == kind) & ~held.anchor & (held.suspect == "")].assign(label=label)
        part = uncertainty.with_regime(part.drop_duplicates("measurement_id"))
        for mode, group in part.groupby("mode"):
            for target in uncertainty.TARGETS:
                low, high = uncertainty.lookup(group, {k: tuple(v[target]) for k, v in table.items()}).T
                inside = (low <= group[target]) & (group[target] <= high)
                rows.append(
                    {"split": kind, "label": label, "mode": mode, "target": target, "n": len(group)}
                    | {"coverage": 100.0 * inside.mean(), "width": float(np.median(np.exp(high - low)))}
                )
    return pd.DataFrame(rows)


def coefficients(content: dict) -> tuple[pd.DataFrame, list[str]]:
    """(global value of each coefficient and how many offsets it has, those at a bound of their range)."""
    x = np.array([sum(content["offsets"].get(c.name, {}).get("global", {}).values()) for c in COEFFICIENTS])
    chosen = values(x, np)
    rows, bound = [], []
    for c in COEFFICIENTS:
        value = float(getattr(chosen, c.name))
        levels = content["offsets"].get(c.name, {})
        count = sum(len(v) for v in levels.values())
        rows.append(
            {"coefficient": c.name, "low": f"{c.low:.3g}", "prior": f"{c.prior:.3g}", "high": f"{c.high:.3g}"}
            | {"fitted": f"{value:.3g}" if count else "fixed", "parameters": count}
            | {"levels": ", ".join(levels) or "–"}
        )
        span = (c.low, c.high, value) if c.share else tuple(np.log([max(c.low, 1e-12), c.high, value]))
        place = (span[2] - span[0]) / (span[1] - span[0])
        if not AT_BOUND < place < 1.0 - AT_BOUND:
            bound.append(f"`{c.name}` ({value:.3g}): {EXPLAINED.get(c.name, 'no explanation')}")
    return pd.DataFrame(rows), bound


def reasons(frame: pd.DataFrame) -> pd.DataFrame:
    """What was repaired, doubted or refused, and in how many rows."""
    notes = frame.reason.str.split("; ").explode().str.strip()
    notes = notes[notes != ""].str.replace(r"\s*\(\d+ agree\)", "", regex=True)
    counts = notes.value_counts().head(30)
    rows = [{"rows": n, "reason": text, "what is done": "repaired"} for text, n in counts.items()]
    for text, n in frame.suspect[frame.suspect != ""].value_counts().items():
        rows.append({"rows": n, "reason": text, "what is done": "predicted, not learnt from, not counted"})
    return pd.DataFrame(rows)


def render(held: pd.DataFrame, serving: Path | None, content: dict) -> str:
    """The whole text."""
    frame = read_serving(serving)
    references = black_box.evaluate(
        frame,
        kinds=("deployment", "system", "model", "engine", "isl"),
        anchored=("system", "model"),
        suspects=False,
    )
    together = pd.concat([errors(held), references]).sort_values(["split", "mode"], kind="stable")
    table, bound = coefficients(content)
    plain = predict_serving(serving, "none")
    source = content["provenance"]
    predicted = frame[frame.status != "refused"].measurement_id.nunique()
    parts = [
        "# End-to-end calibration",
        "Written by `python -m calibration.fit step`; predictions of held-out measurements only, each distinct "
        "measurement once, suspects left out. Errors are |predicted / measured - 1| in %. The data and their traps: "
        "DATA.md; kernels: KERNELS.md; energy: ENERGY.md; other vendors: VENDORS.md.",
        f"Source: {source['source']}, sha256 {source['data_sha256'][:16]}, fitted {source['date']} on commit "
        f"{source['commit'][:12]}. Rows {len(frame)}, distinct measurements {frame.measurement_id.nunique()}, "
        f"of which {predicted} get a prediction.",
        "## Splits, next to the references",
        "`physics` is this package, `trees` gradient-boosted trees on sensible features, `roofline` the ideal times "
        "with one factor per target and mode (both in `calibration.black_box`). `+anchor`: one measured point of each "
        "deployment held out is known (`calibration.anchors`).",
        black_box.table(together),
        "## Rank fidelity",
        f"Spearman correlation over the configurations of each (model, system) with at least {LEAST_RANKED} "
        "measurements, held out, mean weighted by measurements.",
        markdown(rank_fidelity(held), 3),
        "## Intervals",
        "80 % intervals (`calibration.uncertainty`); coverage in %, width as high over low (median). Each fold is "
        "judged with quantiles from the others.",
        markdown(pd.DataFrame(content["coverage"]), 2),
        "On kinds of shift that the intervals were not made from:",
        markdown(shift_coverage(held, content["intervals"]), 2),
        "## By system, model, engine and concurrency",
    ]
    for kind in DETAILED:
        part = held[(held.kind == kind) & ~held.anchor]
        for by in ("system", "model", "engine", "concurrency"):
            shown = part
            if by == "concurrency":
                bins = [0, 4, 16, 64, 256, 1024, np.inf]
                names = ["1-4", "5-16", "17-64", "65-256", "257-1024", "> 1024"]
                shown = part.assign(concurrency=pd.cut(part.concurrency, bins, labels=names).astype(str))
            parts += [f"Leave-{kind}-out:", error_table(shown, ["mode", by])]
    parts += [
        "## Without calibration",
        "The priors of the physics alone (`--calibration none`), all rows. The logged engine runs are in RUNS.md.",
        error_table(plain, ["mode"]),
        error_table(plain, ["mode", "system"]),
        "## Parameters",
        f"{content['parameters']} free numbers: {len(COEFFICIENTS)} named coefficients, and offsets per level, each "
        "with a prior around 0. What a level has not seen adds nothing.",
        markdown(table),
        "At a bound of their range: " + ("; ".join(bound) if bound else "none") + ".",
        "## What was done to rows",
        markdown(reasons(frame)),
    ]
    return "\n\n".join(parts) + "\n"


def write(held: pd.DataFrame, serving: Path | None) -> None:
    """Render README.md with the packaged fit."""
    content = json.loads((FOLDER.parent / "mist_jax" / "catalog" / "step.json").read_text(encoding="utf-8"))
    (FOLDER / "README.md").write_text(render(held, serving, content), encoding="utf-8")


def main() -> None:
    """Command line."""
    from mist_jax.application import start_jax

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held", type=Path, help="held-out predictions, CSV")
    parser.add_argument("--serving", type=Path, default=None)
    args = parser.parse_args()
    start_jax()
    held = pd.read_csv(args.held, keep_default_na=False, na_values=["", "nan"], low_memory=False)
    for name in held.select_dtypes(include=["object", "str"]):
        held[name] = held[name].fillna("")
    write(held, args.serving)


if __name__ == "__main__":
    main()
