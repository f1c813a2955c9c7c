"""The step-time table: what `step_time` says, tabulated for the playback.

One iteration takes

    t = tokens(P + D) + seqs(E) + sum_i prefill(chunk_i, past_i) + [P > 0] prefill_floor + decode(D, context)

(beside prompts `mixed(D, context)` in place of `decode`)

with P the prompt tokens of the iteration, D the decoding sequences, E the sequences that emit a token (D and
the prompts that complete), and `context` the mean over the decoding sequences of the positions attended to
(cached tokens plus the new one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.state import PER_OCTAVE, TABLE
from mist_jax.queueing.views import lookup, tables, values

Array = np.ndarray


def octave_grid(first: int, last: float, per_octave: int = 8, zero: bool = False) -> Array:
    """Grid 2^e (1 + j / per_octave) from `first` to at least `last`, rounded to integers, 0 before it if
    asked.

    Integers are all present up to 2 * per_octave, so small batches are exact.
    """
    if first < 1 or last < first:
        raise ValueError(f"octave_grid wants 1 <= first <= last, got {first} and {last}")
    octaves = int(np.ceil(np.log2(max(last, 2) / 1.0))) + 1
    e, j = np.divmod(np.arange(octaves * per_octave), per_octave)
    grid = np.unique(np.round(2.0**e * (1.0 + j / per_octave)))
    stop = int(np.searchsorted(grid, last)) + 1
    grid = grid[np.searchsorted(grid, first) : stop]
    return np.concatenate([[0.0], grid]) if zero else grid


@dataclass(frozen=True)
class StepTable:
    """Times of the four separable terms of an engine iteration (s), on grids that grow geometrically.

    Between knots the terms are linear (bilinear); above the last knot the last slope goes on; below the first
    knot they keep the value of the first. `seqs` and `decode` are zero for an iteration without such
    sequences.

    Attributes:
        tokens_grid, tokens_s: (n,) tokens of the iteration; seconds, with `overhead_s` already in them.
        seqs_grid, seqs_s: (m,) sequences that emit a token; seconds.
        prefill_chunk_grid, prefill_past_grid: (p,), (q,) tokens of a chunk, and cached before it (starts at
            0).
        prefill_s: (p, q) seconds, for one chunk; an iteration pays the sum over its chunks.
        decode_seqs_grid, decode_context_grid: (u,), (v,) decoding sequences, and mean positions attended to.
        decode_s: (u, v) seconds.
        mixed_s: (u, v) seconds in an iteration that holds prompts as well. None: those of `decode_s`.
        overhead_s: the part of `tokens_s` that is there whatever the batch, for information.
        experts_s: (n,) the part of `tokens_s` in routed experts and their exchange, which attention-DP ranks that step
            together share: it follows the mean of their tokens. None: nothing.
        prefill_floor_s: seconds added once to an iteration that holds at least one prefill chunk.
        decode_width: tokens of an iteration for each sequence that decodes: 1, with speculation also the drafts.
        pp: pipeline stages; the playback runs a table with pp > 1 as pp virtual engines (see `playback`), whose
            times are those of a micro-batch through all stages.
    """

    tokens_grid: Array
    tokens_s: Array
    seqs_grid: Array
    seqs_s: Array
    prefill_chunk_grid: Array
    prefill_past_grid: Array
    prefill_s: Array
    decode_seqs_grid: Array
    decode_context_grid: Array
    decode_s: Array
    overhead_s: float = 0.0
    prefill_floor_s: float = 0.0
    experts_s: Array | None = None
    mixed_s: Array | None = None
    decode_width: float = 1.0
    pp: int = 1
    name: str = field(default="table", compare=False)

    def __post_init__(self) -> None:
        if self.experts_s is None:
            object.__setattr__(self, "experts_s", np.zeros_like(np.asarray(self.tokens_s, dtype=np.float64)))
        if self.mixed_s is None:
            object.__setattr__(self, "mixed_s", self.decode_s)
        pairs = [("tokens_s", ("tokens_grid",)), ("experts_s", ("tokens_grid",)), ("seqs_s", ("seqs_grid",))]
        pairs += [("prefill_s", ("prefill_chunk_grid", "prefill_past_grid"))]
        pairs += [(name, ("decode_seqs_grid", "decode_context_grid")) for name in ("decode_s", "mixed_s")]
        for value, grids in pairs:
            for g in grids:
                x = np.asarray(getattr(self, g), dtype=np.float64)
                object.__setattr__(self, g, x)
                if x.ndim != 1 or x.size < 2 or not np.all(np.diff(x) > 0) or x[0] < 0:
                    raise ValueError(
                        f"StepTable.{g} must be increasing, non-negative, with at least two knots"
                    )
            v = np.asarray(getattr(self, value), dtype=np.float64)
            object.__setattr__(self, value, v)
            want = tuple(getattr(self, g).size for g in grids)
            if v.shape != want:
                raise ValueError(f"StepTable.{value} has shape {v.shape}, its grids say {want}")
            if not np.all(np.isfinite(v)) or np.any(v < 0):
                raise ValueError(f"StepTable.{value} holds negative or non-finite times")
        if self.tokens_s[0] <= 0:
            raise ValueError("StepTable.tokens_s must be positive: an iteration of no duration never ends")
        if np.any(self.experts_s > self.tokens_s):
            raise ValueError("StepTable.experts_s is a part of tokens_s, and cannot exceed it")

    @classmethod
    def from_function(
        cls,
        tokens: Callable[[Array], Array],
        seqs: Callable[[Array], Array],
        prefill: Callable[[Array, Array], Array],
        decode: Callable[[Array, Array], Array],
        *,
        max_tokens: int = 16384,
        max_seqs: int = 1024,
        max_context: int = 131072,
        per_octave: int = 8,
        **fields: Any,
    ) -> StepTable:
        """Tabulate four functions of arrays (s) on octave grids; 2-D ones are called with broadcast
        arrays."""
        n = octave_grid(1, max_tokens, per_octave)
        s = octave_grid(1, max_seqs, per_octave)
        past = octave_grid(16, max_context, per_octave, zero=True)
        ctx = octave_grid(1, max_context, per_octave)
        pc, pp_ = np.meshgrid(n, past, indexing="ij")
        ds, dc = np.meshgrid(s, ctx, indexing="ij")

        def fill(f: Callable[..., Array], *x: Array) -> Array:
            return np.broadcast_to(np.asarray(f(*x), dtype=np.float64), x[0].shape).copy()

        return cls(
            tokens_grid=n, tokens_s=fill(tokens, n), seqs_grid=s, seqs_s=fill(seqs, s),
            prefill_chunk_grid=n, prefill_past_grid=past, prefill_s=fill(prefill, pc, pp_),
            decode_seqs_grid=s, decode_context_grid=ctx, decode_s=fill(decode, ds, dc), **fields,
        )  # fmt: skip

    @classmethod
    def linear(
        cls,
        overhead_s: float = 5e-3,
        per_token_s: float = 2e-5,
        per_seq_s: float = 1e-5,
        per_prefill_pair_s: float = 1e-9,
        per_context_token_s: float = 2e-8,
        **fields: Any,
    ) -> StepTable:
        """A plain analytic table: affine in tokens and sequences, attention in chunk (past + chunk / 2) and
        KV read.

        For tests and examples; the coefficients describe no particular machine.
        """
        return cls.from_function(
            lambda n: overhead_s + per_token_s * n,
            lambda s: per_seq_s * s,
            lambda c, past: per_prefill_pair_s * c * (past + 0.5 * c),
            lambda d, ctx: per_context_token_s * d * ctx,
            overhead_s=overhead_s,
            **fields,
        )

    def step_s(
        self, chunks: Sequence[tuple[float, float]], decodes: int, context: float, emitting: int
    ) -> float:
        """Duration (s) of one iteration: `chunks` = (tokens, past) each, `decodes` at mean `context`,
        `emitting`."""
        tokens = sum(c for c, _ in chunks) + self.decode_width * decodes
        t = _interpolate(self.tokens_grid, self.tokens_s, tokens)
        if emitting > 0:
            t += _interpolate(self.seqs_grid, self.seqs_s, emitting)
        for chunk, past in chunks:
            rows = np.array([_interpolate(self.prefill_past_grid, row, past) for row in self.prefill_s])
            t += _interpolate(self.prefill_chunk_grid, rows, chunk)
        if decodes > 0:
            plane = np.asarray(self.mixed_s if chunks else self.decode_s)
            rows = np.array([_interpolate(self.decode_context_grid, row, context) for row in plane])
            t += _interpolate(self.decode_seqs_grid, rows, decodes)
        return float(t + (self.prefill_floor_s if chunks else 0.0))


def _interpolate(grid: Array, value: Array, x: float) -> float:
    i = min(max(int(np.searchsorted(grid, x, side="right")) - 1, 0), grid.size - 2)
    w = max(0.0, (x - grid[i]) / (grid[i + 1] - grid[i]))
    return float(value[i] + w * (value[i + 1] - value[i]))


_CELLS = np.arange(64 * PER_OCTAVE)
#: Lower ends of the cells [2^e (1 + j/16)), and of the one before them.
_LOW = np.append(0.0, 2.0 ** (_CELLS // PER_OCTAVE) * (1.0 + (_CELLS % PER_OCTAVE) / PER_OCTAVE))


def _lookup(grid: Array) -> Array:
    """For each cell the last knot at or below its lower end: a start for the linear search."""
    return np.clip(np.searchsorted(grid, _LOW, side="right") - 1, 0, grid.size - 2).astype(np.int16)


def pack_tables(tables: Sequence[StepTable]) -> tuple[Array, Array, Array]:
    """Lay tables out flat for the kernels: (records, values, lookup)."""
    records = np.zeros(len(tables), TABLE)
    data: list[Array] = []
    lut: list[Array] = []
    used = looked = 0

    def put(x: Array) -> int:
        nonlocal used
        data.append(np.ascontiguousarray(x, dtype=np.float64).ravel())
        used += data[-1].size
        return used - data[-1].size

    for rec, t in zip(records, tables):
        names = ["tokens", "seqs", "prefill_chunk", "prefill_past", "decode_seqs", "decode_context"]
        for k, name in enumerate(names):
            grid = getattr(t, f"{name}_grid")
            rec["grid"][k], rec["size"][k] = put(grid), grid.size
            lut.append(_lookup(grid))
            rec["lut"][k] = looked
            looked += lut[-1].size
        for k, value in enumerate([t.tokens_s, t.seqs_s, t.prefill_s, t.decode_s, t.experts_s, t.mixed_s]):
            rec["value"][k] = put(np.asarray(value))
        rec["prefill_floor"], rec["decode_width"] = t.prefill_floor_s, t.decode_width
    return records, np.concatenate(data), np.concatenate(lut)


@kernel
def _cell(S, k, g, x):
    """Index of the knot below x in grid g of table k, in [0, size - 2]."""
    cell = 0
    if x >= 1.0:
        # the exponent and the first four bits of the mantissa number the cells of 1/16 octave
        cell = min((np.float64(x).view(np.int64) >> 48) - 0x3FF0, 64 * PER_OCTAVE - 1) + 1
    i = np.int64(lookup(S)[tables(S)[k].lut[g] + cell])
    o = tables(S)[k].grid[g]
    last = tables(S)[k].size[g] - 2
    while i < last and values(S)[o + i + 1] <= x:
        i += 1
    return i


@kernel
def _weight(S, k, g, i, x):
    o = tables(S)[k].grid[g] + i
    return max(0.0, (x - values(S)[o]) / (values(S)[o + 1] - values(S)[o]))


@kernel
def _line(S, k, g, v, x):
    i = _cell(S, k, g, x)
    w = _weight(S, k, g, i, x)
    o = tables(S)[k].value[v] + i
    return values(S)[o] + w * (values(S)[o + 1] - values(S)[o])


@kernel
def _plane(S, k, g, v, x, y):
    i = _cell(S, k, g, x)
    u = _weight(S, k, g, i, x)
    j = _cell(S, k, g + 1, y)
    w = _weight(S, k, g + 1, j, y)
    n = tables(S)[k].size[g + 1]
    o = tables(S)[k].value[v] + i * n + j
    low = values(S)[o] + w * (values(S)[o + 1] - values(S)[o])
    high = values(S)[o + n] + w * (values(S)[o + n + 1] - values(S)[o + n])
    return low + u * (high - low)


@kernel
def tokens_time(S, k, tokens):
    """Seconds of the token term of table k."""
    return _line(S, k, 0, 0, tokens)


@kernel
def experts_time(S, k, tokens):
    """Seconds of the experts' part of the token term of table k."""
    return _line(S, k, 0, 4, tokens)


