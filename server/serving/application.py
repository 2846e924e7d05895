"""The ASGI application behind the port: two transports, pages, and the layers in front of them.

From the outside in: host names and origins, CORS, tokens, per-caller limits, MCP.
Knows nothing about tools, kernels or sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from fastmcp.server.auth import AuthProvider
from fastmcp.server.auth.middleware import RequireAuthMiddleware
from fastmcp.server.http import HostOriginGuardMiddleware
from mcp.server.auth.routes import build_resource_metadata_url
from pydantic import AnyHttpUrl, ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ...kernels import LOCAL
from ..app import App
from ..auth import CombinedProvider, Tokens, public_url
from ..errors import AttachError, BadSettings, PathNotAllowedError
from ..middleware import (
    BODY_LIMIT,
    SSE_LIMIT,
    BoundedSessions,
    Door,
    Guard,
    Waiting,
    flaw,
    take_whole_files,
)
from ..net import EVERYWHERE
from ..resident import FACTS_PATH, Caller, Facts, check_caller
from ..review import ByToken, Index, NoSignIn, ReviewAuth, is_page
from ..settings import Settings
from ..state_dir import VERSION
from ..transfer import DOWNLOAD, FILES, FileEndpoint, LinkEndpoint

# Paths served without a token if RMI_AGENT_AUTH allows sign-ins, and their max requests a minute.
# Each path has its own limit for all callers together: a flood on one leaves the others open.
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
    # With external providers: FastMCP's page, and the provider's callback.
    "token+github": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
    "token+google": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
    "token+oidc": (*OAUTH_PATHS, ("/consent", 120), ("/auth/callback", 120)),
}
LINK_RATE = 600  # max requests a minute for one-time links, of all callers together
FORM_LIMIT = 65_536  # max bytes of a body from an unauthenticated caller
CALLER_LIMIT = 200_000  # max bytes of what a command says of itself
VALUES = {"/register": 200}  # max JSON values from an unauthenticated caller

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def application(
    server: App,
    settings: Settings,
    auth: AuthProvider | None,
    tokens: Tokens | None,
    viewers: ByToken | None = None,
) -> ASGIApp:
    """Build the whole application for callers that `auth` accepts, or for everybody if it is None.

    The review pages are not behind `auth`: they have their own sign-in, of `viewers`, by default
    with `tokens`.
    """
    if isinstance(auth, CombinedProvider):
        auth.signs_in.set_rights(server.rights)
    from .metrics import Metrics  # lazy: takes 0.1 s, which stdio can skip

    metrics = Metrics(server.sessions)
    server.runs.on_run.append(metrics.watch)
    apart: dict[str, ASGIApp] = {"/metrics": metrics.app}
    if auth is not None:  # without authentication, anybody could read them
        apart[FACTS_PATH] = facts_endpoint(server)
    files = FileEndpoint(server.files.of, settings.upload_limit)
    mcp = route_by_path(
        lambda path: files if path.startswith(FILES) else apart.get(path), transports(server)
    )
    app: ASGIApp = Guard(mcp, settings.rate_limit, body_limit, flaw)
    waiting = Waiting()
    known = auth is not None and (settings.auth != "token" or settings.public_url)
    own = (public_url(settings),) if known else ()
    if auth is not None:
        doors = {
            path: Door(mcp, often, waiting, FORM_LIMIT, VALUES.get(path))
            for path, often in PUBLIC_PATHS[settings.auth]
        }
        # FastMCP requires a token only on its own paths. Here every other path requires one too,
        # even a missing one, so strangers can't tell which exist.
        app = route_by_path(
            doors.get, require_token(app, auth, *(own if settings.auth != "token" else ()))
        )
        for layer in reversed(auth.get_middleware()):
            app = layer.cls(app, *layer.args, **layer.kwargs)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE", "PUT"),
            allow_headers=("*",),
            expose_headers=("Mcp-Session-Id", "Retry-After", "WWW-Authenticate", "ETag"),
        )
    # Web pages can reach a server that listens on all addresses as 0.0.0.0: don't allow that name.
    here: tuple[str, ...] = () if settings.host in EVERYWHERE else (settings.host,)
    if viewers is None and tokens is not None:
        viewers = page_viewers(auth, tokens)
    access = NoSignIn() if viewers is None else viewers
    index = Index(settings.notebooks)
    pages = ReviewAuth(index, access, server.sessions, waiting, server.rights, server.page_worker)
    links: ASGIApp | None = None
    if server.links is not None:
        door = LinkEndpoint(server.links, server.files.of)
        links = Door(door, LINK_RATE, waiting, FORM_LIMIT)

    def public(path: str) -> ASGIApp | None:
        if path.startswith(DOWNLOAD):
            return links
        return pages if is_page(path) else None

    guarded = HostOriginGuardMiddleware(
        route_by_path(public, app),
        allowed_hosts=(*LOOPBACK, *here, *map(host_of, own), *settings.allowed_hosts),
        allowed_origins=(*own, *settings.cors_origins),  # the sign-in page's form is our own
        mode="strict",
    )
    # Health probes use the address as host name; the answer reveals only that the port is open.
    return route_by_path({"/healthz": PlainTextResponse("ok\n")}.get, guarded)


def facts_endpoint(server: App) -> ASGIApp:
    """Serves the facts that a stdio process checks before attaching; needs a token.

    A command posts what it would check them against (`Caller`), and is told whether they match:
    200, or 409 and why not.
    """
    started = time.time()

    def facts_now() -> Facts:
        busy, idle = server.sessions.counted()
        return Facts(
            version=VERSION,
            pid=os.getpid(),
            started=started,
            prefix=sys.prefix,
            projects=",".join(map(str, server.settings.roots)),
            notebooks=str(server.settings.notebooks),
            settings=server.settings.shared(),
            busy=busy,
            idle=idle,
            sessions=[session.id for session in server.sessions.all(LOCAL)],
        )

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        facts = facts_now()
        if scope["method"] != "POST":
            await JSONResponse(facts.model_dump())(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        try:
            caller = Caller.model_validate_json(body)
            await asyncio.to_thread(check_caller, caller, facts)
            for path in caller.paths:
                await asyncio.to_thread(server.files.of(LOCAL).must_exist, path)
            answer = PlainTextResponse("ok\n")
        except (ValidationError, AttachError, BadSettings, PathNotAllowedError) as error:
            answer = PlainTextResponse(f"{error}\n", 409)
        await answer(scope, receive, send)

    return tell


def route_by_path(by_path: Callable[[str], ASGIApp | None], others: ASGIApp) -> ASGIApp:
    """An application that routes some paths by `by_path`, and the rest to `others`."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = by_path(scope["path"]) if scope["type"] == "http" else None
        await (chosen or others)(scope, receive, send)

    return dispatch


