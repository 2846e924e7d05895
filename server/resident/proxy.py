"""A stdio server that forwards everything to the resident server, with FastMCP's proxy.

Notices when the resident server exits, reports what may have happened, and finds the next one.
Knows MCP and the connection, not kernels or tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import httpx2
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import get_context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.providers.proxy import FastMCPProxy, ProxyClient
from mcp import MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    INTERNAL_ERROR,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..errors import AttachError, BadSettings, NoResidentServer
from ..settings import Attach, Settings
from ..state_dir import VERSION
from .discovery import START, STOP, Endpoint, find_endpoint
from .record import found

log = logging.getLogger(__name__)

WATCH_INTERVAL = 0.5  # seconds between checks that the process runs, during a call
PROBE_INTERVAL = 5.0  # seconds between requests that detect a server that runs but is stuck
MAX_FAILED_PROBES = 3  # consecutive failures until a server counts as stuck
MAX_IDLE_CONNECTIONS = 4  # per kind of connection, kept for later calls
REQUEST_TIMEOUT = httpx2.Timeout(30.0, read=300.0)  # as in MCP's own clients
NOTHING_RAN = "Nothing was run."
MAY_HAVE_RUN = "The call may have been carried out, wholly or in part."
SESSIONS_ENDED = (
    "What it had not yet reported is lost. Sessions end with their server; their notebooks stay,"
    " and resume_session runs one again."
)


class UpstreamLost(Exception):
    """The server handling a call has exited or is stuck; the text says so, and what to do."""


class PooledTransport(StreamableHttpTransport):
    """FastMCP's transport over one HTTP client that stays open, for results of any size.

    A new HTTP client per connection costs about 100 ms, and a large picture exceeds the SDK's
    limit of 1 MB per event.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"{endpoint.base_url}/mcp")
        self._http = endpoint.client(REQUEST_TIMEOUT)

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
        """Close the HTTP client and all its connections."""
        await self._http.aclose()


