"""Serving over HTTP: one port, two transports, and all that stands in front of them.

From outside to inside: host names and origins, CORS, tokens, each caller's share, MCP.
Knows nothing of tools or kernels.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastmcp.server.auth import AuthProvider
from fastmcp.server.auth.middleware import RequireAuthMiddleware
from fastmcp.server.http import HostOriginGuardMiddleware
from mcp.server.auth.routes import build_resource_metadata_url
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .app import App
from .auth import Access, Tokens, access
from .connections import AT_A_TIME, MOST, QUEUE, Connection, Server
from .guard import BODY_LIMIT, Guard
from .review.answers import is_page
from .settings import BadSettings, Settings
from .ways import public_url, ways

log = logging.getLogger(__name__)

# Served without a token when AUTH has more ways than that, and how often a minute. Each has an
# allowance of its own for all callers together: a flood of one leaves the others open.
OAUTH_PATHS = (
    ("/.well-known/oauth-authorization-server", 600),
    ("/.well-known/oauth-protected-resource/mcp", 600),
    ("/.well-known/oauth-protected-resource/sse", 600),
    ("/register", 30),
    ("/authorize", 120),
    ("/token", 600),
    ("/revoke", 600),
)
PUBLIC_PATHS = {
    "token": (),
    "token+oauth": (*OAUTH_PATHS, ("/sign-in", 120)),
    # With other providers: FastMCP's page, and where the provider leads back to.
    "token+github": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
    "token+google": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
    "token+oidc": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
}
FORM_LIMIT = 65_536  # bytes of a body from nobody we know
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # and how such a server is called from here
EXPECTED = 4  # principals for whom kernels are warm before they ask
LOOPBACK = ("localhost", "127.0.0.1", "::1")


async def http(settings: Settings, insecure: bool = False) -> int:
    """Serve both HTTP transports on one port until a signal; `insecure` asks for no token.

    Raises:
        BadSettings: the port or a token can't be used, or too many could without a token.
    """
    if insecure:
        check_insecure(settings)
    listening = bind(settings)  # first: a token is made only where it can be shown
    callers = Access(None) if insecure else access(settings)
    provider = None if callers.tokens is None else ways(settings, callers.tokens)
    server = App(settings, provider, exposed=True, principals=callers.principals[:EXPECTED])
    config = uvicorn.Config(
        application(server, settings, provider, callers.tokens),
        http=Connection,
        backlog=AT_A_TIME,
        limit_concurrency=MOST,
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=2,
        # Longer than clients keep an idle connection: one that the server closes just when a
        # client sends loses the message, and legacy SSE clients then wait for ever.
        timeout_keep_alive=75,
        ws="none",
    )
    runner = Server(config)
    here = EVERYWHERE.get(settings.host, settings.host)
    address = f"http://{f'[{here}]' if ':' in here else here}:{listening.getsockname()[1]}"
    if callers.local is not None and callers.local.new:
        print(callers.local.told(address), file=sys.stderr, flush=True)  # no log has it
    elif callers.local is not None:
        log.info(callers.local.told(address))
    if provider is not callers.tokens:
        log.info("Clients that speak only OAuth sign in by %s/mcp", public_url(settings))
    log.info("Sessions to look at in a browser: %s/", address)
    log.info("MCP at %s/mcp (streamable HTTP) and %s/sse (legacy SSE)", address, address)
    await runner.serve(sockets=[listening])
    return 0


def application(
    server: App, settings: Settings, auth: AuthProvider | None, tokens: Tokens | None
) -> ASGIApp:
    """Everything that answers on the port, to callers whom `auth` knows; None is to all.

    The pages for people are outside of its locks: they have a sign-in of their own, by `tokens`.
    """
    mcp = both_transports(server)
    app: ASGIApp = Guard(mcp, settings.rate_limit)
    known = auth is not None and (settings.auth != "token" or settings.public_url)
    own = (public_url(settings),) if known else ()
    if auth is not None:
        doors = {path: Guard(mcp, often, FORM_LIMIT) for path, often in PUBLIC_PATHS[settings.auth]}
        app = Locked(doors, challenging(app, auth, *(own if settings.auth != "token" else ())))
        for layer in reversed(auth.get_middleware()):
            app = layer.cls(app, *layer.args, **layer.kwargs)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("Mcp-Session-Id", "Retry-After", "WWW-Authenticate"),
        )
    # Web pages reach a server that listens on all addresses as 0.0.0.0: no name for us.
    here = () if settings.host in EVERYWHERE else (settings.host,)
    return HostOriginGuardMiddleware(
        ByPath(review_pages(server, settings, tokens), app),
        allowed_hosts=(*LOOPBACK, *here, *map(host_of, own), *settings.allowed_hosts),
        allowed_origins=(*own, *settings.cors_origins),  # the sign-in page's form is our own
        mode="strict",
    )


def host_of(url: str) -> str:
    """The host of a URL, with its port."""
    return urlsplit(url).netloc


def challenging(app: ASGIApp, auth: AuthProvider, url: str | None = None) -> ASGIApp:
    """`app` behind a lock that, with a public URL, says for each transport where to sign in."""
    streamable, legacy = (
        RequireAuthMiddleware(
            app,
            auth.required_scopes,
            build_resource_metadata_url(AnyHttpUrl(url + path)) if url else None,
        )
        for path in ("/mcp", "/sse")
    )

    async def locked(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = legacy if is_legacy(scope.get("path", "")) else streamable  # a lifespan has none
        await chosen(scope, receive, send)

    return locked


def is_legacy(path: str) -> bool:
    """Whether a path is one of legacy SSE's."""
    return path.startswith("/messages") or path in (
        "/sse",
        "/.well-known/oauth-protected-resource/sse",
    )


