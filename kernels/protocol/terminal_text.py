"""A stream's text as a terminal would show it after processing its control characters.

Carriage returns and backspaces move the cursor back, text overwrites, `ESC [ K` erases. Each
character is processed once, however the text was split. Knows text; nothing of cells.
"""

from __future__ import annotations

import re
from bisect import bisect_right

# Max characters of one row. As on a terminal, a longer line wraps, and the cursor never moves back
# to the previous row. So only the open row can still change, and it stays small.
WIDTH = 100_000
CHUNK = 65_536  # characters of settled text after which they are joined into one string

_MOVES = re.compile(r"(\r+|\x08+|\x1b\[[0-2]?K)")
_CUT_OFF = re.compile(r"\x1b(?:\[[0-2]?)?\Z")  # an erase sequence that the next piece may complete


class StreamText:
    """The text of one stream output, processed as by a terminal in linear time.

    Attributes:
        size: number of characters received.
        settled_size: number of characters that can no longer change, i.e. of all finished rows.
    """

    def __init__(self) -> None:
        self.size = 0
        self.settled_size = 0
        self._chunks: list[str] = []  # settled text
        self._starts: list[int] = []  # offset of each chunk in the text
        self._recent: list[str] = []  # settled text after the chunks
        self._recent_size = 0
        self._row: list[str] = []  # the open row's characters
        self._column = 0  # where the next character goes
        self._moved = False  # whether the cursor has moved back in the open row
        self._held = ""  # an incomplete erase sequence

    def append(self, text: str) -> None:
        """Process text written to the stream."""
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
        """The settled text from character `start` on, at a cost linear in what is returned."""
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
        """The open row, if the cursor has not moved back in it: worth showing in the meantime.

        At most `WIDTH` characters; a carriage return may still change them.
        """
        return "" if self._moved else self._open_row()

    @property
    def settled(self) -> str:
        """The text to show while the stream is open: the settled and the pending text."""
        return self.settled_from(0) + self.pending

    @property
    def text(self) -> str:
        """The whole text as it looks now."""
        return self.settled_from(0) + self._open_row() + self._held

    def finish(self) -> str:
        """Settle and return the whole text; nothing may be appended afterwards."""
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
        """Write into the open row, wrapping to a new one when it is full."""
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
        elif control[2] == "2":  # nearly always next to a carriage return: start the row over
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
