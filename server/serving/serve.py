"""Serves over HTTP until a signal: opens the port, sets up authentication, runs uvicorn.

Knows nothing about tools, kernels, or the application behind the port.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from ...kernels import LOCAL
from ..app import App
from ..auth import Access, Tokens, access, bridge, build_provider, local_token, public_url
from ..cluster import shared_instances
from ..errors import BadSettings
from ..middleware import AT_A_TIME, Connection, Server
from ..net import EVERYWHERE, bind, is_loopback
from ..process_life import resume_gc
from ..resident import Record, born, lease, local_socket, publish, withdraw
from ..review import LINK_SECONDS, ByToken
from ..settings import Settings, shown_variables
from ..state_dir import VERSION, private_folder
from .application import application, page_viewers
from .tunnel import ready, through, tunnel

log = logging.getLogger(__name__)

EXPECTED = 4  # max principals whose kernels are warmed at startup


async def http(settings: Settings, insecure: bool = False, tunnelled: bool = False) -> int:
    """Serve both HTTP transports on one port until a signal.

    Args:
        settings: the server's settings.
        insecure: require no token.
        tunnelled: also open an ngrok tunnel.

    Raises:
        BadSettings: the port or a token can't be used, others could call without a token, or no
            tunnel can be opened.
    """
    if insecure:
        check_insecure(settings, tunnelled)
    listening = bind(settings)  # first: create a token only if we can go on to show it
    async with AsyncExitStack() as outside:
        if tunnelled:
            here = urlsplit(address(settings, listening)).netloc
            public = await outside.enter_async_context(tunnel(settings, here))
            settings = through(settings, public)
        callers = Access(None) if insecure else access(settings)
        provider = None if callers.tokens is None else build_provider(settings, callers.tokens)
        instances = await shared_instances(settings, listening.getsockname()[1])
        shared = callers.tokens if instances is not None else None
        server = App(
            settings,
            provider,
            exposed=True,
            principals=callers.principals[:EXPECTED],
            instances=instances,
            seal=shared.common_key("request state") if shared is not None else None,
            link_key=(
                secrets.token_bytes(32)
                if callers.tokens is None
                else callers.tokens.common_key("download link")
            ),
        )

        async def leaving() -> None:
            await outside.aclose()
            if server.shared is not None:
                runner.close_port()  # from now on new calls go to other instances
                await server.shared.release_all()
            # While connections are open, so that calls are answered with what their runs printed.
            await server.sessions.close_all()

        viewers = None if callers.tokens is None else page_viewers(provider, callers.tokens)
        app = application(server, settings, provider, callers.tokens, viewers)
        runner = Server(configuration(app), leaving)
        tell(settings, callers, address(settings, listening), tunnelled)
        if viewers is not None:
            offer_link(viewers, callers.principals, address(settings, listening))
        resume_gc()
        await runner.serve(sockets=[listening])
    return 0


async def resident(settings: Settings, log_file: str | None) -> int:
    """Run this user's background server, on this machine only, until a signal.

    Stdio processes attach through a Unix socket; browsers and other clients use TCP. Both need a
    token: sandboxed code may reach the socket, but can't read the record that has its key.
    All sessions belong to the local user, and have the sandbox of a stdio server.

    Raises:
        AlreadyRunning: a background server runs already.
        BadSettings: the port can't be used, or the Unix socket can't be created.
    """
    settings = settings.model_copy(
        update={"auth": "token", "public_url": None, "allowed_hosts": (), "cors_origins": ()}
        | {"host": "127.0.0.1", "rate_limit": given_or(settings, "rate_limit", 0)}
        | {"port": given_or(settings, "port", 0)}
    )
    with lease(), local_socket() as local:
        listening, key = bind(settings), secrets.token_urlsafe(32)
        tokens = Tokens({LOCAL: local_token().token.get_secret_value()})
        tokens.add(LOCAL, key)
        server = App(settings, tokens)
        # The starting program's folder may disappear, as an AppImage's does.
        os.chdir(private_folder())
        record = Record(
            pid=os.getpid(),
            born=born(os.getpid()) or 0.0,
            version=VERSION,
            url=address(settings, listening),
            log=log_file,
            socket=local.getsockname(),
            key=key,
            variables=shown_variables(),
        )

        def ready() -> None:
            publish(record)
            log.info("Background server %s at %s, process %d", VERSION, record.url, record.pid)
            log.info("Processes on stdio attach through %s", record.socket)

        async def leaving() -> None:
            withdraw()
            await server.sessions.close_all()

        runner = Server(
            configuration(application(server, settings, tokens, tokens)), leaving, ready
        )
        # uvicorn re-raises the signal; handle it here, since a clean shutdown is not a failure.
        signal.signal(signal.SIGTERM, runner.handle_exit)
        signal.signal(signal.SIGINT, runner.handle_exit)
        resume_gc()
        await runner.serve(sockets=[listening, local])
    log.info("The background server has ended")
    return 0


def given_or(settings: Settings, name: str, other: Any) -> Any:
    """A setting's value if it is set explicitly, otherwise `other`."""
    return getattr(settings, name) if name in settings.model_fields_set else other


