"""Connects a command to its server, and turns failures into exit codes.

Knows nothing about what the command does there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from .. import errors
from ..child import ChildServer
from ..client import RmiMcpClient
from ..connection import FEW_RUNS
from ..direct import OnQuestion
from ..quick_imports import resume_gc
from ..resident import Resident, find_resident
from ..terminal import write

EXIT_TIMEOUT = 2.0  # max seconds between the end of a server's connections and its process's
ENDED = (
    "The background server has ended. The call may have been carried out, wholly or in part; its"
    " sessions ended with it, and their notebooks stay."
)


class ResidentEnded(Exception):
    """The background server's process ended during the work."""


def call(
    server: str | None,
    work: Callable[[RmiMcpClient], Awaitable[int]],
    on_question: OnQuestion | None = None,
    *,
    lasting: bool = False,
) -> None:
    """Connect, do the work, and exit with its code; a failure prints a short message.

    Args:
        server: as the option has it.
        work: returns the exit code.
        on_question: as for `RmiMcpClient`.
        lasting: whether the work should outlive a restart of the background server; a process
            between follows it.
    """
    resident = find_resident() if server is None and not lasting else None

    own = None if lasting else ChildServer(FEW_RUNS)
    target = resident or server or own

    async def connected() -> int:
        async with RmiMcpClient(target, on_question=on_question) as client:
            resume_gc()
            if resident is None:
                return await work(client)
            return await while_it_runs(resident, work(client))

    try:
        code = asyncio.run(connected())
    except KeyboardInterrupt:
        code = 130
    except errors.tool_errors() as error:
        code = fail(str(error))
    except ResidentEnded:
        code = fail(ENDED)
    except errors.failures() as error:
        code = unreachable("the background server" if resident else server, error)
    sys.exit(code)


async def while_it_runs(server: Resident, work: Awaitable[int]) -> int:
    """Do the work for as long as the server runs: a lost connection alone would not end it.

    Raises:
        ResidentEnded: the server's process has ended before the work.
    """
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(server.ended())
    try:
        await asyncio.wait({working, watching}, return_when="FIRST_COMPLETED")
        if working.done() and isinstance(working.exception(), OSError):
            await asyncio.wait({watching}, timeout=EXIT_TIMEOUT)  # its connections close first
        if watching.done() and not (working.done() and working.exception() is None):
            raise ResidentEnded
        return await working
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})


def unreachable(server: str | None, error: Exception) -> int:
    """Print why a server can't be used; returns exit code 1."""
    hint = "\nIs it running? `rmi-agent check` tests it step by step."
    return fail(
        f"Can't talk to {server or 'the embedded server'}: {error}"
        f"{'' if isinstance(error, PermissionError) else hint}"
    )


def fail(text: str) -> int:
    """Print an error on stderr; returns exit code 1."""
    write("stderr", f"{text}\n")
    return 1
