"""A stdio server that forwards everything to the background server, with FastMCP's proxy.

Notices when the background server exits, reports what may have happened, and finds the next one.
Knows MCP and the connection, not kernels or tools.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import get_context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.server.providers.proxy import FastMCPProxy
from mcp import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..attach_modes import Attach
from ..errors import AttachError, NoResidentServer
from ..settings import Settings
from ..state_dir import VERSION
from .discovery import find_endpoint
from .endpoint import START, STOP, Endpoint
from .upstream import Connection, Upstream

log = logging.getLogger(__name__)

WATCH_INTERVAL = 0.5  # seconds between checks that the process runs, during a call
PROBE_INTERVAL = 5.0  # seconds between requests that detect a server that runs but is stuck
MAX_FAILED_PROBES = 3  # consecutive failures until a server counts as stuck
NOTHING_RAN = "Nothing was run."
MAY_HAVE_RUN = "The call may have been carried out, wholly or in part."
SESSIONS_ENDED = (
    "Output that it had not sent yet is lost, and so are its sessions; their notebooks stay, and"
    " resume_session reruns one."
)


class UpstreamLost(Exception):
    """The server handling a call has exited or is stuck; the text says so, and what to do."""


class ResidentProxy(Middleware):
    """Forwards requests to the background server; `mcp` is the FastMCP server that does so.

    Args:
        settings: the settings of this process.
        attach: whether to start a server if none runs.
        endpoint: the background server, as found at startup.
    """

    def __init__(self, settings: Settings, attach: Attach, endpoint: Endpoint) -> None:
        self._settings, self._attach = settings, attach
        self._upstream = Upstream(endpoint)
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
        """A connection that matches our client's protocol era and capabilities."""
        ctx = get_context()
        request, client = ctx.request_context, ctx.session.client_capabilities
        version = request.protocol_version if request is not None else None
        mode = version if version in MODERN_PROTOCOL_VERSIONS else "legacy"
        forms = client.elicitation if client is not None else None
        elicits = forms is not None and (forms.form is not None or forms.url is None)
        return self._upstream.connection(mode, elicits)

    async def on_request(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Forward a request if the server runs; report what happened if it exits meanwhile."""

        def refused(text: str) -> Exception:
            is_call = context.method == "tools/call"  # only its result can carry an error
            return ToolError(text) if is_call else MCPError(INTERNAL_ERROR, text)

        try:
            await self._find()
        except NoResidentServer as error:
            raise refused(f"{NOTHING_RAN} {error}{self._alternative}") from None
        except AttachError as error:
            raise refused(f"{NOTHING_RAN} {error}") from None
        try:
            return await self._watched(call_next, context)
        except UpstreamLost as error:
            raise refused(str(error)) from None

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
        """Close the connections; runs on the server continue."""
        await self._upstream.aclose()

    async def _find(self) -> None:
        """Make sure that we are connected to a matching server that runs.

        Raises:
            AttachError: there is no such server.
        """
        if self._is_attached:
            return
        async with self._finding:
            if self._is_attached:
                return
            endpoint = await find_endpoint(self._settings, self._attach)
            if endpoint == self._upstream.endpoint:
                return
            log.info("Forwarding to %s from now on", endpoint.label)
            before, self._upstream = self._upstream, Upstream(endpoint)
            await before.aclose()

    @property
    def _is_attached(self) -> bool:
        """Whether the background server that we are connected to runs; unknown of another one."""
        endpoint = self._upstream.endpoint
        return endpoint.record is not None and endpoint.runs

    async def _watched(
        self, call_next: Callable[[Any], Awaitable[Any]], context: MiddlewareContext[Any]
    ) -> Any:
        """Wait for an answer for as long as the server that sends it runs.

        Raises:
            UpstreamLost: the server has exited or is stuck.
        """
        endpoint, lost = self._upstream.endpoint, ""
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
                if not (endpoint.runs and await endpoint.answers()):
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
            if not endpoint.runs:
                return self._format_ended(endpoint)
            if anyio.current_time() - probed >= PROBE_INTERVAL:
                failed = 0 if await endpoint.answers() else failed + 1
                probed = anyio.current_time()
                if failed == MAX_FAILED_PROBES:
                    return (
                        f"{endpoint.label} is stuck: it does not answer. {MAY_HAVE_RUN}"
                        f" If it stays stuck, end it: {STOP}"
                    )

    def _format_ended(self, endpoint: Endpoint) -> str:
        starts = self._attach == "always" and self._settings.rmi_agent_server is None
        then = "The next call starts a new one." if starts else f"To continue, start it: {START}."
        return (
            f"{endpoint.label} has ended. {MAY_HAVE_RUN} {SESSIONS_ENDED} {then}{self._alternative}"
        )

    @property
    def _alternative(self) -> str:
        """A further suggestion, for users who did not ask for a background server."""
        if self._attach == "always":
            return ""
        return " Or restart this application: it then runs code by itself, without that server."
