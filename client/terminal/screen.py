"""Shows a run: its output as it comes, then value, traceback, pictures and notes.

A script's stdout and stderr stay as they are; everything about the run itself goes to stderr.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from ..results import RunResult
from .pictures import show_picture
from .questions import ask
from .terminal import erase_starting, is_terminal, write, write_traceback

if TYPE_CHECKING:
    from rich.status import Status


class Screen:
    """Shows a run while it goes on and when it ends.

    On a terminal the elapsed time is shown below the output; a pipe gets only the text.
    """

    def __init__(self) -> None:
        self.shown = {"stdout": "", "stderr": ""}
        self._status: Status | None = None
        if is_terminal(sys.stderr):
            from rich.console import Console  # lazy: pipes need none

            console = Console(stderr=True)
            self._status = console.status("") if console.is_terminal else None
        self._started = time.monotonic()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Screen:
        if self._status is not None:
            self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
        if self._status is not None:
            self._status.stop()

    async def _tick(self) -> None:
        await asyncio.sleep(1)
        assert self._status is not None
        while True:
            self._status.update(f"running, {time.monotonic() - self._started:.0f} s")
            erase_starting()
            self._status.start()
            await asyncio.sleep(0.5)

    def live(self, name: str, text: str) -> None:
        """Show output that arrives during the run."""
        self.shown[name] += text
        if self._status is not None:
            self._status.stop()
        write(name, text)

    async def ask(self, question: str, secret: bool) -> str | None:
        """Ask the person at the terminal, or read a line from this command's input."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._status is not None:
            self._status.stop()
        try:
            return await asyncio.to_thread(ask, question, secret)
        finally:
            if self._ticker is not None:
                self._ticker = asyncio.create_task(self._tick())

    def finish(self, result: RunResult) -> None:
        """Show what has not been shown yet, and the notes about the run."""
        if self._status is not None:
            self._status.stop()
        show(result, self.shown)


def show(result: RunResult, shown: dict[str, str]) -> None:
    """Print a result, except for the output in `shown`, which was printed before."""
    write("stdout", unshown(result.stdout, shown["stdout"]))
    write_traceback(unshown(result.stderr, shown["stderr"]))
    if result.value:
        value = result.value.rstrip("\n") + "\n"
        if result.error_name is not None:
            write_traceback(value)
        else:
            write("stdout", value)
    for line in result.notes.splitlines():
        if not line.startswith(("[session_id:", "[Process exited")):
            write("stderr", line + "\n")
    for picture in result.pictures:
        show_picture(picture)


def unshown(text: str, shown: str) -> str:
    """The part of a stream's text that has not been shown yet."""
    return text[len(shown) :] if text.startswith(shown) else "\n" + text


def show_notebook(result: RunResult) -> None:
    """Print where the session is recorded."""
    if result.notebook:
        write("stderr", f"Recorded in {result.notebook}\n")


def exit_code(result: RunResult) -> int:
    """The exit code that a shell would report for the run."""
    if result.status == "timeout":
        return 124
    code = result.exit_code
    if code is None:
        return 0 if result.status == "ok" else 1
    return 128 - code if code < 0 else code
