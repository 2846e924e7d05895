"""Limits for one HTTP caller: requests per minute, concurrent requests, and bytes of bodies.

Runs after authentication and counts by principal, so that nobody takes another's share.
Knows nothing about MCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ...kernels import LOCAL
from ..errors import RequestRefused
from .connections import recognize
from .refused import response_of
from .request_body import replay, whole_body

BODY_LIMIT = 25_000_000  # bytes: the largest Python file as JSON, even if half of it is escaped
SSE_LIMIT = 16_000_000  # bytes over legacy SSE, where mcp formats each as debug text on the loop
BODY_SECONDS = 60.0  # max seconds for a whole body
SMALL = 65_536  # bytes up to which a body is not counted, so that large calls can still be stopped
HELD = 100_000_000  # max bytes of larger bodies in all open requests of one principal
AT_ONCE = 200  # max open requests of one principal; each event stream is one
AT_ONCE_OF_ALL = 300  # open requests of all principals; beyond, each may have only an equal share
AT_LEAST = 10  # open requests that every principal may have, whatever the others do

Check = Callable[[bytes], str | None]


class Allowance:
    """A rate limit of `per_minute` requests, saved up for at most a minute; 0 means no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left, self._updated = float(per_minute), time.monotonic()

    def wait(self) -> float:
        """Seconds until the next request is allowed; 0 means now."""
        if not self.per_minute:
            return 0.0
        now, rate = time.monotonic(), self.per_minute / 60
        self._left = min(float(self.per_minute), self._left + (now - self._updated) * rate)
        self._updated = now
        return max(0.0, (1 - self._left) / rate)

    async def wait_and_take(self) -> None:
        """Count a request, and wait until it is allowed."""
        seconds = self.wait()
        self._left -= 1
        await asyncio.sleep(seconds)

    def take(self) -> None:
        """Count a request if it is allowed now.

        Raises:
            RequestRefused: it is not.
        """
        if seconds := self.wait():
            after = math.ceil(seconds)
            raise RequestRefused(
                429,
                f"Too many requests: the limit is {self.per_minute} per minute"
                f" (RMI_AGENT_RATE_LIMIT). Nothing was done; try again in {after} s.",
                after,
            )
        self._left -= 1

    @property
    def is_whole(self) -> bool:
        """Whether the allowance is full again, as at the start."""
        self.wait()
        return not self.per_minute or self._left >= self.per_minute


@dataclass
class Share:
    """One principal's usage: its rate limit, its open requests, and the bytes of their bodies."""

    allowance: Allowance
    open: int = 0
    held: int = 0


class Guard:
    """ASGI middleware that holds each principal to its share.

    Args:
        app: the guarded application.
        per_minute: max requests of one principal; 0 means no limit.
        body_limit: max bytes of a body, by path; 0 where nothing reads one, and None where the
            application reads it itself, piece by piece.
        check: returns what is wrong with a body; None if nothing is.
    """

    def __init__(
        self,
        app: ASGIApp,
        per_minute: int,
        body_limit: Callable[[str], int | None] = lambda path: BODY_LIMIT,
        check: Check = lambda body: None,
    ) -> None:
        self._app, self._per_minute = app, per_minute
        self._body_limit, self._check = body_limit, check
        self._shares: dict[str, Share] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not and when to try again."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who = principal_of(scope)
        recognize(scope, who)
        with self._open(who) as share:
            try:
                self._check_number(share)
                if scope["path"].startswith("/messages"):
                    # A legacy SSE client disconnects on an error, so it waits instead.
                    await share.allowance.wait_and_take()
                else:
                    share.allowance.take()
                if self._body_limit(scope["path"]) is None:
                    await self._app(scope, receive, send)
                    return
                body = await self._read(share, scope, receive)
            except RequestRefused as refused:
                await response_of(refused)(scope, receive, send)
            except ClientDisconnect:
                return
            else:
                replayed, size = replay(body, receive), counted(len(body))
                share.held += size
                del body  # a run may take hours
                try:
                    await self._app(scope, replayed, send)
                finally:
                    share.held -= size

    @property
    def known(self) -> int:
        """The number of principals with a share on record."""
        return len(self._shares)

    @contextlib.contextmanager
    def _open(self, who: str) -> Iterator[Share]:
        share = self._shares.get(who)
        if share is None:
            for name in [name for name, one in self._shares.items() if is_unused(one)]:
                del self._shares[name]
            share = self._shares[who] = Share(Allowance(self._per_minute))
        share.open += 1
        try:
            yield share
        finally:
            share.open -= 1
            if is_unused(share):
                self._shares.pop(who, None)

    def _check_number(self, share: Share) -> None:
        shares = [one.open for one in self._shares.values() if one.open]
        most = AT_ONCE
        if sum(shares) > AT_ONCE_OF_ALL:
            most = min(most, max(AT_LEAST, AT_ONCE_OF_ALL // len(shares)))
        if share.open > most:
            raise RequestRefused(
                429,
                f"Too many requests at once: you may have at most {most} open. Nothing was done;"
                " try again in 5 s, when some have ended.",
                5,
            )

    async def _read(self, share: Share, scope: Scope, receive: Receive) -> bytes:
        """Read a request's body, which counts as held while it arrives."""
        limit = self._body_limit(scope["path"])
        if not limit:
            return b""
        mine = 0

        def arrived(size: int) -> None:
            nonlocal mine
            share.held += counted(size) - mine
            mine = counted(size)
            if mine and share.held > HELD:
                raise RequestRefused(
                    429,
                    f"Too much at once: the bodies of your open requests may total {HELD / 1e6:g}"
                    " MB. Nothing was done; try again in 5 s, when some have ended.",
                    5,
                )

        try:
            body = await whole_body(scope, receive, limit, BODY_SECONDS, arrived)
            # Checking megabytes takes time, and the event loop has others to serve.
            found = (
                self._check(body)
                if len(body) <= SMALL
                else await asyncio.to_thread(self._check, body)
            )
        finally:
            share.held -= mine
        if found is not None:
            raise RequestRefused(400, found)
        return body


def is_unused(share: Share) -> bool:
    """Whether a share can be dropped without losing anything."""
    return not share.open and share.allowance.is_whole


def counted(size: int) -> int:
    """The bytes of a body that count as held: none of a small one."""
    return size if size > SMALL else 0


def principal_of(scope: Scope) -> str:
    """The principal who sent a request."""
    user = scope.get("user")
    return user.access_token.client_id if isinstance(user, AuthenticatedUser) else LOCAL
