"""The pipes on a kernel process's descriptors 1 and 2, read as text.

A pipe is written by the kernel's system calls themselves: what a script printed is here
even when its process died in the next instruction, and all of it is here once the reply
to its run has come. Knows nothing of Jupyter.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections.abc import Callable

CHUNK = 65_536  # bytes; a Linux pipe holds as many
LATE = 1_000_000  # characters or so that may wait for a run to belong to
DRAINED = 1_048_576  # bytes that are read at one go; no pipe holds more, without privileges

Sink = Callable[[str, str], None]  # (stream name, text)


class RawOutput:
    """Both pipes of one kernel process. Between runs, what arrives waits for the next."""

    def __init__(self) -> None:
        self._pipes: dict[int, tuple[str, codecs.IncrementalDecoder]] = {}
        self._sink: Sink | None = None
        self._late: list[tuple[str, str]] = []
        self._late_size = 0

    def open(self) -> tuple[int, int]:
        """Make the pipes and start reading; returns the two ends for the process.

        The caller closes those two once the process has them.
        """
        loop = asyncio.get_running_loop()
        ends: list[int] = []
        for name in ("stdout", "stderr"):
            try:
                reading, writing = os.pipe()
            except OSError:  # no descriptors are left; what is read is closed by `close`
                for end in ends:
                    os.close(end)
                raise
            os.set_blocking(reading, False)
            self._pipes[reading] = (name, codecs.getincrementaldecoder("utf-8")("replace"))
            loop.add_reader(reading, self._read, reading)
            ends.append(writing)
        return ends[0], ends[1]

    @property
    def is_open(self) -> bool:
        """Whether there are pipes: not everywhere can they be had."""
        return bool(self._pipes)

    def attach(self, sink: Sink) -> int:
        """Send text to `sink` from now on, beginning with what arrived since the last run.

        Returns how many more characters there were of that than are kept.
        """
        self._sink = sink
        for name, text in self._late:
            sink(name, text)
        left_out = self._late_size - sum(len(text) for _, text in self._late)
        self._late, self._late_size = [], 0
        return left_out

    def forget(self) -> None:
        """Drop what has arrived: what a kernel says while it starts is no run's output."""
        self.drain()
        self._late, self._late_size = [], 0

    def detach(self) -> None:
        """The run is over: read what its system calls have left in the pipes, then stop."""
        self.drain()
        self._sink = None

    def drain(self) -> None:
        """Read what is in the pipes now; somebody may write on and on."""
        for fd in self._pipes:
            left = min(unread(fd), DRAINED)
            while left > 0 and (count := self._read(fd)):
                left -= count

    def close(self) -> None:
        """Stop reading. A process that still writes gets EPIPE."""
        for fd in self._pipes:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._pipes.clear()

    def _read(self, fd: int) -> int:
        name, decoder = self._pipes[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
        if not data:  # every writer is gone
            asyncio.get_running_loop().remove_reader(fd)
        if text := decoder.decode(data, final=not data):
            self._give(name, text)
        return len(data)

    def _give(self, name: str, text: str) -> None:
        if self._sink is not None:
            self._sink(name, text)
            return
        self._late_size += len(text)
        if self._late and self._late[-1][0] == name and len(self._late[-1][1]) < CHUNK:
            self._late[-1] = (name, self._late[-1][1] + text)
        elif self._late_size - len(text) < LATE:
            self._late.append((name, text))


def unread(fd: int) -> int:
    """The bytes that are in a pipe."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