def host_of(url: str) -> str:
    """The host and port of a URL."""
    return urlsplit(url).netloc


def require_token(app: ASGIApp, auth: AuthProvider, url: str | None = None) -> ASGIApp:
    """Require a token for `app`; with a public URL, a 401 says where to sign in."""
    streamable, legacy = (
        RequireAuthMiddleware(
            app,
            auth.required_scopes,
            build_resource_metadata_url(AnyHttpUrl(url + path)) if url else None,
        )
        for path in ("/mcp", "/sse")
    )

    async def by_transport(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = legacy if is_legacy(scope.get("path", "")) else streamable  # a lifespan has none
        await chosen(scope, receive, send)

    return by_transport


def is_legacy(path: str) -> bool:
    """Whether a path belongs to legacy SSE."""
    return path.startswith("/messages") or path in (
        "/sse",
        "/.well-known/oauth-protected-resource/sse",
    )


def body_limit(path: str) -> int | None:
    """Max bytes of a request's body at a path; 0 for paths that receive no messages.

    None for files, whose bytes are not collected.
    """
    if path.startswith(FILES):
        return None
    if path.startswith("/messages"):
        return SSE_LIMIT
    if path == FACTS_PATH:
        return CALLER_LIMIT
    return BODY_LIMIT if path == "/mcp" else 0


def page_viewers(auth: AuthProvider | None, tokens: Tokens) -> ByToken:
    """How people sign in to the review pages: with a token, or where `auth` sends them."""
    return ByToken(tokens, auth.pages if isinstance(auth, CombinedProvider) else None)


def transports(server: App) -> ASGIApp:
    """Streamable HTTP and legacy SSE as one application, routed by path."""
    legacy = server.mcp.http_app(transport="sse", path="/sse")
    # After SSE: some of FastMCP's providers mint tokens for the path that was named last.
    streamable = server.mcp.http_app(path="/mcp")
    take_whole_files(legacy)
    # Serves older clients' connections that were opened by an instance that no longer exists.
    stateless = server.mcp.http_app(path="/mcp", stateless_http=True) if server.shared else None
    bounded = BoundedSessions(streamable, stateless)

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for app in filter(None, (stateless, streamable)):
                await stack.enter_async_context(app.router.lifespan_context(app))
                take_whole_files(app)
            yield

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await (legacy if is_legacy(scope["path"]) else bounded)(scope, receive, send)

    return Router(default=dispatch, lifespan=lifespan)
