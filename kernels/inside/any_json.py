"""Converts anything that a cell displays or raises to JSON.

Lone surrogates, objects that are not JSON, circular lists, a gigabyte of text. Sent to the kernel
as text, like `setup.py`; knows nothing about messages.
"""

from __future__ import annotations

import json
import math
import numbers
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

DEEPEST = 100  # max levels of JSON; the reader needs stack space for each
VALUES = 500_000  # max values in JSON data that had to be converted
LARGEST = 2_000  # max bits of a number in decimal; Python may refuse to write longer ones
REST = "[… the rest was not sent …]"


def packed(value: Any) -> bytes:
    """Encode a value as UTF-8 JSON; raises if it is not JSON, or whatever its classes raise."""
    text = json.dumps(value, default=stamp, ensure_ascii=False, allow_nan=False)
    return text.encode()


def stamp(value: Any) -> str:
    """Format a date as Jupyter does; raises `TypeError` for anything else."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.astimezone()
        return aware.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(type(value))


def sendable(value: Any, most: int) -> tuple[Any, bool]:
    """Convert any object to JSON data; also return whether the result is complete.

    Non-JSON values become their `repr`. Works without recursion, and uses about `most` characters;
    a container on one of the top three levels leaves a tenth of the remainder to what follows it.
    """
    complete, entry = True, 1 + most // VALUES
    whole: list[Any] = []
    opened: list[tuple[int, Iterator[Any], Any, int]] = [(0, iter([(None, value)]), whole, 0)]
    while opened:
        _, entries, made, reserve = opened[-1]
        try:
            name, each = next(entries)
        except Exception:  # exhausted, or the cell's own iterator failed
            opened.pop()
            continue
        inner = entries_of(each)
        part: Any
        if most <= reserve:
            opened.pop()
            complete, part = False, REST
        elif inner is None:
            part = leaf(each)
            if isinstance(part, str) and len(part) > most - reserve:
                complete, part = False, part[: most - reserve] + REST
        elif any(identity == id(each) for identity, *_ in opened):
            part = "[circular]"
        elif len(opened) > DEEPEST:
            part = "[nested too deeply]"
        else:
            part = {} if is_a(each, dict) else []
            below = reserve + (most - reserve) // 10 if len(opened) < 4 else reserve
            opened.append((id(each), inner, part, below))
        most -= entry + (len(part) if isinstance(part, str) else 0)
        if isinstance(made, list):
            made.append(part)
        else:
            key = key_of(name)
            most -= len(key)
            made[key if key not in made else f"{key} ({len(made) + 1})"] = part
    return whole[0], complete


def entries_of(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Return a container's keys (None without keys) and values; None if it is no container.

    Calls `dict.items` itself, since the cell's classes may override it.
    """
    if is_a(value, str | bytes | bytearray | memoryview):
        return None
    if is_a(value, dict):
        return iter(dict.items(value))
    try:
        return ((None, each) for each in iter(value)) if hasattr(type(value), "__iter__") else None
    except Exception:
        return None


def is_a(value: Any, kind: Any) -> bool:
    """Like `isinstance`, but ignores what the object claims in `__class__`."""
    return issubclass(type(value), kind)


def key_of(name: Any) -> str:
    """Convert a dict's key to a JSON key."""
    key = leaf(name)
    return key if isinstance(key, str) else json.dumps(key)


def leaf(value: Any) -> Any:
    """Convert a value that is not a container to JSON data."""
    if value is None or value is True or value is False:
        return value
    if is_a(value, str):
        return encoded(str.__str__(value))
    try:
        if is_a(value, bytes | bytearray | memoryview):
            return b64encode(value).decode()
        if is_a(value, date):
            return encoded(stamp(value))
        if isinstance(value, numbers.Integral):
            return hex(value) if int(value).bit_length() > LARGEST else int(value)
        if isinstance(value, numbers.Real):
            return float(value) if math.isfinite(value) else repr(float(value))
        if type(value).__name__ in ("bool", "bool_"):  # NumPy's, which is not a number
            return bool(value)
    except Exception:
        return text_of(value)
    return text_of(value, repr)


def text_of(value: Any, to_text: Callable[[Any], Any] = str) -> str:
    """Return an object's text, or CPython's placeholder if `to_text` fails."""
    try:
        return encoded(str.__str__(to_text(value)))
    except BaseException:  # `__str__` may even exit
        what = "exception" if is_a(value, BaseException) else "object"
        return f"<{what} {to_text.__name__}() failed>"


def encoded(text: str) -> str:
    """Make text encodable as UTF-8: lone surrogates become escapes, as on stderr."""
    return text.encode("utf-8", "backslashreplace").decode()
