"""Published launch recipes of the InferenceX runs: what the lossy dumps no longer say about a deployment.

The 2026-03-25 and 2026-04-06 dumps dropped attention DP, worker counts and the flag of speculative decoding
of the disaggregated runs. The launch configurations are public and hold no measurement:
SemiAnalysisAI/InferenceX, `.github/configs/nvidia-master.yaml` (Apache-2.0; state of late April 2026).
Pools are written `<workers>x<kind><gpus>` with kind
    T  tensor parallel, experts tensor parallel     (tp = gpus, ep = 1)
    E  tensor parallel attention, expert parallel   (tp = gpus, ep = gpus)
    D  attention data parallel, expert parallel     (dp = gpus, ep = gpus)
    N  attention data parallel, experts in tensor   (dp = gpus, moe_tp = gpus)
Speculative decoding is the number of drafted tokens per step (0 none, `m` = on, depth not named).
`batch` is the decode engine's maximal batch per attention-DP rank where the recipe's name states it (0: not), and for
SGLang on B200 `max-running-requests` over the ranks (ishandhanani/srt-slurm, recipes/b200-fp8 and b200-fp4).
It decides TTFT: with slots = batch x DP x workers, what exceeds the slots waits (DATA.md).
The H200 TensorRT-LLM dumps multiply the recipe's concurrency by its decode workers: both are listed. Lines
with osl 8192 and a few older ones come from the rows of the 2026-04-27 dump, which kept the layout and holds
no speculative runs; the same launches were run with speculation too, so they are listed twice. One name is
not believed: `batch8` of the B200 FP4 8192/1024 launch at up to 100 requests, where TTFT shows no wait for 40
slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: [model], then: system engine precision isl osl speculative concurrencies prefill decode batch
_TABLE = Path(__file__).with_suffix(".txt")

#: model, system, engine, labelled precision, isl, osl, concurrency
Key = tuple[str, str, str, str, int, int, int]


@dataclass(frozen=True)
class Pool:
    """One pool of equal workers: degrees of parallelism of a worker, and how many workers."""

    replicas: int
    tp: int
    dp: int
    moe_tp: int
    ep: int

    @property
    def gpus(self) -> int:
        return self.replicas * self.tp * self.dp


@dataclass(frozen=True)
class Recipe:
    """One launch of a disaggregated deployment at one closed-loop concurrency."""

    speculative: float  #: drafted tokens per step; 0 = none; nan = on, depth not named
    prefill: Pool
    decode: Pool
    max_batch: int  #: maximal decode batch per attention-DP rank; 0 = not stated


def parse_pool(text: str) -> Pool:
    """`5xE8` → Pool; see the module docstring for the letters."""
    workers, rest = text.split("x")
    kind, gpus = rest[0], int(rest[1:])
    if kind not in "TEDN":
        raise ValueError(f"unknown pool kind {kind!r} in {text!r}: expected one of T, E, D, N")
    shared = kind in "DN"
    experts = kind in "DE"
    return Pool(
        replicas=int(workers),
        tp=1 if shared else gpus,
        dp=gpus if shared else 1,
        moe_tp=1 if experts else gpus,
        ep=gpus if experts else 1,
    )


@cache
def recipes() -> dict[Key, tuple[Recipe, ...]]:
    """(model, system, engine, labelled precision, isl, osl, concurrency) → the known launches, in order."""
    table: dict[Key, tuple[Recipe, ...]] = {}
    model = ""
    for line in _TABLE.read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("["):
            model = line.strip("[]")
            continue
        system, engine, precision, isl, osl, speculative, concurrencies, prefill, decode, batch = line.split()
        recipe = Recipe(
            speculative=float("nan") if speculative == "m" else float(speculative),
            prefill=parse_pool(prefill),
            decode=parse_pool(decode),
            max_batch=int(batch),
        )
        for concurrency in concurrencies.split(","):
            key = (model, system, engine, precision, int(isl), int(osl), int(concurrency))
            table[key] = (*table.get(key, ()), recipe)
    return table
