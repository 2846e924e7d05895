"""Shows a run: its output as it comes, then value, traceback, pictures and notes.

A script's stdout and stderr stay as they are; everything about the run itself goes to stderr.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Coroutine
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from ..results import RunResult
from .keyboard import read_line
from .pictures import show_picture
from .questions import Echoes, prompt_of
from .terminal import erase_starting, is_terminal, write, write_message, write_traceback

if TYPE_CHECKING:
    from rich.status import Status

T = TypeVar("T")
NUMBER = re.compile(r"-?\d*", re.ASCII)  # what `sys.exit` makes an exit code of


class Screen:
    """Shows a run while it goes on and when it ends.

    On a terminal the elapsed time is shown below the output; a pipe gets only the text.

    Args:
        repeats: whether the server sends questions with their answers as output, as for cells.
    """

    def __init__(self, *, repeats: bool = True) -> None:
        self._repeats = repeats
        self.shown = {"stdout": "", "stderr": ""}
        self._status: Status | None = None
        if is_terminal(sys.stderr):
            from rich.console import Console  # lazy: pipes need none

            console = Console(stderr=True)
            self._status = console.status("") if console.is_terminal else None
        self._started = time.monotonic()
        self._echoes = Echoes()
        self._asking: asyncio.Task[Any] | None = None
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
            if not any(text and not text.endswith("\n") for text in self.shown.values()):
                self._status.update(f"running, {time.monotonic() - self._started:.0f} s")
                erase_starting()
                self._status.start()
            await asyncio.sleep(0.5)

    def live(self, name: str, text: str) -> None:
        """Show output that arrives during the run."""
        self.shown[name] += text
        if self._status is not None:
            self._status.stop()
        write(name, self._echoes.removed_from(text) if name == "stdout" else text)

    async def ask(self, question: str, secret: bool) -> str | None:
        """Ask the person at the terminal, or read a line from this command's input."""
        self._hide_time()
        prompt = prompt_of(question) if is_terminal(sys.stdin) else ""
        show_prompt = partial(write, "stdout" if is_terminal(sys.stdout) else "stderr", prompt)
        silently = secret and is_terminal(sys.stdin)
        answer = await self.wait_for(read_line(show_prompt, secret=silently))
        if self._repeats:
            self._echoes.add(prompt, answer, secret=secret)
        return answer

    async def wait_for(self, reading: Coroutine[Any, Any, T]) -> T | None:
        """Wait for input, showing no time meanwhile; None once it is not needed any more."""
        self._hide_time()
        self._asking = asking = asyncio.ensure_future(reading)
        try:
            await asyncio.wait({asking})
            return None if asking.cancelled() else asking.result()
        finally:
            asking.cancel()
            if self._ticker is not None:
                self._ticker = asyncio.create_task(self._tick())

    def _hide_time(self) -> None:
        erase_starting()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._status is not None:
            self._status.stop()

    def withdraw(self) -> None:
        """Wait for no input any more: the code that asked for it was interrupted."""
        if self._asking is not None:
            self._asking.cancel()

    def finish(self, result: RunResult, *, notes: bool = True) -> None:
        """Show what has not been shown yet, and the notes about the run."""
        if self._status is not None:
            self._status.stop()
        if result.stdout.startswith(shown := self.shown["stdout"]):
            self.live("stdout", result.stdout[len(shown) :])
        show(result, self.shown, notes=notes)


def show(result: RunResult, shown: dict[str, str], *, notes: bool = True) -> None:
    """Print a result, except for the output in `shown`, which was printed before."""
    write("stdout", unshown(result.stdout, shown["stdout"]))
    write_traceback(unshown(result.stderr, shown["stderr"]))
    value = result.value.rstrip("\n") + "\n" if result.value else ""
    if (status := exit_status(result)) is not None:
        write("stderr", "" if NUMBER.fullmatch(status) else f"{status}\n")
    elif result.error_name is not None:
        write_traceback(value)
    else:
        write("stdout", value)
    for line in result.notes.splitlines() if notes else ():
        if not line.startswith(("[session_id:", "[Process exited")):
            write_message(line)
    for picture in result.pictures:
        show_picture(picture)


def unshown(text: str, shown: str) -> str:
    """The part of a stream's text that has not been shown yet.

    A line that was drawn again (a progress bar) was shown as several and is one in the text; so
    this is what follows the last line that was shown, where that is first found.
    """
    if text.startswith(shown):
        return text[len(shown) :]
    lines, before = text.split("\n"), shown.split("\n")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(lines, before, strict=False))
    last = shown.rstrip("\n").rpartition("\n")[2].rstrip()
    for number in range(len(list(same)), len(lines)):
        if last and lines[number].startswith(last):
            begun = [] if shown.endswith("\n") else [lines[number][len(last) :]]
            return "\n".join([*begun, *lines[number + 1 :]])
    return "\n" + text


def exit_status(result: RunResult) -> str | None:
    """What a cell has given to `sys.exit`, as text; None if it has not called it."""
    if result.exit_code is not None or result.error_name != "SystemExit":
        return None
    last = (result.value.strip().splitlines() or [""])[-1]
    status = last.removeprefix("SystemExit").removeprefix(":").strip()
    return "0" if status == "None" else status


def exit_code(result: RunResult) -> int:
    """The exit code that a shell would report for the run."""
    if result.status == "timeout":
        return 124
    if (status := exit_status(result)) is not None:
        return int(status or 0) & 0xFF if NUMBER.fullmatch(status) else 1
    code = result.exit_code
    if code is None:
        return 0 if result.status == "ok" else 1
    return 128 - code if code < 0 else code