@kernel
def seqs_time(S, k, emitting):
    """Seconds of the sequence term of table k; 0 when nothing emits."""
    if emitting <= 0:
        return 0.0
    return _line(S, k, 1, 1, emitting)


@kernel
def prefill_time(S, k, chunk, past):
    """Seconds of prefill attention of one chunk on table k."""
    return _plane(S, k, 2, 2, chunk, past)


@kernel
def decode_time(S, k, seqs, context):
    """Seconds of decode attention on table k; 0 when nothing decodes."""
    if seqs <= 0:
        return 0.0
    return _plane(S, k, 4, 3, seqs, context)


@kernel
def mixed_time(S, k, seqs, context):
    """Seconds of decode attention beside prompts on table k; 0 when nothing decodes."""
    if seqs <= 0:
        return 0.0
    return _plane(S, k, 4, 5, seqs, context)


@kernel
def decode_line(S, k, seqs, context):
    """Decode attention as a line in the context around `context`: (seconds, slope, context where the cell
    ends)."""
    i = _cell(S, k, 4, seqs)
    u = _weight(S, k, 4, i, seqs)
    j = _cell(S, k, 5, context)
    g = tables(S)[k].grid[5] + j
    n = tables(S)[k].size[5]
    o = tables(S)[k].value[3] + i * n + j
    left = values(S)[o] + u * (values(S)[o + n] - values(S)[o])
    right = values(S)[o + 1] + u * (values(S)[o + n + 1] - values(S)[o + 1])
    if context < values(S)[g]:
        return left, 0.0, values(S)[g]
    slope = (right - left) / (values(S)[g + 1] - values(S)[g])
    end = values(S)[g + 1] if j < n - 2 else np.inf
    return left + slope * (context - values(S)[g]), slope, end
