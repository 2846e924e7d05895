"""Runs uv, and what it builds, where its files are trusted: in the sandbox of its user.

What it builds is other people's code, so each run is marked and watched like a kernel: it ends with
the server, and has the same memory limit. Knows commands and their output; nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EnvironmentFailed, reason
from ..process_tree import MARK, Family, mark_process, marking, new_mark

BUILD, TIDY = (Path(__file__).with_name(name) for name in ("build.py", "tidy_store.py"))
MOST_LINES, LONGEST = 400, 2_000  # lines of uv's output that are kept, and characters of one
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
LONGEST_RUN = 3_600.0  # max seconds that uv and what it builds may take
PROBLEM = "error|\\s*\N{MULTIPLICATION SIGN}"  # how uv begins to tell of one
# What uv gets besides a kernel's variables.
SETTINGS = {
    "UV_PYTHON_DOWNLOADS": "never",  # it could not be shown in a sandbox that exists already
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
}

OnLine = Callable[[str], Awaitable[None]]


async def silent(_: str) -> None:
    """Report no progress."""


@dataclass(eq=False)
class Job:
    """One run of uv, as the memory limit sees it.

    Attributes:
        mark: what its processes carry in their environment.
        is_walled: whether it may have a /tmp of its own.
        family: its processes.
        why_ended: why it was ended early; empty if it was not.
    """

    mark: str
    is_walled: bool
    family: Family
    why_ended: str = ""

    def end(self, why: str = "") -> None:
        """End what is left of its processes. Waits for them, so call it in a thread."""
        self.why_ended = self.why_ended or why
        self.family.end(self.mark)


class Jobs:
    """The runs of uv that have not ended.

    Args:
        on_start: called when one has started.
    """

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self.running: set[Job] = set()
        self._on_start = on_start

    @contextlib.contextmanager
    def listing(self, job: Job) -> Iterator[None]:
        """List a job while it runs."""
        self.running.add(job)
        self._on_start()
        try:
            yield
        finally:
            self.running.discard(job)


@dataclass(frozen=True)
class Place:
    """Where uv runs: a user's sandbox, or the machine.

    Attributes:
        store: the user's folder for what is made for them.
        env: the variables of their kernels, and those that tell uv about package indexes.
        cwd: the folder that relative paths are relative to.
        wrap: returns the sandbox command to prepend to a command that starts this interpreter.
        mark: prefix of the marks of what runs here.
        jobs: lists what runs here.
    """

    store: Path
    env: Mapping[str, str]
    cwd: Path
    wrap: Callable[[str], tuple[str, ...]] | None = field(default=None, compare=False)
    mark: str = "uv"
    jobs: Jobs = field(default_factory=Jobs, compare=False)

    def command(self, python: str, command: Sequence[str]) -> list[str]:
        """A command in this place, which sees a Python besides the server's."""
        try:
            return [*(self.wrap(python) if self.wrap is not None else ()), *command]
        except OSError as error:
            raise EnvironmentFailed(str(error)) from error

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The complete environment of a command."""
        skipped = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME"}
        env = {name: value for name, value in self.env.items() if name not in skipped}
        return {**env, **SETTINGS, **more}


async def run(
    place: Place,
    python: str,
    command: Sequence[str],
    on_line: OnLine = silent,
    variables: Mapping[str, str] | None = None,
    given: bytes = b"",
) -> list[str]:
    """Run a command to its end; returns the last lines that it has printed.

    Args:
        place: where it runs.
        python: the interpreter that it must be able to see.
        command: the command.
        on_line: called with each line as it comes.
        variables: more of them, for its environment.
        given: what it can read from its stdin.

    Raises:
        EnvironmentFailed: it failed, in its own words; or it takes too long or too much memory.
    """
    try:
        async with asyncio.timeout(LONGEST_RUN):
            code, lines = await run_to_its_end(
                place, python, command, on_line, variables or {}, given
            )
    except TimeoutError:
        raise EnvironmentFailed(
            f"uv was stopped, since it had not finished after {LONGEST_RUN / 60:.0f} minutes."
        ) from None
    if code:
        raise EnvironmentFailed(f"uv says:\n{words_of(lines)}")
    return lines


async def run_to_its_end(
    place: Place,
    python: str,
    command: Sequence[str],
    on_line: OnLine,
    variables: Mapping[str, str],
    given: bytes = b"",
) -> tuple[int, list[str]]:
    """Run a command as `run` does, for as long as it takes; it ends if this is cancelled."""
    mark = new_mark(place.mark)
    try:
        process = await asyncio.create_subprocess_exec(
            *marking(mark),
            *place.command(python, command),
            env={**place.variables(variables), MARK: mark},
            cwd=place.cwd,
            stdin=asyncio.subprocess.PIPE if given else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentFailed(f"uv can't be started: {reason(error)}.") from error
    mark_process(process.pid, mark)
    if process.stdin is not None:
        process.stdin.write(given)  # it is read before anything is printed
        process.stdin.close()
    job = Job(mark, place.wrap is not None, Family(process.pid))
    assert process.stdout is not None
    lines: list[str] = []
    try:
        with place.jobs.listing(job):
            while piece := await read_line(process.stdout):
                line = COLOUR.sub("", piece.decode("utf-8", "replace")).rstrip()[:LONGEST]
                if line:
                    lines.append(line)
                    del lines[:-MOST_LINES]
                    await on_line(line)
            code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.to_thread(job.end)  # and what a build has left running
    if job.why_ended:
        raise EnvironmentFailed(f"uv was stopped: with what it builds, it {job.why_ended}.")
    return code, lines


async def read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; the rest of one that is too long is skipped."""
    while True:
        try:
            return await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError as overrun:
            await stream.readexactly(max(1, overrun.consumed))


