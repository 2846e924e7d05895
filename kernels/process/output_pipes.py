"""The pipes on a kernel process's descriptors 1 and 2, read as text.

The kernel's system calls write to a pipe directly: what a script printed arrives even if its
process died in the next instruction, and is complete once the reply to its run has come.
Knows nothing of Jupyter.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections.abc import Callable

CHUNK = 65_536  # bytes per read; the capacity of a Linux pipe
LATE = 1_000_000  # max characters, roughly, kept between runs for the next one
DRAINED = 1_048_576  # max bytes read by one drain; no unprivileged pipe holds more

Sink = Callable[[str, str], None]  # (stream name, text)


class RawOutput:
    """Both pipes of one kernel process. Output between runs is kept for the next run.

    Attributes:
        in_order: calls a function once the kernel's earlier messages have been read, so that what
            a program writes follows what its cell has printed; None if that is not known.
    """

    def __init__(self) -> None:
        self.in_order: Callable[[Callable[[], None]], None] | None = None
        self._pipes: dict[int, tuple[str, codecs.IncrementalDecoder]] = {}
        self._sink: Sink | None = None
        self._late: list[tuple[str, str]] = []
        self._late_size = 0
        self._ended: set[int] = set()  # pipes without writers

    def open(self) -> tuple[int, int]:
        """Create the pipes and start reading; returns the two ends for the process.

        The caller closes both once the process has inherited them.
        """
        loop = asyncio.get_running_loop()
        ends: list[int] = []
        for name in ("stdout", "stderr"):
            try:
                reading, writing = os.pipe()
            except OSError:  # out of descriptors; `close` closes the reading ends
                for end in ends:
                    os.close(end)
                raise
            os.set_blocking(reading, False)
            self._pipes[reading] = (name, codecs.getincrementaldecoder("utf-8")("replace"))
            loop.add_reader(reading, self._readable, reading)
            ends.append(writing)
        return ends[0], ends[1]

    @property
    def is_open(self) -> bool:
        """Whether there are pipes, which are not available everywhere."""
        return bool(self._pipes)

    def attach(self, sink: Sink) -> int:
        """Send text to `sink` from now on, beginning with what arrived since the last run.

        Returns how many characters of the latter were dropped.
        """
        self._sink = sink
        for name, text in self._late:
            sink(name, text)
        left_out = self._late_size - sum(len(text) for _, text in self._late)
        self._late, self._late_size = [], 0
        return left_out

    def forget(self) -> None:
        """Drop what has arrived: output of a kernel's start belongs to no run."""
        self.drain()
        self._late, self._late_size = [], 0

    def detach(self) -> None:
        """End a run: pass on what it left in the pipes, then stop sending."""
        self.drain()
        self._sink = None
        self._read_on()

    def _read_on(self) -> None:
        for fd in self._pipes.keys() - self._ended:
            asyncio.get_running_loop().add_reader(fd, self._readable, fd)

    def drain(self) -> None:
        """Read what is in the pipes now; bounded, as a process may never stop writing."""
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

    def _readable(self, fd: int) -> None:
        if self.in_order is None or self._sink is None:
            self._read(fd)
            return
        asyncio.get_running_loop().remove_reader(fd)  # until it is its turn

        def read() -> None:
            if fd in self._pipes:
                self._read(fd)
                self._read_on()

        self.in_order(read)

    def _read(self, fd: int) -> int:
        name, decoder = self._pipes[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
        if not data:  # every writer is gone
            asyncio.get_running_loop().remove_reader(fd)
            self._ended.add(fd)
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
    """The number of unread bytes in a pipe."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
