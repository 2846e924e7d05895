"""Edits of JSON texts that leave every other character as it was.

For files that belong to others: their comments, order, indents and odd numbers stay. Knows
nothing of files, nor of what the values mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .jsontext import COMMENT, SPACE, Malformed, Part, Reader

LONG_NUMBER = 1000  # digits; Python turns no number of some thousands into an int


@dataclass(frozen=True)
class Text:
    """A JSON text; each edit gives another one.

    Args:
        text: all of it; nothing but space stands for an empty object.
        comments: whether comments and commas before a closing bracket are allowed.

    Raises:
        Malformed: it is no JSON.
    """

    text: str
    comments: bool = False
    root: Part | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Reader(self.text, self.comments).whole())

    def part(self, *path: str) -> Part | None:
        """What stands at a path of keys.

        Raises:
            Malformed: something on the way is no object, or has one of the keys twice.
        """
        found = self.root
        for depth, key in enumerate(path):
            if found is None:
                return None
            if self.text[found.value] != "{":
                what = f'"{path[depth - 1]}"' if depth else "the whole"
                raise Malformed(self.text, found.value, f"{what} should be an object, in {{ }}")
            named = [one for one in found.members if one.key == key]
            if len(named) > 1:
                raise Malformed(self.text, named[-1].start, f'"{key}" is there a second time')
            found = named[0] if named else None
        return found

    def value(self, *path: str) -> Any:
        """What stands at a path as Python has it; None where there is nothing.

        Raises:
            Malformed: as `part` does.
        """
        part = self.part(*path)
        return None if part is None else self.plain(part)

    def plain(self, part: Part) -> Any:
        """A part as Python has it; numbers that it can't have are left as texts."""
        first = self.text[part.value]
        if first == "{":
            return {one.key: self.plain(one) for one in part.members}
        if first == "[":
            return [self.plain(one) for one in part.members]
        raw = self.text[part.value : part.end]
        return raw if len(raw) > LONG_NUMBER and first != '"' else json.loads(raw)

    def put(self, value: Any, *path: str) -> Text:
        """With a value at a path, in place of what is there; missing objects are made.

        Raises:
            Malformed: something on the way is no object.
        """
        if self.root is None:
            for key in reversed(path):
                value = {key: value}
            bom = "\ufeff" if self.text.startswith("\ufeff") else ""
            written = json.dumps(value, ensure_ascii=False, indent=2).replace("\n", self.newline())
            return Text(f"{bom}{written}{self.newline()}", self.comments)
        *above, key = path
        if (part := self.part(*path)) is not None:
            if self.plain(part) == value:
                return self
            written = self.written(value, self.indent(part.start), lines=not self.is_flat())
            return self.edited((part.value, part.end, written))
        if (holder := self.part(*above)) is None:
            return self.put({key: value}, *above)
        return self.added(holder, value, json.dumps(key, ensure_ascii=False) + ":")

    def append(self, value: Any, *path: str) -> Text:
        """With one more element in the array at a path, which is made if it is missing.

        Raises:
            Malformed: there is something else.
        """
        if (part := self.part(*path)) is None:
            return self.put([value], *path)
        if self.text[part.value] != "[":
            raise Malformed(self.text, part.value, f'"{path[-1]}" should be a list, in [ ]')
        return self.added(part, value, "")

    def without(self, *path: str) -> Text:
        """Without what stands at a path: its comma and the space before it go, too.

        Raises:
            Malformed: as `part` does.
        """
        part, holder = self.part(*path), self.part(*path[:-1])
        return self if part is None or holder is None else self.cut(holder, part)

    def cut(self, holder: Part, part: Part) -> Text:
        """Without one member of an object or array."""
        index = holder.members.index(part)
        previous = holder.members[index - 1] if index else None
        behind = previous.behind if previous else holder.value + 1
        start, in_line = self.past_comments(behind)
        if in_line and "\n" not in self.space_at(part.behind):
            start = part.start  # or the comment before would swallow what comes after
        edits = [(start, part.behind, "")]
        if len(holder.members) == 1:
            left = self.text[holder.value + 1 : start] + self.text[part.behind : holder.end - 1]
            if not left.strip():
                edits = [(holder.value + 1, holder.end - 1, "")]
        elif previous is not None and previous.comma and not part.comma:
            edits.insert(0, (previous.comma - 1, previous.comma, ""))  # now that one is the last
        return self.edited(*edits)

    def added(self, holder: Part, value: Any, key: str) -> Text:
        """With one more member at the end of an object or array; `key` has its colon."""
        last = holder.members[-1] if holder.members else None
        begin = last.behind if last else holder.value + 1
        at, in_line = self.past_comments(begin)
        flat = self.is_flat() or (last is not None and not self.begins_line(last.start))
        outer = self.indent(holder.start)
        inner = self.indent(last.start) if last and not flat else outer + self.unit()
        tight = flat and self.is_tight()
        new = key + (" " if key and not tight else "") + self.written(value, inner, lines=not flat)
        if flat and not in_line:
            new = new if tight or last is None else f" {new}"
        else:
            new = f"{self.newline()}{inner}{new}"
        if last is None:
            closed = flat or at != begin or "\n" in self.space_at(at)
            return self.edited((at, at, new if closed else new + self.newline() + outer))
        if last.comma:  # where there is one after the last, there will be
            return self.edited((at, at, f"{new},"))
        return self.edited((last.end, last.end, ","), (at, at, new))

    def edited(self, *edits: tuple[int, int, str]) -> Text:
        """With some spans replaced, given in their order."""
        text = self.text
        for start, end, new in reversed(edits):
            text = text[:start] + new + text[end:]
        return Text(text, self.comments)

    def written(self, value: Any, indent: str, *, lines: bool) -> str:
        """A value as this text writes them, on lines or on one."""
        if not lines:
            marks = (",", ":") if self.is_tight() else (", ", ": ")
            return json.dumps(value, ensure_ascii=False, separators=marks)
        text = json.dumps(value, ensure_ascii=False, indent=self.unit())
        return text.replace("\n", self.newline() + indent)

    def past_comments(self, start: int) -> tuple[int, bool]:
        """Behind the comments that follow a place, and whether the last one takes its line."""
        at, in_line = start, False
        while comment := COMMENT.match(self.text, at + len(self.space_at(at))):
            at, in_line = comment.end(), comment.group().startswith("//")
        return at, in_line

    def space_at(self, at: int) -> str:
        """The space that begins at a place."""
        found = SPACE.match(self.text, at)
        return found.group() if found else ""

    def newline(self) -> str:
        """How lines end."""
        return "\r\n" if "\r\n" in self.text else "\n"

    def is_flat(self) -> bool:
        """Whether it is more than empty brackets, and all on one line."""
        return bool(self.root and self.root.members) and "\n" not in self.text.strip(
            "\ufeff \t\r\n"
        )

    def is_tight(self) -> bool:
        """Whether it is on one line, and without space between names and values."""
        first = self.root.members[0] if self.root and self.root.members else None
        return first is not None and self.is_flat() and self.text[first.value - 1] == ":"

    def unit(self) -> str:
        """What one level is indented by."""
        for one in self.root.members if self.root else ():
            if self.begins_line(one.start) and (indent := self.indent(one.start)):
                return indent
        return "  "

    def begins_line(self, at: int) -> bool:
        """Whether a line of its own begins here."""
        return "\n" in self.text[:at] and not self.line(at).strip()

    def indent(self, at: int) -> str:
        """The space that the line of a place begins with."""
        line = self.line(at).removeprefix("\ufeff")
        return line[: len(line) - len(line.lstrip(" \t"))]

    def line(self, at: int) -> str:
        """The line of a place, up to it."""
        return self.text[self.text.rfind("\n", 0, at) + 1 : at]
