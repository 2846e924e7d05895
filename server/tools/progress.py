"""Live output of a run: the start of each stream, sent once, cleaned and marked.

Reads only what is new, and nothing once enough has been sent. Knows the streams' texts, not how
they are sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..plaintext import Plain
from .own_lines import Marker

if TYPE_CHECKING:
    from ...kernels import Execution, StreamText

MOST = 100_000  # max characters of live output per stream of a run
LOOKED_AT = 500_000  # max raw characters read to produce them


class Live:
    """Tracks how much of a run's output has been sent.

    Args:
        whole: whether all of it is sent, to a person who watches the run.

    Attributes:
        said_waits: whether it was sent that the run waits for others.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.said_waits = False
        limits = (sys.maxsize, sys.maxsize) if whole else (MOST, LOOKED_AT)
        self._streams = {"stdout": Stream(*limits), "stderr": Stream(*limits)}

    def new(self, execution: Execution) -> Iterator[tuple[str, str]]:
        """Output since the last call, as pairs of stream name and text."""
        for name, stream in self._streams.items():
            if stream.open and (text := stream.new(execution.outputs.stream_texts(name))):
                yield name, text


class Stream:
    """Tracks what has been sent of one stream, which displays may split into several texts.

    Args:
        most: max characters to send.
        looked_at: max raw characters to read for that.
    """

    def __init__(self, most: int = MOST, looked_at: int = LOOKED_AT) -> None:
        self._most, self._readable = most, looked_at
        self._sent = self._looked_at = 0
        self._current: StreamText | None = None
        self._start = 0  # where its unfinished row starts
        self._row = ""  # the part of that row already sent
        self._plain, self._marker = Plain(), Marker()

    @property
    def open(self) -> bool:
        """Whether more may be sent."""
        return self._sent < self._most and self._looked_at < self._readable

    def new(self, texts: list[StreamText]) -> str:
        """Text since the last call; `texts` are all that the stream has."""
        place = next((i for i, text in enumerate(texts) if text is self._current), -1)
        raw = ""
        for text in texts[max(0, place) :]:
            if text is not self._current:
                raw += self._begin(text)
            raw += self._settled(text)
        if texts:
            raw += self._pending(texts[-1])
        raw = raw[: self._readable - self._looked_at]
        self._looked_at += len(raw)
        new = self._marker.feed(self._plain.feed(raw))[: self._most - self._sent]
        self._sent += len(new)
        return new

    def _begin(self, text: StreamText) -> str:
        """Move on to the next text, maybe after a display; returns the rest of the last row."""
        row = "" if self._current is None else self._current.text[self._start :]
        rest = self._behind(row)
        self._current, self._start, self._row = text, 0, ""
        return rest if not row or row.endswith("\n") else f"{rest}\n"

    def _settled(self, text: StreamText) -> str:
        if text.settled_size <= self._start:
            return ""
        new = self._behind(text.settled_from(self._start))
        self._start, self._row = text.settled_size, ""
        return new

    def _pending(self, text: StreamText) -> str:
        row = text.pending
        if not row.startswith(self._row):
            return ""  # the cursor moved back; the row is sent once it is settled
        new, self._row = row[len(self._row) :], row
        return new

    def _behind(self, row: str) -> str:
        """The unsent rest of a row; all of it, on a new line, if its sent part has changed."""
        return row[len(self._row) :] if row.startswith(self._row) else f"\n{row}"