def configuration(app: ASGIApp) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        app,
        http=Connection,
        backlog=AT_A_TIME,
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=2,
        # Longer than clients keep idle connections: if the server closes one just as the client
        # sends, the message is lost, and legacy SSE clients then wait forever.
        timeout_keep_alive=75,
        ws="none",
    )


def tell(settings: Settings, callers: Access, url: str, tunnelled: bool) -> None:
    """Report the server's address and how clients authenticate; a new token only on stderr."""
    if callers.local is not None and callers.local.new:
        print(callers.local.announcement(url), file=sys.stderr, flush=True)  # never in the log
    elif callers.local is not None:
        log.info(callers.local.announcement(url))
    if settings.auth != "token":
        log.info("Clients that support only OAuth sign in at %s/mcp", public_url(settings))
    if tunnelled:
        public = public_url(settings)
        lines = ready(public, settings.auth != "token", bridge(public, "YOUR_TOKEN"))
        print(lines, file=sys.stderr, flush=True)
    log.info("Sessions in a browser: %s/", url)
    log.info("MCP at %s/mcp (streamable HTTP) and %s/sse (legacy SSE)", url, url)


def offer_link(viewers: ByToken, principals: tuple[str, ...], url: str) -> None:
    """Show a link that signs the only user in, once; only to a person, and never in the log."""
    if len(principals) == 1 and sys.stderr.isatty():
        link = f"{url}/review/enter/{viewers.offer(principals[0])}"
        print(
            f"Your sessions in a browser (the link works once, for {LINK_SECONDS / 60:g} minutes):"
            f"\n\n    {link}\n",
            file=sys.stderr,
            flush=True,
        )


def address(settings: Settings, listening: socket.socket) -> str:
    """The server's URL on this machine."""
    here = EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{here}]' if ':' in here else here}:{listening.getsockname()[1]}"


def check_insecure(settings: Settings, tunnelled: bool = False) -> None:
    """Check that without tokens only this machine can reach the server.

    Raises:
        BadSettings: others can reach it.
    """
    if tunnelled:
        raise BadSettings(
            "--insecure-no-auth: --tunnel makes the server public, and it runs any code that it"
            " receives. Remove one of them."
        )
    if not is_loopback(settings.host):
        raise BadSettings(
            f"--insecure-no-auth: RMI_AGENT_HOST is {settings.host}, which other machines can"
            " reach, and this server runs any code that it receives. Remove the option; a token is"
            " then created."
        )
    if settings.auth != "token":
        raise BadSettings(
            f"--insecure-no-auth: RMI_AGENT_AUTH is {settings.auth}, which authenticates callers;"
            " this option does not. Remove one of them."
        )
    if settings.allowed_hosts:
        raise BadSettings(
            "--insecure-no-auth: RMI_AGENT_ALLOWED_HOSTS is set, as for a tunnel, and this server"
            " runs any code that it receives. Remove one of them."
        )
    log.warning(
        "No token is required (--insecure-no-auth): every program and every user on this machine"
        " can run code as you."
    )
