"""A notebook as the pages see it: frozen cells and outputs of known shapes.

Knows pictures' formats; nothing about files or HTML.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

# The first bytes of each picture type; a picture of another type than claimed is not shown.
MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
STATUSES = ("ok", "error", "timeout", "interrupted", "dead", "running", "waiting")
FAILURES = ("error", "timeout", "dead")
MOST_PIXELS = 60_000_000  # max pixels of a picture: a small file can exhaust a browser's memory


@dataclass(frozen=True)
class Output:
    """One output of a cell.

    Attributes:
        kind: `stdout`, `stderr`, `error` or `data`.
        text: the text of streams and tracebacks.
        bundle: for `data`: text by MIME type; values that are not text are JSON.
    """

    kind: str
    text: str
    bundle: Mapping[str, str]

    @cached_property
    def version(self) -> str:
        """A fingerprint that changes whenever the output does."""
        parts = (part for pair in self.bundle.items() for part in pair)
        return fingerprint(self.kind, self.text, *parts)

    def picture(self, mime: str) -> bytes | None:
        """A picture's bytes, if they are of the type they claim to be and not too large."""
        try:
            data = base64.b64decode(self.bundle.get(mime, ""))
        except (binascii.Error, ValueError):
            return None
        if not data.startswith(MAGIC[mime]) or (mime == "image/webp" and data[8:12] != b"WEBP"):
            return None
        width, height = size_of(data)
        return data if width * height <= MOST_PIXELS else None

    @cached_property
    def pictured(self) -> str | None:
        """The MIME type of the output's picture, if it has one that can be shown."""
        return next((mime for mime in MAGIC if mime in self.bundle and self.picture(mime)), None)


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook.

    Attributes:
        number: its place in the notebook, from 1.
        kind: `code`, `markdown` or `raw`.
        status: as recorded, `running`, `waiting`, or empty if it did not run.
        seconds: how long it ran.
        script: the name of the file or module that it ran, if any.
    """

    number: int
    id: str
    kind: str
    source: str
    outputs: tuple[Output, ...]
    status: str
    seconds: float | None
    started: str
    script: str
    notes: tuple[str, ...]

    @cached_property
    def version(self) -> str:
        """A fingerprint that changes whenever the cell does."""
        return fingerprint(
            self.source,
            self.status,
            repr(self.seconds),
            *self.notes,
            *(output.version for output in self.outputs),
        )

    @property
    def over(self) -> bool:
        """Whether the cell has ended, so that no more output will come."""
        return self.status not in ("running", "waiting")


@dataclass(frozen=True)
class Notebook:
    """All cells, and the notebook's metadata.

    Attributes:
        title: what the session was named; may be empty.
        ran: the name of the notebook that the session ran, if any.
    """

    cells: tuple[Cell, ...]
    principal: str | None
    language: str
    title: str = ""
    ran: str = ""

    @property
    def last(self) -> Cell | None:
        """The last cell that ran, whose status counts for the whole notebook."""
        return next((cell for cell in reversed(self.cells) if cell.status), None)

    @property
    def counts(self) -> dict[str, int]:
        """How many cells have each status, in the order of `STATUSES`."""
        found = Counter(cell.status for cell in self.cells)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def failures(self) -> tuple[Cell, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if cell.status in FAILURES)

    @property
    def seconds(self) -> float:
        """The total run time of all cells."""
        return sum(cell.seconds or 0 for cell in self.cells)

    @cached_property
    def last_picture(self) -> tuple[int, int] | None:
        """The last picture's cell number, and its index, from 0, among the cell's outputs."""
        for cell in reversed(self.cells):
            for place, output in reversed(list(enumerate(cell.outputs))):
                if output.pictured:
                    return cell.number, place
        return None


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG or GIF in pixels; zeros if they are not at a fixed place."""
    if picture.startswith(MAGIC["image/png"]) and len(picture) >= 24:
        return int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])
    if picture.startswith(MAGIC["image/gif"]) and len(picture) >= 10:
        return int.from_bytes(picture[6:8], "little"), int.from_bytes(picture[8:10], "little")
    return 0, 0


def fingerprint(*parts: str) -> str:
    """A short hash of some texts."""
    made = hashlib.blake2b(digest_size=9)
    for part in parts:
        made.update(part.encode("utf-8", "replace"))
        made.update(b"\0")
    return base64.urlsafe_b64encode(made.digest()).decode()
