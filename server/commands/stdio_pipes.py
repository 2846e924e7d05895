"""Standard streams that the event loop reads and writes itself, if they are pipes or sockets.

The MCP library reads, writes and flushes in threads, and each handover takes a part of a
millisecond. Knows descriptors and lines; of MCP only where the library opens its streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

READ = 65_536  # bytes read at a time
WRITE = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512  # bytes that a ready pipe takes


class Lines:
    """The lines that come from a descriptor, as an asynchronous iterator, with their newlines."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []  # of a line that is not complete
        self._ended = False

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            loop = asyncio.get_running_loop()
            await ready(self._descriptor, loop.add_reader, loop.remove_reader)
            try:
                data = os.read(self._descriptor, READ)
            except ConnectionError:  # a socket whose other end has crashed
                data = b""
            self._take(data)
        return self._lines.popleft().decode("utf-8", "replace")

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            self._lines.extend(filter(None, [b"".join(self._rest)]))
            return
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._rest, whole[0]])
            self._rest.clear()
            self._lines.extend(line + b"\n" for line in whole)
        if rest:
            self._rest.append(rest)


class Writer:
    """Writes text to a descriptor without blocking the event loop; it need not be non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    async def write(self, text: str) -> int:
        """Write a text as UTF-8.

        Raises:
            OSError: nobody reads it any more.
        """
        left = memoryview(text.encode())
        while left:
            if not self._poll.poll(0):
                loop = asyncio.get_running_loop()
                await ready(self._descriptor, loop.add_writer, loop.remove_writer)
            left = left[os.write(self._descriptor, left[:WRITE]) :]
        return len(text)

    async def flush(self) -> None:
        """Do nothing: all has been written."""


async def ready(
    descriptor: int,
    watch: Callable[[int, Callable[[], None]], None],
    forget: Callable[[int], object],
) -> None:
    """Wait until the event loop finds a descriptor readable, or writable."""
    event = asyncio.Event()
    watch(descriptor, event.set)
    try:
        await event.wait()
    finally:
        forget(descriptor)


def read_and_write_on_the_loop() -> None:
    """Let FastMCP's servers on stdio use `Lines` and `Writer` where that is possible."""
    from fastmcp.server.mixins import transport

    if (theirs := getattr(transport, "stdio_server", None)) is not None:
        vars(transport)["stdio_server"] = functools.partial(stdio_streams, theirs)


@contextlib.asynccontextmanager
async def stdio_streams(
    library: Callable[..., AbstractAsyncContextManager[Any]],
) -> AsyncIterator[Any]:
    """The MCP library's streams over our own descriptors 0 and 1, or over what it makes of them."""
    with contextlib.ExitStack() as claims:
        files: tuple[Any, ...] = ()
        if can_be_watched(0) and can_be_watched(1):
            reading, writing = claims.enter_context(claimed())
            files = (Lines(reading), Writer(writing))
        async with library(*files) as streams:
            yield streams


@contextlib.contextmanager
def claimed() -> Iterator[tuple[int, int]]:
    """Copies of descriptors 0 and 1, which meanwhile are /dev/null and stderr.

    So what others in this process print, or read, is not taken for messages.
    """
    import fcntl  # Windows has none

    sys.stdout.flush()
    copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (0, 1)]
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nothing, 0)
        os.dup2(2 if is_open(2) else nothing, 1)
        yield copies[0], copies[1]
    finally:
        sys.stdout.flush()
        for number, copy in enumerate(copies):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)


def is_open(descriptor: int) -> bool:
    """Whether a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def can_be_watched(descriptor: int) -> bool:
    """Whether the event loop can wait for it, and a part of a message never blocks once it has."""
    if not hasattr(select, "poll"):  # Windows
        return False
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
