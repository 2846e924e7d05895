"""uv: where it is, the commands that it is given, and running it where its files are trusted.

What it makes is writable for code that runs here, so it runs in the same sandbox as that code.
Knows commands and their output; nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EnvironmentFailed

BUILD = Path(__file__).with_name("build.py")
KEPT = 30  # environments for scripts that each user keeps at least
MOST_LINES, LONGEST = 400, 2_000  # lines of uv's output that are kept, and characters of one
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
LONGEST_RUN = 3_600.0  # max seconds that uv and what it builds may take
PROBLEM = "error|\\s*\N{MULTIPLICATION SIGN}"  # how uv begins to tell of one
FORMAT = "1"  # of the environments that are made; another one makes them anew
# What uv gets besides a kernel's variables.
SETTINGS = {
    "UV_PYTHON_DOWNLOADS": "never",  # it could not be shown in a sandbox that exists already
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
}

OnLine = Callable[[str], Awaitable[None]]


async def silent(_: str) -> None:
    """Report no progress."""


@functools.cache
def find_uv() -> str:
    """The path of uv: the one installed beside the server, or the system's.

    Raises:
        EnvironmentFailed: there is none.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    if path := shutil.which("uv"):
        return path
    raise EnvironmentFailed(
        "The server has no uv, which makes environments and installs packages. Install it beside"
        " the server: `pip install uv`."
    )


def where_uv_is() -> tuple[str, ...]:
    """The path of uv, if there is one."""
    try:
        return (find_uv(),)
    except EnvironmentFailed:
        return ()


@dataclass(frozen=True)
class Place:
    """Where uv runs: a user's sandbox, or the machine.

    Attributes:
        store: the user's folder for what is made for them.
        env: the variables of their kernels, and those that tell uv about package indexes.
        wrap: returns the sandbox command to prepend to a command that starts this interpreter.
        cwd: the folder that relative paths are relative to.
    """

    store: Path
    env: Mapping[str, str]
    cwd: Path
    wrap: Callable[[str], tuple[str, ...]] | None = field(default=None, compare=False)

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
) -> tuple[int, list[str]]:
    """Run a command; returns its exit code and the last lines that it has printed.

    Args:
        place: where it runs.
        python: the interpreter that it must be able to see.
        command: the command.
        on_line: called with each line as it comes.
        variables: more of them, for its environment.

    Raises:
        EnvironmentFailed: it takes too long, or can't be started.
    """
    try:
        async with asyncio.timeout(LONGEST_RUN):
            return await run_to_its_end(place, python, command, on_line, variables or {})
    except TimeoutError:
        raise EnvironmentFailed(
            f"uv was stopped, since it had not finished after {LONGEST_RUN / 60:.0f} minutes."
        ) from None


async def run_to_its_end(
    place: Place,
    python: str,
    command: Sequence[str],
    on_line: OnLine,
    variables: Mapping[str, str],
) -> tuple[int, list[str]]:
    """Run a command as `run` does, for as long as it takes; it ends if this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *place.command(python, command),
        env=place.variables(variables),
        cwd=place.cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        while piece := await read_line(process.stdout):
            line = COLOUR.sub("", piece.decode("utf-8", "replace")).rstrip()[:LONGEST]
            if line:
                lines.append(line)
                del lines[:-MOST_LINES]
                await on_line(line)
        return await process.wait(), lines
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; the rest of one that is too long is skipped."""
    while True:
        try:
            return await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError as overrun:
            await stream.readexactly(max(1, overrun.consumed))


async def build(
    place: Place,
    python: str,
    folder: Path,
    commands: Sequence[Sequence[str]],
    on_line: OnLine = silent,
    script: str = "",
) -> Path:
    """Build a folder in a place's store: see `build.py`, also for `script`; returns it.

    Raises:
        EnvironmentFailed: a command failed; has uv's own words.
    """
    given = {
        "folder": str(folder),
        "commands": [list(each) for each in commands],
        "keep": KEPT,
        "script": script,
    }
    program = [sys.executable, "-I", "-S", str(BUILD), json.dumps(given, ensure_ascii=False)]
    code, lines = await run(place, python, program, on_line)
    if code:
        raise EnvironmentFailed(words_of(lines))
    return folder


def words_of(lines: Sequence[str]) -> str:
    """What uv says about a failure, without what it had reported before."""
    begin = next((n for n, line in enumerate(lines) if re.match(PROBLEM, line)), 0)
    return "\n".join(lines[begin:]) or "uv has failed without a word."


def digest(*parts: str) -> str:
    """A short name for what these texts describe."""
    return hashlib.sha256("\0".join((FORMAT, *parts)).encode()).hexdigest()[:16]


def script_commands(script: str, python: str, *, locked: bool) -> list[list[str]]:
    """The commands that make the environment of a script; "{script}" is the one `build` is given.

    Only the script says what uv does: what lies around it could be anybody's, and change.
    """
    uv = [find_uv(), "--no-config"]
    sync = [*uv, "sync", "--active", "--script", script, "--no-progress"]
    return [
        [*uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", python, "{new}"],
        [*sync, *(["--locked"] if locked else [])],
    ]


def kernel_commands(python: str, wanted: str, constraints: Sequence[str]) -> list[list[str]]:
    """The command that installs an ipykernel into a folder of its own."""
    install = [find_uv(), "--no-config", "pip", "install", "--target", "{new}", "--python", python]
    return [[*install, wanted, *constraints]]
