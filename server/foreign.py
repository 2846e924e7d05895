"""Calls of older clients for a session that another copy of the server has.

Their connection stays with this copy, which asks the other one as a client of its own and brings
questions and progress back: FastMCP's proxy does that. Knows MCP; `passing.py` does the same for
requests that need no connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx2
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.resources import ResourceResult
from fastmcp.server.context import Context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.providers.proxy import ProxyClient, ProxyResource, ProxyTool
from fastmcp.tools import ToolResult
from mcp import MCPError
from mcp_types import CallToolRequestParams, ReadResourceRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..kernels import KernelError
from ..kernels.homes import Copy
from ..kernels.jupyter_server import causes, refused, trusted
from ..kernels.shared import Shared
from .calls import Refusal, failures_as_refusals, principal
from .passing import GONE, MEANT, TRIES, session_of_call, session_of_uri

Result = TypeVar("Result")
Peer = ProxyClient[StreamableHttpTransport]


class Foreign(Middleware):
    """Asks the copy that has a session.

    Args:
        shared: tells where sessions are.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        """Call a tool here or there."""
        name, arguments = context.message.name, context.message.arguments or {}

        async def there(peer: Peer) -> ToolResult:
            tool = ProxyTool(client_factory=lambda: peer, name=name, parameters={})
            return await tool.run(arguments, context.fastmcp_context)

        session_id = session_of_call(name, arguments)
        found = await self._asked(session_id, context.fastmcp_context, there)
        return found if found is not None else await call_next(context)

    async def on_read_resource(
        self,
        context: MiddlewareContext[ReadResourceRequestParams],
        call_next: CallNext[ReadResourceRequestParams, ResourceResult],
    ) -> ResourceResult:
        """Read a resource here or there."""
        uri = str(context.message.uri)

        async def there(peer: Peer) -> ResourceResult:
            return await ProxyResource(client_factory=lambda: peer, uri=uri, name=uri).read()

        found = await self._asked(session_of_uri(uri), context.fastmcp_context, there)
        return found if found is not None else await call_next(context)

    async def _asked(
        self,
        session_id: str | None,
        ctx: Context | None,
        ask: Callable[[Peer], Awaitable[Result]],
    ) -> Result | None:
        """What another copy answers; None if this one is to."""
        request = ctx.request_context if ctx is not None else None
        if (
            not session_id
            or request is None
            or request.protocol_version in MODERN_PROTOCOL_VERSIONS
        ):
            return None  # the newer era's requests were passed on whole
        with failures_as_refusals():
            for _ in range(TRIES):
                copy = await self._shared.place(session_id, principal())
                if copy is None:
                    return None
                async with AsyncExitStack() as stack:
                    try:
                        peer = await stack.enter_async_context(peer_of(copy))
                    except (RuntimeError, httpx2.HTTPError, MCPError) as error:
                        await self._bury(copy, error)
                        continue
                    try:
                        return await ask(peer)
                    except (RuntimeError, httpx2.HTTPError):
                        raise Refusal(GONE.format(session_id=session_id)) from None
            raise KernelError("The copies of this server can't reach each other.")

    async def _bury(self, copy: Copy, error: BaseException) -> None:
        """Take a copy for dead where nothing answers at its address, or another server does."""
        found = causes(error)
        other = any(
            isinstance(one, httpx2.HTTPStatusError) and one.response.status_code == 421
            for one in found
        )
        if other or refused(error):
            await self._shared.homes.depose(copy.name)
            return
        raise KernelError(
            f"The copy of this server that has the session does not answer at {copy.url}"
            ". Nothing was done; try again in a moment."
        ) from None


def peer_of(copy: Copy) -> Peer:
    """A client of another copy, with the caller's own authorization."""
    transport = StreamableHttpTransport(
        f"{copy.url}/mcp", headers={MEANT: f"{copy.name} 1"}, httpx_client_factory=client
    )
    return ProxyClient(transport, mode="legacy")


def client(
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,
    auth: httpx2.Auth | None = None,
    **more: Any,
) -> httpx2.AsyncClient:
    """An HTTP client that goes straight there, whatever proxies the environment names."""
    return httpx2.AsyncClient(
        headers=headers,
        auth=auth,
        timeout=timeout or httpx2.Timeout(5.0, read=None, write=30.0, pool=None),
        trust_env=False,
        verify=trusted(),
        **more,
    )
