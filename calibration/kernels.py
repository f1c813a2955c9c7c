"""Fit of the kernel models to measured kernel latencies: `python -m calibration.kernels`.

Writes `mist_jax/catalog/kernels.json` (coefficients by class, number format, engine, generation and system,
with provenance) and `calibration/KERNELS.md` (error tables). Deterministic: seeded draws, L-BFGS from the
priors.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from calibration import kernel_report
from calibration.datasets import kernels as data
from calibration.datasets.kernel_files import SOURCE, digest, systems
from calibration.kernel_classes import BOUNDS, kernel_classes
from calibration.kernel_hierarchy import LEVELS, SCALES, Fit, build_problem

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "mist_jax" / "catalog" / "kernels.json"
REPORT = ROOT / "calibration" / "KERNELS.md"
FIT_ROWS, CHECK_ROWS, SEED = 800, 2000, 0
#: vLLM's latent attention was timed with 0.1-0.3 ms of host code per call, which a served model does not pay
#: per kernel (captured graphs, work queued ahead). The floor of the same chips' TensorRT-LLM kernels stands
#: in.
HOST_BOUND = {("prefill_mla", "vllm"), ("decode_mla", "vllm")}


def load_hardware() -> tuple[dict[str, Any], dict[str, str]]:
    """Hardware pytrees and generations of the measured systems, from `conf/hardware`."""
    import yaml

    from mist_jax.build import build_hardware
    from mist_jax.catalog_loader import KERNEL_GENERATION
    from mist_jax.schema import HardwareSpec, parse

    hardware, generations = {}, {}
    for name in systems():
        content = yaml.safe_load((ROOT / "conf" / "hardware" / f"{name}.yaml").read_text(encoding="utf-8"))
        spec = parse(HardwareSpec, content, "hardware")
        hardware[name] = jax.tree.map(lambda leaf: np.asarray(leaf, float), build_hardware(spec))
        generations[name] = KERNEL_GENERATION.get(spec.generation, str(spec.generation))
    return hardware, generations


def usable_rows(name: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows of a class that take part, and how many were left out for which reason."""
    rows = data.READERS[name]()
    bad = np.zeros(len(rows), bool)
    counts: dict[str, int] = {}
    for reason, mask in data.unusable(name, rows).items():
        counts[reason] = int((mask.to_numpy(bool) & ~bad).sum())
        bad |= mask.to_numpy(bool)
    return rows[~bad].reset_index(drop=True), {why: n for why, n in counts.items() if n}


def _round(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values)]


def export(name: str, fit: Fit, x: np.ndarray, generations: dict[str, str]) -> dict[str, Any]:
    """Coefficients of one class at every level, as the catalogue holds them."""
    parts = {level: np.asarray(block) for level, block in fit.unpack(x).items()}
    groups = fit.problem.groups
    launch = fit.names.index("launch_s") if "launch_s" in fit.names else -1
    root = parts["all"][0]
    table: dict[str, Any] = {}
    offsets: dict[Any, np.ndarray] = {}
    for form, block in zip(groups["format"], parts["format"]):
        table[form] = {"all": _round(fit.values(root + block))}
        offsets[form] = root + block
    # TensorRT-LLM first: its floors stand in for host-bound ones
    for form, engine in sorted(groups["engine"], key=lambda key: key[1] == "vllm"):
        own = parts["engine"][groups["engine"].index((form, engine))]
        offsets[form, engine] = offsets[form] + own
        found: dict[str, Any] = {"generation": {}, "system": {}}
        borrowed = (name, engine) in HOST_BOUND
        for position, key in enumerate(groups["generation"]):
            if key[:2] == (form, engine):
                offsets[key] = offsets[form, engine] + parts["generation"][position]
        for position, key in enumerate(groups["system"]):
            if key[:2] == (form, engine):
                above = offsets[form, engine, generations[key[2]]]
                offsets["system", *key] = above + parts["system"][position]

        def values(key: Any, *, form: str = form, borrowed: bool = borrowed) -> list[float]:
            out = np.array(fit.values(offsets[key]))
            if borrowed:
                twin = tuple("trtllm" if part == "vllm" else part for part in key)
                twin = twin if twin in offsets else (form, "trtllm")
                out[launch] = np.asarray(fit.values(offsets.get(twin, offsets[form])))[launch]
            return _round(out)

        found["all"] = values((form, engine))
        found["generation"] = {k[2]: values(k) for k in groups["generation"] if k[:2] == (form, engine)}
        found["system"] = {k[2]: values(("system", *k)) for k in groups["system"] if k[:2] == (form, engine)}
        table[form][engine] = found
    spread = {
        level: dict(zip(fit.names, _round(np.sqrt(np.mean(parts[level] ** 2, axis=0)))))
        for level in LEVELS[1:]
    }
    return {
        "parameters": fit.names,
        "bounds": {field: list(BOUNDS[field]) for field in fit.names},
        "prior": fit.kind.prior,
        "prior_scale": SCALES,
        "spread": spread,
        "all": _round(fit.values(root)),
        "values": table,
    }


