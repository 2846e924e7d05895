"""uvicorn's HTTP connections, which may not keep others waiting.

uvicorn gives a client for ever to send a request, and as many connections as there are file
descriptors. Knows connections and their time; nothing of what requests say.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # for a request's head, from its first byte
MOST_WAITING = 200  # connections with no request being served; kernels need descriptors as well
MOST = 500  # connections; a request on one more is told that the service is unavailable
AT_A_TIME = 16  # connections accepted before the loop gets to look at them
QUEUE = 2048  # connections that the system keeps until they are accepted


class Server(uvicorn.Server):
    """uvicorn's server, which accepts connections a few at a time.

    asyncio accepts as many in one go as the queue holds, which would be all descriptors
    before the first connection is looked at; and ZeroMQ aborts a process that has none left.

    Args:
        config: uvicorn's.
        leaving: closes what leads here from outside, before the port is closed. Nothing can
            follow `serve`, which raises the signal again that has ended it.
        ready: called when requests are served.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        leaving: Callable[[], Awaitable[None]],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._leaving, self._ready = leaving, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and have the queue as long as it was."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(QUEUE)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn newcomers away, and end."""
        await self._leaving()
        await super().shutdown(sockets)


class Connection(H11Protocol):
    """A connection that is closed when it dawdles, and the first to make room in a crowd."""

    _deadline: asyncio.TimerHandle | None = None
    _since = 0.0

    @property
    def waiting(self) -> bool:
        """Whether it is open with no request of it being served."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._expect_a_request()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came; the time for a head is not prolonged by it."""
        super().data_received(data)
        if not self.waiting:
            self._stop_the_clock()
        elif self._deadline is None:
            self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_the_clock()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn's keep-alive counts until its first byte."""
        self._since = self.loop.time()
        super().on_response_complete()

    def _expect_a_request(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_the_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """Close one that waits when too many do: of the address that has most of them.

        The oldest goes, but those that never asked for anything before all others.
        """
        waiting = [c for c in self.connections if isinstance(c, Connection) and c.waiting]
        if len(waiting) <= MOST_WAITING:
            return
        crowd, _ = Counter(c.address for c in waiting).most_common(1)[0]
        rivals = [c for c in waiting if c.address == crowd]
        min(rivals, key=lambda c: (c.cycle is not None, c._since)).transport.abort()

    @property
    def address(self) -> str:
        """The other end's, without its port."""
        return self.client[0] if self.client is not None else ""
