"""JSON-RPC messages as bytes, looked at before anything is made of them.

What a message costs whoever parses and validates it grows with the values in it, far more than
with its size: a file's content is one value. Knows JSON's punctuation; nothing of MCP's methods.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST_VALUES = 10_000  # of calls of our tools the largest have a dozen
PART = 1_000_000  # bytes looked at in one go: other threads wait for that long
LARGE = 1_000_000  # bytes of a message whose names are looked at: errors would repeat them
NAME = 1_000  # characters of a method, an id, a key
BATCH = re.compile(rb"\s*\[")


def flaw(body: bytes) -> str | None:
    """Why a body is not worth parsing, in words for whoever has sent it; None if it may be."""
    if BATCH.match(body):
        return (
            "A request has one JSON-RPC message, which is an object: MCP has no batches."
            " Send each message in a request of its own."
        )
    if has_more_values(body, MOST_VALUES):
        return (
            f"The message has more than {MOST_VALUES:,} values, which no call needs."
            " Send large content as one text."
        )
    if len(body) > LARGE and not has_short_names(body):
        return f"A method, an id and a key have at most {NAME:,} characters. Send less."
    return None


def has_short_names(body: bytes) -> bool:
    """Whether a message is large by its content alone; one that is no JSON is, for all we know."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return True
    if not isinstance(message, dict):
        return False
    names = [message.get("jsonrpc"), message.get("id"), message.get("method"), *keys(message)]
    return all(not isinstance(name, str) or len(name) <= NAME for name in names)


def keys(value: Any) -> list[str]:
    """All keys in a value; a parser has seen how deep it is."""
    found: list[str] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found += one
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a JSON text has more than so many keys, texts, numbers, objects and arrays.

    What is no JSON is counted up to where a parser finds that out.
    """
    if marks(body) <= most:
        return False
    found, in_text, start = 0, False, 0
    while start < len(body):
        part = body[start : start + PART]
        if (len(part) - len(part.rstrip(b"\\"))) % 2 and start + len(part) < len(body):
            part = part[:-1]  # its backslash belongs to what follows
        start += len(part)
        # Without escapes, each quotation mark begins or ends a text.
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * most + 3)
        found += marks(b"".join(pieces[int(in_text) :: 2]))
        if found > most or len(pieces) > 2 * most + 3:
            return True
        in_text ^= len(pieces) % 2 == 0
    return False


def marks(text: bytes) -> int:
    """How often something is followed by one value more."""
    return sum(text.count(mark) for mark in (b",", b":", b"[", b"{"))
