"""A server on stdio that hands all it is asked to the resident one: FastMCP's proxy, watched.

What makes it more than a proxy: it notices when the resident server ends, says what may have
happened, and finds it again. Knows MCP and the way there; no kernel and no tool.
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

from .attach import START, STOP, Missing, Place, Unattached, local_client, place
from .kept import VERSION
from .resident import found
from .settings import Attach, BadSettings, Settings

log = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds, while a call goes on
PROBE_EVERY = 5.0  # seconds; a server that is there may still be stuck
PROBES = 3  # that may fail one after the other
SPARE = 4  # connections that are kept for the next call
BEFORE = "Nothing was run."
MEANWHILE = "The call may have been carried out, wholly or in part."
ENDED = (
    "What it had not yet reported is lost. Sessions end with their server; their notebooks stay,"
    " and resume_session runs one again."
)

STUCK = f"If it stays so, end it: {STOP}"


class Lost(Exception):
    """The server of a call that went on is gone; the text says how, and what to do."""


class Upstream(StreamableHttpTransport):
    """FastMCP's transport over one HTTP client that stays open, for results of any size.

    An HTTP client for each connection costs some 100 ms, and the SDK's limit of 1 MB for one
    event is less than a large picture has.
    """

    def __init__(self, there: Place) -> None:
        super().__init__(f"{there.url}/mcp")
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {there.bearer}"},
            timeout=httpx2.Timeout(30.0, read=300.0),  # as MCP's own clients have it
            limits=httpx2.Limits(),
            trust_env=False,
            verify=False,  # there is no TLS on this machine
        )

    @contextlib.asynccontextmanager
    async def connect_session(  # type: ignore[override]
        self, *, transport_options: Any, **session: Any
    ) -> AsyncIterator[Any]:
        """One MCP connection."""
        async with (
            streamable_http_client(self.url, http_client=self._http, max_sse_event_size=None) as (
                reading,
                writing,
            ),
            transport_options.session_class(reading, writing, **session) as opened,
        ):
            yield opened

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class Connection(ProxyClient[Upstream]):
    """A connection for one call at a time, which is given back after it instead of closed.

    Progress and questions of one call never get among those of another, as they would on a
    connection that several share.
    """

    def __init__(
        self, upstream: Upstream, give_back: Callable[[Connection], bool], **how: Any
    ) -> None:
        super().__init__(upstream, forward_incoming_headers=False, **how)
        self._give_back, self._kept = give_back, False

    async def __aenter__(self) -> Connection:
        if not self._kept:
            await super().__aenter__()  # type: ignore[no-untyped-call] # for the time between calls
            self._kept = True
        await super().__aenter__()  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is not None or not self._give_back(self):
            self._kept = False
            await super().__aexit__(*error)  # type: ignore[no-untyped-call]


class Relay(Middleware):
    """The way to the resident server, and what is asked on it.

    Args:
        settings: all that can be set.
        attach: whether a server is started where there is none.
        there: the server, as it was found.
    """

    def __init__(self, settings: Settings, attach: Attach, there: Place) -> None:
        self._settings, self._attach = settings, attach
        self._there, self._upstream = there, Upstream(there)
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
        """A connection of the era that our own client speaks, and with what it can do."""
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
            stays = upstream is self._upstream and len(idle) < SPARE
            if stays:
                idle.append(connection)
            return stays

        handlers: dict[str, Any] = {} if asks else {"elicitation_handler": None}
        return Connection(upstream, give_back, mode=mode, **handlers)

    async def on_request(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Hand a request on, if the server is there, and say what happened if it went meanwhile."""
        refuse = ToolError if context.method == "tools/call" else protocol_error
        try:
            await self._ready()
        except Missing as error:
            raise refuse(f"{BEFORE} {error}{self._otherwise}") from None
        except Unattached as error:
            raise refuse(f"{BEFORE} {error}") from None
        try:
            return await self._watched(call_next, context)
        except Lost as error:
            raise refuse(str(error)) from None

    async def complete(
        self,
        of: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        """What an argument may be."""
        given = dict(context.arguments or {}) if context is not None else None
        async with self.connection() as connection:
            return await connection.complete(
                of, {"name": argument.name, "value": argument.value}, given
            )

    async def aclose(self) -> None:
        """Close the way; what still goes on there goes on."""
        await self._upstream.aclose()

    async def _ready(self) -> None:
        """Have the right server at the other end.

        Raises:
            Unattached: there is none.
        """
        if self._there.record is not None and is_found(self._there):
            return
        async with self._finding:
            if self._there.record is not None and is_found(self._there):
                return
            there = await place(self._settings, self._attach)
            if there == self._there:
                return
            log.info("%s does all from now on", there.named)
            before = self._upstream
            self._there, self._upstream, self._idle = there, Upstream(there), {}
            await before.aclose()

    async def _watched(
        self, call_next: Callable[[Any], Awaitable[Any]], context: MiddlewareContext[Any]
    ) -> Any:
        """Wait for an answer as long as the server that it comes from is there.

        Raises:
            Lost: it is not any more.
        """
        there, lost = self._there, ""
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                nonlocal lost
                try:
                    lost = await self._end_of(there)
                except Exception as error:  # of this code: nobody may wait for ever because of it
                    log.exception("%s can't be watched", there.named)
                    lost = f"Whether {there.named} is there can't be seen: {error!r}. {MEANWHILE}"
                scope.cancel()

            watching = asyncio.create_task(watch())
            try:
                return await call_next(context)
            except Exception:
                if gone := await self._is_gone(there):
                    raise Lost(gone) from None
                raise
            finally:
                watching.cancel()
        raise Lost(lost)

    async def _end_of(self, there: Place) -> str:
        """Wait until a server is gone or stuck, and say so."""
        failed, probed = 0, anyio.current_time()
        while True:
            await anyio.sleep(LOOK_EVERY)
            if there.record is not None and not is_found(there):
                return self._ended(there)
            if anyio.current_time() - probed >= PROBE_EVERY:
                failed = 0 if await answers(there) else failed + 1
                probed = anyio.current_time()
                if failed == PROBES:
                    return f"{there.named} is stuck: it does not answer. {MEANWHILE} {STUCK}"

    async def _is_gone(self, there: Place) -> str:
        """What is to be said when a server is gone; nothing if it is there."""
        if (there.record is None or is_found(there)) and await answers(there):
            return ""
        return self._ended(there)

    def _ended(self, there: Place) -> str:
        starts = self._attach == "always" and self._settings.rmi_agent_server is None
        then = "The next call starts a new one." if starts else f"To go on, start it: {START}."
        return f"{there.named} has ended. {MEANWHILE} {ENDED} {then}{self._otherwise}"

    @property
    def _otherwise(self) -> str:
        """What else can be done where nobody has said that there has to be a resident server."""
        if self._attach == "always":
            return ""
        return " Or restart this application: it then runs code by itself, without that server."


def protocol_error(text: str) -> MCPError:
    """For requests whose results have no place for errors."""
    return MCPError(INTERNAL_ERROR, text)


def is_found(there: Place) -> bool:
    """Whether a server that was found by its record still is."""
    try:
        return found() == there.record
    except (BadSettings, OSError):
        return False


async def answers(there: Place) -> bool:
    """Whether a server answers at all."""
    try:
        async with local_client() as client:
            return (await client.get(f"{there.url}/healthz")).status_code == 200
    except httpx2.HTTPError:
        return False
