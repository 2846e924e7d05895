"""What a stream's text looks like once a terminal has followed its control characters.

Carriage returns and backspaces move back, what follows overwrites, `ESC [ K` erases. Each
character is looked at once, however the text was cut up. Knows text; nothing of cells.
"""

from __future__ import annotations

import re
from bisect import bisect_right

# Characters of one row. As on a terminal, a longer line goes on in the next row, and nothing
# moves back from there. So the open row is all that can still change, and stays small.
WIDTH = 100_000
CHUNK = 65_536  # characters of settled text that are joined to one string

_MOVES = re.compile(r"(\r+|\x08+|\x1b\[[0-2]?K)")
_CUT_OFF = re.compile(r"\x1b(?:\[[0-2]?)?\Z")  # an erase whose rest may come with the next piece


class StreamText:
    """The text of one stream output, followed as a terminal does, at a cost linear in its size.

    Attributes:
        size: characters taken in.
        settled_size: characters that can't change any more: all finished rows.
    """

    def __init__(self) -> None:
        self.size = 0
        self.settled_size = 0
        self._chunks: list[str] = []  # settled text
        self._starts: list[int] = []  # where in the text each chunk begins
        self._recent: list[str] = []  # settled text that comes behind the chunks
        self._recent_size = 0
        self._row: list[str] = []  # the open row's characters
        self._column = 0  # where the next one goes
        self._moved = False  # whether anything has moved back in the open row
        self._held = ""  # an erase that is not complete

    def append(self, text: str) -> None:
        """Add what was written."""
        self.size += len(text)
        text = self._held + text
        cut_off = _CUT_OFF.search(text, max(0, len(text) - 3))
        self._held = cut_off.group() if cut_off else ""
        text = text[: len(text) - len(self._held)].replace("\r\n", "\n")
        pieces = _MOVES.split(text)
        self._write(pieces[0])
        for number in range(1, len(pieces), 2):
            self._move(pieces[number])
            if piece := pieces[number + 1]:
                self._write(piece)

    def settled_from(self, start: int) -> str:
        """The settled text from its character `start` on; costs what it returns."""
        if start >= self.settled_size:
            return ""
        self._recent = ["".join(self._recent)]
        begin = self.settled_size - self._recent_size
        if start >= begin:
            return self._recent[0][start - begin :]
        first = bisect_right(self._starts, start) - 1
        head = self._chunks[first][start - self._starts[first] :]
        return "".join([head, *self._chunks[first + 1 :], *self._recent])

    @property
    def pending(self) -> str:
        """The open row as long as nothing has moved back in it: worth showing meanwhile.

        At most `WIDTH` characters; a carriage return may still change them.
        """
        return "" if self._moved else self._open_row()

    @property
    def settled(self) -> str:
        """What to show meanwhile: the settled text and what is pending."""
        return self.settled_from(0) + self.pending

    @property
    def text(self) -> str:
        """All of it, as it looks now."""
        return self.settled_from(0) + self._open_row() + self._held

    def finish(self) -> str:
        """Nothing more comes: all of it is settled, and returned."""
        text = self.text
        self._chunks, self._starts, self._recent = [text], [0], []
        self.settled_size, self._recent_size = len(text), 0
        self._start_row()
        self._held = ""
        return text

    def _write(self, text: str) -> None:
        if "\n" in text:
            first, last = text.index("\n"), text.rindex("\n") + 1
            self._put(text[:first])
            self._settle(self._open_row() + text[first:last])
            self._start_row()
            text = text[last:]
        self._put(text)

    def _put(self, text: str) -> None:
        """Write into the open row, and go on in the next where it is full."""
        end = self._column + len(text)
        while end > WIDTH:
            room = WIDTH - self._column
            self._row[self._column :] = text[:room]
            self._settle(self._open_row())
            self._start_row()
            text, end = text[room:], end - WIDTH
        self._row[self._column : end] = text
        self._column = end

    def _move(self, control: str) -> None:
        self._moved = True
        if control[0] == "\r":
            self._column = 0
        elif control[0] == "\b":
            self._column = max(0, self._column - len(control))
        elif control[2] == "2":  # nearly always beside a carriage return: it begins anew
            self._row.clear()
            self._column = 0
        elif control[2] != "1":
            del self._row[self._column :]

    def _open_row(self) -> str:
        return "".join(self._row)

    def _start_row(self) -> None:
        self._row.clear()
        self._column, self._moved = 0, False

    def _settle(self, text: str) -> None:
        self._recent.append(text)
        self._recent_size += len(text)
        self.settled_size += len(text)
        if self._recent_size >= CHUNK:
            self._starts.append(self.settled_size - self._recent_size)
            self._chunks.append("".join(self._recent))
            self._recent, self._recent_size = [], 0
