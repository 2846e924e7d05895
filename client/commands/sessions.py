"""`rmi-agent sessions`, `attach`, `replay` and `check`: what a server has open and can do."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..terminal import show_starting, write, write_message
from .completing import open_sessions
from .options import OtherServer, Server, server_module

if TYPE_CHECKING:
    from ..client import RmiMcpClient


def sessions(
    *,
    server: OtherServer = None,
    last: Annotated[int, Parameter(help="Number of recorded sessions to list.")] = 20,
    all_: Annotated[
        bool, Parameter(name="--all", help="List every recorded session.", negative=())
    ] = False,
    prune: Annotated[
        str | None,
        Parameter(help="Delete the records of sessions that ended longer ago: 12h, 30d, 8w."),
    ] = None,
) -> None:
    """List the sessions: those open in the background server, then those recorded here.

    With --server, lists the sessions that are open there.
    """
    if prune is not None and server is not None:
        write("stderr", "--prune deletes records on this machine only. Remove --server.\n")
        sys.exit(2)
    if prune is not None:
        sys.exit(subprocess.call(server_module("prune", prune)))
    show_starting()
    from ..resident import find_resident  # lazy: --help does not need it
    from .records import read_records
    from .session_table import show_sessions

    records = read_records(None if all_ else last) if server is None else None
    if server is None and find_resident() is None:
        show_sessions([], records)
        return
    from .connect import call

    async def work(client: RmiMcpClient) -> int:
        show_sessions(await client.list_sessions(), records)
        return 0

    call(server, work)


def attach(
    session: Annotated[
        str | None,
        Parameter(help="ID of an open session on this machine.", completer=open_sessions),
    ] = None,
    /,
    *,
    server: Server = None,
    print_: Annotated[
        bool, Parameter(name="--print", help="Only print the console's command.", negative=())
    ] = False,
    allow: Annotated[
        str | None,
        Parameter(
            help="Instead, let the assistant join a kernel of yours while it runs: its connection"
            " file, or the name of one in Jupyter's folder (%connect_info shows it)."
        ),
    ] = None,
) -> None:
    """Join a session with Jupyter's console, sharing its variables with the assistant.

    What you run there is not recorded in the session's notebook. With --allow, the other way
    round: the assistant may join a kernel that you have open.
    """
    if (session is None) == (allow is None):
        write("stderr", "Give either the ID of a session, or --allow and a connection file.\n")
        sys.exit(2)
    if allow is not None:
        sys.exit(allow_joining(allow))
    show_starting()
    from ..errors import request_errors
    from .connect import call, fail, for_a_person

    async def work(client: RmiMcpClient) -> int:
        try:
            command = ["jupyter-console", "--existing", await client.connection_file(str(session))]
        except request_errors() as error:
            return fail(for_a_person(str(error)))
        if print_ or shutil.which(command[0]) is None:
            write("stdout", shlex.join(["jupyter", "console", *command[1:]]) + "\n")
            if not print_:
                write("stderr", "Jupyter's console is not installed: pip install jupyter-console\n")
            return 0 if print_ else 1
        # Ctrl-C is the console's, which has the handler of a fresh process again.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return await asyncio.to_thread(subprocess.call, command)
        finally:
            signal.signal(signal.SIGINT, before)

    call(server, work)


def allow_joining(file: str) -> int:
    """Let the assistant join the kernel of a connection file; returns the exit code."""
    from ..grants import grant

    try:
        path = grant(file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        write("stderr", f"{file} is not a kernel's connection file: {why}\n")
        return 1
    write("stdout", f"The assistant may join this kernel: attach_session({str(path)!r})\n")
    return 0


def replay(
    notebook: Annotated[
        str,
        Parameter(
            help="The beginning of a recorded session's ID or file name, or a notebook file; with"
            " --server, the file name of one that it has."
        ),
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
    from .records import find_notebook

    path = Path(notebook) if server is not None else find_notebook(notebook)
    try:
        content = path.read_text("utf-8") if path.is_file() else ""
    except (OSError, UnicodeError) as error:
        sys.exit(fail(f"{notebook} can't be read: {error}"))

    async def work(client: RmiMcpClient) -> int:
        name = path.name if content else notebook
        result = await client.resume_session(name, until, skip_failed, timeout, content)
        lines = [line for line in result.text.splitlines() if not line.startswith("[session_id:")]
        write_message(lines[0], "stdout")
        write("stdout", "".join(f"{line}\n" for line in lines[1:]))  # nothing more can run in it
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
