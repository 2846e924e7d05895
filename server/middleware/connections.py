"""uvicorn's HTTP connections with limits, so that none of them blocks the others.

uvicorn lets a client take forever to send a request, and open as many connections as there are
file descriptors. Knows connections, their timeouts, and which of them an authenticated caller has
used: behind a proxy, all come from one address. Knows nothing about what requests contain.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..net import QUEUE

HEAD_SECONDS = 20.0  # max seconds for a request's head, from its first byte
REST_SECONDS = 5.0  # max seconds for the rest of a body: strangers are answered without reading it
WRITE_SECONDS = 60.0  # max seconds for a client to read some more of a response
ANSWER_SECONDS = 1.0  # max seconds at the end for calls to be answered whose runs were stopped
TICK = 1.0  # seconds between updates of the Date header
AT_A_TIME = 16  # max connections accepted before the event loop handles them


def some(most: int) -> int:
    """`most` connections, or a quarter of this process's file descriptor limit if that is less."""
    if sys.platform == "win32":
        return most
    import resource

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # macOS: 256 for most programs
    return most if descriptors == resource.RLIM_INFINITY else min(most, descriptors // 4)


STRANGERS = some(200)  # max connections unused by authenticated callers; then the oldest is closed
KNOWN_IDLE = some(200)  # max other connections without a request; kernels need descriptors too


class Server(uvicorn.Server):
    """uvicorn's server, which accepts connections a few at a time.

    asyncio accepts as many in one go as the queue holds, which could take all descriptors
    before the first connection is handled; and ZeroMQ aborts a process that has none left.

    Args:
        config: uvicorn's.
        leaving: closes what leads here from outside, before the port is closed. It can't run
            after `serve`, which re-raises the signal that ended it.
        ready: called once requests are being served.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        leaving: Callable[[], Awaitable[None]],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._leaving, self._ready = leaving, ready
        self._exiting = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, and restore the length of the listen queue."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(QUEUE)
        self._ready()

    async def main_loop(self) -> None:
        """Wait for the exit; uvicorn's own loop wakes ten times a second."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # also updates the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._exiting.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Exit because of a signal."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._exiting.set)

    def close_port(self) -> None:
        """Refuse new connections, but keep serving the existing ones."""
        for server in self.servers:
            server.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `leaving`, then refuse new connections and shut down."""
        await self._leaving()
        deadline = time.monotonic() + ANSWER_SECONDS
        connections: set[Any] = self.server_state.connections
        # uvicorn offers no event for this.
        while time.monotonic() < deadline and any(not c.idle for c in connections):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class Connection(H11Protocol):
    """A connection that is closed when the client is too slow, or to make room for newer ones.

    Connections of unauthenticated callers are limited, whether they send, wait for a response or
    don't read it. A connection that an authenticated caller has used is closed only while idle.

    Attributes:
        owner: the authenticated caller who used it last; None if there was none.
    """

    owner: str | None = None
    _deadline: asyncio.TimerHandle | None = None  # for a head, or for the rest of a body
    _writing: asyncio.TimerHandle | None = None
    _unsent = 0  # unsent response bytes at the last check
    _since = 0.0  # loop time when it became idle, or its request arrived

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.app_state = {**self.app_state, "connection": self}  # each request gets a copy

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits_for_us(self) -> bool:
        """Whether a complete request is being served and the client is reading the response."""
        return not self.idle and not self.cycle.more_body and not self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request; if there are too many strangers, close one of them."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._expect(HEAD_SECONDS)
        strangers = [c for c in self._others() if c.owner is None]
        if len(strangers) >= STRANGERS:
            min(strangers, key=lambda c: (c.waits_for_us, c._since)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Handle received data; this does not extend the timeout for a head."""
        before = self.cycle
        leftover = self.idle and self.conn.their_state is h11.SEND_BODY
        super().data_received(data)
        if self.cycle is not before:
            self._since = self.loop.time()
        if not self.idle:
            self._stop_the_clock()
        elif leftover and self.conn.their_state is h11.IDLE:
            self._expect(self.timeout_keep_alive)  # uvicorn only stopped its own timer
        elif self._deadline is None and not self.transport.is_closing():
            self._expect(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the connection's timers."""
        self._stop_the_clock()
        self.resume_writing()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn's keep-alive timeout applies until its first byte."""
        self._since = self.loop.time()
        if self.cycle.more_body:  # body not read: the rest is discarded, for a while
            self._expect(HEAD_SECONDS if self.owner else REST_SECONDS)
        super().on_response_complete()
        if self.transport.is_closing():
            self._see_it_sent()
        elif self.owner is not None:
            self._make_room()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, even if the client does not read what is left."""
        super().timeout_keep_alive_handler()
        self._see_it_sent()

    def pause_writing(self) -> None:
        """Pause the response until the client reads on, which it must do before a timeout."""
        super().pause_writing()
        self._see_it_sent()

    def resume_writing(self) -> None:
        """Resume the response, and cancel the write timeout."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _see_it_sent(self) -> None:
        if self._writing is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._writing = self.loop.call_later(WRITE_SECONDS, self._check_sent)

    def _check_sent(self) -> None:
        self._writing = None
        left = self.transport.get_write_buffer_size()
        if left >= self._unsent:
            self.transport.abort()
        elif left:
            self._see_it_sent()

    def _expect(self, seconds: float) -> None:
        self._stop_the_clock()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_the_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """If too many connections are idle, close the oldest of the owner who has the most."""
        idle = [c for c in (self, *self._others()) if c.owner is not None and c.idle]
        if len(idle) > KNOWN_IDLE:
            crowd, _ = Counter(c.owner for c in idle).most_common(1)[0]
            rivals = [c for c in idle if c.owner == crowd]
            min(rivals, key=lambda c: c._since).transport.abort()

    def _others(self) -> list[Connection]:
        return [
            c
            for c in self.connections
            if isinstance(c, Connection) and c is not self and not c.transport.is_closing()
        ]


def recognize(scope: Scope, who: str) -> None:
    """Mark the connection as an authenticated caller's, so that strangers can't displace it."""
    connection = scope.get("state", {}).get("connection")
    if isinstance(connection, Connection):
        connection.owner = who
