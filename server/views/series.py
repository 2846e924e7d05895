"""A chart's data in words: how many values, their range, the first and the last.

The data is a stranger's: every loop has a bound, and nothing is assumed about types.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..plurals import counted

VALUES_MOST = 1_000_000  # max values of one series that are looked at
WORDS = 60  # max characters of one value or name
# Plotly's and Bokeh's names of array types, and struct's codes.
_CODES = {
    **{"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"},
    **{"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I"},
    **{"float32": "f", "float64": "d", "int64": "q", "uint64": "Q", "bool": "?"},
}


def words(value: Any) -> str:
    """A value as short text on one line; numbers with at most 5 digits."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else f"{float_of(value):.5g}"
    if not isinstance(value, str):
        return f"[{type(value).__name__}]"
    text = " ".join(value[:1_000].split())
    return text if len(text) <= WORDS else f"{text[: WORDS - 1]}…"


def float_of(value: int | float) -> float:
    """A number as a float; infinite if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def values_of(data: Any) -> Sequence[Any]:
    """A series' values: a list, or an array that Plotly or Bokeh have packed; empty if neither."""
    if isinstance(data, list):
        return data
    if not isinstance(data, Mapping):
        return ()
    packed = data.get("bdata")  # Plotly: {"dtype": "f8", "bdata": "…"}
    if packed is None and isinstance(array := data.get("array"), Mapping):  # Bokeh's ndarray
        packed = array.get("data")
    elif packed is None:
        return array if isinstance(array, list) else ()
    code = _CODES.get(str(data.get("dtype")))
    if not isinstance(packed, str) or code is None:
        return ()
    width = struct.calcsize(code)
    try:
        raw = base64.b64decode(packed[: VALUES_MOST * width * 4 // 3 // 4 * 4])
    except (binascii.Error, ValueError):
        return ()
    count = len(raw) // width
    order = ">" if data.get("order") == "big" else "<"
    return struct.unpack(f"{order}{count}{code}", raw[: count * width])


def series(name: str, data: Any) -> str:
    """One series in words, such as `y: 100 values from 0 to 9.5, first 1, last 9.5`."""
    values = values_of(data)
    if not values:
        return ""
    looked = [each for each in islice(values, VALUES_MOST) if each is not None]
    numbers = [
        number
        for each in looked
        if isinstance(each, int | float) and not isinstance(each, bool)
        if math.isfinite(number := float_of(each))
    ]
    more = f" (of the first {VALUES_MOST:,})" if len(values) > VALUES_MOST else ""
    count = f"{name}: {counted(len(values), 'value')}"
    if len(values) == 1:
        return f"{name}: {words(values[0])}"
    ends = f"first {words(values[0])}, last {words(values[-1])}"
    if isinstance(values[0], list):
        flat = [each for row in values if isinstance(row, list) for each in row[:VALUES_MOST]]
        return f"{name}: {counted(len(values), 'row')}; {series('values', flat[:VALUES_MOST])}"
    if numbers and len(numbers) >= len(looked) / 2:
        missing = len(values) - len(numbers) if not more else 0
        lacks = f", {missing:,} missing" if missing else ""
        return f"{count}{more} from {words(min(numbers))} to {words(max(numbers))}, {ends}{lacks}"
    kinds = {each for each in looked if isinstance(each, str)}
    return f"{count}{more}, {len(kinds):,} different, {ends}" if kinds else f"{count}, {ends}"


def at(data: Any, *path: str | int) -> Any:
    """What is at a path in nested data; None if there is nothing."""
    for step in path:
        if isinstance(step, str):
            data = data.get(step) if isinstance(data, Mapping) else None
        else:
            data = data[step] if isinstance(data, list) and len(data) > step else None
    return data


def text_at(data: Any, *path: str | int) -> str:
    """The text at a path, shortened; also of `{"text": …}`, or of a list of lines."""
    found = at(data, *path)
    if isinstance(found, Mapping):
        found = found.get("text")
    if isinstance(found, list):
        found = " ".join(line for line in found[:5] if isinstance(line, str))
    return words(found) if isinstance(found, str | int | float) else ""


def lines_of(head: str, lines: Iterable[str], total: int, most: int) -> str:
    """A summary: its first line, the first `most` of its lines, and how many are missing."""
    shown = list(islice(lines, most))
    more = [f"  … and {total - len(shown):,} more"] if total > len(shown) else []
    return "\n".join([f"[{head}]", *(f"  {line}" for line in shown), *more])
