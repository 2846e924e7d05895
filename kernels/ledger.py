"""What was asked of a kernel and what came of it, so that nothing is lost or doubled by a cut.

Counts numbers and pairs requests with their ends. Knows messages; nothing of connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from .inrecall import NUMBER, VOID
from .reply import Message


@dataclass
class Request:
    """A request on its way.

    Attributes:
        message: it.
        begun: whether the kernel has said anything because of it.
        reply: its reply, when that has come.
        idle: whether the kernel has said that it is done with it.
        replied: set with the reply.
        over: set when both have come.
        repeated: whether it was sent twice, since it had not arrived.
    """

    message: Message
    begun: bool = False
    reply: Message | None = None
    idle: bool = False
    replied: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    repeated: bool = False


class Ledger:
    """The books of one client.

    Attributes:
        numbered: whether the kernel numbers what it publishes, as `inrecall.py` lets it.
        through: every number up to this one has come.
        above: those that have come beyond it.
        open: requests by their ids, until they are over.
    """

    def __init__(self) -> None:
        self.numbered = False
        self.through = 0
        self.above: set[int] = set()
        self.open: dict[str, Request] = {}
        self._recent: deque[str] = deque(maxlen=64)  # replies and questions, by their ids

    def asks(self, message: Message) -> Request:
        """Note that a request is sent."""
        request = self.open[message["header"]["msg_id"]] = Request(message)
        return request

    def came(self, channel: str, message: Message) -> bool:
        """Note that a message came; False if it had come before."""
        if channel == "iopub":
            if not self._counted(message):
                return False
        elif message["msg_id"] in self._recent:
            return False
        else:
            self._recent.append(message["msg_id"])
        parent = message["parent_header"].get("msg_id")
        if (request := self.open.get(parent)) is not None:
            self._goes_on(request, channel, message)
        return True

    def _counted(self, message: Message) -> bool:
        number, void = message["metadata"].get(NUMBER), message["metadata"].get(VOID, ())
        if not isinstance(number, int):
            return True  # its server's own, or of a kernel that does not count
        if not self.numbered:
            self.numbered, self.through = True, number - 1
        if number <= self.through or number in self.above:
            return False
        self.above.update((number, *void))
        self._advance()
        return True

    def _goes_on(self, request: Request, channel: str, message: Message) -> None:
        request.begun = True
        if channel in ("shell", "control"):
            request.reply = message
            request.replied.set()
        if message["msg_type"] == "status":
            request.idle = message["content"].get("execution_state") == "idle"
        if request.idle and request.reply is not None:
            self.open.pop(message["parent_header"]["msg_id"], None)
            request.over.set()

    def missing(self, before: int | None = None) -> int:
        """How many messages did not come, of those that are numbered lower than `before`."""
        end = max(self.above, default=self.through + 1) if before is None else before
        return max(0, end - 1 - self.through - sum(number < end for number in self.above))

    def write_off(self, before: int | None = None) -> int:
        """Expect them no more; returns how many there were."""
        lost = self.missing(before)
        if lost:
            end = max(self.above) if before is None else before
            self.through = max(self.through, end - 1)
            self.above = {number for number in self.above if number > self.through}
        self._advance()
        return lost

    def _advance(self) -> None:
        while self.through + 1 in self.above:
            self.through += 1
            self.above.remove(self.through)
