"""A terminal to sit in front of: a pty, and an emulator that keeps what it shows."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyte

COMMAND = [sys.executable, "-m", "rmi_agent.cli"]


class Terminal:
    """A command in a terminal; `until` waits for what it shows, `type` presses keys.

    Args:
        process: of ptyprocess.
        columns, lines: the terminal's size.
    """

    def __init__(self, process: Any, columns: int, lines: int) -> None:
        self.process = process
        self.raw = b""
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.screen.write_process_input = lambda data: os.write(process.fd, data.encode())
        self._stream = pyte.ByteStream(self.screen)

    def type(self, keys: str) -> None:
        data = keys.encode()
        while data:
            data = data[os.write(self.process.fd, data[:512]) :]
            self.read(0.0)

    def read(self, seconds: float) -> bool:
        if not select.select([self.process.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.process.fd, 65536)
        except OSError:  # the other side has closed it
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    @property
    def lines(self) -> list[str]:
        """All that was shown, also what has scrolled away."""
        gone = [
            "".join(line[column].data for column in range(self.screen.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return gone + [line.rstrip() for line in self.screen.display]

    def until(self, text: str, seconds: float = 60) -> None:
        """Wait until the text is shown below where the last wait ended."""
        ends = time.monotonic() + seconds
        while text not in "\n".join(self.lines):
            assert time.monotonic() < ends, f"no {text!r} in\n" + "\n".join(self.lines)
            self.read(0.1)

    def prompt(self, sign: str = ">>>") -> None:
        """Wait for an empty prompt at the cursor."""
        ends = time.monotonic() + 60
        while self.screen.display[self.screen.cursor.y].rstrip() != sign:
            assert time.monotonic() < ends, "no prompt in\n" + "\n".join(self.lines)
            self.read(0.1)

    def resize(self, columns: int, lines: int) -> None:
        self.process.setwinsize(lines, columns)
        self.screen.resize(lines, columns)
        self.process.kill(signal.SIGWINCH)

    def exit_code(self) -> int:
        ends = time.monotonic() + 60
        while self.read(0.1) or self.process.isalive():
            assert time.monotonic() < ends, "it goes on\n" + "\n".join(self.lines)
        return int(self.process.exitstatus)


@contextmanager
def terminal(
    *words: str, columns: int = 80, lines: int = 24, **environment: str
) -> Iterator[Terminal]:
    """`rmi-agent WORDS` in a terminal, with nothing in its environment that says it is a test."""
    import ptyprocess

    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    for name in (
        "TMUX",
        "STY",
        "TERM_PROGRAM",
        "LC_TERMINAL",
        "KITTY_WINDOW_ID",
        "NO_COLOR",
        "PYTEST_VERSION",
        "CI",
    ):
        env.pop(name, None)
    env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}
    process = ptyprocess.PtyProcess.spawn([*COMMAND, *words], env=env, dimensions=(lines, columns))
    try:
        yield Terminal(process, columns, lines)
    finally:
        process.close(force=True)
