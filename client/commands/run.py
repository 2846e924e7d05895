"""`rmi-agent run` and `rmi-agent cell`: run a file, module or snippet, and exit with its code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..terminal import Screen, exit_code, show_notebook, show_starting, write
from .options import Server, Session, Timeout

if TYPE_CHECKING:
    from ..client import RmiMcpClient


def run(
    file: Annotated[
        str | None,
        Parameter(help="The file, relative to the projects folder.", allow_leading_hyphen=True),
    ] = None,
    *args: Annotated[str, Parameter(help="The program's arguments.", allow_leading_hyphen=True)],
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
            help="Folder to run in, relative to the projects folder; `project` is the nearest one"
            " upwards that looks like a project. By default, the file's own, or the projects"
            " folder for a module."
        ),
    ] = None,
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
    stdin: Annotated[
        str,
        Parameter(
            help="Text for the program's stdin; - passes on this command's.",
            allow_leading_hyphen=True,
        ),
    ] = "",
) -> None:
    """Run a Python file of the projects folder, or a module, and exit with its exit code.

    Whatever follows FILE or -m MODULE is passed to the program; this command's options come before.
    """
    show_starting()
    from .connect import call  # lazy: takes long, and --help does not need it

    if module is not None and file is not None:
        file, args = None, (file, *args)
    given = sys.stdin.read() if stdin == "-" else stdin

    async def work(client: RmiMcpClient) -> int:
        async with Screen() as screen:
            result = await client.run_python(
                *(file, list(args), given, session, timeout, screen.live), module=module, cwd=cwd
            )
            screen.finish(result)
        show_notebook(result)
        return exit_code(result)

    call(server, work)


def cell(
    code: Annotated[
        str, Parameter(help="The snippet; - reads it from stdin.", allow_leading_hyphen=True)
    ],
    *,
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
) -> None:
    """Run a snippet of Python; its input() asks at this terminal."""
    show_starting()
    from .connect import call

    source = sys.stdin.read() if code == "-" else code
    screen = Screen()

    async def work(client: RmiMcpClient) -> int:
        async with screen:
            result = await client.run_cell(source, session, timeout, screen.live)
            screen.finish(result)
        show_notebook(result)
        if server:
            write("stderr", f"Session {result.session_id}\n")
        return exit_code(result)

    call(server, work, screen.ask)
