"""The text of a Python file as Python decodes it: by byte order mark, coding line, or UTF-8.

Knows bytes and text; nothing of where they come from or what they are used for.
"""

from __future__ import annotations

import tokenize
from io import BytesIO

ASCII = bytes(range(128)).decode("ascii")


def decoded(source: bytes) -> str:
    """A file's text without its byte order mark; undecodable bytes become `\\ufffd`."""
    return source.decode(declared(source), "replace").removeprefix("\ufeff")


def encoded(text: str) -> bytes:
    """The bytes that Python decodes to this text.

    Raises:
        UnicodeEncodeError: the encoding named in its coding line lacks a character.
    """
    return text.encode(declared(text.encode("utf-8")))


def declared(source: bytes) -> str:
    """The encoding that a file declares, if it is a superset of ASCII; else UTF-8.

    Other codecs are not encodings of source files (`hex`, `utf-16`, `unicode_escape`), and some
    take quadratic time (`punycode`): 10 MB would block the server for hours.
    """
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(source).readline)
        if ASCII.encode(encoding) == ASCII.encode("ascii"):
            return encoding
    except (SyntaxError, LookupError, UnicodeError):
        pass
    return "utf-8"


def utf8(text: str) -> bytes:
    """The text as UTF-8, with lone surrogates replaced."""
    return text.encode("utf-8", "replace")


def encodable(text: str) -> str:
    """Replace lone surrogates, which would break JSON later; other text is unchanged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return utf8(text).decode()
    return text
