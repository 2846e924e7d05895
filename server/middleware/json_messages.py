"""Checks JSON-RPC messages as bytes, before they are parsed.

The cost of parsing and validating a message grows with the number of its values far more than
with its size: a file's content is one value. Knows JSON; `text_lengths.py` knows what may be large.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .text_lengths import NAME, of_message

MOST_VALUES = 10_000  # max values per message; the largest calls of our tools have a dozen
PART = 1_000_000  # bytes scanned per step: other threads wait meanwhile
LARGE = 65_536  # bytes; longer messages are checked value by value
DIGITS = 400  # max digits of a number: a float has no more before its point
BATCH = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")


def flaw(body: bytes) -> str | None:
    """Why a body is not worth parsing, worded for its sender; None if it is fine."""
    if b"\0" in body:  # UTF-16 and UTF-32, whose punctuation isn't counted below
        return "The message is not encoded in UTF-8. Send it as JSON in UTF-8."
    if BATCH.match(body):
        return (
            "A request holds one JSON-RPC message, which is an object: MCP has no batches."
            " Send each message in its own request."
        )
    if has_more_values(body, MOST_VALUES):
        return (
            f"The message has more than {MOST_VALUES:,} values, which no call needs."
            " Send large content as one text."
        )
    return flaw_of_large(body) if len(body) > LARGE else None


def flaw_of_large(body: bytes) -> str | None:
    """The same for a large message: its errors might repeat its content, or it parses slowly."""
    try:
        message = json.loads(
            body,
            object_pairs_hook=distinct,
            parse_int=lambda number: int(short(number)),
            parse_float=lambda number: float(short(number)),
        )
    except Flaw as flawed:
        return str(flawed)
    except RecursionError:
        return "The message's JSON is nested too deeply. Send it flatter."
    except ValueError as error:
        return f"The message is not valid JSON: {error}. Send complete JSON in UTF-8."
    if not isinstance(message, dict):
        return "The message is not a JSON-RPC message, which is a JSON object. Send one."
    found = of_message(message)
    return found and f"Nothing was done: {found}"


class Flaw(Exception):
    """Stops the parsing of a bad message; the text is for its sender."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, if every parser reads it the same way.

    Raises:
        Flaw: it has a key twice, or one that is too long.
    """
    made = dict(pairs)
    if long := next((key for key in made if len(key) > NAME), ""):
        raise Flaw(
            f"A key has {len(long):,} characters; it may have at most {NAME:,}. Send a shorter one."
        )
    if len(made) < len(pairs):
        raise Flaw("An object has the same key twice. Send each key only once.")
    return made


def short(number: str) -> str:
    """A number, if it is short enough: parsing time grows with the square of its digits.

    Raises:
        Flaw: it has too many digits.
    """
    if len(number) > DIGITS:
        raise Flaw(f"A number has {len(number):,} digits; it may have at most {DIGITS}. Round it.")
    return number


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a JSON text has more than `most` keys, strings, numbers, objects and arrays.

    Invalid JSON is counted up to where a parser would reject it.
    """
    if marks(body) <= most:
        return False
    found, in_text, start = 0, False, 0
    while start < len(body):
        part = body[start : start + PART]
        if (len(part) - len(part.rstrip(b"\\"))) % 2 and start + len(part) < len(body):
            part = part[:-1]  # the backslash escapes what follows
        start += len(part)
        # Without escapes, each quotation mark begins or ends a string.
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * most + 3)
        found += marks(b"".join(pieces[int(in_text) :: 2]))
        if found > most or len(pieces) > 2 * most + 3:
            return True
        in_text ^= len(pieces) % 2 == 0
    return False


def marks(text: bytes) -> int:
    """The number of marks that are followed by one more value."""
    return sum(text.count(mark) for mark in (b",", b":", b"[", b"{"))