class Connection(ProxyClient[PooledTransport]):
    """A connection for one call at a time, returned to the pool afterwards instead of closed.

    On a connection shared by several calls, their progress and questions would mix.
    """

    def __init__(
        self, upstream: PooledTransport, give_back: Callable[[Connection], bool], **options: Any
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


class ResidentProxy(Middleware):
    """Forwards requests to the resident server; `mcp` is the FastMCP server that does so.

    Args:
        settings: the settings of this process.
        attach: whether to start a server if none runs.
        endpoint: the resident server, as found at startup.
    """

    def __init__(self, settings: Settings, attach: Attach, endpoint: Endpoint) -> None:
        self._settings, self._attach = settings, attach
        self._endpoint, self._upstream = endpoint, PooledTransport(endpoint)
        self._idle: dict[tuple[str, bool], list[Connection]] = {}
        self._finding = asyncio.Lock()
        self.mcp: FastMCPProxy = FastMCPProxy(
            client_factory=self.connection,
            provider_error_strategy="raise",
            identity="upstream",
            name="RmiAgentMcpServer",
            version=VERSION,
        )
        self.mcp.add_middleware(self)
        self.mcp.add_completion_handler(self.complete)

    def connection(self) -> Connection:
        """A pooled or new connection that matches our client's protocol era and capabilities."""
        ctx = get_context()
        request, client = ctx.request_context, ctx.session.client_capabilities
        asked = request.protocol_version if request is not None else None
        mode = asked if asked in MODERN_PROTOCOL_VERSIONS else "legacy"
        forms = client.elicitation if client is not None else None
        asks = forms is not None and (forms.form is not None or forms.url is None)
        idle = self._idle.setdefault((mode, asks), [])
        if idle:
            return idle.pop()
        upstream = self._upstream

        def give_back(connection: Connection) -> bool:
            stays = upstream is self._upstream and len(idle) < MAX_IDLE_CONNECTIONS
            if stays:
                idle.append(connection)
            return stays

        handlers: dict[str, Any] = {} if asks else {"elicitation_handler": None}
        return Connection(upstream, give_back, mode=mode, **handlers)

    async def on_request(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Forward a request if the server runs; report what happened if it exits meanwhile."""
        refuse = ToolError if context.method == "tools/call" else protocol_error
        try:
            await self._find()
        except NoResidentServer as error:
            raise refuse(f"{NOTHING_RAN} {error}{self._alternative}") from None
        except AttachError as error:
            raise refuse(f"{NOTHING_RAN} {error}") from None
        try:
            return await self._watched(call_next, context)
        except UpstreamLost as error:
            raise refuse(str(error)) from None

    async def complete(
        self,
        of: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        """Forward a completion request for an argument."""
        given = dict(context.arguments or {}) if context is not None else None
        async with self.connection() as connection:
            return await connection.complete(
                of, {"name": argument.name, "value": argument.value}, given
            )

    async def aclose(self) -> None:
        """Close the connections; runs on the server go on."""
        await self._upstream.aclose()

    async def _find(self) -> None:
        """Make sure that we are connected to a matching server that runs.

        Raises:
            AttachError: there is no such server.
        """
        if self._endpoint.record is not None and still_runs(self._endpoint):
            return
        async with self._finding:
            if self._endpoint.record is not None and still_runs(self._endpoint):
                return
            endpoint = await find_endpoint(self._settings, self._attach)
            if endpoint == self._endpoint:
                return
            log.info("%s does all from now on", endpoint.label)
            before = self._upstream
            self._endpoint, self._upstream = endpoint, PooledTransport(endpoint)
            self._idle = {}
            await before.aclose()

    async def _watched(
        self, call_next: Callable[[Any], Awaitable[Any]], context: MiddlewareContext[Any]
    ) -> Any:
        """Wait for an answer for as long as the server that sends it runs.

        Raises:
            UpstreamLost: the server has exited or is stuck.
        """
        endpoint, lost = self._endpoint, ""
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                nonlocal lost
                try:
                    lost = await self._loss_of(endpoint)
                except Exception as error:  # a bug here must not block the call forever
                    log.exception("%s can't be watched", endpoint.label)
                    lost = f"{endpoint.label} can't be watched: {error!r}. {MAY_HAVE_RUN}"
                scope.cancel()

            watching = asyncio.create_task(watch())
            try:
                return await call_next(context)
            except Exception:
                if not (still_runs(endpoint) and await answers(endpoint)):
                    raise UpstreamLost(self._format_ended(endpoint)) from None
                raise
            finally:
                watching.cancel()
        raise UpstreamLost(lost)

    async def _loss_of(self, endpoint: Endpoint) -> str:
        """Wait until a server has exited or is stuck; returns the message."""
        failed, probed = 0, anyio.current_time()
        while True:
            await anyio.sleep(WATCH_INTERVAL)
            if not still_runs(endpoint):
                return self._format_ended(endpoint)
            if anyio.current_time() - probed >= PROBE_INTERVAL:
                failed = 0 if await answers(endpoint) else failed + 1
                probed = anyio.current_time()
                if failed == MAX_FAILED_PROBES:
                    return (
                        f"{endpoint.label} is stuck: it does not answer. {MAY_HAVE_RUN}"
                        f" If it stays so, end it: {STOP}"
                    )

    def _format_ended(self, endpoint: Endpoint) -> str:
        starts = self._attach == "always" and self._settings.rmi_agent_server is None
        then = "The next call starts a new one." if starts else f"To go on, start it: {START}."
        return (
            f"{endpoint.label} has ended. {MAY_HAVE_RUN} {SESSIONS_ENDED} {then}{self._alternative}"
        )

    @property
    def _alternative(self) -> str:
        """A further suggestion, for users who did not ask for a resident server."""
        if self._attach == "always":
            return ""
        return " Or restart this application: it then runs code by itself, without that server."


def protocol_error(text: str) -> MCPError:
    """The error for requests whose results can't carry one."""
    return MCPError(INTERNAL_ERROR, text)


def still_runs(endpoint: Endpoint) -> bool:
    """Whether a resident server still runs; others have no record and count as running."""
    if endpoint.record is None:
        return True
    try:
        return found() == endpoint.record
    except (BadSettings, OSError):
        return False


async def answers(endpoint: Endpoint) -> bool:
    """Whether a server answers a health check."""
    try:
        async with endpoint.client() as client:
            return (await client.get(f"{endpoint.base_url}/healthz")).status_code == 200
    except httpx2.HTTPError:
        return False