def words_of(lines: Sequence[str]) -> str:
    """What uv says about a failure, without what it had reported before."""
    begin = next((n for n, line in enumerate(lines) if re.match(PROBLEM, line)), 0)
    return "\n".join(lines[begin:]) or "uv has failed without a word."


@dataclass(frozen=True)
class Recipe:
    """How a folder is made: see `build.py`.

    Attributes:
        commands: run one after the other; "{new}" stands for the folder, "{script}" for a file
            with the text `script`.
        script: that text.
        lock: the text of the lock file beside it; empty means none.
    """

    commands: Sequence[Sequence[str]]
    script: str = ""
    lock: str = ""


async def build(
    place: Place, python: str, folder: Path, recipe: Recipe, on_line: OnLine = silent
) -> Path:
    """Build a folder in a place's store, unless it is there; returns it.

    Raises:
        EnvironmentFailed: a command failed; has uv's own words.
    """
    given = {
        "folder": str(folder),
        "commands": [list(each) for each in recipe.commands],
        "script": recipe.script,
        "lock": recipe.lock,
    }
    await run_own(place, python, BUILD, given, on_line)
    return folder


async def tidy(place: Place, uv: str, in_use: Sequence[Path]) -> None:
    """Remove what was used least recently from a place's store: see `tidy_store.py`.

    Args:
        place: the place.
        uv: clears its cache in a sandbox; elsewhere, that cache is not ours.
        in_use: folders that are kept.
    """
    given = {
        "store": str(place.store),
        "in_use": list(map(str, in_use)),
        "uv": uv if place.wrap is not None else "",
    }
    await run_own(place, sys.executable, TIDY, given)


async def run_own(
    place: Place,
    python: str,
    path: Path,
    given: Mapping[str, object],
    on_line: OnLine = silent,
) -> None:
    """Run a program of this folder, as `run` does, with JSON on its stdin.

    An argument may not be as long as a lock file.
    """
    command = [sys.executable, "-I", "-S", str(path)]
    await run(place, python, command, on_line, given=json.dumps(given).encode())
