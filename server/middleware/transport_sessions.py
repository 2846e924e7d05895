"""Limits how many streamable HTTP sessions (started by clients of the older era) a caller has.

mcp keeps 10,000 for all callers together and then refuses everybody. Here, a caller with too many
loses the least recently used one, whose client then starts another; never one with an open request.
Knows HTTP headers; nothing about kernels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import RequestRefused
from .refused import response_of
from .request_body import replay

MOST = 200  # max sessions of one caller; each takes about 50 kB
FORGOTTEN = 3600.0  # seconds without a request after which mcp has ended one: its limit is half
ID = "mcp-session-id"


@dataclass
class Open:
    """One session: how many requests are being served, and when the last one came or ended."""

    requests: int = 0
    used: float = field(default_factory=lambda: time.monotonic())


class BoundedSessions:
    """ASGI middleware in front of streamable HTTP that limits sessions per caller.

    Args:
        app: the application that keeps the sessions.
        stateless: serves messages of sessions that are unknown here, since other instances
            of the server may have started them; without it they are refused, as MCP requires.
    """

    def __init__(self, app: ASGIApp, stateless: ASGIApp | None = None) -> None:
        self._app, self._stateless = app, stateless
        self._open: dict[str, dict[str, Open]] = {}  # by caller and id

    @property
    def callers(self) -> int:
        """The number of callers with known sessions."""
        return len(self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; if it starts one session too many, end an idle one or the new one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who, given = caller(scope), Headers(scope=scope).get(ID, "")
        status, too_many = 0, ""
        one = self._open.get(who, {}).get(given)

        async def sent(message: Message) -> None:
            nonlocal status, too_many
            if message["type"] == "http.response.start":
                status = message["status"]
                made = Headers(raw=message.get("headers", [])).get(ID)
                if made and not given and status < 400:
                    if await self._has_room(who, scope):
                        self._add(who, made)
                    else:
                        too_many = made
            if not too_many:
                await send(message)

        if given and one is None and self._stateless is not None and scope["method"] == "POST":
            return await self._stateless(without_id(scope), receive, send)
        if one is not None:
            one.requests, one.used = one.requests + 1, time.monotonic()
        try:
            await self._app(scope, receive, sent)
        finally:
            if one is not None:
                one.requests, one.used = one.requests - 1, time.monotonic()
        if given and (status == 404 or scope["method"] == "DELETE"):
            self._drop(who, given)
        if too_many:
            await self._end(too_many, scope)
            refused = RequestRefused(
                429,
                f"Too many MCP sessions: you have {MOST}, and all are in use. Nothing was done;"
                " close one of your clients, or try again in 5 s.",
                5,
            )
            await response_of(refused)(scope, receive, send)

    def _add(self, who: str, made: str) -> None:
        self._open.setdefault(who, {})[made] = Open()
        long_ago = time.monotonic() - FORGOTTEN
        for name, sessions in list(self._open.items()):
            for key, one in list(sessions.items()):
                if not one.requests and one.used < long_ago:
                    self._drop(name, key)

    def _drop(self, who: str, key: str) -> None:
        sessions = self._open.get(who, {})
        sessions.pop(key, None)
        if not sessions:
            self._open.pop(who, None)

    async def _has_room(self, who: str, scope: Scope) -> bool:
        """Whether another session may start; ends the least recently used idle one to make room."""
        while len(sessions := self._open.get(who, {})) >= MOST:
            oldest = min(sessions, key=lambda key: (sessions[key].requests > 0, sessions[key].used))
            if sessions[oldest].requests:
                return False
            self._drop(who, oldest)
            await self._end(oldest, scope)
        return True

    async def _end(self, session: str, scope: Scope) -> None:
        """End a session as its own client would."""
        headers = MutableHeaders(raw=[*scope["headers"]])
        headers[ID] = session
        del headers["mcp-protocol-version"], headers["content-length"]
        ending = {**scope, "method": "DELETE", "headers": headers.raw}

        async def disconnected() -> Message:
            return {"type": "http.disconnect"}

        async def discard(message: Message) -> None:
            pass

        await self._app(ending, replay(b"", disconnected), discard)


def without_id(scope: Scope) -> Scope:
    """The scope of a request without its session ID."""
    headers = MutableHeaders(raw=[*scope["headers"]])
    del headers[ID]
    return {**scope, "headers": headers.raw}


def caller(scope: Scope) -> str:
    """The caller whom mcp regards as the owner of a session."""
    user = scope.get("user")
    return repr(authorization_context(user)) if isinstance(user, AuthenticatedUser) else ""
