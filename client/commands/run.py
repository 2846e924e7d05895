"""`rmi-agent run` and `rmi-agent cell`: run a program or snippet, and exit with its code."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..terminal import Screen, exit_code, show_notebook, show_starting, write
from .options import Server, Session, Timeout

if TYPE_CHECKING:
    from ..client import RmiMcpClient

ADVICE = "[rmi-agent: read_output("  # how the server's note begins that says what to call next
END = 10**9  # characters to skip of an output, of which only the pictures are wanted


def run(
    file: Annotated[
        str | None,
        Parameter(
            help="The file or notebook, relative to the projects folder.",
            allow_leading_hyphen=True,
        ),
    ] = None,
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
    until: Annotated[
        int | None,
        Parameter(help="Last cell of a notebook to run, from 1. By default, runs all."),
    ] = None,
) -> None:
    """Run a Python file, notebook or module of the projects folder; exit with its exit code.

    Whatever follows FILE or -m MODULE is passed to the program; this command's options come before.
    """
    show_starting()
    from .connect import call, fail  # lazy: takes long, and --help does not need it

    if module is not None and file is not None:
        args = (file, *args)
        file = None
    if file is not None and file.endswith(".ipynb"):
        try:
            parameters = dict(map(parameter, args))
        except ValueError as error:
            sys.exit(fail(str(error)))
        screen = Screen()
        call(
            server,
            lambda client: notebook(
                client, screen, str(file), parameters, session, until, timeout, lasts=bool(server)
            ),
            screen.ask,
        )

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


def parameter(text: str) -> tuple[str, Any]:
    """A notebook's parameter from NAME=VALUE; the value is JSON or Python's constants, else text.

    Raises:
        ValueError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text} is not a parameter of a notebook: write NAME=VALUE.")
    constants = {"True": True, "False": False, "None": None}
    if value in constants:
        return name, constants[value]
    try:
        return name, json.loads(value, parse_constant=str)
    except (ValueError, RecursionError):
        return name, value


async def notebook(
    client: RmiMcpClient,
    screen: Screen,
    path: str,
    parameters: dict[str, Any],
    session: str | None,
    until: int | None,
    timeout: float | None,
    *,
    lasts: bool,
) -> int:
    """Run a notebook, showing the output of its cells; returns the exit code.

    What to call next is shown only if the session `lasts` longer than this command.
    """
    async with screen:
        result = await client.run_notebook(path, parameters, session, until, timeout, screen.live)
        shown = [
            picture
            for cell in result.picture_counts
            for picture in (await client.read_output(result.session_id, cell, END)).pictures
        ]
        notes = [line for line in result.notes.splitlines() if lasts or not line.startswith(ADVICE)]
        # All that cells print was shown when they ended.
        screen.finish(
            replace(
                result,
                stdout=screen.shown["stdout"],
                stderr=screen.shown["stderr"],
                value="",
                notes="\n".join(notes),
                pictures=tuple(shown),
            )
        )
    show_notebook(result)
    return exit_code(result)


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
