"""What became of a request whose websocket was cut, and whether output was lost with it.

Reads messages; knows nothing of connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from ..protocol import Message

LONGEST = 18  # digits of a number that a kernel can have reached


@dataclass
class Request:
    """A request that was sent once, and what has come of it.

    Attributes:
        message: the request.
        begun: whether anything has come because of it.
        reply: its reply.
        idle: whether the kernel has said that it is done with it.
        over: set when both have come.
        answering: whether an answer to its question was sent, and nothing has come since.
        cut: whether the connection was cut meanwhile, and its output does not say so yet.
    """

    message: Message
    begun: bool = False
    reply: Message | None = None
    idle: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False
    cut: bool = False

    @property
    def msg_id(self) -> str:
        """The request's id, which all that comes of it names."""
        return str(self.message["header"]["msg_id"])

    def take(self, channel: str, message: Message) -> None:
        """Note a message that came because of it."""
        self.begun, self.answering = True, False
        if channel == "shell":
            self.reply = message
        if message["msg_type"] == "status":
            self.idle = message["content"].get("execution_state") == "idle"
        if self.idle and self.reply is not None:
            self.over.set()


class Numbering:
    """Finds gaps in what a kernel publishes: ipykernel numbers its messages, in their `msg_id`s.

    The numbers run through all channels, so some belong to replies, also to those of other clients.
    """

    def __init__(self) -> None:
        self._origin, self._last = "", 0  # of the latest message on iopub
        self._others: deque[int] = deque(maxlen=16)  # latest numbers on other channels

    def lacks(self, channel: str, message: Message, run: Request | None) -> bool:
        """Note a message; if it belongs to `run`: whether some before it may not have come."""
        origin, _, digits = str(message["msg_id"]).rpartition("_")
        number = int(digits) if digits.isdecimal() and len(digits) <= LONGEST else 0
        if channel != "iopub":
            self._others.append(number)
            return False
        before, self._last = self._last, number
        same, self._origin = origin == self._origin, origin
        state = message["content"].get("execution_state")
        if state == "busy":  # the first message of a request
            return False
        between = sum(before < other < number for other in self._others)
        if state == "idle" and (run is None or run.reply is None):
            between += 1  # its reply, which comes on another channel
        return not same or not number or number - before - 1 > between
