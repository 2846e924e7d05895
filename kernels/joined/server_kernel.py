"""A person's kernel on a Jupyter Server, joined by its id there.

Knows what must not happen to it; `jupyter_server` has the connection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..addresses import RemoteKernel
from ..errors import KernelStartError, ServerError
from ..jupyter_server import Channels, ServerKernel
from ..process import Launch
from ..protocol import Message
from .joined_kernel import JoinedKernel
from .listing import worded


class JoinedServerKernel(JoinedKernel, ServerKernel):
    """A kernel on a Jupyter Server that is never deleted: see `KernelProcess`."""

    def __init__(self, launch: Launch) -> None:
        assert launch.join is not None and launch.join.server is not None
        server, kernel_id = launch.join.server, launch.join.name
        found = RemoteKernel(server.url, kernel_id)
        ServerKernel.__init__(self, replace(launch, servers=(server,), attach=found))
        JoinedKernel.__init__(self, self._channels.session.session)
        self._entry: dict[str, Any] = {}

    def _new_channels(self) -> Channels:
        return Channels(
            "",
            self._ended,
            passes=self._observe,
            note_sent=lambda message: self.traffic.note_sent(message),
        )

    def _observe(self, channel: str, message: Message) -> bool:
        parts = message["header"], message["parent_header"], message["content"]
        return self.traffic.observe(channel, *parts)

    async def start(self) -> AsyncKernelClient:
        """Connect to the kernel; returns a client for its channels.

        Raises:
            KernelStartError: the server does not have it, refuses, or can't be reached.
        """
        try:
            client = await ServerKernel.start(self)
        except KernelStartError as error:
            cause = error.__cause__
            if isinstance(cause, ServerError):
                raise KernelStartError(worded(cause)) from cause
            raise
        assert self._api is not None
        try:
            self._entry = await self._api.kernel(self._id)
        except ServerError as error:
            raise KernelStartError(worded(error)) from error
        return client

    def spec_metadata(self) -> dict[str, str]:
        """The kernelspec, as far as the server tells without being asked for it."""
        name = str(self._entry.get("name") or "unknown")
        return {"name": name, "display_name": name, "language": ""}

    @property
    def remote(self) -> None:
        """None: other instances of this server would take it over, and delete it in the end."""
        return None

    async def _interrupt(self) -> None:
        await ServerKernel.interrupt(self)

    async def kill(self) -> None:
        """Let go of it."""
        self._ended("The session let go of it.")

    async def close(self, *, graceful: bool = True) -> None:
        """Disconnect; the kernel and its other clients go on. Idempotent."""
        self._ended("The session let go of it.")
        await self.release()
        await self._joined_tasks.cancel()