def review_pages(server: App, settings: Settings, tokens: Tokens | None) -> ASGIApp:
    """The pages that show sessions, to who has a token; without tokens to all."""
    from .review.access import ByToken, NoSignIn
    from .review.gate import Gate
    from .review.index import Index

    access = NoSignIn() if tokens is None else ByToken(tokens)
    return Gate(Index(settings.notebooks), access, server.sessions)


class ByPath:
    """ASGI middleware that has pages answer on their own paths, and all else on every other."""

    def __init__(self, pages: ASGIApp, others: ASGIApp) -> None:
        self._pages, self._others = pages, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        own = scope["type"] == "http" and is_page(scope["path"])
        await (self._pages if own else self._others)(scope, receive, send)


class Locked:
    """ASGI middleware that opens a few paths to all, and everything else to callers known.

    FastMCP asks for a token on its own paths only; whatever else will be served here has to
    be asked for with one too, and a path that does not exist tells nothing.

    Args:
        doors: what answers to all, by whole paths.
        locked: what answers on every other path.
    """

    def __init__(self, doors: Mapping[str, ASGIApp], locked: ASGIApp) -> None:
        self._doors, self._locked = doors, locked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, past the lock or through it."""
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        await (door or self._locked)(scope, receive, send)


def both_transports(server: App) -> ASGIApp:
    """Streamable HTTP and legacy SSE as one application, by path."""
    legacy = server.mcp.http_app(transport="sse", path="/sse")
    # Second: some of FastMCP's providers mint tokens for the path that was named last.
    streamable = server.mcp.http_app(path="/mcp")
    take_whole_files(legacy)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await streamable(scope, receive, opened(streamable, send))
        chosen = legacy if is_legacy(scope["path"]) else streamable
        await chosen(scope, receive, send)

    return dispatch


def opened(streamable: Starlette, send: Send) -> Send:
    """A lifespan's `send` that catches the moment when streamable HTTP has been set up."""

    async def sent(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            take_whole_files(streamable)
        await send(message)

    return sent


def take_whole_files(app: Starlette) -> None:
    """Let MCP's own limit on bodies be `BODY_LIMIT`: FastMCP has no parameter for its 4 MiB."""
    for route in app.routes:
        endpoint: Any = getattr(route, "endpoint", None) or getattr(route, "app", None)
        inner = getattr(endpoint, "app", endpoint)  # behind the lock that FastMCP puts on
        if (sessions := getattr(inner, "session_manager", None)) is not None:
            sessions.asgi_app.max_body_size = BODY_LIMIT
        if messages := getattr(getattr(inner, "__self__", None), "_post_message_app", None):
            messages.max_body_size = BODY_LIMIT


def check_insecure(settings: Settings) -> None:
    """Without tokens, only this machine may reach the server.

    Raises:
        BadSettings: others could.
    """
    if not is_loopback(settings.host):
        raise BadSettings(
            f"--insecure-no-auth: HOST is {settings.host}, which other machines can reach, and"
            " this server runs any code it is given. Leave the option out: a token is made then."
        )
    if settings.auth != "token":
        raise BadSettings(
            f"--insecure-no-auth: AUTH is {settings.auth}, which asks who calls, and this option"
            " does not. Leave one of them out."
        )
    if settings.allowed_hosts:
        raise BadSettings(
            "--insecure-no-auth: ALLOWED_HOSTS is set, as for a tunnel, and this server runs any"
            " code it is given. Leave one of them out."
        )
    log.warning(
        "No token is asked for (--insecure-no-auth): every program and every user of this"
        " machine may run code here as you."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bind(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        BadSettings: the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle's delay: 40 ms a call without.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(QUEUE)  # now: whoever reads our log may connect at once
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"PORT: can't listen on {settings.host}:{settings.port}: {error.strerror}."
            " Stop the program that has the port, or choose another with --port."
        ) from None
    listening.set_inheritable(False)
    return listening
