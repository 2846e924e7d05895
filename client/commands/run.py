"""`rmi-agent run` and `rmi-agent cell`: run a program or snippet, and exit with its code."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from ..addresses import url_of
from ..attendance import Attendance
from ..terminal import (
    Screen,
    exit_code,
    is_terminal,
    read_piece,
    show_starting,
    write,
    write_message,
)
from .completing import programs
from .notebook import notebook, parameter
from .options import NoSandbox, ProjectsDir, Quiet, Server, Session, Timeout
from .places import Place, find
from .settings import use_settings

if TYPE_CHECKING:
    from ..client import RmiMcpClient
    from ..results import RunResult
    from .interrupts import Interrupts

T = TypeVar("T")
INTERRUPTED = 130  # exit code after Ctrl-C, as of a process that SIGINT has ended
# How a server refuses a path of this machine that is none of its own.
NOT_THERE = ("Error: Access denied", "Error: File not found", "Error: Can't run in the folder")
LIST_HINT = " list_files lists the files."  # what a server says to models
LIMIT = "RMI_AGENT_OUTPUT_LIMIT"  # in the server's note on output beyond it
WEEK = 604_800.0  # the longest time limit that a notebook can have, in seconds


def run(
    file: Annotated[
        str | None,
        Parameter(
            help="The file or notebook, in the current folder or in the projects folder.",
            allow_leading_hyphen=True,
            completer=programs,
        ),
    ] = None,
    /,
    *args: Annotated[
        str,
        Parameter(
            help="The program's arguments; a notebook's parameters as NAME=VALUE.",
            allow_leading_hyphen=True,
        ),
    ],
    module: Annotated[
        str | None,
        Parameter(
            name=["--module", "-m"],
            help="Module to run instead of a file, as by `python -m`: pkg.tool, pytest.",
        ),
    ] = None,
    cwd: Annotated[
        str | None,
        Parameter(
            name=["--cwd", "-C"],
            help="Folder to run in; `project` is the nearest one upwards that looks like a project."
            " By default, the current folder, or the file's own in the projects folder.",
        ),
    ] = None,
    projects_dir: ProjectsDir = None,
    no_sandbox: NoSandbox = False,
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
    stdin: Annotated[
        str | None,
        Parameter(
            help="Text for the program's stdin; - reads it from this command's first. By default,"
            " the program reads this command's as it needs it, and asks at a terminal.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    until: Annotated[
        int | None,
        Parameter(help="Last cell of a notebook to run, from 1. By default, runs all."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a Python file, notebook or module like `python`, and exit with its exit code.

    Whatever follows FILE or -m MODULE is passed to the program; this command's options come before.
    """
    show_starting()
    from .connect import Connection, fail, leave  # lazy: takes long, and --help does not need it
    from .interrupts import Interrupts

    if module is not None and file is not None:
        args = (file, *args)
        file = None
    if file is None and module is None:
        sys.exit(fail("Nothing to run: give a FILE or -m MODULE. For help: rmi-agent run --help"))
    if file is not None and file[:1] == "-" and not Path(file).exists():
        fail(f"rmi-agent run has no option {file}. For help: rmi-agent run --help")
        sys.exit(2)
    if why := use_settings(server, projects_dir, no_sandbox):
        sys.exit(fail(why))
    is_notebook = file is not None and file.endswith(".ipynb")
    try:
        parameters = dict(map(parameter, args)) if is_notebook else {}
    except ValueError as error:
        sys.exit(fail(str(error)))
    place = find(file, cwd) if is_here(server) else Place(file, cwd)
    connection = Connection(server, None if session else place)
    if is_notebook:
        screen = Screen()

        async def cells(client: RmiMcpClient) -> int:
            async def start(path: str | None, _: str | None) -> int:
                given = (str(path), parameters, session, until, timeout or WEEK)
                return await notebook(client, screen, given, connection.outlives, quiet)

            return await here_or_there(start, place, Place(file, cwd), server)

        leave(connection, cells, screen.ask)
    source = given_input(stdin)
    attended = Attendance(stdin="" if stdin is not None else kind_of_input())
    screen = Screen(repeats=False)
    interrupts = Interrupts(attended, screen.withdraw)

    async def answer(question: str, secret: bool) -> str | None:
        if attended.stdin != "pipe":
            return await screen.ask(question, secret)
        piece = await screen.wait_for(read_piece())
        return b64encode(piece).decode() if piece else None

    async def work(client: RmiMcpClient) -> int:
        async def start(file: str | None, cwd: str | None) -> RunResult:
            given = (file, [*args], source, session, timeout, screen.live)
            return await client.run_python(*given, module=module, cwd=cwd)

        async with screen:
            result = await here_or_there(start, place, Place(file, cwd), server)
            screen.finish(result, notes=not (interrupts.count or (quiet and result.status == "ok")))
        if LIMIT in result.notes and not quiet:
            where = "where the server runs" if connection.outlives else "for this command"
            write_message(f"To get all of the output, set {LIMIT}=0 {where}.")
        return end(result, interrupts, quiet=quiet)

    leave(connection, work, answer, attended, interrupts)


