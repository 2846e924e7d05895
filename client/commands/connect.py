"""Connects a command to its server, and turns failures into exit codes.

Knows nothing about what the command does there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from fastmcp.exceptions import ToolError

from .. import quick_imports
from ..client import RmiMcpClient
from ..connection import OnQuestion
from ..errors import FAILURES
from ..terminal import write


def call(
    server: str | None,
    work: Callable[[RmiMcpClient], Awaitable[int]],
    on_question: OnQuestion | None = None,
) -> None:
    """Connect, do the work, and exit with its code; a failure prints a short message."""

    quick_imports.import_jsonschema()

    async def connected() -> int:
        async with RmiMcpClient(server, on_question=on_question) as client:
            return await work(client)

    try:
        code = asyncio.run(connected())
    except KeyboardInterrupt:
        code = 130
    except ToolError as error:
        code = fail(str(error))
    except FAILURES as error:
        code = unreachable(server, error)
    sys.exit(code)


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
