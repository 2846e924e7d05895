"""A notebook as the pages see it: cells and outputs of known shapes, whatever the file says.

Files may be foreign, edited or truncated, and outputs are hostile. Here, all of it becomes plain
frozen data once, so that later code can trust the types. Knows no HTML.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ...kernels import encodable, regular_file
from ..errors import UnreadableError
from ..plaintext import INVISIBLE

LARGEST = 50_000_000  # max bytes of a notebook to open: parsing it blocks all of Python
TRIES, PAUSE = 5, 0.02  # attempts to read a file being written, and seconds between them
STATUSES = ("ok", "error", "timeout", "interrupted", "dead")
# The first bytes of each picture type; a picture of another type than claimed is not shown.
MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
HIDDEN = re.compile(f"[{INVISIBLE}]")
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
        status: one of `STATUSES`, `running`, `waiting`, or empty if it did not run.
        seconds: how long it ran.
        script: the name of the file that it ran, if any.
    """

    number: int
    id: str
    kind: str
    source: str
    outputs: tuple[Output, ...]
    status: str
    seconds: float | None
    count: int | None
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
            *(output.version for output in self.outputs),
        )

    @property
    def over(self) -> bool:
        """Whether the cell has ended, so that no more output will come."""
        return self.status not in ("running", "waiting")


@dataclass(frozen=True)
class Notebook:
    """All cells, and the notebook's metadata."""

    cells: tuple[Cell, ...]
    principal: str | None
    language: str

    @property
    def last(self) -> Cell | None:
        """The last cell that ran, whose status counts for the whole notebook."""
        return next((cell for cell in reversed(self.cells) if cell.status), None)

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


def read(path: Path, *, live: bool) -> Notebook:
    """Read a notebook from its file; `live` says whether it is being recorded.

    Raises:
        UnreadableError: it is not a notebook, or is too large.
    """
    for left in reversed(range(TRIES if live else 1)):
        try:
            return parsed(json.loads(regular(path, LARGEST)), live=live)
        except (ValueError, RecursionError):
            if not left:
                raise UnreadableError("It is not a notebook, or was cut off.") from None
        time.sleep(PAUSE)  # it was being written just then
    raise AssertionError


def regular(path: Path, most: int | None) -> bytes:
    """The bytes of a regular file, at most `most`; links and pipes are refused.

    Raises:
        UnreadableError: it is something else, too large, or can't be read.
    """
    try:
        with open(path, "rb", opener=regular_file) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise UnreadableError(
                    f"It has {size / 1e6:,.0f} MB, and up to {most / 1e6:,.0f} can be"
                    " shown here. Download the notebook, or open it in Jupyter."
                )
            return file.read()
    except OSError as error:
        raise UnreadableError(f"It can't be read: {error.strerror}.") from None


def parsed(content: Any, *, live: bool) -> Notebook:
    """A notebook's JSON as plain data.

    Raises:
        ValueError: it does not look like a notebook.
    """
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise ValueError("no notebook")
    metadata = mapping(content.get("metadata"))
    principal = mapping(metadata.get("rmi_agent")).get("principal")
    language = mapping(metadata.get("language_info")).get("name")
    cells = [
        cell_of(number, mapping(cell), live=live) for number, cell in enumerate(content["cells"], 1)
    ]
    return Notebook(
        tuple(cells),
        principal if isinstance(principal, str) else None,
        language if isinstance(language, str) else "python",
    )


def cell_of(number: int, cell: Mapping[str, Any], *, live: bool) -> Cell:
    """One cell; one that began but has not ended is `running` if it is being recorded."""
    metadata = mapping(cell.get("metadata"))
    record, timing = mapping(metadata.get("rmi_agent")), mapping(metadata.get("execution"))
    kind = cell.get("cell_type")
    outputs = tuple(map(output_of, listed(cell.get("outputs")))) if kind == "code" else ()
    count = cell.get("execution_count")
    count = count if isinstance(count, int) else None
    status = joined(record.get("status")) if kind == "code" else ""
    if kind == "code" and status not in STATUSES:
        status = guessed(timing, outputs, count, live=live)
    path = record.get("path")
    return Cell(
        number,
        joined(cell.get("id")),
        kind if kind in ("code", "markdown") else "raw",
        joined(cell.get("source")),
        outputs,
        status,
        seconds_of(record.get("elapsed")) or between(timing),
        count,
        joined(timing.get("iopub.execute_input"))[:40],
        joined(path).replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else "",
        tuple(joined(note) for note in listed(record.get("notes"))),
    )


def guessed(
    timing: Mapping[str, Any], outputs: tuple[Output, ...], count: int | None, *, live: bool
) -> str:
    """The status of a code cell that has none on record: still running, or run elsewhere."""
    if "iopub.execute_input" in timing and "shell.execute_reply" not in timing:
        return "running" if live else "interrupted"
    if count is None and not outputs:
        return ""
    return "error" if any(output.kind == "error" for output in outputs) else "ok"


def output_of(output: Any) -> Output:
    """One output, made from JSON of any shape."""
    output = mapping(output)
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return Output(name, joined(output.get("text")), {})
    if kind == "error":
        lines = [joined(line) for line in listed(output.get("traceback"))]
        summary = f"{joined(output.get('ename'))}: {joined(output.get('evalue'))}"
        return Output("error", "\n".join(lines) or summary, {})
    data = mapping(output.get("data"))
    return Output("data", "", {revealed(mime): text_of(value) for mime, value in data.items()})


def text_of(value: Any) -> str:
    """An entry of a MIME bundle as text: lines are joined, JSON is serialized."""
    if isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(line, str) for line in value)
    ):
        return joined(value)
    return json.dumps(value, indent=1)


def joined(value: Any) -> str:
    """A text, which nbformat may store as a list of lines; empty for anything else."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return revealed(value) if isinstance(value, str) else ""


def revealed(text: str) -> str:
    """Text that can be encoded and is what it looks like.

    Direction overrides make a reviewer see other code than runs, and tag characters are invisible;
    each is replaced with a mark.
    """
    return text if text.isascii() else HIDDEN.sub("\ufffd", encodable(text))


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def seconds_of(value: Any) -> float | None:
    """A duration in seconds; None if the value can't be one."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1e9 else None


def between(timing: Mapping[str, Any]) -> float | None:
    """Seconds from a cell's start to its reply, for cells that other programs recorded."""
    try:
        began, ended = (
            datetime.fromisoformat(timing[name])
            for name in ("iopub.execute_input", "shell.execute_reply")
        )
        return max(0.0, (ended - began).total_seconds())
    except (KeyError, TypeError, ValueError):
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
