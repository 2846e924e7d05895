"""JSON as people and programs write it, with comments and trailing commas where a host allows them.

Only the values that change are written anew: all else keeps its bytes, comments and order.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from .edits import Edit

SPACES = " \t\r\n"
STRING = r'"(?:\\.|[^"\\])*"?'  # even if unterminated: `json` then reports where
COMMENTS = re.compile(rf"{STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
TRAILING_COMMAS = re.compile(rf"{STRING}|[\[{{:,][{SPACES}]*,|,(?=[{SPACES}]*[\]}}])", re.DOTALL)
FIRST_INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)
SURROGATES = re.compile("[\ud800-\udfff]")
DECODER = json.JSONDecoder()


def parse(text: str) -> dict[str, Any]:
    """Parse a JSON object whose values all survive being rewritten; {} for an empty text.

    Raises:
        ValueError: the text is anything else.
    """
    if not text.strip(SPACES):
        return {}
    config = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    if not isinstance(config, dict):
        raise ValueError("the whole file should be an object, in { }")
    return config


def parse_commented(text: str) -> dict[str, Any]:
    """Parse a JSON object that may have comments and trailing commas.

    Raises:
        ValueError: the text is anything else.
    """
    return parse(without_commas(without_comments(text)))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing duplicate keys, since hosts differ in which of them counts.

    Raises:
        ValueError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'"{twice}" occurs twice in one object')
    return found


def finite(number: str) -> float:
    """Parse a number that JSON can represent.

    Raises:
        ValueError: the number is infinite or NaN.
    """
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number} is not a number that JSON can represent")
    return found


def without_comments(text: str) -> str:
    """Replace comments with spaces, so that everything else keeps its place."""
    return COMMENTS.sub(blank, text)


def without_commas(text: str) -> str:
    """Replace the trailing commas of a text without comments with spaces."""
    return TRAILING_COMMAS.sub(blank, text)


def blank(found: re.Match[str]) -> str:
    """Replace a comment or comma with spaces, keeping line breaks; return other matches as is."""
    if found[0] == "," or found[0].startswith("/"):
        return re.sub(r"[^\r\n]", " ", found[0])
    return found[0]


@dataclass(frozen=True)
class Member:
    """Where a member of an object, or an element of a list, stands in the text.

    Attributes:
        key: the member's key; None in a list.
        start: where the key begins, in a list the value.
        value: where the value begins.
        end: where the value ends.
    """

    key: str | None
    start: int
    value: int
    end: int


class Places:
    """A text, and where its values are."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bare = without_comments(text)
        self.plain = without_commas(self.bare)
        self.newline = "\r\n" if "\r\n" in text else "\n"
        indent = FIRST_INDENT.search(text)
        self.unit = indent[1] if indent else "  "

    def skip(self, at: int) -> int:
        """The place of the next token at or behind a place."""
        while self.plain[at] in SPACES:
            at += 1
        return at

    def members(self, start: int) -> tuple[list[Member], int]:
        """The members of the object or list that begins at a place, and where it closes."""
        found = []
        at = self.skip(start + 1)
        while self.plain[at] not in "]}":
            begin, key = at, None
            if self.plain[start] == "{":
                key, at = DECODER.raw_decode(self.plain, at)
                at = self.skip(self.skip(at) + 1)
            value = at
            _, at = DECODER.raw_decode(self.plain, at)
            found.append(Member(key, begin, value, at))
            at = self.skip(at)
            if self.plain[at] == ",":
                at = self.skip(at + 1)
        return found, at

    def container(self, path: tuple[str | int, ...]) -> int:
        """Where the object or list begins that a path leads to."""
        at = self.skip(0)
        for key in path:
            found, _ = self.members(at)
            at = found[position(found, key)].value
        return at

    def indent(self, at: int) -> str:
        """The white space at the beginning of the line that a place is in."""
        line = self.text[self.text.rfind("\n", 0, at) + 1 :]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def formatted(self, value: Any, indent: str) -> str:
        """Format a value for a line with this indentation."""
        text = json.dumps(value, ensure_ascii=False, indent=self.unit)
        # Lone surrogates are valid JSON only as escapes, and can't be encoded otherwise.
        text = SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        return text.replace("\n", self.newline + indent)


def position(found: list[Member], key: str | int) -> int:
    """The index of a member by its key, or of an element; the number of them if it is missing."""
    if isinstance(key, int):
        return key
    return next((index for index, one in enumerate(found) if one.key == key), len(found))


def edited(text: str, edit: Edit) -> str:
    """Apply an edit to a text whose containers on the way all exist."""
    places = Places(text if text.strip(SPACES) else f"{{}}{text or chr(10)}")
    *above, key = edit.path
    start = places.container(tuple(above))
    found, close = places.members(start)
    index = position(found, key)
    if edit.removes:
        return removed(places, start, found, close, index)
    if index < len(found):
        one = found[index]
        if places.text[one.value : one.end] != places.bare[one.value : one.end]:
            raise ValueError("its comments would be lost")
        new = places.formatted(edit.value, places.indent(one.start))
        return places.text[: one.value] + new + places.text[one.end :]
    name = f"{places.formatted(key, '')}: " if isinstance(key, str) else ""
    return inserted(places, start, found, close, name, edit.value)


def inserted(
    places: Places, start: int, found: list[Member], close: int, name: str, value: Any
) -> str:
    """Add a member behind the others and the comments behind them, on a line of its own."""
    text, base = places.text, places.indent(start)
    last = found[-1].end if found else start + 1
    end = len(text[:close].rstrip(SPACES))
    trails = found and "," in places.bare[last:close]
    indent = base + places.unit
    if found and not text[: found[0].start].rstrip(" \t").rpartition("\n")[2]:
        indent = places.indent(found[0].start)
    head = text[:last] + ("" if trails or not found else ",") + text[last:end]
    body = f"{places.newline}{indent}{name}{places.formatted(value, indent)}{',' if trails else ''}"
    tail = text[end:close] if "\n" in text[end:close] else places.newline + base
    return head + body + tail + text[close:]


def removed(places: Places, start: int, found: list[Member], close: int, index: int) -> str:
    """Take out a member with its comma and its line; comments before it stay."""
    text, bare = places.text, places.bare
    one = found[index]
    begin, end = len(text[: one.start].rstrip(SPACES)), one.end
    comma = bare.find(",", end, found[index + 1].start if index + 1 < len(found) else close)
    if comma >= 0:
        end = comma + 1
    head, tail = text[:begin], text[end:]
    if comma < 0 and index > 0:
        last = bare.rindex(",", found[index - 1].end, one.start)
        head = text[:last] + text[last + 1 : begin]
    if len(found) == 1 and not text[start + 1 : begin].strip(SPACES):
        closing = tail.lstrip(SPACES)
        tail = closing if closing[:1] in ("]", "}") else tail
    return head + tail
