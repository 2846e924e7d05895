"""`rmi-agent show` and `rmi-agent open`: a recorded session in the terminal, Jupyter or browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..plurals import counted
from ..terminal import (
    erase_starting,
    parse_notebook,
    show_recorded,
    show_starting,
    write_message,
)
from .completing import open_sessions
from .options import OtherServer
from .records import find_notebook

if TYPE_CHECKING:
    from ..client import RmiMcpClient

# What opens notebooks in Jupyter, best first, and how it is called in a message.
JUPYTERS = {"jupyter-lab": "JupyterLab", "jupyter-notebook": "Jupyter Notebook"}
ATTEMPTS, PAUSE = 5, 0.05  # attempts to read a notebook that is being written, seconds between

Recorded = Annotated[
    str | None,
    Parameter(
        help="Session's id or file name, or the beginning of one, or a notebook file. By default,"
        " the newest session.",
        completer=open_sessions,
        allow_leading_hyphen=True,  # as some ids begin
    ),
]


def show(
    session: Recorded = None,
    *,
    server: OtherServer = None,
    code: Annotated[
        bool, Parameter(help="Print the source of files that were run, too.", negative=())
    ] = False,
) -> None:
    """Print a session as a terminal transcript: code, output, tracebacks and pictures.

    Without --server, any session recorded on this machine; with it, an open one there.
    """
    show_starting()
    if server is not None:
        show_from(server, session, code=code)
    path = find_notebook(session)
    try:
        notebook = read_notebook(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        write_message(f"{path} can't be shown: {why}.")
        sys.exit(1)
    show_recorded(notebook, code=code)
    write_message(f"Recorded in {path}")


def read_notebook(path: Path) -> dict[str, object]:
    """The notebook in a file, which may be written to just then.

    Raises:
        OSError: it can't be read.
        ValueError: it is not a notebook.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            return parse_notebook(path.read_text("utf-8", "replace"))
        except ValueError:
            if not left:
                raise
        time.sleep(PAUSE)
    raise AssertionError


def show_from(server: str, session: str | None, *, code: bool) -> None:
    """Show an open session of a server, and exit."""
    from ..errors import request_errors
    from .connect import call, fail

    async def work(client: RmiMcpClient) -> int:
        ids = [row["session_id"] for row in await client.list_sessions()]
        found = [one for one in ids if one.startswith(session or "")]
        if len(found) != 1:
            named = "" if session is None else f" whose id begins with {session!r}"
            many = counted(len(found), "session") if found else "No session"
            return fail(
                f"{many}{named} {'are' if found else 'is'} open there; `rmi-agent sessions"
                f" --server {server}` lists them."
            )
        try:
            text = await client.read_notebook(found[0])
        except request_errors() as error:
            return fail(str(error))
        show_recorded(parse_notebook(text), code=code)
        return 0

    call(server, work)


def open_(
    session: Recorded = None,
    *,
    browser: Annotated[
        bool,
        Parameter(help="Open the review page, even if Jupyter is installed.", negative=()),
    ] = False,
) -> None:
    """Open a recorded session in Jupyter if it is installed, otherwise as a page in the browser.

    Keeps running until you press Ctrl-C.
    """
    show_starting()
    path = find_notebook(session).resolve()
    command = None if browser else jupyter(path)
    if command is None:
        command = [*(sys.executable, "-m", "rmi_agent.server.cli", "review")]
        command += [f"--notebooks-dir={path.parent}", f"--session={path.name}"]
    replace_process(command)


def jupyter(path: Path) -> list[str] | None:
    """The command that opens a notebook in Jupyter, of this Python or on PATH; None if none is."""
    own = str(Path(sys.executable).parent)
    for name, title in JUPYTERS.items():
        if program := shutil.which(name, path=own) or shutil.which(name):
            write_message(f"Opening {path} in {title}; Ctrl-C stops it.")
            # Its log would be hundreds of lines; it names its address even so.
            return [program, "--ServerApp.log_level=ERROR", str(path)]
    return None


def replace_process(command: list[str]) -> None:
    """Go on as another program, which then has the terminal's signals to itself."""
    erase_starting()
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    sys.exit(subprocess.call(command))
