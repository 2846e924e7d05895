"""jupyter_client's client over queues, for kernels whose messages do not come from ZMQ sockets.

Whoever receives messages puts them in a channel's queue. Knows messages; nothing of connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from .reply import Message

CHANNELS = ("shell", "iopub", "stdin", "control")
QUEUED = 32_000_000  # max bytes of messages waiting for a reader, such as an idle session's output


class QueuedChannel:
    """One channel, with the interface of jupyter_client's: a queue of received messages.

    Args:
        send: sends a message to the kernel.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.send = send
        self._waiting: deque[tuple[Message, int]] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._alive = False

    def start(self) -> None:
        """Mark the channel as alive; its connection is open already."""
        self._alive = True

    def stop(self) -> None:
        """Mark the channel as stopped; nobody reads it any more."""
        self._alive = False

    def is_alive(self) -> bool:
        """Whether the channel was started and not stopped."""
        return self._alive

    def put(self, message: Message, size: int) -> int:
        """Queue a message for the reader; returns how many older ones were dropped for it."""
        dropped = 0
        self._waiting.append((message, size))
        self._size += size
        while self._size > QUEUED and len(self._waiting) > 1:
            self._size -= self._waiting.popleft()[1]
            dropped += 1
        self._arrived.set()
        return dropped

    async def get_msg(self, timeout: float | None = None) -> Message:
        """Wait for the next message and return it.

        Raises:
            Empty: none arrived within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise Empty from None
        message, size = self._waiting.popleft()
        self._size -= size
        return message


def _channel(name: str) -> Any:
    return property(lambda client: client.channels[name])


class QueuedClient(AsyncKernelClient):
    """jupyter_client's client over these channels, by their names in `CHANNELS`."""

    def __init__(self, channels: dict[str, QueuedChannel], **traits: Any) -> None:
        super().__init__(**traits)
        self.channels = channels

    shell_channel, iopub_channel, stdin_channel, control_channel = map(_channel, CHANNELS)
    hb_channel = control_channel  # a stand-in: the connection itself shows whether it is alive
