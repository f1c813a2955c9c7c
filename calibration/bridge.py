"""The bridge: the steady state's closed form against the exact playback, over load, prompt length, chunk and KV.

`python -m calibration.bridge` plays synthetic Poisson traffic through one engine at shares of its capacity and prints
(and with `--out` writes) the error tables of docs/bridge.md; `--catalog` writes what `mist_jax.evaluate` states of
them. Both use the same `step_time`, so the error is that of the queueing formula alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
PROMPTS = (256.0, 1155.0, 4000.0)
CHUNKS = (1024.0, 2048.0, 8192.0)
ENGINES = ("vllm", "sglang", "trtllm")
#: Share of the KV cache that the engine may use: 1 leaves it unbound for these prompts, the other binds.
KV_SHARES = (1.0, 0.05)
OUTPUT, OUTPUT_CV, PROMPT_CV = 211.0, 0.77, 0.96
REQUESTS, WARM = 6000, 1500


def grid() -> pd.DataFrame:
    """The cases, before their rates are known."""
    rows = [
        (engine, isl, chunk, kv, load)
        for engine in ENGINES
        for isl in PROMPTS
        for chunk in CHUNKS
        for kv in (KV_SHARES if engine == ENGINES[0] else KV_SHARES[:1])
        for load in LOADS
    ]
    return pd.DataFrame(rows, columns=["engine", "isl", "chunk", "kv_share", "load"])


def steady_and_played(seed: int = 0) -> pd.DataFrame:
    """One row a case: steady-state and played means of TTFT, TPOT and E2E (s) at `load` of the capacity."""
    parts = [_of_engine(str(name), part.copy(), seed) for name, part in grid().groupby("engine", sort=False)]
    return pd.concat(parts, ignore_index=True)


def _of_engine(name: str, cases: pd.DataFrame, seed: int) -> pd.DataFrame:
    import jax
    import jax.numpy as jnp

    import mist_jax as mist
    from mist_jax import build
    from mist_jax.io.arrivals import lognormal_tokens, poisson, synthetic
    from mist_jax.physics.memory import memory_use
    from mist_jax.play import outside_s
    from mist_jax.programs import compiled
    from mist_jax.pytree import replace
    from mist_jax.queueing.admission import admission_lag
    from mist_jax.queueing.batch import play_many
    from mist_jax.queueing.playback import Engine
    from mist_jax.queueing.steady import open_loop
    from mist_jax.queueing.step_table import build_step_table

    scenario = mist.load(["hardware=h100_sxm", "model=llama3_1_70b", "parallelism=tp8", f"engine={name}"])
    system = build.build_system(scenario)
    workload = build.build_workload(scenario)
    limit = 256.0
    with jax.enable_x64(True):
        tokens, lag = float(jax.jit(memory_use)(system).kv_tokens), float(admission_lag(system))

        def one(isl, chunk, kv, rate):
            # the KV share is imposed through the chip's capacity, as a smaller cache would be
            use = memory_use(system)
            short = (1.0 - kv) * use.kv_budget / system.engine.memory_utilization
            chip = replace(system.hardware, memory_capacity=system.hardware.memory_capacity - short)
            engine = replace(system.engine, max_num_batched_tokens=chunk, max_num_seqs=limit)
            load = replace(
                workload, isl=isl, osl=OUTPUT, osl_cv=OUTPUT_CV, isl_cv=PROMPT_CV, rate=rate, concurrency=1.0
            )
            return open_loop(replace(system, hardware=chip, engine=engine), load, 1.0)

        program = compiled(jax.vmap(one))
        columns = [jnp.asarray(cases[c].to_numpy()) for c in ("isl", "chunk", "kv_share")]
        # capacity: an offered rate far above it comes back as load = offered / capacity
        capacity = 1e6 / np.asarray(program(*columns, jnp.full(len(cases), 1e6)).load)
        cases["rate"] = capacity * cases.load
        state = program(*columns, jnp.asarray(cases.rate.to_numpy()))
        cases["kv_occupancy"] = np.asarray(state.kv_occupancy)
        for name in ("ttft", "tpot", "e2e"):
            cases[f"{name}_steady"] = np.asarray(getattr(state, name))
        table = build_step_table(system, max_tokens=8192, max_seqs=int(limit), max_context=65536)

    def job(row):
        def lengths(mean, cv):
            return lambda n, rng: lognormal_tokens(n, mean, cv, rng, high=32768)

        trace = synthetic(
            REQUESTS,
            lambda n, rng: poisson(n, row.rate, rng),
            lengths(row.isl, PROMPT_CV),
            lengths(OUTPUT, OUTPUT_CV),
            seed,
        )
        engine = Engine(
            table,
            kv_blocks=max(int(tokens * row.kv_share / 16), 4096),
            max_num_batched_tokens=int(row.chunk),
            max_num_seqs=int(limit),
            policy=scenario.engine.policy,
            ahead=build.schedules_ahead(scenario.engine),
            lag=lag,
        )
        return trace, engine

    def means(played):
        # the first requests meet an empty system
        keep = (played.status == 0) & (np.arange(REQUESTS) >= WARM)
        outside = outside_s(system, played.requests["prompt"][keep]).mean()
        return (
            played.ttft_s[keep].mean() + outside,
            np.nanmean(played.tpot_s[keep]),
            played.e2e_s[keep].mean() + outside,
            float(played.clients["busy_s"].sum() / played.end_s),
        )

    out = np.array(play_many((job(r) for r in cases.itertuples()), means))
    for i, name in enumerate(("ttft_played", "tpot_played", "e2e_played", "busy")):
        cases[name] = out[:, i]
    return cases


def errors(cases: pd.DataFrame) -> pd.DataFrame:
    """Signed errors in % of the steady state against the playback."""
    out = cases[["engine", "isl", "chunk", "kv_share", "load"]].copy()
    for name in ("ttft", "tpot", "e2e"):
        out[name] = 100.0 * (cases[f"{name}_steady"] / cases[f"{name}_played"] - 1.0)
    return out


def markdown(cases: pd.DataFrame) -> str:
    """Error tables: median and range by load, and each case."""
    table = errors(cases)
    lines = [
        "# The bridge: steady state against playback",
        "",
        "Generated by `python -m calibration.bridge`; do not edit. Signed errors in % of the steady state's means",
        f"against the exact playback of {REQUESTS:,} Poisson requests (first {WARM:,} left out), lognormal lengths,",
        f"{OUTPUT:g} tokens out on average, Llama-3.1-70B on 8 x H100, at most 256 sequences; engines with their own",
        "coefficients and policies. `load` is the share of the steady state's own capacity.",
        "",
        "Where the KV cache binds (KV share 0.05 below) the closed form holds to about three quarters of its capacity;",
        "beyond that the engine preempts and recomputes until its queue grows without end: play the trace.",
        "`mist.evaluate` states both for an open loop: `ttft_bridge_error` (and `tpot_`, `e2e_`) is the median at its",
        "load, with the range of the cases as attributes; `kv_bound` and the attribute `warning` say that the KV cache",
        "binds too much for it.",
        "",
        "| load | TTFT median (range) | TPOT median (range) | E2E median (range) |",
        "|---|---|---|---|",
    ]
    for load, part in table[table.kv_share == 1.0].groupby("load"):
        cells = [
            f"{part[n].median():+.1f} ({part[n].min():+.0f} … {part[n].max():+.0f})"
            for n in ("ttft", "tpot", "e2e")
        ]
        lines.append(f"| {load:g} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Each case",
        "",
        "| engine | ISL | chunk | KV share | load | TTFT | TPOT | E2E |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in table.itertuples():
        case = f"{r.engine} | {r.isl:g} | {r.chunk:g} | {r.kv_share:g} | {r.load:g}"
        lines.append(f"| {case} | {r.ttft:+.1f} | {r.tpot:+.1f} | {r.e2e:+.1f} |")
    return "\n".join(lines) + "\n"


def summary(cases: pd.DataFrame) -> dict[str, Any]:
    """Lowest, median and highest error (fractions) by load of the cases whose KV cache does not bind."""
    parts = errors(cases)[cases.kv_share == 1.0].groupby("load")
    out: dict[str, Any] = {
        "source": "python -m calibration.bridge, see docs/bridge.md",
        "load": [float(x) for x in parts.groups],
    }
    for name in ("ttft", "tpot", "e2e"):
        by_load = {"low": parts[name].min(), "median": parts[name].median(), "high": parts[name].max()}
        out[name] = {row: [round(float(x) / 100.0, 4) for x in v] for row, v in by_load.items()}
    return out


def main() -> None:
    """Print the tables; `--out FILE` writes them."""
    parser = argparse.ArgumentParser(prog="python -m calibration.bridge", description=__doc__)
    parser.add_argument("--out", type=Path, help="markdown file to write")
    parser.add_argument("--catalog", type=Path, help="JSON to write for mist_jax/catalog/bridge.json")
    options = parser.parse_args()
    cases = steady_and_played()
    text = markdown(cases)
    print(text)
    if options.out:
        options.out.write_text(text)
    if options.catalog:
        options.catalog.write_text(json.dumps(summary(cases), indent=1) + "\n")


if __name__ == "__main__":
    main()
