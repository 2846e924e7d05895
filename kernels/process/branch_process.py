"""The process of a kernel that is forked from a living one, with all of its variables.

The origin is asked first, then given the branch's sockets and pipes; the branch reports its pid,
and the template of both adopts it. Whatever fails, the origin goes on. Knows processes and sockets;
nothing of what runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
from dataclasses import replace
from typing import Any

from ..errors import CannotBranch, CannotFork
from ..fork import ForkserverProvisioner, adopted_branch, report_of_branch
from ..inside import BRANCH, frame
from ..process_tree import mark_below, mark_number, mark_process, marked
from ..protocol import encodable
from .launch import Launch, Origin
from .socket_client import SocketClient
from .socket_process import SocketProcess

ANSWER_TIMEOUT = 10.0  # max seconds until the origin says whether it can be forked
BRANCH_TIMEOUT = 25.0  # max seconds from then until the branch has reported
LISTED = 30  # max things that are listed as lost
LISTED_LENGTH = 150  # max characters of each
EARLIER = "Fork a session before that, and run the rest in both."
AGAIN = "Nothing of it has changed; try again, or open a new session and run its cells there."


class BranchProcess(SocketProcess):
    """The process behind a kernel that was forked from another one: see `KernelProcess`.

    Attributes:
        sleeps: whether it does nothing until it is woken.
        lost: what the origin has and it lacks, in a few words each.
        shared: the files that both have open, and in which of them they share the position.
    """

    def __init__(self, launch: Launch, origin: Origin) -> None:
        super().__init__(replace(launch, branch_of=None))  # else it keeps all its ancestors
        self._origin: Origin | None = origin
        self.sleeps = origin.sleeps
        self._report: socket.socket | None = None  # that wakes it
        self.lost: tuple[str, ...] = ()
        self.shared: tuple[str, ...] = ()

    async def start(self) -> SocketClient:
        """Fork the origin; returns a client for the branch's sockets.

        Raises:
            CannotBranch: the origin refuses, or there is no branch; the origin goes on.
        """
        origin, self._origin = self._origin, None
        assert origin is not None
        self.spec = origin.process.spec
        try:
            self.mark = mark_below(origin.process.mark)
        except ValueError as error:
            raise CannotBranch(f"It can't be forked: {error}. {AGAIN}") from None
        await self._ask(origin)
        try:
            async with asyncio.timeout(BRANCH_TIMEOUT):
                return await self._fork(origin.process)
        except BaseException as error:
            await asyncio.to_thread(self._kill_marked)
            if isinstance(error, (CannotFork, OSError)):  # includes TimeoutError
                why = f": {error}" if isinstance(error, CannotFork) else ""
                raise CannotBranch(f"It could not be forked{why}. {AGAIN}") from error
            raise

    async def _ask(self, origin: Origin) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                content = await origin.ask(origin.for_death)
        except TimeoutError:
            raise CannotBranch(f"It does not answer, so it can't be forked. {AGAIN}") from None
        if content.get("status") != "ok":
            instead = "" if self.sleeps else f" {EARLIER}"
            raise CannotBranch(encodable(str(content.get("why"))[:1_000]) + instead)
        self.lost, self.shared = listed(content.get("lost")), listed(content.get("files"))

    async def _fork(self, origin: SocketProcess) -> SocketClient:
        client = origin.client
        key = secrets.token_hex(32)
        number = mark_number(self.mark)
        order = {"key": key, "mark": self.mark, "number": number, "sleeps": self.sleeps}
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            pairs, pipes = self._open(ours, theirs)
            self._report, given = report_of_branch()
            ours.callback(self._report.close)
            with given:
                client.messages.send_with(
                    frame(BRANCH, [json.dumps(order).encode()]),
                    [*(other.fileno() for _, other in pairs), *pipes, given.fileno()],
                )
            # Ours alone is open from here, so that the report ends with the branch.
            process = await adopted_branch(origin.forked_process, self._report)
            mark_process(process.pid, self.mark)
            if origin.family is not None:
                origin.family.let_go(process.pid)
            provisioner = ForkserverProvisioner(kernel_id=self.mark, kernel_spec=self.spec)
            provisioner.take(process)
            branch = await self._connect(provisioner, pairs, key, client.session.session)
            ours.pop_all()
        if not self.sleeps:
            self._close_report()
        return branch

    def wake(self) -> None:
        """Let it go on if it sleeps; nobody learns here whether it does."""
        if self._report is not None:
            with contextlib.suppress(OSError):
                self._report.send(b"w")
        self._close_report()

    def _close_report(self) -> None:
        if self._report is not None:
            self._report.close()
            self._report = None

    async def _let_go(self) -> None:
        self._close_report()
        await super()._let_go()

    def _kill_marked(self) -> None:
        """End a branch that has not become a kernel."""
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def listed(found: Any) -> tuple[str, ...]:
    """What a kernel lists, of which user code may have made anything."""
    if not isinstance(found, list):
        return ()
    texts = [" ".join(encodable(str(one)[:LISTED_LENGTH]).split()) for one in found[:LISTED]]
    more = len(found) - LISTED
    return (*texts, f"{more} more") if more > 0 else tuple(texts)
