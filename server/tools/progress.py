"""Output as it is sent while a run goes on: each stream's beginning, once, cleaned and marked.

Looks at no more than what is new, and at nothing once enough was sent. Knows streams' texts;
nothing of how they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...kernels import Execution, StreamText
from ..plaintext import Plain
from .own_lines import Marker

MOST = 100_000  # characters of live output of one stream of one run
LOOKED_AT = 500_000  # characters that those are made of


class Live:
    """What went out of a run."""

    def __init__(self) -> None:
        self._streams = {"stdout": Stream(), "stderr": Stream()}

    def new(self, execution: Execution) -> Iterator[tuple[str, str]]:
        """What came since the last time, by stream."""
        for name, stream in self._streams.items():
            if stream.open and (text := stream.new(execution.outputs.stream_texts(name))):
                yield name, text


class Stream:
    """What went out of one stream, whose text displays may have cut into several."""

    def __init__(self) -> None:
        self._sent = self._looked_at = 0
        self._current: StreamText | None = None
        self._start = 0  # where the open row of it begins
        self._row = ""  # what went out of that row
        self._plain, self._marker = Plain(), Marker()

    @property
    def open(self) -> bool:
        """Whether more may go out."""
        return self._sent < MOST and self._looked_at < LOOKED_AT

    def new(self, texts: list[StreamText]) -> str:
        """What came since the last time; the texts are all that the stream has."""
        place = next((i for i, text in enumerate(texts) if text is self._current), -1)
        raw = ""
        for text in texts[max(0, place) :]:
            if text is not self._current:
                raw += self._begin(text)
            raw += self._settled(text)
        if texts:
            raw += self._pending(texts[-1])
        raw = raw[: LOOKED_AT - self._looked_at]
        self._looked_at += len(raw)
        new = self._marker.feed(self._plain.feed(raw))[: MOST - self._sent]
        self._sent += len(new)
        return new

    def _begin(self, text: StreamText) -> str:
        """Go on with the next text; a display, or nothing, is between them."""
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
            return ""  # something has moved back; the row goes out when it is settled
        new, self._row = row[len(self._row) :], row
        return new

    def _behind(self, row: str) -> str:
        """The rest of a row that has begun to go out; all of it, if it looks different now."""
        return row[len(self._row) :] if row.startswith(self._row) else f"\n{row}"
