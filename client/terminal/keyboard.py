"""Reads what a person types, or what is piped in, without a thread that could not be stopped.

Knows descriptors and the terminal's echo; not who wants the input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

PIECE = 262_144  # max bytes read at a time
_read = bytearray()  # what came after the last line that was wanted


async def read_line(show_prompt: Callable[[], None], *, secret: bool = False) -> str | None:
    """A line without its end, which is not echoed if it is `secret`; None at the end of input.

    Shows the prompt once nothing that is typed would be echoed.
    """
    if sys.stdin is None:  # closed at startup
        return None
    if (descriptor := watched()) is None:
        show_prompt()
        line = await asyncio.to_thread(sys.stdin.readline)
        return line.rstrip("\n") if line else None
    with unechoed(descriptor) if secret else contextlib.nullcontext():
        show_prompt()
        while b"\n" not in _read and (data := await read_some(descriptor)):
            _read.extend(data)
    length = _read.find(b"\n") + 1 or len(_read)
    whole, _read[:] = _read[:length], _read[length:]
    return whole.decode("utf-8", "replace").rstrip("\r\n") if whole else None


async def read_piece() -> bytes:
    """What is there of a pipe or file, waiting for it if there is nothing; empty at its end."""
    if (descriptor := watched()) is not None:
        return await read_some(descriptor)
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:  # a text stream of a program that calls us
        return str(await asyncio.to_thread(sys.stdin.read)).encode()
    return bytes(await asyncio.to_thread(buffer.read1, PIECE))


def watched() -> int | None:
    """The descriptor of stdin, if the event loop can wait for it."""
    if sys.platform == "win32":
        return None
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None


async def read_some(descriptor: int) -> bytes:
    """Read once something is there: of a terminal, a line."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a file, which is always ready
        return os.read(descriptor, PIECE)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, PIECE)


@contextlib.contextmanager
def unechoed(descriptor: int) -> Iterator[None]:
    """Show nothing of what is typed, but end the line."""
    import termios  # POSIX only

    before: list[Any] = termios.tcgetattr(descriptor)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stderr.write("\n")
        sys.stderr.flush()
