"""What a kernel's messages weigh, found out before they are parsed.

One that would become too much to hold is taken apart no further: its header is known, and
how much it was. Knows jupyter_client's channels and JSON's looks; nothing of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Any, cast

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.session import Session

HELD_MOST = 32_000_000  # bytes of memory that the content of one message may become
HEAD_MOST = 1_000_000  # bytes of a header, a parent's header or a message's metadata
WAITING = 2  # messages of a channel that wait in this process, where others wait in the kernel
ROOM = 5_000_000  # bytes of a part of a message beside twice what a run may put out

# What values become: a list, a dict, and whatever stands behind a comma or alone in them.
_LIST, _DICT, _VALUE = 90, 250, 60
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ASTRAL = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")  # characters that make all the others wider


@dataclass(frozen=True)
class Weight:
    """What a message weighs.

    Attributes:
        size: bytes of content, metadata and buffers, as they were sent.
        memory: bytes that they become when they are parsed, or more.
    """

    size: int
    memory: int

    @property
    def too_much(self) -> bool:
        """Whether it is left unparsed."""
        return self.memory > HELD_MOST


def weight_of(content: bytes, others: int = 0) -> Weight:
    """The weight of a message with this content, and so many bytes of other parts."""
    return Weight(len(content) + others, memory_of(content))


def memory_of(text: bytes) -> int:
    """About how many bytes JSON becomes when it is parsed; rather too many than too few."""
    width = 4 if _ASTRAL.search(text) else 1 if text.isascii() and b"\\u" not in text else 2
    structure = _structure(text)
    if structure > HELD_MOST // 32:  # worth telling texts with commas from lists
        structure = _structure(_STRING.sub(b"", text))
    return width * len(text) + structure


def _structure(text: bytes) -> int:
    return _LIST * text.count(b"[") + _DICT * text.count(b"{") + _VALUE * text.count(b",")


class WeighedChannel(AsyncZMQSocketChannel):
    """jupyter_client's channel; `weight` of each message is a `Weight`.

    The content of a message that is too much is left out: it is an empty object.
    """

    async def get_msg(  # type: ignore[override]  # as in jupyter_client's own
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """The next message.

        Raises:
            Empty: none came within `timeout` seconds.
            ValueError: it can't be read, or as KeyError, TypeError or RecursionError.
        """
        assert self.socket is not None
        if not await self.socket.poll(None if timeout is None else int(timeout * 1000)):
            raise Empty
        _, parts = self.session.feed_identities(await self.socket.recv_multipart())
        return unpacked(self.session, cast(list[bytes], parts))


def unpacked(session: Session, parts: Sequence[bytes]) -> dict[str, Any]:
    """A signed message's parts as jupyter_client has it, with its weight.

    Raises:
        ValueError: it can't be read, or as KeyError, TypeError or RecursionError.
    """
    if any(memory_of(part) > HEAD_MOST for part in parts[1:4]):
        raise ValueError("a header or metadata of more than a megabyte")
    weight = weight_of(parts[4], sum(map(len, parts[3:4])) + sum(map(len, parts[5:])))
    message: dict[str, Any] = session.deserialize([*parts[:5]], content=not weight.too_much)
    if weight.too_much:
        message["content"] = {}
    message["weight"] = weight
    return message


def weighed(client: AsyncKernelClient, limit: int, *, waits: bool) -> None:
    """Let a client's channels weigh what comes; before they start.

    Args:
        client: of jupyter_client, over ZMQ.
        limit: bytes that a run may put out; 0 is no limit.
        waits: whether the kernel waits for a slow reader, as those do that have `inside/setup.py`.
            All others drop what is too much for both sides' queues.
    """
    for channel in ("iopub", "shell", "stdin", "control"):
        setattr(client, f"{channel}_channel_class", WeighedChannel)
    if waits:
        client.context.setsockopt(zmq.RCVHWM, WAITING)
    if limit:
        # libzmq ends the connection then: what a kernel was taught to send is never as much.
        client.context.setsockopt(zmq.MAXMSGSIZE, 2 * limit + ROOM)
