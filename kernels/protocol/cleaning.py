"""Makes what a kernel sends fit for a notebook: text that can be encoded, and valid JSON."""

from __future__ import annotations

import math
from typing import Any

from ..encoding import encodable

DEEPEST = 100  # max levels of nested JSON, since its readers and writers recurse


def whole(number: object) -> int | None:
    """The number if nbformat accepts it as an execution count, else None."""
    return number if type(number) is int else None


def clean(value: Any, levels: int = DEEPEST) -> Any:
    """Make JSON data writable again, in place: lone surrogates, NaN and infinity, deep nesting."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if not isinstance(value, dict | list):
        return value
    if not levels:
        return "[nested too deeply]"
    if isinstance(value, dict):
        for key in list(value):
            value[encodable(str(key))] = clean(value.pop(key), levels - 1)
    else:
        for index, entry in enumerate(value):
            value[index] = clean(entry, levels - 1)
    return value


def clean_bundle(data: dict[str, Any]) -> dict[str, Any]:
    """Make a mimebundle valid for nbformat: every value is text, except under JSON types."""
    for mime, value in clean(data).items():
        if not isinstance(value, str) and not mime.endswith("json"):
            data[mime] = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return data
