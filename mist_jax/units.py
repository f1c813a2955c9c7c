"""Quantities with units at the edge: `"3.35 TB/s"` becomes 3.35e12."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

from mist_jax.errors import ConfigError

#: dimension → (unit the kernels use, an example for messages)
DIMENSIONS = {
    "flops": ("FLOP/s", "989 TFLOP/s"),
    "bytes": ("byte", "80 GB"),
    "bandwidth": ("byte/s", "3.35 TB/s"),
    "time": ("s", "5 us"),
    "power": ("W", "700 W"),
    "frequency": ("1/s", "1.98 GHz or 5 requests/s"),
    "energy": ("J", "6 pJ"),
    "count": ("", "8"),
}

#: What a dimension is called in messages, where that is not its name.
NAMES = {d: d for d in DIMENSIONS} | {
    "flops": "rate of arithmetic",
    "bytes": "size in bytes",
    "count": "plain number",
}


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    ureg = pint.UnitRegistry(cache_folder=None)
    # Operations and requests are counted, tokens too; a rate of them is a frequency.
    ureg.define("FLOP = [operation] = flop = OP = op")
    ureg.define("request = 1 = requests = req")
    ureg.define("token = 1 = tokens = tok")
    return ureg


_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}
#: The usual spellings as factors, by dimension. Everything else goes through pint, which takes a second to start.
_USUAL = {
    "flops": {f"{p}{w}/s": f for p, f in _DECIMAL.items() for w in ("FLOP", "OP")},
    "bytes": {f"{p}B": f for p, f in _DECIMAL.items()} | {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "bandwidth": {f"{p}B/s": f for p, f in _DECIMAL.items()},
    "time": {f"{p}s": f for p, f in _SMALL.items()} | {"min": 60.0, "h": 3600.0},
    "power": {f"{p}W": f for p, f in _DECIMAL.items()},
    "frequency": {f"{p}Hz": f for p, f in _DECIMAL.items()},
    "energy": {f"{p}J": f for p, f in (_DECIMAL | _SMALL).items()},
}
_NUMBER = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z].*?)\s*")


@lru_cache(maxsize=4096)
def _parse(text: str, dimension: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    factor = _USUAL.get(dimension, {}).get(match.group(2)) if match else None
    if match and factor is not None:
        return float(match.group(1)) * factor
    return _parse_any(text, dimension)


def _parse_any(text: str, dimension: str) -> float:
    import pint

    unit, example = DIMENSIONS[dimension]
    try:
        return float(_registry().Quantity(text).to(unit or "dimensionless").magnitude)
    except pint.DimensionalityError:
        raise ConfigError(
            f"got '{text}', which is not a {NAMES[dimension]}; write it like '{example}'"
        ) from None
    except Exception as exc:  # pint raises many kinds, from tokenizer errors to UndefinedUnitError
        raise ConfigError(
            f"got '{text}', which cannot be read as a {NAMES[dimension]} ({exc}); write it like '{example}'"
        ) from None


def to_si(value: Any, dimension: str) -> float:
    """`value` (a number in SI, or a string with a unit) as a float in SI.

    Raises:
        ConfigError: if the unit is unknown or of another dimension, or the value is not a number.
    """
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"got {value!r}; expected a number or a quantity like '{DIMENSIONS[dimension][1]}'")
    if isinstance(value, int | float):
        out = float(value)
    elif isinstance(value, str):
        try:
            out = float(value)
        except ValueError:
            out = _parse(value, dimension)
    else:
        raise ConfigError(f"got {value!r}; expected a number or a quantity like '{DIMENSIONS[dimension][1]}'")
    if math.isnan(out):
        raise ConfigError(f"got {value!r}; expected a number, such as '{DIMENSIONS[dimension][1]}'")
    return out
