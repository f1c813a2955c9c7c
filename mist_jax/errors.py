"""Errors that a person can act on, and the status codes of results."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ConfigError(ValueError):
    """A description that cannot be right: names the key, the value, what is allowed and the nearest name."""


class TraceError(ConfigError):
    """A request trace that cannot be read or played."""


class Status(IntEnum):
    """What became of one point of a sweep or one request of a trace; 0 is good.

    A sweep never dies of a bad point: the point carries one of these codes, and its numbers are NaN.
    """

    OK = 0
    OUT_OF_MEMORY = 1  #: weights and reserves leave no room for the KV cache
    KV_TOO_SMALL = 2  #: fewer KV tokens than one request needs
    UNSTABLE = 3  #: the offered load exceeds the capacity
    BAD_PARALLELISM = 4  #: a degree does not divide what it splits
    CONTEXT_TOO_LONG = 5  #: the request is longer than the model's context
    INVALID = 6  #: a number outside its range

    @property
    def text(self) -> str:
        """The code in words."""
        return {
            0: "ok",
            1: "does not fit in device memory",
            2: "KV cache smaller than one request",
            3: "offered load exceeds capacity",
            4: "parallelism does not divide the model",
            5: "longer than the model's context",
            6: "number out of range",
        }[int(self)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest of `valid`, or an empty string."""
    options = [str(v) for v in valid]
    # a name cut short (h200 for h200_sxm) is nearer to its whole than to another of its length (h20)
    whole = sorted((v for v in options if v.startswith(f"{name}_")), key=len)
    match = whole or difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
