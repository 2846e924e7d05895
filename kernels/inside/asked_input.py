"""A script's stdin that asks for more when it is read: lines of a terminal, or pieces of a pipe.

The client that waits for the script provides them, and is asked by the message that `input()` sends
in a cell. Sent to the kernel as text, like `setup.py`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import sys
from types import TracebackType
from typing import Any


class AskedInput(io.RawIOBase):
    """What a script reads, as far as it has been asked for."""

    def __init__(self, kernel: Any, asks: str) -> None:
        kernel._allow_stdin = True  # as a request does that comes to the kernel's loop
        self.kernel, self.pid, self.left = kernel, os.getpid(), b""
        self.is_terminal = asks == "terminal"

    def readable(self) -> bool:
        """Return True, as `io.BufferedReader` requires."""
        return True

    def isatty(self) -> bool:
        """Return whether a person types it at a terminal."""
        return self.is_terminal

    def fileno(self) -> int:
        """Return the descriptor of stdin, at which there is nothing more to read."""
        return 0

    def readinto(self, buffer: Any) -> int:
        """Read what is left of the last answer, else ask; 0 at the end of the input."""
        if not self.left:
            try:
                self.left = self.ask()
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None
        count = min(len(buffer), len(self.left))
        buffer[:count] = self.left[:count]
        self.left = self.left[count:]
        return count

    def ask(self) -> bytes:
        """Ask for a line or a piece; empty at the end, and in a process that was forked."""
        if os.getpid() != self.pid:
            return b""
        flush_output()
        try:
            answer = self.kernel.raw_input("")
        except EOFError:
            return b""
        if self.is_terminal:
            return f"{answer}\n".encode("utf-8", "surrogateescape")
        return base64.b64decode(answer)

    def getpass(self, prompt: str = "Password: ", stream: Any = None, **_: Any) -> str:
        """Ask for a line that is not shown."""
        flush_output()
        try:
            return str(self.kernel.getpass(prompt))
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None


OURS = (AskedInput.readinto.__code__, AskedInput.getpass.__code__)


def end_at_script(frames: TracebackType | None) -> TracebackType | None:
    """End a traceback where the script reads its input, as that of `input()` does."""
    last = frames
    while last is not None and (following := last.tb_next) is not None:
        if following.tb_frame.f_code in OURS:
            last.tb_next = None
        last = following
    return frames


def flush_output() -> None:
    """Let what was printed be seen before a question."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