async def here_or_there(
    start: Callable[[str | None, str | None], Awaitable[T]],
    place: Place,
    typed: Place,
    server: str | None,
) -> T:
    """Start a program where it is on this machine, else by the name that was typed.

    Raises:
        ToolError: the server has neither, or refuses for another reason.
    """
    from ..errors import tool_errors

    refused: Exception
    try:
        return await start(place.file, place.cwd)
    except tool_errors() as error:
        if not str(error).startswith(NOT_THERE):
            raise
        refused = error
    try:
        if (place.file, place.cwd) != (typed.file, typed.cwd):
            return await start(typed.file, typed.cwd)
    except tool_errors() as error:
        if not str(error).startswith(NOT_THERE):
            raise
        refused = error
    of = server or "the background server"
    where = f"It was looked for in the projects folder of {of} (PYTHON_PROJECTS_DIR there)."
    raise type(refused)(f"{str(refused).removesuffix(LIST_HINT)} {where}")


def is_here(server: str | None) -> bool:
    """Whether a server has, or may have, the files of this machine."""
    if server is None:
        return True
    from ..local_token import is_loopback

    url = url_of(server)
    return url is None or is_loopback(url)


def kind_of_input() -> str:
    """Where this command's input comes from, which the program reads as it needs it."""
    if sys.stdin is None:  # closed at startup
        return ""
    return "terminal" if is_terminal(sys.stdin) else "pipe"


def given_input(stdin: str | None) -> str:
    """The text that the option gives the program as its input."""
    if stdin != "-":
        return stdin or ""
    return sys.stdin.read() if sys.stdin is not None else ""


def end(result: RunResult, interrupts: Interrupts, *, quiet: bool) -> int:
    """Print how a run ended and where it is recorded; returns the exit code."""
    if not quiet:
        how = ("", "Interrupted. ", "Killed. ")[min(2, interrupts.count)]
        where = f"Recorded in {result.notebook}" if result.notebook else ""
        write("stderr", f"{how}{where}".strip() + "\n" if how or where else "")
    if interrupts.signal:
        return 128 + interrupts.signal
    if interrupts.count > 1:
        return INTERRUPTED
    if interrupts.count and result.exit_code is None:  # a cell, which may have caught it
        return INTERRUPTED if result.error_name else 0
    return exit_code(result)


def cell(
    code: Annotated[
        str, Parameter(help="The snippet; - reads it from stdin.", allow_leading_hyphen=True)
    ],
    /,
    *,
    projects_dir: ProjectsDir = None,
    no_sandbox: NoSandbox = False,
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
) -> None:
    """Run a snippet of Python; its input() asks at this terminal."""
    show_starting()
    from .connect import Connection, fail, leave
    from .interrupts import Interrupts

    if why := use_settings(server, projects_dir, no_sandbox):
        sys.exit(fail(why))
    connection = Connection(server)
    source = given_input(code) if code == "-" else code
    attended, screen = Attendance(), Screen()
    interrupts = Interrupts(attended, screen.withdraw)

    async def work(client: RmiMcpClient) -> int:
        async with screen:
            result = await client.run_cell(source, session, timeout, screen.live)
            screen.finish(result, notes=not (interrupts.count or (quiet and result.status == "ok")))
        code = end(result, interrupts, quiet=quiet)
        if not quiet:
            write("stderr", name_session(result.session_id, lasts=connection.outlives))
        return code

    leave(connection, work, screen.ask, attended, interrupts)


def name_session(session_id: str, *, lasts: bool) -> str:
    """What to say of the session of a command that ends."""
    return f"Session {session_id}{'' if lasts else ' (ended with this command)'}\n"
