"""`rmi-agent run` and `rmi-agent cell`: run one file or snippet, and exit with its code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..terminal import Screen, exit_code, show_notebook, show_starting, write
from .options import Server, Session, Timeout

if TYPE_CHECKING:
    from ..client import RmiMcpClient


def run(
    file: Annotated[str, Parameter(help="The file, relative to the projects folder.")],
    *args: Annotated[str, Parameter(help="The file's arguments.", allow_leading_hyphen=True)],
    server: Server = None,
    session: Session = None,
    timeout: Timeout = None,
    stdin: Annotated[
        str,
        Parameter(
            help="Text for the file's stdin; - passes on this command's.",
            allow_leading_hyphen=True,
        ),
    ] = "",
) -> None:
    """Run a Python file of the projects folder and exit with its exit code.

    Whatever follows FILE is passed to the file; this command's options come before FILE.
    """
    show_starting()
    from .connect import call  # lazy: takes long, and --help does not need it

    given = sys.stdin.read() if stdin == "-" else stdin

    async def work(client: RmiMcpClient) -> int:
        async with Screen() as screen:
            result = await client.run_python(file, list(args), given, session, timeout, screen.live)
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
