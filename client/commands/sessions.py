"""`rmi-agent sessions`, `attach`, `replay` and `check`: what a server has open and can do."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..terminal import show_starting, write
from .completing import open_sessions
from .options import Server

if TYPE_CHECKING:
    from ..client import RmiMcpClient


def sessions(*, server: Server = None) -> None:
    """List the open sessions of a server: of the background one, unless --server names another."""
    show_starting()
    from .connect import call  # lazy: takes long, and --help does not need it

    async def work(client: RmiMcpClient) -> int:
        rows = await client.list_sessions()
        for row in rows:
            taken = row["memory_bytes"]  # None if the kernel is on another machine
            memory = "memory unknown" if taken is None else f"{taken / 1e6:.0f} MB"
            write(
                "stdout",
                f"{row['session_id']}  {row['state']}, {row['cells']} cells, idle"
                f" {row['idle_seconds']:g} s, {memory},"
                f" {row['notebook'] or 'nothing recorded yet'}\n",
            )
        if not rows and server is None:
            where = "No session is open on a background server."
            write("stdout", f"{where} For another server, use --server ADDRESS.\n")
        elif not rows:
            write("stdout", "No session is open.\n")
        return 0

    call(server, work)


def attach(
    session: Annotated[
        str, Parameter(help="ID of an open session on this machine.", completer=open_sessions)
    ],
    /,
    *,
    server: Server = None,
    print_: Annotated[
        bool, Parameter(name="--print", help="Only print the console's command.", negative=())
    ] = False,
) -> None:
    """Join a session with Jupyter's console, sharing its variables with the assistant.

    What you run there is not recorded in the session's notebook.
    """
    show_starting()
    from ..errors import request_errors
    from .connect import call, fail

    async def work(client: RmiMcpClient) -> int:
        try:
            command = ["jupyter-console", "--existing", await client.connection_file(session)]
        except request_errors() as error:
            return fail(str(error))
        if print_ or shutil.which(command[0]) is None:
            write("stdout", shlex.join(["jupyter", "console", *command[1:]]) + "\n")
            if not print_:
                write("stderr", "Jupyter's console is not installed: pip install jupyter-console\n")
            return 0 if print_ else 1
        return await asyncio.to_thread(subprocess.call, command)

    call(server, work)


def replay(
    notebook: Annotated[
        str, Parameter(help="A notebook file here, or the name of one that the server has.")
    ],
    /,
    *,
    server: Server = None,
    until: Annotated[
        int | None, Parameter(help="Number of the last cell to run. By default, runs all.")
    ] = None,
    skip_failed: Annotated[
        bool, Parameter(help="Skip cells that failed when they were recorded.", negative=())
    ] = False,
    timeout: Annotated[float, Parameter(help="Seconds for all cells together.")] = 600.0,
) -> None:
    """Rerun a recorded notebook; exits with 1 if a result differs from the record."""
    show_starting()
    from .connect import call, fail

    path = Path(notebook)
    try:
        content = path.read_text("utf-8") if path.is_file() else ""
    except (OSError, UnicodeError) as error:
        sys.exit(fail(f"{notebook} can't be read: {error}"))

    async def work(client: RmiMcpClient) -> int:
        result = await client.resume_session(notebook, until, skip_failed, timeout, content)
        write("stdout", f"{result}\n")
        await client.close_session(result.session_id)
        return 0 if result.same else 1

    call(server, work)


def check(*, server: Server = None) -> None:
    """Test the communication with a server in seven steps and report each."""
    show_starting()
    from .check import run_steps
    from .connect import call

    def report(passed: bool, title: str, detail: str) -> None:
        write("stdout", f"{'ok    ' if passed else 'FAILED'} {title}: {detail}\n")

    async def work(client: RmiMcpClient) -> int:
        return 0 if await run_steps(client, report) else 1

    call(server, work)
