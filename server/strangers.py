"""What callers may ask whom nobody knows: small requests, with one share for all of them together.

Those who dawdle wait for themselves alone: a request that comes whole is served at once.
Knows HTTP; nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from .guard import Allowance, Refused, refusal, replay, whole_body
from .messages import has_more_values

SECONDS = 5.0  # for a body
BODIES = 32  # that arrive at the same time; the oldest is given up for one more


class Waiting:
    """Bodies that strangers are sending, all of them: a few at a time, and each for a short while.

    One that is whole already waits for nobody, so however many dawdle, it comes through.
    """

    def __init__(self, most: int = BODIES) -> None:
        self._most = most
        self._open: dict[int, asyncio.Timeout] = {}

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """The time in which a body arrives; it ends sooner where newer ones need the place.

        Raises:
            TimeoutError: it has not arrived.
        """
        while len(self._open) >= self._most:
            oldest = self._open.pop(next(iter(self._open)))
            if not oldest.expired():
                oldest.reschedule(0)
        async with asyncio.timeout(SECONDS) as mine:
            self._open[id(mine)] = mine
            try:
                yield
            finally:
                self._open.pop(id(mine), None)


class Door:
    """ASGI middleware before what is asked without being known: one allowance for all together.

    Args:
        app: what everybody may ask.
        per_minute: requests of everybody.
        waiting: the bodies that arrive, here and at other doors.
        body: bytes of one request's; 0 if nothing here reads one.
        values: that a body may have where it is JSON: each may cost an error of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        per_minute: int,
        waiting: Waiting,
        body: int,
        values: int | None = None,
    ) -> None:
        self._app, self._waiting, self._body = app, waiting, body
        self._values = values
        self._allowance = Allowance(per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not and when to try again."""
        try:
            self._allowance.check()
            body = await self._read(scope, receive) if self._body else b""
        except Refused as refused:
            await refusal(refused)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        try:
            async with self._waiting.arriving():
                body = await whole_body(scope, receive, self._body, None)
        except TimeoutError:
            raise Refused(
                408, "The request's body was not sent in time. Send it again.", 1
            ) from None
        if self._values is not None and has_more_values(body, self._values):
            raise Refused(400, f"The request has more than {self._values} values. Send fewer.")
        return body