def errors(fit: Fit, x: np.ndarray, held_out: dict[str, np.ndarray], check: Any) -> list[dict[str, Any]]:
    """One record a cell: error of the fit, of the fit without its system and of the roofline on `check`."""
    own = fit.residuals(x, check)
    rough = np.log(np.asarray(jax.vmap(fit.kind.roofline)(check.hardware, check.columns)) / check.seconds)
    unseen = {system: fit.residuals(other, check) for system, other in held_out.items()}
    out = []
    for position, (system, engine, form) in enumerate(check.cells):
        real = check.weight[position] > 0
        record: dict[str, Any] = {"system": system, "engine": engine, "format": form, "rows": int(real.sum())}
        sets = {"fit": own[position], "unseen": None, "roofline": rough[position]}
        sets["unseen"] = unseen[system][position] if system in unseen else None
        for label, residual in sets.items():
            if residual is None:
                continue
            relative = np.expm1(residual[real])
            record[label] = float(100 * np.median(np.abs(relative)))
            record[f"{label}_p90"] = float(100 * np.quantile(np.abs(relative), 0.9))
            record[f"{label}_signed"] = float(100 * np.median(relative))
            record[f"{label}_scatter"] = float(1.4826 * np.median(np.abs(residual[real])))
        if "nbytes" in check.columns:
            big = real & (check.columns["nbytes"][position] > 65536)
            record["fit_large"] = float(100 * np.median(np.abs(np.expm1(own[position][big]))))
        out.append(record)
    return out


def fit_class(
    name: str, hardware: dict[str, Any], generations: dict[str, str], unseen: bool
) -> dict[str, Any]:
    """Fit, leave-one-system-out and errors of one class."""
    start = time.time()
    rows, dropped = usable_rows(name)
    kind = kernel_classes()[name]
    fit = Fit(kind, build_problem(rows, hardware, generations, FIT_ROWS, SEED))
    x = fit.solve()
    held_out = {}
    if unseen:
        measured = sorted({cell[0] for cell in fit.problem.cells})
        held_out = {system: fit.solve(leave_out=system, start=x, steps=200) for system in measured}
    check = build_problem(rows, hardware, generations, CHECK_ROWS, SEED + 1)
    table = export(name, fit, x, generations)
    table["errors"] = errors(fit, x, held_out, check)
    table["rows"], table["dropped"] = len(rows), dropped
    bounded = np.asarray(fit.values(fit.cell_offsets(x)))
    edge = np.minimum(np.log(bounded) - fit.low, fit.low + fit.width - np.log(bounded)) < 0.05 * fit.width
    table["at_bound"] = {field: int(n) for field, n in zip(fit.names, edge.sum(0)) if n}
    print(
        f"{name}: {len(rows)} rows, {len(fit.problem.cells)} cells, {time.time() - start:.0f} s", flush=True
    )
    return table


def provenance() -> dict[str, Any]:
    """Where the numbers come from."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "source": SOURCE + "; collectives also https://github.com/microsoft/vidur (data/profiling/network)",
        "data_sha256": digest(),
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": SEED,
        "rows_per_cell": FIT_ROWS,
        "command": "python -m calibration.kernels",
    }


def main(arguments: list[str] | None = None) -> None:
    """Fit all classes (or those named), write the catalogue and the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classes", nargs="*", help="refit these classes only; default all")
    parser.add_argument("--no-unseen", action="store_true", help="skip the leave-one-system-out fits")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    hardware, generations = load_hardware()
    names = options.classes or list(kernel_classes())
    old = json.loads(CATALOGUE.read_text(encoding="utf-8"))["classes"] if CATALOGUE.exists() else {}
    for name in names:
        old[name] = fit_class(name, hardware, generations, not options.no_unseen)
        jax.clear_caches()
    classes = {name: old[name] for name in kernel_classes() if name in old}
    content = {"provenance": provenance(), "classes": classes}
    CATALOGUE.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=None, separators=(",", ":"))
    CATALOGUE.write_text(
        text.replace('"classes":{', '"classes":{\n').replace("]},", "]},\n") + "\n", encoding="utf-8"
    )
    REPORT.write_text(kernel_report.render(content), encoding="utf-8")
    print(f"wrote {CATALOGUE.relative_to(ROOT)} and {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
