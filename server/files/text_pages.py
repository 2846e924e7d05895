"""Pages of a file's text, in whatever encoding it is, without reading the rest of the file.

Positions are bytes of the file. Knows encodings; nothing of names and folders.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from .project_files import OpenFile

HEAD = 65_536  # bytes by which the encoding is recognized
ASCII = bytes(range(128)).decode("ascii")
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
GUESS = "cp1252"  # what else: every byte but five is a character in it
BOMS = (  # utf-32 before utf-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
BINARY = (b"%PDF-", b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")
CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")  # all but \a \b \t \n \v \f \r and escape


@dataclass(frozen=True)
class TextPage:
    """A page of text.

    Attributes:
        text: its characters; what is not valid in the encoding is U+FFFD.
        encoding: the encoding, by Python's name.
        is_guess: whether the encoding is only likely.
        start, end: the bytes of the file that it has.
    """

    text: str
    encoding: str
    is_guess: bool
    start: int
    end: int


def encoding_of(head: bytes, is_python: bool = False) -> tuple[str, bool] | None:
    """The encoding of the text that begins with these bytes, and whether it is a guess.

    None if they are no text.
    """
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, False
    if head.startswith(BINARY) or b"\0" in head:
        return None
    coding = CODING.search(b"\n".join(head.split(b"\n")[:2])) if is_python else None
    if coding is not None and (codec := text_codec(coding[1].decode())) is not None:
        return codec, False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None if CONTROL.search(head) else (GUESS, True)
    return ("utf-8", False) if len(CONTROL.findall(head)) <= len(head) // 100 else None


def text_codec(name: str) -> str | None:
    """Python's name of an encoding of text files: a superset of ASCII, UTF-16 or UTF-32.

    None if there is no such encoding. Other codecs are not encodings of files (`hex`,
    `unicode_escape`), and some take quadratic time (`punycode`).
    """
    try:
        found = codecs.lookup(name).name
        if found in WIDE:
            return found
        codecs.getincrementaldecoder(found)().decode(b"")
        return found if ASCII.encode(found)[-128:] == ASCII.encode() else None
    except (LookupError, ValueError, TypeError):
        return None


def text_page(
    file: OpenFile, offset: int, limit: int, encoding: str | None = None, is_python: bool = False
) -> TextPage | None:
    """The page of a file that begins at a byte, or the bytes before its end if that is negative.

    A page ends with a line if it can, and never within a character.

    Args:
        file: the file.
        offset: the first byte.
        limit: max bytes.
        encoding: of the text; None recognizes it by the first bytes.
        is_python: whether a coding line may name the encoding.

    Returns:
        The page; None if the file is no text.
    """
    head = file.read(0, HEAD)
    known = (encoding, False) if encoding else encoding_of(head, is_python)
    if known is None:
        return None
    name, is_guess = known[0].removesuffix("-sig"), known[1]
    if name in ("utf-16", "utf-32"):  # a page after the first has no mark that says which
        marked = (own for mark, own in BOMS if own.startswith(name) and head.startswith(mark))
        name = next(marked, f"{name}-le")
    size = file.status.st_size
    start = min(offset, size) if offset >= 0 else max(0, size + offset)
    mark = next((mark for mark, own in BOMS if own == name and head.startswith(mark)), b"")
    unit = {"utf-16": 2, "utf-32": 4}.get(name[:6], 1)
    start = max(start - start % unit, len(mark) if start < len(mark) else 0)
    data = file.read(start, max(limit, 8))
    if name == "utf-8" and start > len(mark):
        skipped = next((at for at in range(min(4, len(data))) if data[at] & 0xC0 != 0x80), 0)
        start, data = start + skipped, data[skipped:]
    is_last = start + len(data) >= size
    if not is_last and unit == 1:
        line_end = data.rfind(b"\n") + 1
        data = data[:line_end] if line_end > len(data) // 2 else data
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    text = decoder.decode(data, final=is_last)
    state = decoder.getstate()[0] if not is_last else b""
    return TextPage(text, name, is_guess, start, start + len(data) - len(state))
