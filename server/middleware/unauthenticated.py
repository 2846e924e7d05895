"""Limits for unauthenticated requests: small bodies, and one rate limit for all callers together.

A slow sender delays nobody else: a request that arrives whole is served at once.
Knows HTTP; nothing about what is requested.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import RequestRefused
from .json_messages import has_more_values
from .limits import Allowance
from .refused import response_of
from .request_body import replay, whole_body

SECONDS = 5.0  # max seconds for a body to arrive
BODIES = 32  # max bodies arriving at the same time; beyond, the oldest is dropped


class Waiting:
    """The bodies that unauthenticated callers are sending: a few at a time, each for a short while.

    A body that has arrived waits for no other, however many slow senders there are.
    """

    def __init__(self, most: int = BODIES) -> None:
        self._most = most
        self._open: dict[int, asyncio.Timeout] = {}

    @property
    def number(self) -> int:
        """How many bodies are arriving."""
        return len(self._open)

    @contextlib.asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """The timeout for a body to arrive; it expires early if newer bodies need the slot.

        Raises:
            TimeoutError: the body did not arrive in time.
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
    """ASGI middleware for paths without authentication: one rate limit for all callers together.

    Args:
        app: serves those paths.
        per_minute: max requests of all callers together.
        waiting: the bodies that are arriving, here and at other doors.
        body: max bytes of a request's body; 0 if nothing here reads one.
        values: max values of a JSON body, since each may cause an error of its own.
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
            self._allowance.take()
            body = await self._read(scope, receive) if self._body else b""
        except RequestRefused as refused:
            await response_of(refused)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        try:
            async with self._waiting.arriving():
                body = await whole_body(scope, receive, self._body, None)
        except TimeoutError:
            raise RequestRefused(
                408,
                f"The request's body did not arrive within {SECONDS:g} s, or newer ones displaced"
                " it. Nothing was done; send it again.",
                1,
            ) from None
        if self._values is not None and has_more_values(body, self._values):
            raise RequestRefused(
                400,
                f"The request's JSON may have at most {self._values} values. Nothing was"
                " done; send fewer.",
            )
        return body
