"""How one replica of a model is spread over chips."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any


@pytree
class Parallel:
    """Degrees of parallelism of one replica; chips = tp * pp * dp, and tp * dp = moe_tp * ep.

    `dp` is attention data parallelism: each rank keeps its own sequences and their KV, and the experts are
    shared by all tp * dp chips. Independent copies of the engine are `replicas` of a pool, not `dp`.
    `redundant`: copies of busy experts that fill up the ranks where `ep` does not divide the experts (DeepSeek-V3:
    32 copies beside 256 experts on 72 or 144 ranks; arXiv 2412.19437, 3.4).
    """

    tp: Array
    pp: Array
    dp: Array
    ep: Array
    moe_tp: Array
    redundant: Array = 0.0
