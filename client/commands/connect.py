"""Connects a command to its server, and turns failures into exit codes.

Knows nothing about what the command does there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from typing import TextIO, cast
from urllib.parse import urlsplit

from .. import errors
from ..addresses import url_of
from ..attendance import Attendance
from ..causes import chain, one_line
from ..child import ChildServer
from ..client import RmiMcpClient
from ..connection import EMBEDDED, FEW_RUNS
from ..direct import OnQuestion
from ..quick_imports import resume_gc
from ..resident import Resident, find_resident
from ..terminal import write, write_message
from .interrupts import Interrupts
from .places import Place

EXIT_TIMEOUT = 2.0  # max seconds between the end of a server's connections and its process's
ENDED = (
    "The background server has ended. The call may have been carried out, wholly or in part; its"
    " sessions ended with it, and their notebooks stay."
)
PREFIX = re.compile(r"^rmi-agent(?:-mcp-server)?: ")  # of what a server says when it can't start
NO_SESSION = re.compile(r"There is no session ('.*')\. list_sessions ", re.S)
INTERRUPTED = 130  # exit code after Ctrl-C, as of a process that SIGINT has ended


class ResidentEnded(Exception):
    """The background server's process ended during the work."""


class NotConnected(Exception):
    """There is no connection to the server; the text says why, and what to do."""


class Connection:
    """The server that a command uses, and how to reach it.

    Args:
        server: as the option has it.
        place: where the program is that is to be run; None if there is none.
        lasting: whether the work should outlive a restart of the background server; a process
            between follows it.

    Attributes:
        outlives: whether the server, and so its sessions, outlive this command.
    """

    def __init__(
        self, server: str | None, place: Place | None = None, *, lasting: bool = False
    ) -> None:
        self._server, self._url = server, url_of(server) if server is not None else None
        paths = place.paths if place is not None else ()
        ask = server is None and not lasting
        self.resident: Resident | None = find_resident(paths) if ask else None
        self.outlives = self.resident is not None or self._url is not None
        self._place, self._lasting = place, lasting
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._log = cast(TextIO, log)

    def client(self, on_question: OnQuestion | None) -> RmiMcpClient:
        """A client of the server, to be entered.

        Raises:
            ValueError: the server's command is empty.
        """
        if self.resident is not None:
            return RmiMcpClient(self.resident, on_question=on_question)
        if self._url is not None:
            return RmiMcpClient(self._url, on_question=on_question)
        if self._server is None and not self._lasting:
            own = ChildServer([*FEW_RUNS, *self._options()], self._log)
            return RmiMcpClient(own, on_question=on_question)
        from ..fastmcp_client import child, command_words  # lazy: takes long

        words = [*EMBEDDED] if self._server is None else command_words(self._server)
        return RmiMcpClient(child(words, self._log), on_question=on_question)

    def _options(self) -> list[str]:
        if self._place is None or not (self._place.folders or self._place.file):
            return []
        if self._place.folders:
            return [f"--here={folder}" for folder in self._place.folders]
        return [f"--wanted={self._place.file}"]

    def close(self) -> None:
        """Forget what a server of our own has printed."""
        self._log.close()

    def why_not(self, error: BaseException) -> str:
        """Why there is no connection, and the next step."""
        why = one_line(error)
        if self._url is not None:
            parts = urlsplit(self._url)
            base = f"{parts.scheme}://{parts.netloc}"
            return (
                f"Can't talk to {self._url}: {why}\n"
                f"Each step of the way: rmi-agent doctor --url {base}"
            )
        if self.resident is not None:
            return f"Can't talk to the background server: {why}\nIs it well? rmi-agent status"
        said = self._last_words()
        if self._server is None:
            return (
                said or f"The server could not be started: {why}\nTo find out why: rmi-agent doctor"
            )
        if any(isinstance(each, FileNotFoundError) for each in chain(error)):
            why = "there is no such command, script or address"
        more = f"\nIt printed: {said}" if said else ""
        return f"Can't talk to {self._server!r}: {why}{more}"

    def _last_words(self) -> str:
        """What a server of our own printed last, without the marks of a log."""
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()]
        ours = [line for line in lines if PREFIX.match(line)]
        return PREFIX.sub("", (ours or lines or [""])[-1])


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
        lasting: whether the work should outlive a restart of the background server.
    """
    leave(Connection(server, lasting=lasting), work, on_question)


def leave(
    connection: Connection,
    work: Callable[[RmiMcpClient], Awaitable[int]],
    on_question: OnQuestion | None = None,
    attended: Attendance | None = None,
    interrupts: Interrupts | None = None,
) -> None:
    """Do the work over a connection and exit with its code, as `call` does.

    Args:
        connection: to the server.
        work: returns the exit code.
        on_question: as for `RmiMcpClient`.
        attended: the person who waits for runs; None if nobody does.
        interrupts: what Ctrl-C does meanwhile; None ends the command.
    """

    async def connected() -> int:
        client = connection.client(on_question)
        try:
            await client.__aenter__()
        except errors.failures() as error:
            raise NotConnected(connection.why_not(error)) from error
        try:
            client.attended = attended
            resume_gc()
            working = asyncio.ensure_future(work(client))
            watched = working
            if connection.resident is not None:
                watched = asyncio.ensure_future(while_it_runs(connection.resident, working))
            if interrupts is None:
                return await watched
            with interrupts.during(watched, client):
                return await watched
        finally:
            await client.__aexit__(*sys.exc_info())

    try:
        with silent():
            code = asyncio.run(connected())
    except (KeyboardInterrupt, asyncio.CancelledError):
        by = interrupts.signal if interrupts is not None else 0
        code = 128 + by if by else INTERRUPTED
        if not by:
            write("stderr", "Interrupted.\n")
    except errors.tool_errors() as error:
        code = fail(for_a_person(str(error)))
    except NotConnected as error:
        code = fail(str(error))
    except ResidentEnded:
        code = fail(ENDED)
    except errors.failures() as error:
        code = fail(connection.why_not(error))
    finally:
        connection.close()
    sys.exit(code)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep the logs of libraries off the terminal: what they report, we say in our own words."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


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


def for_a_person(text: str) -> str:
    """A server's refusal, with the next step of `rmi-agent` in place of a model's."""
    if (found := NO_SESSION.match(text)) is None:
        return text
    return (
        f"No open session has the ID {found[1]}. `rmi-agent sessions` shows the open ones as busy"
        " or idle."
    )


def fail(text: str) -> int:
    """Print an error on stderr; returns exit code 1."""
    write_message(text)
    return 1
