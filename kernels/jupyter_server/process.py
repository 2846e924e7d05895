"""A kernel on a Jupyter Server: starts, interrupts and ends it.

Offers what `KernelProcess` requires. Knows the server; nothing about what runs in the kernel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from websockets.asyncio.client import ClientConnection

from ..addresses import RemoteKernel
from ..errors import KernelError, KernelStartError, ServerError
from ..process import Launch, RawOutput, SetUp
from ..process_tree import Family
from ..supervision import Supervisor
from .balancing import least_busy
from .channels import Channels
from .connection import Connection
from .rest import ANSWER, Api, server_of

log = logging.getLogger(__name__)


class ServerKernel:
    """A kernel on a Jupyter Server; what the server does not reveal about its process is empty."""

    pid: int | None = None
    is_here = False
    is_set_up = False
    kernel_info: dict[str, Any] | None = None
    forked = False
    family: Family | None = None
    is_walled = False
    mark = ""
    left_running: tuple[str, ...] = ()

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.raw = RawOutput()
        self._id = ""
        self._channels = self._new_channels()
        self._api: Api | None = None
        self._starting: asyncio.Task[str] | None = None
        self._spec: dict[str, Any] = {}
        self._tasks = Supervisor("kernel of a Jupyter Server")
        self._keeping: asyncio.Task[None] | None = None
        self._deleting: asyncio.Task[None] | None = None
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _new_channels(self) -> Channels:
        return Channels(self.launch.attach.process if self.launch.attach else "", self._ended)

    async def start(self) -> AsyncKernelClient:
        """Start the kernel, or find the one to attach to; returns a client for its channels.

        Raises:
            KernelStartError: no server has the kernel or can start it.
        """
        try:
            if self.launch.attach is None:
                await self._begin()
            else:
                self._api = Api(server_of(self.launch.attach.url, self.launch.servers))
                self._id = self.launch.attach.kernel_id
            assert self._api is not None
            connection = Connection(self._api, self._id, self._channels)
            if self.launch.attach is not None:
                await connection.check()
            # The server answers only once the kernel does, and a new kernel takes its time.
            websocket = await connection.open(self.launch.start_timeout)
        except ServerError as error:
            raise KernelStartError(str(error)) from error
        self._keeping = self._tasks.start(self._stay_connected(connection, websocket), "connection")
        return self._channels.client()

    async def _begin(self) -> None:
        async with least_busy(self.launch.servers) as api:
            self._api = api
            self._spec = await api.kernelspec(self.launch.kernel_name)
            self._starting = asyncio.create_task(api.start(self.launch.kernel_name))
            # The start goes on even if we are cancelled: `close` must know which kernel to end.
            self._id = await asyncio.shield(self._starting)

    def more_to_set_up(self) -> SetUp:
        """Return what to set up: the file receiver, and `last_reply.py` for cut runs."""
        return SetUp(("file_receiver.py", "last_reply.py"))

    @property
    def remote(self) -> RemoteKernel | None:
        """The kernel's server and id, once it has started."""
        if self._api is None or not self._id:
            return None
        return RemoteKernel(self._api.server.url, self._id, self._channels.process)

    async def _stay_connected(self, connection: Connection, websocket: ClientConnection) -> None:
        try:
            await connection.keep(websocket)
        except ServerError as error:
            self._ended(f"The connection to its Jupyter Server was lost. {error}")
        except Exception as error:  # a bug here must not make anyone wait forever
            log.exception("The connection to %s failed", self._where)
            self._ended(f"The connection to its Jupyter Server was lost. {error!r}")

    def _ended(self, why: str) -> None:
        if not self._end.done():
            self._end.set_result(why)

    @property
    def _where(self) -> str:
        return self._api.server.url if self._api is not None else "the Jupyter Server"

    # -- what a process can do

    async def alive(self) -> bool:
        """Return whether the kernel still runs, as far as we know."""
        return not self._end.done()

    async def until_dead(self) -> int | None:
        """Wait until the kernel has ended; servers do not report the exit code."""
        await asyncio.shield(self._end)
        return None

    @property
    def why_ended(self) -> str:
        """Why the kernel ended; empty before that."""
        return self._end.result() if self._end.done() else ""

    @property
    def cut_until(self) -> float:
        """Until when messages may come late because of a cut, as `time.monotonic`."""
        return self._channels.cut_until

    def connection_messages(self) -> tuple[str, ...]:
        """Return what happened to the connection since the last call."""
        messages = tuple(self._channels.problems)
        self._channels.problems.clear()
        return messages

    def describe_end(self, code: int | None) -> str:
        """Describe the kernel's end; there is no exit code."""
        return self.why_ended

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """Refuse; see `KernelProcess.connection_file`."""
        raise KernelError(
            f"The session's kernel is on a Jupyter Server. Open it there: {self._where}."
        )

    async def interrupt(self, *, again: bool = False) -> None:
        """Do what the stop button in the server's UI does, with or without `again`."""
        assert self._api is not None
        try:
            await self._api.interrupt(self._id)
        except ServerError as error:
            log.warning("A kernel could not be interrupted: %s", error)

    async def kill(self) -> None:
        """Have the server end the kernel; waiters here see the end immediately."""
        self._delete()
        self._ended("It was ended.")

    async def close(self, *, graceful: bool = True) -> None:
        """End the kernel on its server. Idempotent.

        Leaves a kernel alone if we attached to it and it did not get ready (`graceful` is false).
        """
        if self._starting is not None and not self._id:
            await asyncio.wait({self._starting}, timeout=ANSWER)
            if not self._starting.done():
                self._starting.cancel()
                log.warning("A kernel may be left on %s: it did not start in time", self._where)
            elif not self._starting.cancelled() and self._starting.exception() is None:
                self._id = self._starting.result()
        if graceful or self.launch.attach is None:
            self._delete()
        await self.release()

    async def release(self) -> None:
        """Drop the connection and leave the kernel running. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
            self._keeping = None
        if self._deleting is not None:
            await asyncio.wait({self._deleting})
        if self._api is not None:
            await self._api.close()
        self._ended("It was released.")

    def _delete(self) -> None:
        if self._deleting is None and self._api is not None and self._id:
            self._deleting = self._tasks.start(self._delete_there(self._api), "ending it")

    async def _delete_there(self, api: Api) -> None:
        try:
            await api.delete(self._id)
        except ServerError as error:
            if not error.gone:  # a server that is gone took its kernels with it
                log.warning("A kernel may be left on its server: %s", error)

    def memory(self) -> int:
        """Return 0, as memory use is unknown here."""
        return 0

    def spec_metadata(self) -> dict[str, str]:
        """Return the kernelspec in the form of a notebook's metadata."""
        name = self.launch.kernel_name
        return {
            "name": name,
            "display_name": str(self._spec.get("display_name", name)),
            "language": str(self._spec.get("language", "")),
        }

    def last_words(self) -> str:
        """Return no output: the process's stderr stays on its server."""
        return ""
