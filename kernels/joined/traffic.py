"""What passes on the channels of a kernel that several clients share, seen by one of them.

Tells which messages are ours, whose cell runs, and whether the kernel's process was replaced. Knows
headers and statuses; nothing of connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

ASK_AGAIN = 10.0  # seconds until a kernel that did not answer is asked again; doubled each time
ASK_RARELY = 60.0  # the most of these
EXECUTE = "execute_request"
RESTARTED = "It was restarted by whoever owns it, so its variables are gone."
ENDED = "It was ended by whoever owns it."


class Traffic:
    """The messages of one kernel.

    Args:
        session: the id in our own messages.
        on_end: called with the reason when the kernel's process has ended or was replaced.
        interrupt: called when a cell of ours begins that is no longer wanted.

    Attributes:
        heard: set once a message came on iopub, so that none is missed from then on.
        running: our cell that runs; empty if there is none.
        pending: our cell that was sent and has not begun; empty if there is none.
        unwanted: those of our cells that are to be interrupted as soon as they begin.
        waits: whether a cell of ours waits here until nothing else runs.
        on_begin: called when a cell of ours begins.
    """

    def __init__(
        self, session: str, on_end: Callable[[str], None], interrupt: Callable[[], None]
    ) -> None:
        self.heard = asyncio.Event()
        self.running = self.pending = ""
        self.unwanted: set[str] = set()
        self.waits = False
        self.on_begin: Callable[[], None] = lambda: None
        self._session, self._on_end, self._interrupt = session, on_end, interrupt
        self._others: set[str] = set()  # the cells of other clients that run
        self._known = False  # whether all that was sent before us is over, as far as not in these
        self._questions: set[str] = set()  # kernel_info requests whose turn says that
        self._changed = asyncio.Event()
        self._senders: dict[str, str] = {}  # the ids in the process's messages, by channel

    @property
    def is_busy(self) -> bool:
        """Whether a cell runs, whoever sent it; also if that is not known yet."""
        return bool(self._others or self.running or not self._known)

    @property
    def waits_for_others(self) -> bool:
        """Whether a cell of ours can't begin before other clients' cells have ended."""
        return (self.waits or bool(self.pending)) and not self.running

    # -- what we send

    def ask(self, request: str) -> None:
        """Note a kernel_info request: when its turn comes, all cells before it are over."""
        self._questions.add(request)

    def note_sent(self, message: Mapping[str, Any]) -> None:
        """Note a message that is being sent."""
        if message["header"]["msg_type"] == EXECUTE:
            self.pending = str(message["header"]["msg_id"])

    async def turn(self, ask: Callable[[], str]) -> None:
        """Wait until nobody's cell runs: until then, ours can be withdrawn.

        `ask` sends a kernel_info request and returns its id. It waits in the kernel's queue in
        our place.
        """
        pause, self.waits = ASK_AGAIN, self.is_busy
        try:
            if self.is_busy and not self._questions:
                self.ask(ask())
            while self.is_busy:
                self._changed.clear()
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                except TimeoutError:  # it may have been lost on the way
                    self.ask(ask())
                    pause = min(2 * pause, ASK_RARELY)
        finally:
            self.waits = False

    # -- what the kernel sends

    def observe(
        self,
        channel: str,
        header: Mapping[str, Any],
        parent: Mapping[str, Any],
        content: Mapping[str, Any],
    ) -> bool:
        """Note a message from the kernel; returns whether it results from a request of ours."""
        kind, state = header.get("msg_type"), content.get("execution_state")
        is_late = self._check_process(channel, header, parent)
        if channel == "iopub":
            self.heard.set()
            if kind == "shutdown_reply":
                self._on_end(RESTARTED if content.get("restart") else ENDED)
            elif kind == "status" and not parent and state in ("starting", "restarting"):
                # The process that was joined may say so late, if it has just been started.
                if self._senders.get("iopub") not in (None, header.get("session")):
                    self._on_end(RESTARTED)
            elif kind == "status" and not is_late:
                self._note_status(parent, str(state))
        return parent.get("session") == self._session and not is_late

    def _note_status(self, parent: Mapping[str, Any], state: str) -> None:
        request, kind = str(parent.get("msg_id")), parent.get("msg_type")
        mine = parent.get("session") == self._session
        if state == "busy" and request in self._questions:
            self._others.clear()
            self.running, self._known = "", True
        elif state == "busy" and mine and kind == EXECUTE:
            self.running = request
            if request == self.pending:
                self.pending = ""
                self.on_begin()
            if request in self.unwanted:
                self._interrupt()
        elif state == "busy" and not mine and kind == EXECUTE:
            self._others.add(request)
        elif state == "idle":
            self._questions.discard(request)
            self._others.discard(request)
            self.unwanted.discard(request)
            if self.running == request:
                self.running = ""
        self._changed.set()

    def _check_process(
        self, channel: str, header: Mapping[str, Any], parent: Mapping[str, Any]
    ) -> bool:
        """Report a process that has replaced the former one; returns whether this is of another.

        Kernels that repeat the requester's id can't be told apart.
        """
        sender = str(header.get("session") or "")
        if not sender or not parent or sender in (self._session, parent.get("session")):
            return False
        known = self._senders.setdefault("iopub" if channel == "iopub" else "replies", sender)
        if known != sender:
            self._on_end(RESTARTED)
        return known != sender


def session_in(parent: bytes, session: str) -> bool:
    """Whether the bytes of a parent header may name a session."""
    return session.encode() in parent
