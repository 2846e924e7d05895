"""The text of a Python file as Python reads it: by its byte order mark or coding line, or UTF-8.

Bytes and text only; where they come from, and what is done with them, it does not know.
"""

from __future__ import annotations

import tokenize
from io import BytesIO

ASCII = bytes(range(128)).decode("ascii")


def decoded(source: bytes) -> str:
    """A file's text without its byte order mark; bytes that are no text become `\\ufffd`."""
    return source.decode(declared(source), "replace").removeprefix("\ufeff")


def encoded(text: str) -> bytes:
    """The bytes that Python reads as this text.

    Raises:
        UnicodeEncodeError: the encoding that its coding line names lacks a character.
    """
    return text.encode(declared(text.encode("utf-8")))


def declared(source: bytes) -> str:
    """The encoding that a file says it has, where that leaves ASCII as it is.

    The others are no encodings of files (`hex`, `utf-16`, `unicode_escape`), and some take time
    by the square of the length (`punycode`): 10 MB would keep the server for hours.
    """
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(source).readline)
        if ASCII.encode(encoding) == ASCII.encode("ascii"):
            return encoding
    except (SyntaxError, LookupError, UnicodeError):
        pass
    return "utf-8"
