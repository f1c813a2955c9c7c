"""Validation cases of DeepSeek-R1 in FP8, from the public serving runs: wide expert parallelism, drafted tokens.

The packaged step coefficients were fitted to these runs among others, so every row is `fitted`: what they show is how
well one set of coefficients holds across them, in quantities that nothing was fitted to (tokens/s a node, speed-up).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibration.validate import Case, Row, row
from mist_jax import build, evaluate, load

SOURCE = "ai-dynamo/aiconfigurator silicon_sample.csv (Apache-2.0)"
#: Chips of a node as such figures are published (8 H100 or B200), also where the machine is a rack.
NODE = 8.0
SHAPE = ("replicas", "tp", "dp", "ep")


def _runs() -> Any:
    from calibration.datasets.serving import read_serving

    frame = read_serving()
    known = (frame.status != "refused") & frame.layout_source.isin(["row", "recipe"]) & (frame.suspect == "")
    return frame[known & (frame.model == "deepseek_r1") & (frame.expert_precision == "fp8")]


def _scenario(r: Any) -> Any:
    """The run as the public interface takes it, with the engine's settings of its launch script."""
    from calibration.e2e_systems import launch_settings

    tokens = int(launch_settings(r)["max_num_batched_tokens"])
    slots = int(r.max_batch) if r.max_batch > 0 else 4096
    out = [
        f"hardware={r.system}",
        "model=deepseek_r1",
        "parallelism=tp1",
        f"engine={r.engine}",
        "workload=chat",
    ]
    out += [f"parallelism.{k}={int(getattr(r, f'decode_{k}'))}" for k in SHAPE]
    out += [f"engine.max_num_batched_tokens={max(tokens, slots)}", f"engine.max_num_seqs={slots}"]
    if r.mode == "disagg":
        out += [
            "prefill=pool",
            f"hardware@prefill.hardware={r.system}",
            "parallelism@prefill.parallelism=tp1",
        ]
        out += [f"prefill.parallelism.{k}={int(getattr(r, f'prefill_{k}'))}" for k in SHAPE]
        out += [f"engine@prefill.engine={r.engine}", f"prefill.engine.max_num_batched_tokens={tokens}"]
    mean = r.length_mean
    if r.kv_precision == "fp8":
        out += ["model.precision.kv=fp8"]
    if mean < 1.0:  # lengths uniform in 0.8 to 1.0 of the nominal
        out += [f"workload.{k}_cv={0.2 / 12**0.5 / mean}" for k in ("isl", "osl")]
    out += [
        "workload.arrivals=closed",
        f"workload.concurrency={int(r.concurrency)}",
        "workload.burst_share=0.1",
    ]
    out += [f"workload.isl={mean * r.isl}", f"workload.osl={mean * r.osl}"]
    return load(out)


def large_moe() -> Iterator[Row]:
    """Output tokens/s per 8 chips: the best run without drafts of each rack, engine and length, EP of 16 or more."""
    runs = _runs()
    runs = runs[(runs["mode"] == "disagg") & (runs.decode_ep >= 16) & (runs.mtp == 0) & (runs.mtp_fit == 0)]
    seconds = (runs.ttft_ms + (runs.length_mean * runs.osl - 1) * runs.tpot_ms) / 1e3
    runs = runs.assign(rate=NODE * runs.concurrency * runs.length_mean * runs.osl / seconds / runs.n_gpus)
    for at in runs.groupby(["system", "engine", "isl", "osl"]).rate.idxmax():
        r = next(runs.loc[[at]].itertuples())
        out = evaluate(_scenario(r))
        name = f"{r.system} {r.engine} {r.isl:.0f}/{r.osl:.0f} EP{r.decode_ep:.0f}, {r.concurrency:.0f} in flight"
        rate = NODE * float(out.output_tokens_per_s) / r.n_gpus
        yield row(f"{name}: output", r.rate, rate, "tokens/s/node", SOURCE, "fitted", chips=float(r.n_gpus))
        yield row(f"{name}: TPOT", r.tpot_ms, 1e3 * float(out.tpot_s), "ms", SOURCE, "fitted")
        yield row(f"{name}: TTFT", r.ttft_ms, 1e3 * float(out.ttft_s), "ms", SOURCE, "fitted")


def speculation() -> Iterator[Row]:
    """TPOT without over with three drafted tokens (multi-token prediction), the same launch and load run both ways."""
    import jax

    from mist_jax.pytree import replace
    from mist_jax.queueing.steady import closed_loop

    runs = _runs()
    runs = runs[(runs["mode"] == "agg") & (runs.decode_pp == 1) & (runs.isl == 1024)]
    keys = ["system", "engine", "isl", "osl", "concurrency", *(f"decode_{k}" for k in SHAPE)]
    program = jax.jit(lambda *x: closed_loop(*x, strict=False).tpot)
    for _, group in runs.groupby(keys):
        plain, drafted = (group[group.mtp_fit == share] for share in (0.0, 1.0))
        r = next(group.itertuples())
        if plain.empty or drafted.empty or r.concurrency not in (4, 32, 64):
            continue
        scenario = _scenario(r)
        system, workload = build.build_system(scenario), build.build_workload(scenario)
        engines = [replace(system.engine, draft_tokens=jax.numpy.asarray(n, float)) for n in (0.0, 3.0)]
        times = [float(program(replace(system, engine=e), workload, 1.0)) for e in engines]
        name = f"{r.system} {r.engine} {r.isl:.0f}/{r.osl:.0f} TP{r.decode_tp:.0f} EP{r.decode_ep:.0f}"
        measured = plain.tpot_ms.median() / drafted.tpot_ms.median()
        yield row(f"{name}, {r.concurrency:.0f} in flight", measured, times[0] / times[1], "x", SOURCE, "fitted",
                  drafts=3)  # fmt: skip


CASES: dict[str, Case] = {"large_moe": large_moe, "speculation": speculation}
