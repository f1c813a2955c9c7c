"""The arrays of a playback inside the kernels.

The kernels hand one number around, the address of a directory of arrays, instead of some twenty arrays: with
    a
tuple of arrays every call copies and counts references of all of them, which took 20 times as long to run and
compile. The directory and the arrays belong to `state.State` and live as long as it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import (
    carray,  # type: ignore[attr-defined]
    types,
)
from numba.core import cgutils
from numba.extending import intrinsic

from mist_jax.queueing import state as st
from mist_jax.queueing.kernel import kernel

WIDTH = 3  # address, rows, columns
_PARTS = st.State._fields


def directory(s: st.State) -> np.ndarray:
    """Addresses and shapes of the arrays of `s`; keep it and `s` while a kernel runs.

    Raises:
        TypeError: if an array has not the type that the kernels expect.
    """
    out = np.zeros((len(_PARTS), WIDTH), np.int64)
    for row, name in zip(out, _PARTS):
        a = getattr(s, name)
        if a.dtype != st.DTYPES[name] or not a.flags.c_contiguous:
            raise TypeError(f"State.{name} is {a.dtype}, the kernels expect contiguous {st.DTYPES[name]}")
        row[0] = a.ctypes.data
        row[1 : 1 + a.ndim] = a.shape
    return out


def _to_pointer(typingctx: Any, address: Any) -> Any:  # numba calls it when it types a kernel
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


_pointer: Any = intrinsic(_to_pointer)


_AT = {name: WIDTH * i for i, name in enumerate(_PARTS)}
_G, _G_TYPE = _AT["g"], st.DTYPES["g"]
_RQ, _RQ_TYPE = _AT["rq"], st.DTYPES["rq"]
_CL, _CL_TYPE = _AT["cl"], st.DTYPES["cl"]
_ORDER, _ORDER_TYPE = _AT["order"], st.DTYPES["order"]
_CHILDREN, _CHILDREN_TYPE = _AT["children"], st.DTYPES["children"]
_TIMERS, _TIMERS_TYPE = _AT["timers"], st.DTYPES["timers"]
_UNIT_IDS, _UNIT_IDS_TYPE = _AT["unit_ids"], st.DTYPES["unit_ids"]
_TIER, _TIER_TYPE = _AT["tier"], st.DTYPES["tier"]
_LINK, _LINK_TYPE = _AT["link"], st.DTYPES["link"]
_SESSIONS, _SESSIONS_TYPE = _AT["sessions"], st.DTYPES["sessions"]
_TABLES, _TABLES_TYPE = _AT["tables"], st.DTYPES["tables"]
_DATA, _DATA_TYPE = _AT["data"], st.DTYPES["data"]
_LUT, _LUT_TYPE = _AT["lut"], st.DTYPES["lut"]
_STEPS, _STEPS_TYPE = _AT["steps"], st.DTYPES["steps"]
_SEGMENTS, _SEGMENTS_TYPE = _AT["segments"], st.DTYPES["segments"]
_RING, _RING_TYPE = _AT["ring"], st.DTYPES["ring"]
_PHASE, _PHASE_TYPE = _AT["phase"], st.DTYPES["phase"]
_CHUNK_REQUEST, _CHUNK_REQUEST_TYPE = _AT["chunk_request"], st.DTYPES["chunk_request"]
_CHUNK_TOKENS, _CHUNK_TOKENS_TYPE = _AT["chunk_tokens"], st.DTYPES["chunk_tokens"]
_UNIT, _UNIT_TYPE = _AT["unit"], st.DTYPES["unit"]
_TIER_UNIT, _TIER_UNIT_TYPE = _AT["tier_unit"], st.DTYPES["tier_unit"]


@kernel
def world(S: Any) -> Any:
    """`State.g`."""
    d = carray(_pointer(S), (_G + WIDTH,), np.int64)
    return carray(_pointer(d[_G]), (d[_G + 1],), _G_TYPE)


@kernel
def requests(S: Any) -> Any:
    """`State.rq`."""
    d = carray(_pointer(S), (_RQ + WIDTH,), np.int64)
    return carray(_pointer(d[_RQ]), (d[_RQ + 1],), _RQ_TYPE)


@kernel
def clients(S: Any) -> Any:
    """`State.cl`."""
    d = carray(_pointer(S), (_CL + WIDTH,), np.int64)
    return carray(_pointer(d[_CL]), (d[_CL + 1],), _CL_TYPE)


@kernel
def arrivals(S: Any) -> Any:
    """`State.order`."""
    d = carray(_pointer(S), (_ORDER + WIDTH,), np.int64)
    return carray(_pointer(d[_ORDER]), (d[_ORDER + 1],), _ORDER_TYPE)


@kernel
def children(S: Any) -> Any:
    """`State.children`."""
    d = carray(_pointer(S), (_CHILDREN + WIDTH,), np.int64)
    return carray(_pointer(d[_CHILDREN]), (d[_CHILDREN + 1],), _CHILDREN_TYPE)


@kernel
def timers(S: Any) -> Any:
    """`State.timers`."""
    d = carray(_pointer(S), (_TIMERS + WIDTH,), np.int64)
    return carray(_pointer(d[_TIMERS]), (d[_TIMERS + 1],), _TIMERS_TYPE)


@kernel
def unit_ids(S: Any) -> Any:
    """`State.unit_ids`."""
    d = carray(_pointer(S), (_UNIT_IDS + WIDTH,), np.int64)
    return carray(_pointer(d[_UNIT_IDS]), (d[_UNIT_IDS + 1],), _UNIT_IDS_TYPE)


@kernel
def tiers(S: Any) -> Any:
    """`State.tier`."""
    d = carray(_pointer(S), (_TIER + WIDTH,), np.int64)
    return carray(_pointer(d[_TIER]), (d[_TIER + 1],), _TIER_TYPE)


@kernel
def links(S: Any) -> Any:
    """`State.link`."""
    d = carray(_pointer(S), (_LINK + WIDTH,), np.int64)
    return carray(_pointer(d[_LINK]), (d[_LINK + 1],), _LINK_TYPE)


@kernel
def sessions(S: Any) -> Any:
    """`State.sessions`."""
    d = carray(_pointer(S), (_SESSIONS + WIDTH,), np.int64)
    return carray(_pointer(d[_SESSIONS]), (d[_SESSIONS + 1],), _SESSIONS_TYPE)


@kernel
def tables(S: Any) -> Any:
    """`State.tables`."""
    d = carray(_pointer(S), (_TABLES + WIDTH,), np.int64)
    return carray(_pointer(d[_TABLES]), (d[_TABLES + 1],), _TABLES_TYPE)


@kernel
def values(S: Any) -> Any:
    """`State.data`."""
    d = carray(_pointer(S), (_DATA + WIDTH,), np.int64)
    return carray(_pointer(d[_DATA]), (d[_DATA + 1],), _DATA_TYPE)


@kernel
def lookup(S: Any) -> Any:
    """`State.lut`."""
    d = carray(_pointer(S), (_LUT + WIDTH,), np.int64)
    return carray(_pointer(d[_LUT]), (d[_LUT + 1],), _LUT_TYPE)


@kernel
def step_log(S: Any) -> Any:
    """`State.steps`."""
    d = carray(_pointer(S), (_STEPS + WIDTH,), np.int64)
    return carray(_pointer(d[_STEPS]), (d[_STEPS + 1],), _STEPS_TYPE)


@kernel
def segment_log(S: Any) -> Any:
    """`State.segments`."""
    d = carray(_pointer(S), (_SEGMENTS + WIDTH,), np.int64)
    return carray(_pointer(d[_SEGMENTS]), (d[_SEGMENTS + 1],), _SEGMENTS_TYPE)


@kernel
def ring(S: Any) -> Any:
    """`State.ring`."""
    d = carray(_pointer(S), (_RING + WIDTH,), np.int64)
    return carray(_pointer(d[_RING]), (d[_RING + 1], d[_RING + 2]), _RING_TYPE)


@kernel
def phase(S: Any) -> Any:
    """`State.phase`."""
    d = carray(_pointer(S), (_PHASE + WIDTH,), np.int64)
    return carray(_pointer(d[_PHASE]), (d[_PHASE + 1], d[_PHASE + 2]), _PHASE_TYPE)


@kernel
def chunk_request(S: Any) -> Any:
    """`State.chunk_request`."""
    d = carray(_pointer(S), (_CHUNK_REQUEST + WIDTH,), np.int64)
    return carray(
        _pointer(d[_CHUNK_REQUEST]), (d[_CHUNK_REQUEST + 1], d[_CHUNK_REQUEST + 2]), _CHUNK_REQUEST_TYPE
    )


@kernel
def chunk_tokens(S: Any) -> Any:
    """`State.chunk_tokens`."""
    d = carray(_pointer(S), (_CHUNK_TOKENS + WIDTH,), np.int64)
    return carray(
        _pointer(d[_CHUNK_TOKENS]), (d[_CHUNK_TOKENS + 1], d[_CHUNK_TOKENS + 2]), _CHUNK_TOKENS_TYPE
    )


@kernel
def units(S: Any) -> Any:
    """`State.unit`."""
    d = carray(_pointer(S), (_UNIT + WIDTH,), np.int64)
    return carray(_pointer(d[_UNIT]), (d[_UNIT + 1], d[_UNIT + 2]), _UNIT_TYPE)


@kernel
def tier_units(S: Any) -> Any:
    """`State.tier_unit`."""
    d = carray(_pointer(S), (_TIER_UNIT + WIDTH,), np.int64)
    return carray(_pointer(d[_TIER_UNIT]), (d[_TIER_UNIT + 1], d[_TIER_UNIT + 2]), _TIER_UNIT_TYPE)
