"""Durations of iterations in the naive simulator (see `simulator.py`)."""

from __future__ import annotations

from bisect import bisect_right


def line(grid, value, x):
    """Piecewise linear, the first value below the grid, the last slope above it."""
    if x <= grid[0]:
        return value[0]
    i = min(bisect_right(grid, x) - 1, len(grid) - 2)
    return value[i] + (x - grid[i]) / (grid[i + 1] - grid[i]) * (value[i + 1] - value[i])


class Table:
    def __init__(self, t):
        self.t = t
        names = ["tokens", "seqs", "prefill_chunk", "prefill_past", "decode_seqs", "decode_context"]
        self.grid = {n: getattr(t, n + "_grid").tolist() for n in names}
        self.value = {
            n: getattr(t, n + "_s").tolist()
            for n in ["tokens", "experts", "seqs", "prefill", "decode", "mixed"]
        }

    def plane(self, v, gx, gy, x, y):
        grid = self.grid[gx]
        if x <= grid[0]:
            return line(self.grid[gy], self.value[v][0], y)
        i = min(bisect_right(grid, x) - 1, len(grid) - 2)
        a, b = (line(self.grid[gy], self.value[v][j], y) for j in (i, i + 1))
        return a + (x - grid[i]) / (grid[i + 1] - grid[i]) * (b - a)

    def experts(self, tokens):
        return line(self.grid["tokens"], self.value["experts"], tokens)

    def step(self, chunks, contexts, emitting):
        tokens = sum(n for n, _ in chunks) + self.t.decode_width * len(contexts)
        out = line(self.grid["tokens"], self.value["tokens"], tokens)
        if emitting:
            out += line(self.grid["seqs"], self.value["seqs"], emitting)
        out += sum(self.plane("prefill", "prefill_chunk", "prefill_past", n, p) for n, p in chunks)
        if chunks:
            out += self.t.prefill_floor_s
        if contexts:
            mean = sum(contexts) / len(contexts)
            beside = "mixed" if chunks else "decode"
            out += self.plane(beside, "decode_seqs", "decode_context", len(contexts), mean)
        return out
