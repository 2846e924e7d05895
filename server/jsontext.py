"""JSON texts, read so that each value is known by where it stands.

As strict as the hosts that read these files, and says by line and column what is wrong. Knows
nothing of files, nor of what the values mean.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

DEEPEST = 100  # levels; no config has ten
SPACE = re.compile(r"[ \t\r\n]*")
COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
STRING = json.JSONDecoder()


class Malformed(Exception):
    """A text is not what was expected; the message begins with the line and column."""

    def __init__(self, text: str, at: int, why: str) -> None:
        line = text.count("\n", 0, at) + 1
        column = at - (text.rfind("\n", 0, at) + 1) + 1
        super().__init__(f"line {line}, column {column}: {why}")


@dataclass(frozen=True)
class Part:
    """A value and where it stands in its text.

    Attributes:
        start: where it begins, its key included.
        value: where the value itself begins.
        end: behind its last character.
        key: its name, in an object.
        members: what it holds.
        comma: behind the comma that follows it, or None.
    """

    start: int
    value: int
    end: int
    key: str | None = None
    members: tuple[Part, ...] = ()
    comma: int | None = None

    @property
    def behind(self) -> int:
        """Behind it, and behind its comma."""
        return self.comma or self.end


@dataclass
class Reader:
    """Goes through a text once, from its first character to its last.

    Args:
        text: all of it.
        comments: whether comments and commas before a closing bracket are allowed.
    """

    text: str
    comments: bool
    at: int = 0

    def whole(self) -> Part | None:
        """The one value, or None where there is none.

        Raises:
            Malformed: it is no JSON, or more than one value.
        """
        self.at = 1 if self.text.startswith("\ufeff") else 0
        self.space()
        if self.at == len(self.text):
            return None
        root = self.value(self.at, None, 0)
        self.space()
        if self.at < len(self.text):
            raise self.wrong("there is more after the end of the JSON")
        return root

    def value(self, start: int, key: str | None, depth: int) -> Part:
        """The value that begins here, whose key began at `start`."""
        begins = self.at
        first = self.text[begins : begins + 1]
        if first in ("{", "["):
            if depth == DEEPEST:
                raise self.wrong(f"there are more than {DEEPEST} brackets in each other")
            self.at += 1
            members = self.members("}" if first == "{" else "]", depth + 1)
            return Part(start, begins, self.at, key, members)
        if first == '"':
            self.string()
        elif scalar := SCALAR.match(self.text, begins):
            self.at = scalar.end()
        else:
            raise self.wrong("a value is expected")
        return Part(start, begins, self.at, key)

    def members(self, closing: str, depth: int) -> tuple[Part, ...]:
        """What stands up to a closing bracket."""
        found: list[Part] = []
        while True:
            self.space()
            if self.text.startswith(closing, self.at):
                if found and not self.comments:
                    raise self.wrong("a comma before the closing bracket is one too many")
                break
            one = self.member(closing, depth)
            self.space()
            if self.text.startswith(",", self.at):
                self.at += 1
                found.append(replace(one, comma=self.at))
                continue
            found.append(one)
            if not self.text.startswith(closing, self.at):
                raise self.wrong(f"a comma or {closing} is expected")
            break
        self.at += 1
        return tuple(found)

    def member(self, closing: str, depth: int) -> Part:
        """One member, with its key where the bracket is an object's."""
        start, key = self.at, None
        if closing == "}":
            if not self.text.startswith('"', start):
                raise self.wrong('a name in "quotes" is expected')
            key = self.string()
            self.space()
            if not self.text.startswith(":", self.at):
                raise self.wrong("a colon is expected")
            self.at += 1
            self.space()
        return self.value(start, key, depth)

    def string(self) -> str:
        """The text in quotes that begins here."""
        try:
            value, self.at = STRING.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            raise Malformed(self.text, error.pos, error.msg) from None
        return str(value)

    def space(self) -> None:
        """Pass by space, and comments."""
        while True:
            if space := SPACE.match(self.text, self.at):
                self.at = space.end()
            if not self.text.startswith("/", self.at):
                return
            comment = COMMENT.match(self.text, self.at)
            if comment is None:
                raise self.wrong("this begins no comment, or one without an end")
            if not self.comments:
                raise self.wrong("comments are not allowed in this file")
            self.at = comment.end()

    def wrong(self, why: str) -> Malformed:
        """What is wrong here, with what stands there instead."""
        there = self.text[self.at : self.at + 1]
        shown = f"here is {there!a}" if there else "here is the end of the file"
        return Malformed(self.text, self.at, f"{why}, and {shown}")
