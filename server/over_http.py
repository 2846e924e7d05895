"""Serving over HTTP: one port, two transports, and all that stands in front of them.

From outside to inside: host names and origins, CORS, tokens, each caller's share, MCP.
Knows nothing of tools or kernels.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
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
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .app import App
from .auth import Access, access, bridge
from .connections import AT_A_TIME, MOST, QUEUE, Connection, Server
from .guard import BODY_LIMIT, Guard
from .settings import BadSettings, Settings
from .tunnel import ready, through, tunnel
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


async def http(settings: Settings, insecure: bool = False, tunnelled: bool = False) -> int:
    """Serve both HTTP transports on one port until a signal.

    Args:
        settings: all that can be set.
        insecure: ask for no token.
        tunnelled: be reached through ngrok, too.

    Raises:
        BadSettings: the port or a token can't be used, too many could call without a token, or
            there is no tunnel.
    """
    if insecure:
        check_insecure(settings, tunnelled)
    listening = bind(settings)  # first: a token is made only where it can be shown
    async with AsyncExitStack() as outside:
        if tunnelled:
            here = urlsplit(address(settings, listening)).netloc
            public = await outside.enter_async_context(tunnel(settings, here))
            settings = through(settings, public)
        callers = Access(None) if insecure else access(settings)
        provider = None if callers.tokens is None else ways(settings, callers.tokens)
        server = App(settings, provider, exposed=True, principals=callers.principals[:EXPECTED])
        config = uvicorn.Config(
            application(server, settings, provider),
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
        runner = Server(config, outside.aclose)
        tell(settings, callers, address(settings, listening), tunnelled)
        await runner.serve(sockets=[listening])
    return 0


def tell(settings: Settings, callers: Access, url: str, tunnelled: bool) -> None:
    """Say where the server is and how clients are let in; a new token to stderr alone."""
    if callers.local is not None and callers.local.new:
        print(callers.local.told(url), file=sys.stderr, flush=True)  # no log has it
    elif callers.local is not None:
        log.info(callers.local.told(url))
    if settings.auth != "token":
        log.info("Clients that speak only OAuth sign in by %s/mcp", public_url(settings))
    if tunnelled:
        public = public_url(settings)
        lines = ready(public, settings.auth != "token", bridge(public, "YOUR_TOKEN"))
        print(lines, file=sys.stderr, flush=True)
    log.info("MCP at %s/mcp (streamable HTTP) and %s/sse (legacy SSE)", url, url)


def address(settings: Settings, listening: socket.socket) -> str:
    """The server's URL on this machine."""
    here = EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{here}]' if ':' in here else here}:{listening.getsockname()[1]}"


def application(server: App, settings: Settings, auth: AuthProvider | None) -> ASGIApp:
    """Everything that answers on the port, to callers whom `auth` knows; None is to all."""
    from .metrics import Metrics  # 0.1 s that stdio does without

    metrics = Metrics(server.sessions)
    server.tools.begun.append(metrics.watch)
    mcp = answering({"/metrics": metrics.app}, both_transports(server))
    app: ASGIApp = Guard(mcp, settings.rate_limit)
    own = () if auth is None or settings.auth == "token" else (public_url(settings),)
    if auth is not None:
        doors = {path: Guard(mcp, often, FORM_LIMIT) for path, often in PUBLIC_PATHS[settings.auth]}
        # FastMCP asks for a token on its own paths only. Whatever else is served here has to be
        # asked for with one too, and a path that does not exist tells nothing.
        app = answering(doors, challenging(app, auth, *own))
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
    guarded = HostOriginGuardMiddleware(
        app,
        allowed_hosts=(*LOOPBACK, *here, *map(host_of, own), *settings.allowed_hosts),
        allowed_origins=(*own, *settings.cors_origins),  # the sign-in page's form is our own
        mode="strict",
    )
    # Probes call a server by its address, and learn nothing that a connection does not tell.
    return answering({"/healthz": PlainTextResponse("ok\n")}, guarded)


def answering(by_path: Mapping[str, ASGIApp], others: ASGIApp) -> ASGIApp:
    """An application that has some whole paths answered apart."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = by_path.get(scope["path"]) if scope["type"] == "http" else None
        await (chosen or others)(scope, receive, send)

    return dispatch


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


def check_insecure(settings: Settings, tunnelled: bool = False) -> None:
    """Without tokens, only this machine may reach the server.

    Raises:
        BadSettings: others could.
    """
    if tunnelled:
        raise BadSettings(
            "--insecure-no-auth: --tunnel makes the server public, and it runs any code it is"
            " given. Leave one of them out."
        )
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
