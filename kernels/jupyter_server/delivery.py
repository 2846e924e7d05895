"""Tracks what became of a request whose websocket was cut, and whether output was lost.

Reads messages; knows nothing about connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from ..protocol import Message

LONGEST = 18  # max digits of a message number that a kernel could reach


@dataclass
class Request:
    """A request that was sent once, and what has been received for it.

    Attributes:
        message: the request.
        started: whether any message has been received for it.
        reply: its reply, if received.
        idle: whether the kernel has reported idle after it.
        over: set when both the reply and the idle status have been received.
        answering: whether an answer to its input request was sent, with no message since.
        cut: whether the connection was cut meanwhile and its output does not say so yet.
    """

    message: Message
    started: bool = False
    reply: Message | None = None
    idle: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False
    cut: bool = False

    @property
    def msg_id(self) -> str:
        """The request's id, which is the parent id of all its messages."""
        return str(self.message["header"]["msg_id"])

    def take(self, channel: str, message: Message) -> None:
        """Record a message received for the request."""
        self.started, self.answering = True, False
        if channel == "shell":
            self.reply = message
        if message["msg_type"] == "status":
            self.idle = message["content"].get("execution_state") == "idle"
        if self.idle and self.reply is not None:
            self.over.set()


class Numbering:
    """Finds gaps in a kernel's output, as ipykernel numbers its messages in their `msg_id`s.

    All channels share the numbers, so some belong to replies, including those to other clients.
    """

    def __init__(self) -> None:
        self._origin, self._last = "", 0  # from the latest iopub message
        self._others: deque[int] = deque(maxlen=16)  # latest numbers on other channels

    def lacks(self, channel: str, message: Message, run: Request | None) -> bool:
        """Record a message; for one of `run`, return whether output before it may be missing."""
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
            between += 1  # for its reply, which arrives on another channel
        return not same or not number or number - before - 1 > between
