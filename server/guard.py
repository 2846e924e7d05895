"""What one caller over HTTP may take: requests a minute, requests at once, and a body's size.

Stands behind authentication and counts by principal, so that nobody takes another's share.
Knows nothing of MCP but the form of its errors.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp_types import INVALID_REQUEST, ErrorData, JSONRPCError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..kernels.sessions import LOCAL

BODY_LIMIT = 25_000_000  # bytes: the largest Python file as JSON, though half of it be escaped
BODY_SECONDS = 60.0  # for a whole body
AT_ONCE = 200  # open requests of one principal: each stream of events is one


class Refused(Exception):
    """A request that is not served; `after` is when to try again, in seconds."""

    def __init__(self, status: int, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.status, self.after = status, after


class Allowance:
    """So many requests a minute, saved up for at most a minute."""

    def __init__(self, per_minute: int) -> None:
        self._most, self._rate = float(per_minute), per_minute / 60
        self._left, self._looked = self._most, time.monotonic()

    def wait(self) -> float:
        """Seconds until the next request may come; 0 is now."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._looked) * self._rate)
        self._looked = now
        return max(0.0, (1 - self._left) / self._rate)

    def take(self) -> None:
        """Count a request, which may go into debt."""
        self._left -= 1


class Guard:
    """ASGI middleware that holds each principal to its share.

    Args:
        app: what is guarded.
        per_minute: requests of one principal; 0 is no limit.
        body: bytes of one request's.
    """

    def __init__(self, app: ASGIApp, per_minute: int, body: int = BODY_LIMIT) -> None:
        self._app, self._per_minute, self._body = app, per_minute, body
        self._allowances: dict[str, Allowance] = {}
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not and when to try again."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who = principal(scope)
        self._open[who] += 1
        try:
            self._check_number(who)
            await self._check_rate(who, waits=scope["path"].startswith("/messages"))
            body = await whole_body(scope, receive, self._body)
        except Refused as refused:
            await refusal(refused)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, replay(body, receive), send)
        finally:
            self._open[who] -= 1

    def _check_number(self, who: str) -> None:
        if self._open[who] > AT_ONCE:
            raise Refused(
                429,
                f"Too many requests at once: {AT_ONCE} of yours are open."
                " Try again in 5 s, when some have ended.",
                5,
            )

    async def _check_rate(self, who: str, waits: bool) -> None:
        """Count the request; a client of legacy SSE `waits`, since it breaks off at an error."""
        if not self._per_minute:
            return
        allowance = self._allowances.setdefault(who, Allowance(self._per_minute))
        seconds = allowance.wait()
        if seconds and not waits:
            after = math.ceil(seconds)
            raise Refused(
                429,
                f"Too many requests: at most {self._per_minute} a minute are served (RATE_LIMIT)."
                f" Nothing was done; try again in {after} s.",
                after,
            )
        allowance.take()
        await asyncio.sleep(seconds)


def principal(scope: Scope) -> str:
    """Whose request it is."""
    user = scope.get("user")
    return user.access_token.client_id if isinstance(user, AuthenticatedUser) else LOCAL


async def whole_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """A request's body, all of it, of at most so many bytes.

    Raises:
        Refused: it is too large or takes too long.
        ClientDisconnect: the client has gone.
    """
    too_large = Refused(
        413, f"The request is too large: at most {limit / 1e6:g} MB are taken. Send less."
    )
    request = Request(scope, receive)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise Refused(
            408, f"The request's body took longer than {BODY_SECONDS:g} s. Send it again.", 1
        ) from None
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body in one message, and then what else comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def refusal(refused: Refused) -> Response:
    """As HTTP's status for programs, and as an MCP error, which clients show to their model."""
    error = ErrorData(code=INVALID_REQUEST, message=str(refused))
    headers = {} if refused.after is None else {"Retry-After": f"{refused.after:.0f}"}
    return Response(
        JSONRPCError(jsonrpc="2.0", id=None, error=error).model_dump_json(by_alias=True),
        refused.status,
        headers,
        "application/json",
    )
