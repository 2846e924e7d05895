"""Detects whether a kernel on another machine is alive, by its heartbeat channel.

Every kernel has that channel and echoes pings on it from a thread that running code can't block.
Knows channels and connections; nothing about who started the kernel or what runs on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import cast

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from ..supervision import Supervisor

log = logging.getLogger(__name__)

BEAT = 0.5  # seconds between pings, and timeout of each
HURRIED = 0.05  # the same while we wait for the kernel's end
GONE_POLLS = 6  # consecutive provisioner polls that must say "gone" before the first echo
GREETING = 0.5  # timeout in seconds for ZeroMQ's greeting on a channel's port


class Heartbeat:
    """Watches one kernel. Use `start`, `ended` and `stop`.

    Args:
        client: connected to the kernel.
        silence: seconds without an echo after which the kernel and its machine count as lost.
        poll: returns whether the provisioner still knows the kernel. Asked only before the first
            echo, while channels that are not open yet look the same as those of a dead kernel.

    Attributes:
        ended: set when the kernel is gone.
        why: how we know, as a sentence.
        silent: whether the kernel only timed out and might still be alive.
    """

    def __init__(
        self,
        client: AsyncKernelClient,
        silence: float,
        poll: Callable[[], Awaitable[bool]],
    ) -> None:
        self.ended = asyncio.Event()
        self.why = ""
        self._client, self._silence, self._poll = client, silence, poll
        self.silent = False
        self._hurried = False
        self._wake, self._beat = asyncio.Event(), asyncio.Event()
        self._tasks = Supervisor("heartbeat")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching the kernel."""
        self._task = self._tasks.start(self._watch(), "watching a kernel")

    async def stop(self) -> None:
        """Stop watching. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def declare(self, why: str) -> None:
        """Record that the kernel is gone; the first reason given is kept."""
        self.why = self.why or why
        self.ended.set()

    async def beats(self) -> bool:
        """Ping now and return whether the kernel is still alive."""
        self._beat.clear()
        self._wake.set()
        either = {asyncio.create_task(each.wait()) for each in (self._beat, self.ended)}
        try:
            await asyncio.wait(either, timeout=self._silence, return_when="FIRST_COMPLETED")
        finally:
            for each in either:
                each.cancel()
        return not self.ended.is_set()

    async def ends_within(self, seconds: float) -> bool:
        """Ping at short intervals and return whether the kernel ends within `seconds`."""
        self._hurried = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        return self.ended.is_set()

    async def _watch(self) -> None:
        # A lost ping must not block the next one, and a late echo must not count for a later ping.
        ping = cast(zmq.asyncio.Socket, self._client.connect_hb())
        ping.setsockopt(zmq.REQ_RELAXED, 1)
        ping.setsockopt(zmq.REQ_CORRELATE, 1)
        try:
            if not await self._begins(ping):
                return self.declare("Its provisioner says that it has ended.")
            missed = 0.0
            while missed < self._silence:
                beat = HURRIED if self._hurried else BEAT
                self._wake.clear()
                if await self._answers(ping, beat):
                    missed = 0.0
                    self._beat.set()
                    await self._pause(beat)
                    continue
                since = asyncio.get_running_loop().time()
                if await self._nobody_listens():
                    return self.declare("Its process is gone.")
                # Capped at the time we meant to wait: a server that was suspended did not listen.
                missed += beat + min(asyncio.get_running_loop().time() - since, GREETING)
            self.silent = True
            self.declare(
                f"It and its machine have not answered for {self._silence:g} s"
                " (RMI_AGENT_KERNEL_SILENCE)."
            )
        except zmq.ZMQError as error:
            log.warning("The connection to a kernel's heartbeat broke: %s", error)
            self.declare("Its connection broke.")
        except Exception as error:  # a bug here must not make anyone wait forever
            log.exception("Watching a kernel's heartbeat failed")
            self.declare(f"Watching its heartbeat failed: {error!r}")
        finally:
            ping.close(linger=0)

    async def _begins(self, ping: zmq.asyncio.Socket) -> bool:
        """Wait for the first echo; return False if the kernel ends before it."""
        gone = 0
        while not await self._answers(ping, BEAT):
            # The ssh provisioner also says "gone" if the network takes more than 10 ms.
            gone = 0 if await self._poll() else gone + 1
            if gone == GONE_POLLS:
                return False
        return True

    async def _answers(self, ping: zmq.asyncio.Socket, seconds: float) -> bool:
        await ping.send(b"ping")
        if not await ping.poll(round(seconds * 1000)):
            return False
        await ping.recv()
        return True

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _nobody_listens(self) -> bool:
        """Return whether the kernel's port is closed or nothing answers behind it.

        ZeroMQ greets each peer. Silence alone may be the network's fault; a refused connection is
        the remote system's own answer. A tunnel accepts the connection, then closes it.
        """
        try:
            async with asyncio.timeout(GREETING):
                reader, writer = await asyncio.open_connection(
                    self._client.ip, self._client.hb_port
                )
                try:
                    return not await reader.read(1)
                finally:
                    writer.close()
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        except (TimeoutError, OSError):
            return False
