"""`rmi-agent-mcp-server`: starts the server on stdio or HTTP, and shuts it down cleanly.

All messages go to stderr; on stdio, stdout carries only the protocol.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from .. import logs
from ..console import die
from ..errors import AttachError, BadSettings
from ..launch import make_folders
from ..process_life import be_unreadable, give_memory_back, main_loop, stop_signal
from ..settings import Attach, Settings, load

if TYPE_CHECKING:  # each run needs only one way to serve, and each is slow to import
    from fastmcp import FastMCP

    from ..resident import ResidentProxy

log = logging.getLogger(__name__)


app = cyclopts.App(
    name="rmi-agent-mcp-server",
    help="An MCP server that runs Python on Jupyter kernels and records every session.",
    help_format="plaintext",
)
# By name, since servers don't need what these import.
app.command(
    "rmi_agent.server.commands.tokens:app",
    name="tokens",
    help="Clients that somebody has signed in with (RMI_AGENT_AUTH=token+oauth), and how to"
    " end that.",
)
for name, does in (
    ("start", "Start a resident server in the background, whose sessions outlive their clients."),
    ("stop", "End the resident server in order."),
    ("status", "Where the resident server is; exit code 0 if it runs, 3 if not, 4 if unclear."),
):
    app.command(f"rmi_agent.server.commands.resident:{name}", help=does)
app.command(
    "rmi_agent.server.doctor:doctor",
    help="Check what a server needs on this machine; exits with 1 if a check fails.",
)
app.command(
    "rmi_agent.server.commands.install:install",
    help="Put this server into the config of claude-desktop, claude-code, cursor or vscode.",
)


@app.default
def serve(
    *,
    transport: Annotated[
        Literal["stdio", "http"] | None, Parameter(help="stdio, unless there is a tunnel.")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address to listen on (RMI_AGENT_HOST).")] = None,
    port: Annotated[
        int | None, Parameter(help="Port to listen on, 0 for any (RMI_AGENT_PORT).")
    ] = None,
    projects_dir: Annotated[Path | None, Parameter(help="PYTHON_PROJECTS_DIR.")] = None,
    notebooks_dir: Annotated[Path | None, Parameter(help="RMI_AGENT_NOTEBOOKS_DIR.")] = None,
    no_sandbox: Annotated[
        bool,
        Parameter(
            help="Run kernels with all that this user may do (RMI_AGENT_SANDBOX=off).", negative=()
        ),
    ] = False,
    insecure_no_auth: Annotated[
        bool,
        Parameter(
            help="HTTP without a token: any program of this machine may run code as you.",
            negative=(),
        ),
    ] = False,
    tunnel: Annotated[
        Literal["ngrok"] | None,
        Parameter(
            help="HTTP with a public address as well (NGROK_AUTHTOKEN, RMI_AGENT_NGROK_DOMAIN)."
        ),
    ] = None,
    attach: Annotated[
        Attach | None,
        Parameter(help="On stdio: hand all to the resident server (RMI_AGENT_ATTACH)."),
    ] = None,
    log_level: Annotated[logs.Level, Parameter(help="What goes to stderr.")] = "info",
    log_format: Annotated[logs.Format, Parameter(help="How it is written there.")] = "text",
) -> None:
    """Serve. `http` has streamable HTTP at /mcp and legacy SSE at /sse on one port.

    Over HTTP clients need a bearer token: RMI_AGENT_TOKEN, one of RMI_AGENT_TOKENS, or the
    one that is made at the first start without either.
    """
    logs.set_up(log_level, log_format)
    given = {
        "host": host,
        "port": port,
        "python_projects_dir": projects_dir,
        "notebooks_dir": notebooks_dir,
        "sandbox": "off" if no_sandbox else None,
        "attach": attach,
    }
    give_memory_back()
    be_unreadable()
    with ending_at_once() if tunnel else nullcontext():
        try:
            settings = load(**{name: value for name, value in given.items() if value is not None})
            make_folders(settings)
            for line in settings.warnings(http=transport == "http" or tunnel is not None):
                log.warning(line)
            if tunnel and transport == "stdio":
                raise BadSettings("--tunnel: it leads to HTTP. Leave --transport stdio out.")
            if transport == "http" or tunnel:
                if attach is not None:
                    raise BadSettings("--attach: it is for stdio. Leave it or HTTP out.")
                from ..serving import http

                logs.tell_of_runs()
                main_loop(http(settings, insecure_no_auth, tunnel is not None))
            else:
                main_loop(on_stdio(settings))
        except BadSettings as error:
            die(error)


@app.command
def review(
    *,
    notebooks_dir: Annotated[Path | None, Parameter(help="RMI_AGENT_NOTEBOOKS_DIR.")] = None,
    port: Annotated[int, Parameter(help="Port to listen on, 0 for any.")] = 0,
    no_browser: Annotated[bool, Parameter(help="Only show the link.", negative=())] = False,
) -> None:
    """Look at recorded sessions in a browser, on this machine alone, with no server running."""
    from .review import review as serve_pages

    try:
        given = {} if notebooks_dir is None else {"notebooks_dir": notebooks_dir}
        raise SystemExit(serve_pages(load(**given).notebooks, port, not no_browser))
    except BadSettings as error:
        die(error)


def main() -> None:
    """The entry point of the console script."""
    app()


def ending_at_once() -> AbstractContextManager[None]:
    """The tunnel module's `left_at_once`, imported only by servers with a tunnel."""
    from ..serving import left_at_once

    return left_at_once()


