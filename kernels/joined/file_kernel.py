"""A person's kernel that is joined by its connection file, over ZMQ.

Whatever other clients cause is dropped before it is parsed. Knows sockets and files; nothing of
cells.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.session import DELIM

from ..errors import KernelStartError
from ..process import Launch, RawOutput
from ..process_tree import Family
from ..protocol import CHANNELS, QueuedChannel, QueuedClient, unpacked, weighed
from ..remote import Heartbeat
from .joined_kernel import JoinedKernel
from .traffic import ENDED

log = logging.getLogger(__name__)

SILENCE = 15.0  # seconds without a heartbeat after which a kernel counts as lost
MOST = 256_000_000  # max bytes of a message's part, whoever caused it
HEADER_MOST = 20_000  # max bytes of another client's header that are read
STATUS_MOST = 5_000  # the same of a status
SLICE = 0.01  # max seconds of reading messages without yielding to other tasks
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class FileKernel(JoinedKernel):
    """A kernel on this machine, known by its connection file: see `KernelProcess`."""

    pid: int | None = None
    # The file does not tell the process, and a container's kernel has other files.
    is_here = False
    is_set_up = False
    kernel_info: dict[str, Any] | None = None
    forked = False
    family: Family | None = None
    is_walled = False
    mark = ""
    left_running: tuple[str, ...] = ()
    remote = None
    cut_until = 0.0

    def __init__(self, launch: Launch) -> None:
        assert launch.join is not None and launch.join.connection is not None
        self.launch, self._info = launch, launch.join.connection
        self.raw = RawOutput()
        self._context = zmq.asyncio.Context()
        self._client = AsyncKernelClient(context=self._context)
        super().__init__(self._client.session.session)
        self._queues: dict[str, QueuedChannel] = {}
        self._heartbeat = Heartbeat(self._client, SILENCE, self._might_begin)
        self._closed = False

    async def start(self) -> AsyncKernelClient:
        """Connect to the kernel; returns a client for its channels.

        Raises:
            KernelStartError: the file does not describe channels.
        """
        try:
            self._client.load_connection_info(cast(Any, dict(self._info)))
            weighed(self._client, 0, waits=False)
            self._context.setsockopt(zmq.MAXMSGSIZE, MOST)
            self._client.start_channels(hb=False)
        except (zmq.ZMQError, ValueError, TypeError) as error:
            raise KernelStartError(
                f"Its connection file does not describe a kernel's channels: {error}"
            ) from error
        for name in CHANNELS:
            self._queues[name] = QueuedChannel(functools.partial(self._send, name))
            self._joined_tasks.watch(functools.partial(self._receive, name), f"reading {name}")
        self._heartbeat.start()
        self._joined_tasks.watch(self._watch, "noting its end")
        return QueuedClient(self._queues, session=self._client.session)

    def _channel(self, name: str) -> Any:
        return getattr(self._client, f"{name}_channel")

    def _send(self, name: str, message: dict[str, Any]) -> None:
        if not self._closed:
            self.traffic.note_sent(message)
            self._channel(name).send(message)

    async def _receive(self, name: str) -> None:
        """Queue what results from our requests; note the rest."""
        socket, yielded = self._channel(name).socket, time.monotonic()
        while True:
            parts = await socket.recv_multipart()
            if time.monotonic() > yielded + SLICE:  # awaiting a message that is there does not
                await asyncio.sleep(0)
                yielded = time.monotonic()
            try:
                message = self._read(name, parts)
            except UNREADABLE as error:
                log.debug("An unreadable message of a joined kernel: %s", error)
                continue
            if message is not None:
                self._queues[name].put(message, sum(map(len, parts)))

    def _read(self, name: str, frames: list[bytes]) -> dict[str, Any] | None:
        """A message for us, verified; None if it is not."""
        parts = frames[frames.index(DELIM) + 1 :]
        header, parent = (small(part, HEADER_MOST) for part in parts[1:3])
        told = header.get("msg_type") in ("status", "shutdown_reply")
        content = small(parts[4], STATUS_MOST) if told else {}
        if not self.traffic.observe(name, header, parent, content):
            return None
        return unpacked(parts, self._client.session.deserialize)

    @staticmethod
    async def _might_begin() -> bool:
        """Whether a kernel that has not answered yet may still do so: it ran before us."""
        return False

    async def _watch(self) -> None:
        await self._heartbeat.ended.wait()
        silent = f"It has not answered for {SILENCE:g} s."
        self._ended(silent if self._heartbeat.silent else ENDED)

    async def _interrupt(self) -> None:
        """Ask the kernel to interrupt itself: a connection file names no process."""
        request = self._client.session.msg("interrupt_request", {})
        self._send("control", request)

    async def kill(self) -> None:
        """Let go of it."""
        await self.close()

    async def close(self, *, graceful: bool = True) -> None:
        """Disconnect; the kernel and its other clients go on. Idempotent."""
        self._ended("The session let go of it.")
        if self._closed:
            return
        self._closed = True
        await self._heartbeat.stop()
        await self._joined_tasks.cancel()
        self._client.stop_channels()
        self._context.destroy(linger=0)

    async def release(self) -> None:
        """Disconnect."""
        await self.close()

    def memory(self) -> int:
        """Return 0, as memory use is unknown here."""
        return 0

    def connection_messages(self) -> tuple[str, ...]:
        """Nothing: a connection on this machine never breaks."""
        return ()

    def spec_metadata(self) -> dict[str, str]:
        """The kernelspec, as far as the connection file tells."""
        name = str(self._info.get("kernel_name") or "unknown")
        return {"name": name, "display_name": name, "language": ""}

    def last_words(self) -> str:
        """Return no output: the process's own streams belong to whoever started it."""
        return ""


def small(part: bytes, most: int) -> Mapping[str, Any]:
    """A small part of a message, read; empty if it is none.

    Raises:
        ValueError: it is not JSON.
    """
    found = json.loads(bytes(part)) if len(part) <= most else {}
    return found if isinstance(found, dict) else {}
