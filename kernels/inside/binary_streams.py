"""Gives the streams of cells what those of an interpreter have: `buffer` and `reconfigure`.

Sent to the kernel as text, like `setup.py`; knows ipykernel's `OutStream`.
"""

from __future__ import annotations

import codecs
import io
import sys
from typing import Any

from ipykernel.iostream import OutStream


class Bytes(io.RawIOBase):
    """Takes bytes for a text stream of ipykernel, and passes them on at once as UTF-8 text."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.name = getattr(stream, "name", None)
        self.mode = "wb"
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        """Return True, as `io.TextIOWrapper` requires."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes; a character may be split between two calls."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        self.stream.write(self._decoder.decode(bytes(data)))
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Publish what was written."""
        super().flush()
        self.stream.flush()

    def fileno(self) -> int:
        """Return the captured descriptor below the stream."""
        return int(self.stream.fileno())


def add_binary_sides() -> None:
    """Add `buffer`, `detach` and `reconfigure` to the streams of cells, if they lack them."""
    sides: dict[int, Bytes] = {}

    def buffer(stream: Any) -> Bytes:
        side = sides.get(id(stream))
        if side is None or side.closed:  # as by a text stream around it that was collected
            side = sides[id(stream)] = Bytes(stream)
        return side

    def reconfigure(
        stream: Any,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Accept what a text stream accepts; a cell's text is published as text anyway."""
        if encoding is not None:
            codecs.lookup(encoding)

    added: dict[str, Any] = {
        "buffer": property(buffer),
        "detach": buffer,
        "reconfigure": reconfigure,
    }
    for kind in {OutStream, type(sys.stdout), type(sys.stderr)}:
        for name, value in added.items():
            if not hasattr(kind, name) or name == "detach":  # a base class's raises
                setattr(kind, name, value)
