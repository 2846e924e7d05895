"""Calls for a session that another copy of the server has are passed on to it, as they came.

A request is one message of MCP that names its session, so that whichever copy a balancer has
chosen can bring it home: progress, errors, cancelling and questions come through unread. Older
clients' connections are known by an id that names their copy. Knows HTTP and where a session's id
stands in a message; nothing of what is done with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import Any

import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..kernels import KernelError
from ..kernels.homes import Copy
from ..kernels.jupyter_server import refused, trusted
from ..kernels.shared import Shared
from .asking import KEY
from .guard import principal, replay

log = logging.getLogger(__name__)

MEANT = "x-rmi-agent-copy"  # whom a request was passed on to, and how often it has been
HOPS = 4
TRANSPORT = "mcp-session-id"
# Each hop has its own; Origin was looked at where the request arrived.
OF_A_HOP = {
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "origin",
    MEANT,
}
NAMED = re.compile(r"(?:notebook|variable)://([^/?#]+)")
LOOK_EVERY = 1.0  # seconds between two looks at whether the other copy lives
TRIES = 8
GONE = (
    "The copy of this server that had the session has gone while this call was with it. The"
    " session goes on, and the call may have begun: look before you repeat it, by"
    " read_output(session_id={session_id!r}) or at the variables."
)


class Broken(Exception):
    """The other copy has gone; `begun` is whether it may have had the request."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Passing:
    """ASGI middleware before both transports.

    Args:
        app: streamable HTTP with connections, and all else.
        without: streamable HTTP that asks for no connection.
        shared: tells where sessions are.
    """

    def __init__(self, app: ASGIApp, without: ASGIApp, shared: Shared) -> None:
        self._app, self._without, self._shared = app, without, shared
        self._client = httpx2.AsyncClient(
            # Answers take as long as runs do; whether the other copy lives is looked at besides.
            timeout=httpx2.Timeout(5.0, read=None, write=30.0, pool=None),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=10.0),
            trust_env=False,
            verify=trusted(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer here, or have another copy answer."""
        if scope["type"] == "lifespan":
            try:
                return await self._app(scope, receive, send)
            finally:
                await self._client.aclose()
        if scope["type"] != "http" or scope["path"] != "/mcp":
            return await self._app(scope, receive, send)
        meant = Headers(scope=scope).get(MEANT, "")
        mine = self._shared.homes.name
        if meant and meant.partition(" ")[0] != mine:
            # Another server had this address.
            return await PlainTextResponse("not here\n", 421, {MEANT: mine})(scope, receive, send)
        # From here on `receive` tells of the client's leaving alone; others get the body replayed.
        body = await Request(scope, receive).body()
        message = parsed(body)
        try:
            await self._answer(scope, receive, send, body, message)
        except KernelError as error:
            await failed(message, str(error))(scope, receive, send)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, body: bytes, message: dict[str, Any]
    ) -> None:
        headers = Headers(scope=scope)
        transport, _, owner = headers.get(TRANSPORT, "").partition(".")
        if owner and owner != self._shared.homes.name:
            copy = (await self._shared.homes.copies()).get(owner)
            if copy is not None:
                try:
                    return await self._pass_on(copy, scope, receive, send, body, message)
                except Broken as broken:  # from here on as if that had been known before
                    if broken.begun and not is_safe(message):
                        text = GONE.format(session_id=session_of(message) or "…")
                        return await failed(message, text)(scope, receive, send)
            transport = ""
            if scope["method"] != "POST":  # a stream of events, or its end
                return await Response(status_code=405)(scope, receive, send)
        if transport:
            scope = with_header(scope, TRANSPORT, transport)
            return await self._app(scope, replay(body, receive), self._named(send))
        scope = with_header(scope, TRANSPORT, None)
        if await self._elsewhere(scope, receive, send, body, message):
            return
        version = headers.get("mcp-protocol-version")
        legacy = version is None or version in HANDSHAKE_PROTOCOL_VERSIONS
        app = self._without if legacy and message.get("method") != "initialize" else self._app
        await app(scope, replay(body, receive), self._named(send))

    async def _elsewhere(
        self, scope: Scope, receive: Receive, send: Send, body: bytes, message: dict[str, Any]
    ) -> bool:
        """Have the copy answer that has the session; whether it did."""
        session_id = session_of(message)
        if not session_id:
            return False
        for _ in range(TRIES):
            copy = await self._shared.place(session_id, principal(scope))
            if copy is None:
                return False
            try:
                await self._pass_on(copy, scope, receive, send, body, message)
                return True
            except Broken as broken:
                if broken.begun and not is_safe(message):
                    await failed(message, GONE.format(session_id=session_id))(scope, receive, send)
                    return True
        raise KernelError("The copies of this server can't reach each other.")

    async def _pass_on(
        self,
        copy: Copy,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: bytes,
        message: dict[str, Any],
    ) -> None:
        """Have another copy answer a request.

        Raises:
            Broken: it is gone, and nothing was answered yet.
            KernelError: the request was passed on too often.
        """
        answer = Answer(send)
        asking = asyncio.create_task(self._ask(copy, scope, body, answer))
        leaving = asyncio.create_task(left(receive))
        dying = asyncio.create_task(self._until_dead(copy))
        tasks: set[asyncio.Task[Any]] = {asking, leaving, dying}
        try:
            await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            if asking.done():
                asking.result()
            elif dying.done():
                raise Broken(begun=True)
        except Broken:
            if not answer.started:
                raise
            text = GONE.format(session_id=session_of(message) or "…")
            await answer.end_with(failed(message, text).body if "id" in message else b"")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, copy: Copy, scope: Scope, body: bytes, answer: Answer) -> None:
        request = self._client.build_request(
            scope["method"],
            copy.url + scope["path"],
            headers=passed_on(Headers(scope=scope), copy),
            content=body,
        )
        try:
            response = await self._client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            await self._bury(copy, error)
            raise Broken(begun=False) from None
        except httpx2.TransportError:
            raise Broken(begun=True) from None
        try:
            if response.status_code == 421 and response.headers.get(MEANT, copy.name) != copy.name:
                await self._shared.homes.depose(copy.name)
                raise Broken(begun=False)
            await answer.start(response)
            async for part in response.aiter_raw():
                await answer.add(part)
            await answer.end()
        except httpx2.TransportError:
            raise Broken(begun=True) from None
        finally:
            await response.aclose()

    async def _bury(self, copy: Copy, error: Exception) -> None:
        """Nobody answers at a copy's address: at once dead if that is sure, else after a while."""
        if refused(error):
            log.warning("Another copy of the server is gone: nothing answers at %s", copy.url)
            await self._shared.homes.depose(copy.name)
            return
        log.warning("Another copy of the server can't be reached at %s: %s", copy.url, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._until_dead(copy), LOOK_EVERY * 2)

    async def _until_dead(self, copy: Copy) -> None:
        """Wait for the last of a copy's signs of life to run out: its machine may be gone."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(KernelError):  # a store that is silent tells nothing
                if copy.name not in await self._shared.homes.copies():
                    return

    def _named(self, send: Send) -> Send:
        """A `send` by which an older client's connection gets an id that names this copy."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if (given := headers.get(TRANSPORT)) is not None:
                    headers[TRANSPORT] = f"{given}.{self._shared.homes.name}"
            await send(message)

        return named


class Answer:
    """Another copy's answer on its way to the client; `started` is whether it has some of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self._events = False

    async def start(self, response: httpx2.Response) -> None:
        """Send the head."""
        self._events = response.headers.get("content-type", "").startswith("text/event-stream")
        self.started = True
        headers = [
            (name.lower(), value)
            for name, value in response.headers.raw
            if name.lower() not in (b"connection", b"transfer-encoding", b"keep-alive", b"date")
        ]
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": [(n, v) for n, v in headers if n != b"server"],
            }
        )

    async def add(self, part: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """There is no more."""
        await self._send({"type": "http.response.body", "body": b""})

    async def end_with(self, message: bytes | memoryview) -> None:
        """End a stream of events with a message of ours; anything else just breaks off."""
        if not self._events:
            raise ConnectionResetError("the copy of the server that was answering has gone")
        if message:
            await self.add(b"\n\nevent: message\ndata: " + bytes(message) + b"\n\n")
        await self.end()


def parsed(body: bytes) -> dict[str, Any]:
    """A request's message; empty if it is none, or several."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def session_of(message: dict[str, Any]) -> str | None:
    """The id of the session that a message is for, if it is for one."""
    params = message.get("params")
    if not isinstance(params, dict):
        return None
    found: Any = None
    if message.get("method") == "tools/call":
        found = session_of_call(params.get("name"), params.get("arguments"))
        for name in params.get("inputResponses") or ():
            if name.startswith(KEY):
                found = name.removeprefix(KEY)
    elif message.get("method") == "resources/read":
        found = session_of_uri(params.get("uri"))
    elif message.get("method") == "completion/complete":
        context = params.get("context")
        given = context.get("arguments") if isinstance(context, dict) else None
        found = given.get("session_id") if isinstance(given, dict) else None
    return found if isinstance(found, str) else None


def session_of_call(name: object, arguments: object) -> str | None:
    """The same of a tool's call."""
    if not isinstance(arguments, dict):
        return None
    # It takes a session's id where others take the name of a file.
    found = arguments.get("notebook" if name == "resume_session" else "session_id")
    return found if isinstance(found, str) else None


def session_of_uri(uri: object) -> str | None:
    """The same of a resource."""
    found = NAMED.match(uri) if isinstance(uri, str) else None
    return found[1] if found else None


def is_safe(message: dict[str, Any]) -> bool:
    """Whether a request may be made twice."""
    if message.get("method") != "tools/call":
        return True
    return bool(message["params"].get("name") == "read_output")


def failed(message: dict[str, Any], text: str) -> Response:
    """An answer that is an error, as MCP has it; with 200, since clients read no other's body."""
    number = message.get("id")
    error = JSONRPCError(
        jsonrpc="2.0",
        id=number if isinstance(number, str | int) else None,
        error=ErrorData(code=INTERNAL_ERROR, message=text),
    )
    return Response(error.model_dump_json(by_alias=True), media_type="application/json")


def passed_on(headers: Headers, copy: Copy) -> list[tuple[str, str]]:
    """The headers for another copy.

    Raises:
        KernelError: it has been passed on too often.
    """
    hops = headers.get(MEANT, "").partition(" ")[2]
    number = int(hops) + 1 if hops.isdecimal() else 1
    if number > HOPS:
        raise KernelError("The session moves between copies of the server. Call again in a second.")
    kept = [(name, value) for name, value in headers.items() if name not in {*OF_A_HOP, MEANT}]
    return [*kept, (MEANT, f"{copy.name} {number}")]


def with_header(scope: Scope, name: str, value: str | None) -> Scope:
    """A request with a header changed, or left out."""
    raw = [(n, v) for n, v in scope["headers"] if n != name.encode()]
    if value is not None:
        raw.append((name.encode(), value.encode()))
    return {**scope, "headers": raw}


async def left(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
