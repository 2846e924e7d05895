"""Weighs a kernel's messages before they are parsed.

The content of a message that would take too much memory is not parsed; only its header and weight
are known. Knows jupyter_client's channels and the syntax of JSON; nothing of outputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol, cast

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel

HELD_MOST = 32_000_000  # max bytes of memory for the parsed content of one message
HEAD_MOST = 1_000_000  # max bytes of memory for a header, parent header or metadata
WAITING = 2  # max messages per channel queued here; further ones wait in the kernel
ROOM = 5_000_000  # bytes allowed for a message part on top of twice the output limit

# Bytes of memory of a list, of a dict, and of a value in them (alone or after a comma).
_LIST, _DICT, _VALUE = 90, 250, 60
LIGHT = HEAD_MOST // (_DICT + 4)  # bytes of JSON that never take more memory than that
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ASTRAL = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")  # characters that widen a str to 4 bytes each


@dataclass(frozen=True)
class Weight:
    """The weight of a message.

    Attributes:
        size: bytes of content, metadata and buffers, as sent.
        memory: estimated bytes of memory of the parsed content, rather too high than too low.
    """

    size: int
    memory: int

    @property
    def too_much(self) -> bool:
        """Whether the content is too large to be parsed."""
        return self.memory > HELD_MOST


def weight_of(content: bytes, others: int = 0) -> Weight:
    """The weight of a message with this content and `others` bytes of other parts."""
    return Weight(len(content) + others, memory_of(content))


def memory_of(text: bytes) -> int:
    """Estimate the memory of parsed JSON in bytes, rather too high than too low."""
    width = 4 if _ASTRAL.search(text) else 1 if text.isascii() and b"\\u" not in text else 2
    structure = _structure(text)
    if structure > HELD_MOST // 32:  # large enough to be worth excluding the text of strings
        structure = _structure(_STRING.sub(b"", text))
    return width * len(text) + structure


def _structure(text: bytes) -> int:
    return _LIST * text.count(b"[") + _DICT * text.count(b"{") + _VALUE * text.count(b",")


class WeighedChannel(AsyncZMQSocketChannel):
    """jupyter_client's channel, with a `Weight` under the key `weight` of each message.

    The content of a message that is too large is replaced by an empty dict.
    """

    async def get_msg(  # type: ignore[override]  # as in jupyter_client's own
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            Empty: no message came within `timeout` seconds.
            ValueError, KeyError, TypeError, RecursionError: the message can't be read.
        """
        assert self.socket is not None
        if not await self.socket.poll(None if timeout is None else int(timeout * 1000)):
            raise Empty
        _, parts = self.session.feed_identities(await self.socket.recv_multipart())
        return unpacked(cast(list[bytes], parts), self.session.deserialize)


class Deserialize(Protocol):
    """`jupyter_client.session.Session.deserialize`, or what does the same."""

    def __call__(self, parts: list[bytes], /, *, content: bool) -> dict[str, Any]:
        """Verify and read a message; its content only if asked for."""
        ...


def unpacked(parts: Sequence[bytes], deserialize: Deserialize) -> dict[str, Any]:
    """Deserialize the parts of a signed message, and add its weight.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the message can't be read.
    """
    if any(len(part) > LIGHT and memory_of(part) > HEAD_MOST for part in parts[1:4]):
        raise ValueError("a header or metadata of more than a megabyte")
    weight = weight_of(parts[4], len(parts[3]) + sum(map(len, parts[5:])))
    message = deserialize([*parts[:5]], content=not weight.too_much)
    if weight.too_much:
        message["content"] = {}
    message["weight"] = weight
    return message


def weighed(client: AsyncKernelClient, limit: int, *, waits: bool) -> None:
    """Make a client's channels weigh incoming messages; call it before they start.

    Args:
        client: a jupyter_client client over ZMQ.
        limit: max bytes that a run may output; 0 means no limit.
        waits: whether the kernel waits for a slow reader, as those set up by `inside/setup.py` do.
            All others drop what exceeds the queues of both sides.
    """
    for channel in ("iopub", "shell", "stdin", "control"):
        setattr(client, f"{channel}_channel_class", WeighedChannel)
    if waits:
        client.context.setsockopt(zmq.RCVHWM, WAITING)
    if limit:
        # libzmq drops the connection beyond this; kernels that we set up never send as much.
        client.context.setsockopt(zmq.MAXMSGSIZE, 2 * limit + ROOM)
