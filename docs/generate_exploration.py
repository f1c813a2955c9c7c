"""Write docs/exploration.md: MIST's case study of mixed fleets, in this model.

    python docs/generate_exploration.py [--out docs/exploration.md]

Some minutes on two cores. Nothing on the page is typed by hand but the paper's own figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import mist_jax as mist
from mist_jax.application import start_jax
from mist_jax.explore.jobs import evaluate_many

PAGE = Path(__file__).resolve().parent / "exploration.md"
FLEET = 8  #: accelerators, as in the paper
CHIPS = ("h100_sxm", "a100_sxm", "l40s")
TOKENS = (2048, 8192)
COST = "cost_per_million_output_tokens_usd"
KEEP = ("ttft_s", "tpot_s", COST, "load", "prefill_utilization", "transfer_utilization")
#: Offered rates between which the highest one within the limits is sought, requests/s, and halvings of the bracket.
SLOWEST, QUICKEST, HALVINGS = 0.01, 400.0, 14


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload of the paper, and its best mixed fleet with its tokens per dollar over 8 x H100 (arXiv 2504.09775)."""

    title: str
    overrides: tuple[str, ...]
    prefill: tuple[str, int]
    decode: tuple[str, int]
    factor: float


CASES = (
    Case("Article summarisation, Qwen3-4B", ("model=qwen3_4b", "workload=summarization"),
         ("a100_sxm", 6), ("l40s", 2), 2.46),
    Case("Mathematical reasoning, Qwen3-14B", ("model=qwen3_14b", "workload=reasoning"),
         ("h100_sxm", 1), ("l40s", 7), 2.85),
)  # fmt: skip
#: Limits on the mean TTFT and TPOT under which the fleets are compared.
SLOS = ("interactive", "tight")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Eight accelerators: one pool of replicas, or a prefill and a decode pool of single-chip replicas."""

    chips: tuple[tuple[str, int], ...]  #: (chip, how many) of each pool, prefill first
    tp: int
    tokens: int  #: budget of an iteration with prefill

    @property
    def mixed(self) -> bool:
        return len({chip for chip, _ in self.chips}) > 1

    @property
    def name(self) -> str:
        if len(self.chips) == 1:
            ((chip, count),) = self.chips
            return f"{count // self.tp} x tp{self.tp} {chip}, chunked"
        return " + ".join(
            f"{n} x {chip} {what}" for (chip, n), what in zip(self.chips, ("prefill", "decode"))
        )

    def scenario(self, case: Case) -> mist.Scenario:
        words = [*case.overrides, f"parallelism=tp{self.tp}"]
        chip, count = self.chips[-1]
        words += [f"hardware={chip}", f"parallelism.replicas={count // self.tp}"]
        if len(self.chips) == 1:
            return mist.load([*words, f"engine.max_num_batched_tokens={self.tokens}"])
        chip, count = self.chips[0]
        words += ["prefill=pool", "prefill.parallelism.tp=1", f"hardware@prefill.hardware={chip}"]
        words += [f"prefill.parallelism.replicas={count}"]
        return mist.load([*words, f"prefill.engine.max_num_batched_tokens={self.tokens}"])


def fleets() -> list[Fleet]:
    """One pool of any plan, and two pools of every pair of chips and every split of the eight."""
    one = [Fleet(((c, FLEET),), tp, t) for c in CHIPS for tp in (1, 2, 4, 8) for t in TOKENS]
    pairs = itertools.product(CHIPS, CHIPS, range(1, FLEET))
    return one + [Fleet(((a, n), (b, FLEET - n)), 1, TOKENS[-1]) for a, b, n in pairs]


@dataclasses.dataclass(frozen=True)
class Point:
    """A fleet at the highest offered rate that it carries within the limits; tokens are cheapest there."""

    fleet: Fleet
    rate: float  #: requests/s
    per_hour: float  #: $
    figures: dict[str, float]

    @property
    def tokens_per_dollar(self) -> float:
        """Millions of generated tokens."""
        return 1.0 / self.figures[COST]

    @property
    def limit(self) -> str:
        """Which part is busiest."""
        shares = {"decode" if self.two else "the pool": self.figures["load"]}
        if self.two:
            shares |= {
                "prefill": self.figures["prefill_utilization"],
                "link": self.figures["transfer_utilization"],
            }
        name = max(shares, key=lambda k: shares[k])
        return f"{name} {shares[name]:.0%}"

    @property
    def two(self) -> bool:
        return len(self.fleet.chips) > 1


@lru_cache
def built_fleets(case: Case) -> list[mist.Scenario]:
    """The scenarios of `fleets`."""
    return [f.scenario(case) for f in fleets()]


def highest_rates(case: Case, slo: str) -> list[Point]:
    """Every fleet that can serve at all, at its highest rate, found by halving; most tokens per dollar first.

    The mean latencies rise with the rate, so that there is one rate at which the first limit is reached.
    """
    candidates = fleets()
    built = built_fleets(case)
    limits = mist.load([f"slo={slo}"]).slo

    def good_at(rates: np.ndarray) -> tuple[np.ndarray, Any]:
        moved = [
            mist.with_overrides(s, {"workload.rate": float(r)}) for s, r in zip(built, rates, strict=True)
        ]
        ds = evaluate_many(moved, variables=KEEP)
        good = ds["status"].values == 0
        for name, limit in (("ttft_s", limits.ttft), ("tpot_s", limits.tpot)):
            if limit is not None:
                good &= ds[name].values <= limit
        return good, ds

    low, high = np.full(len(built), SLOWEST), np.full(len(built), QUICKEST)
    able = good_at(low)[0]
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        good = good_at(middle)[0]
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    ds = good_at(low)[1]
    points = []
    for i in np.flatnonzero(able):
        figures = {n: float(ds[n].values[i]) for n in KEEP}
        rents = {s.hardware.id: s.hardware.price.usd_per_hour for s in built}
        per_hour = sum(rents[chip] * n for chip, n in candidates[i].chips)
        points.append(Point(candidates[i], float(low[i]), per_hour, figures))
    return sorted(points, key=lambda p: -p.tokens_per_dollar)


def table(case: Case, slo: str) -> list[str]:
    """The fleets of interest of one case under one SLO, and what follows for the paper's figure."""
    points = highest_rates(case, slo)
    wanted = (case.prefill, case.decode)
    reference = next(p for p in points if not p.two and p.fleet.chips[0][0] == "h100_sxm")
    rows = {
        "8 x H100, best plan": reference,
        "best of all": points[0],
        "best mixed": next((p for p in points if p.fleet.mixed), None),
        "the paper's": next((p for p in points if p.fleet.chips == wanted), None),
    }
    limits = mist.load([f"slo={slo}"]).slo
    said = ", ".join(
        f"mean {n} within {v * 1e3:.0f} ms" for n, v in (("TTFT", limits.ttft), ("TPOT", limits.tpot)) if v
    )
    lines = [
        f"**`slo={slo}`** ({said or 'no limits: the highest stable rate'})", "",
        "| | fleet | $/h | requests/s | TTFT | TPOT | busiest | M tokens per $ | over 8 x H100 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for what, p in rows.items():
        if p is None:
            lines.append(f"| {what} | carries no rate within the limits | | | | | | | |")
            continue
        f = p.figures
        lines.append(
            f"| {what} | {p.fleet.name} | {p.per_hour:.2f} | {p.rate:.2f} | {f['ttft_s'] * 1e3:.0f} ms | "
            f"{f['tpot_s'] * 1e3:.1f} ms | {p.limit} | {p.tokens_per_dollar:.2f} | "
            f"{p.tokens_per_dollar / reference.tokens_per_dollar:.2f} |"
        )
    return [*lines, ""]


def why(case: Case) -> list[str]:
    """The ratio of rents, and the ratio of rates that the paper's figure asks for."""
    price = {c: mist.load([f"hardware={c}"]).hardware.price for c in CHIPS}
    rents = {c: p.usd_per_hour for c, p in price.items()}
    theirs = sum(rents[c] * n for c, n in (case.prefill, case.decode))
    ratio = FLEET * rents["h100_sxm"] / theirs
    return [
        f"The paper: {case.prefill[1]} x {case.prefill[0]} prefill + {case.decode[1]} x {case.decode[0]} decode gives "
        f"{case.factor} times the tokens per dollar of 8 x H100 with chunked prefill. With the rents of the catalogue "
        f"(${FLEET * rents['h100_sxm']:.2f} an hour against ${theirs:.2f}) the rents alone make {ratio:.2f}. So "
        f"close to it is what comes out here where both fleets serve the same traffic, whatever it is, as long as "
        f"both carry it; at the limit of each, the mixed fleet would have to serve {case.factor / ratio:.2f} times the "
        "requests of eight H100.",
        "",
    ]


def page() -> str:
    """The whole page."""
    price = {c: mist.load([f"hardware={c}"]).hardware.price for c in CHIPS}
    rents = ", ".join(f"{c} ${p.usd_per_hour} ({p.date})" for c, p in price.items())
    parts = [HEADER.format(rents=rents).rstrip(), ""]
    for case in CASES:
        base = mist.load(list(case.overrides)).workload
        parts += [
            f"## {case.title}",
            "",
            f"{base.isl:g} tokens in, {base.osl:g} out (means).",
            "",
            *why(case),
        ]
        for slo in SLOS:
            parts += table(case, slo)
    return "\n".join([*parts, FOOTER])


HEADER = """# Mixed fleets against eight H100

Written by `python docs/generate_exploration.py`; edit that script, not this page.

MIST (arXiv 2504.09775) reports fleets of eight cheaper accelerators, some for prefill and some for decode, that give
more tokens per dollar than eight H100 with chunked prefill. The same question to this model: every fleet of eight H100,
A100 and L40S, in one pool (tp1 to tp8, two token budgets) or in two pools of single-chip replicas, each at the highest
Poisson rate at which its mean latencies stay within the SLO (found by halving, to a thousandth of the rate). More
traffic makes tokens cheaper until the limit, so this is where a fleet is at its best. Rents an hour: {rents}.
"""

FOOTER = """## What to take from it

- Tokens per dollar is the product of two ratios: rents, which are data and change monthly, and rates, which the model
  predicts. The paper's factors are within a few per cent of the ratio of rents in this catalogue. That fits a
  comparison at one common load, where the fleet that costs less wins by the ratio of rents and the capacity of the
  dearer one is left unused. It is our reading: the paper's load, prices, lengths and limits are not known to us.
- At the limit of each fleet the answer is another: what the eight H100 leave unused at a common load is then sold.
- Which one is right depends on the question. For a fixed traffic that a small fleet carries, rent the cheapest fleet
  that carries it (`mist-jax mode=recommend` does that, with fewer chips too). For as many tokens as can be sold,
  compare at the limits.
- Left out: percentiles (an SLO on P99 favours pools apart, as prefill no longer delays decodes), prefix caches, plans
  other than tp1 in two pools, more than two pools, spot prices, power.
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    start_jax()
    options.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