async def on_stdio(settings: Settings) -> int:
    """Serve over stdin and stdout, through the resident server or with our own kernels.

    Raises:
        BadSettings: a resident server is required, and none can be attached to.
    """
    if (attached := await resident_proxy(settings)) is not None:
        # Errors are in the answers, and their tracebacks in the resident server's log.
        logging.getLogger("fastmcp").setLevel(logging.CRITICAL)
        return await stdio(attached.mcp, attached.aclose)
    from ..app import App
    from ..cluster import homes

    logs.tell_of_runs()
    server = App(settings, homes=await homes(settings))

    async def end() -> None:
        await server.sessions.__aexit__(None, None, None)

    gc.freeze()  # imported modules stay: spare the garbage collector from scanning them
    return await stdio(server.mcp, end)


async def resident_proxy(settings: Settings) -> ResidentProxy | None:
    """The proxy to the resident server; None if this process serves by itself.

    Raises:
        BadSettings: attaching is required but not possible.
    """
    if settings.attach == "never":
        return None
    from ..resident import find_endpoint, found

    if settings.attach == "auto" and settings.rmi_agent_server is None and found() is None:
        return None  # the usual case
    try:
        endpoint = await find_endpoint(settings, settings.attach)
    except AttachError as error:
        if settings.attach == "always":
            raise BadSettings(f"RMI_AGENT_ATTACH: {error}") from None
        log.warning("Not attached, this process serves by itself: %s", error)
        return None
    log.info("%s does all; its sessions outlive this process", endpoint.label)
    from ..resident import ResidentProxy

    return ResidentProxy(settings, settings.attach, endpoint)


async def stdio(mcp: FastMCP[Any], end: Callable[[], Awaitable[None]]) -> int:
    """Serve over stdin and stdout until EOF or a signal."""
    serving = asyncio.create_task(mcp.run_stdio_async(show_banner=False))
    stopped = stop_signal()
    events: list[asyncio.Future[Any]] = [serving, stopped]
    await asyncio.wait(events, return_when="FIRST_COMPLETED")
    if serving.done():
        serving.result()
        return 0
    # Cancelling `serving` would wait for the thread that reads stdin, so end the kernels here.
    await end()
    return 128 + stopped.result()
