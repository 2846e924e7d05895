"""Whether a kernel of another machine still lives, by the heartbeat channel that all have.

It echoes what it is sent, from a thread that no code holds up. Knows channels and connections;
nothing of who has started the kernel, or of what runs on it.
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

BEAT = 0.5  # seconds between one ping and the next, and that each has for its answer
HURRIED = 0.05  # the same while its end is awaited
DOUBTS = 6  # times that its provisioner says that it is gone, before it has answered once
GREETING = 0.5  # seconds in which the listener on a channel's port says so


class Heartbeat:
    """Watches one kernel. Use `start`, `ended` and `stop`.

    Args:
        client: connected to the kernel.
        silence: seconds without an answer after which it counts as lost, with all its machine.
        poll: whether its provisioner still knows it, for as long as it has never answered:
            whose channels are not there yet can't be told from those of one that is gone.

    Attributes:
        ended: set when it is gone.
        why: how that was seen, as a sentence.
        silent: whether it is not gone for certain, but has not been heard for too long.
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
        """Begin to watch."""
        self._task = self._tasks.start(self._watch(), "watching a kernel")

    async def stop(self) -> None:
        """Watch no more. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def declare(self, why: str) -> None:
        """It is gone, as somebody else knows."""
        self.why = self.why or why
        self.ended.set()

    async def beats(self) -> bool:
        """Whether it does at this moment."""
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
        """Look closely whether it ends in so many seconds."""
        self._hurried = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        return self.ended.is_set()

    async def _watch(self) -> None:
        # A lost ping must not keep the next from being sent, nor a late echo pass for another's.
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
                asked = asyncio.get_running_loop().time()
                if await self._nobody_listens():
                    return self.declare("Its process is gone.")
                # No more than was waited for: a server that stood still has not listened then.
                missed += beat + min(asyncio.get_running_loop().time() - asked, GREETING)
            self.silent = True
            self.declare(
                f"Nothing was heard of it and its machine for {self._silence:g} s"
                " (RMI_AGENT_KERNEL_SILENCE)."
            )
        except zmq.ZMQError as error:
            log.warning("A kernel's heartbeat can't be followed: %s", error)
            self.declare("Its connection broke.")
        except Exception as error:  # of this code: nobody may wait for ever because of it
            log.exception("A kernel's heartbeat is given up")
            self.declare(f"Its heartbeat can't be followed: {error!r}")
        finally:
            ping.close(linger=0)

    async def _begins(self, ping: zmq.asyncio.Socket) -> bool:
        """Wait for its first beat; False if it ends before."""
        doubts = 0
        while not await self._answers(ping, BEAT):
            # The ssh provisioner also says so when the way there takes more than 10 ms.
            doubts = 0 if await self._poll() else doubts + 1
            if doubts == DOUBTS:
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
        """Whether its port is shut, or leads to nothing: ZeroMQ greets each peer.

        Silence alone may be the network's; this is the far system's own word. A tunnel takes
        the connection and closes it.
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
