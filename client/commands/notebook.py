"""Runs a notebook for `rmi-agent run`: its parameters, its output, and where it is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import failures
from ..terminal import Screen, exit_code, write

if TYPE_CHECKING:
    from ..client import RmiMcpClient

ADVICE = "[rmi-agent: read_output("  # how the server's note begins that says what to call next
END = 10**9  # characters to skip of an output, of which only the pictures are wanted
PATIENCE = 3.0  # max seconds until a server says where an interrupted run is recorded


def parameter(text: str) -> tuple[str, Any]:
    """A notebook's parameter from NAME=VALUE; the value is JSON or Python's constants, else text.

    Raises:
        ValueError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or text.startswith("-"):
        hint = "options come before the notebook" if text.startswith("-") else "write NAME=VALUE"
        raise ValueError(f"{text} is not a parameter of a notebook: {hint}.")
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
    given: tuple[str, dict[str, Any], str | None, int | None, float],
    lasts: bool,
    quiet: bool,
) -> int:
    """Run a notebook, showing the output of its cells; returns the exit code.

    What to call next is shown only if the session `lasts` longer than this command.
    """
    before = {row["session_id"] for row in await client.list_sessions()} if lasts else set()
    async with screen:
        try:
            result = await client.run_notebook(*given, screen.live)
        except asyncio.CancelledError:  # by Ctrl-C; the command says so
            if not quiet:
                await name_record(client, given[2], before)
            raise
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
    if result.notebook and not quiet:
        write("stderr", f"Recorded in {result.notebook}\n")
    return exit_code(result)


async def name_record(client: RmiMcpClient, session: str | None, before: set[str]) -> None:
    """Say where an interrupted run is recorded, if that is certain.

    Args:
        client: of the server.
        session: the session that it ran in; None for a new one.
        before: the sessions that were open before.
    """
    with contextlib.suppress(*failures()):
        async with asyncio.timeout(PATIENCE):
            rows = await client.list_sessions()
        mine = [
            row["notebook"]
            for row in rows
            if row["session_id"] == session or (session is None and row["session_id"] not in before)
        ]
        if len(mine) == 1 and mine[0]:
            write("stderr", f"Recorded in {mine[0]}\n")
