"""Connections to one server, each used by one call at a time and then kept for the next.

Knows MCP's transport and its eras; nothing about who calls, or whether the server still runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.server.providers.proxy import ProxyClient
from mcp.client.streamable_http import streamable_http_client

from .endpoint import Endpoint

MAX_IDLE_CONNECTIONS = 4  # per kind of connection, kept for later calls
REQUEST_TIMEOUT = httpx2.Timeout(30.0, read=300.0)  # as in MCP's own clients


class Upstream(StreamableHttpTransport):
    """FastMCP's transport to one server, over one HTTP client that stays open.

    A new HTTP client per connection costs about 100 ms, and a large picture exceeds the SDK's
    limit of 1 MB per event.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"{endpoint.base_url}/mcp")
        self.endpoint = endpoint
        self._http = endpoint.client(REQUEST_TIMEOUT)
        self._idle: dict[tuple[str, bool], list[Connection]] = {}

    def connection(self, mode: str, elicits: bool) -> Connection:
        """An idle or new connection of a protocol era; `elicits` if our client can be asked."""
        idle = self._idle.setdefault((mode, elicits), [])
        if idle:
            return idle.pop()

        def give_back(connection: Connection) -> bool:
            stays = not self._http.is_closed and len(idle) < MAX_IDLE_CONNECTIONS
            if stays:
                idle.append(connection)
            return stays

        handlers: dict[str, Any] = {} if elicits else {"elicitation_handler": None}
        return Connection(self, give_back, mode=mode, **handlers)

    @contextlib.asynccontextmanager
    async def connect_session(  # type: ignore[override]
        self, *, transport_options: Any, **session: Any
    ) -> AsyncIterator[Any]:
        """Open one MCP connection."""
        async with (
            streamable_http_client(self.url, http_client=self._http, max_sse_event_size=None) as (
                reading,
                writing,
            ),
            transport_options.session_class(reading, writing, **session) as opened,
        ):
            yield opened

    async def aclose(self) -> None:
        """Close the HTTP client and all its connections; runs on the server continue."""
        await self._http.aclose()


class Connection(ProxyClient[Upstream]):
    """A connection for one call at a time, returned to the pool afterwards instead of closed.

    On a connection shared by several calls, their progress and questions would mix.
    """

    def __init__(
        self, upstream: Upstream, give_back: Callable[[Connection], bool], **options: Any
    ) -> None:
        super().__init__(upstream, forward_incoming_headers=False, **options)
        self._give_back, self._kept = give_back, False

    async def __aenter__(self) -> Connection:
        if not self._kept:
            await super().__aenter__()  # type: ignore[no-untyped-call] # stays open between calls
            self._kept = True
        await super().__aenter__()  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is not None or not self._give_back(self):
            self._kept = False
            await super().__aexit__(*error)  # type: ignore[no-untyped-call]
