"""`rmi-agent-mcp-server`: start the server on stdio or HTTP, and end it in order.

Everything said here goes to stderr; on stdio, stdout carries the protocol alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Coroutine
from ipaddress import ip_address
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import uvicorn
from cyclopts import Parameter
from starlette.types import ASGIApp, Receive, Scope, Send

from .app import App
from .doctor import as_data, examine
from .settings import BadSettings, Settings, die, load

log = logging.getLogger(__name__)

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # glibc's numbers in malloc.h

app = cyclopts.App(
    name="rmi-agent-mcp-server",
    help="An MCP server that runs Python on Jupyter kernels and records every session.",
    help_format="plaintext",
)


@app.default
def serve(
    *,
    transport: Literal["stdio", "http"] = "stdio",
    host: Annotated[str | None, Parameter(help="Address to listen on (HOST).")] = None,
    port: Annotated[int | None, Parameter(help="Port to listen on, 0 for any (PORT).")] = None,
    projects_dir: Annotated[Path | None, Parameter(help="PYTHON_PROJECTS_DIR.")] = None,
    notebooks_dir: Annotated[Path | None, Parameter(help="NOTEBOOKS_DIR.")] = None,
    no_sandbox: Annotated[
        bool,
        Parameter(negative=(), help="Run kernels with all that this user may do (SANDBOX=off)."),
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Parameter(help="What goes to stderr.")
    ] = "info",
) -> None:
    """Serve. `http` has streamable HTTP at /mcp and legacy SSE at /sse on one port."""
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    fastmcp_log = logging.getLogger("fastmcp")  # it brings handlers of its own
    fastmcp_log.handlers.clear()
    fastmcp_log.propagate = True
    if log_level != "debug":
        for noisy in ("mcp", "fastmcp", "FastMCP", "asyncio", "uvicorn.access", "uvicorn.error"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    given = {
        "host": host,
        "port": port,
        "python_projects_dir": projects_dir,
        "notebooks_dir": notebooks_dir,
        "sandbox": "off" if no_sandbox else None,
    }
    give_memory_back()
    be_unreadable()
    try:
        settings = load(**{name: value for name, value in given.items() if value is not None})
        settings.make_folders()
        server = App(settings, authenticate=transport == "http")
        main_loop(stdio(server) if transport == "stdio" else http(server, settings))
    except BadSettings as error:
        die(error)


@app.command
def doctor(*, json: Annotated[bool, Parameter(negative=(), help="For programs.")] = False) -> None:
    """Try what a server needs on this machine; exit code 1 if something is amiss."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not json:
            print(finding, flush=True)
    if json:
        print(dumps(as_data(findings), indent=2))
    raise SystemExit(0 if all(finding.ok for finding in findings) else 1)


def give_memory_back() -> None:
    """Let large texts that are done with go back to the system at once.

    glibc raises its threshold for that with each one freed; floods of output then leave the
    heap in fragments, and the process grows to twice its size.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 512 * 1024)
        libc.mallopt(M_ARENA_MAX, 2)


def be_unreadable() -> None:
    """Let no other process of this user read this one's memory and environment (Linux)."""
    if sys.platform == "linux":
        dumpable = 4  # PR_SET_DUMPABLE of prctl(2)
        ctypes.CDLL(None).prctl(dumpable, 0, 0, 0, 0)


def main() -> None:
    """The console script."""
    app()


def main_loop(work: Coroutine[Any, Any, int]) -> None:
    """Run to the end and leave with its code, not waiting for a blocked read of stdin."""
    code = asyncio.run(leaving(work))
    sys.exit(code)


async def leaving(work: Coroutine[Any, Any, int]) -> int:
    """Await `work`; a thread that still reads stdin would keep the interpreter from ending."""
    code = await work
    sys.stderr.flush()
    if code:
        os._exit(code)
    return code


async def stdio(server: App) -> int:
    """Serve over stdin and stdout until EOF or a signal."""
    serving = asyncio.create_task(server.mcp.run_stdio_async(show_banner=False))
    stopped = stop_signal()
    events: list[asyncio.Future[Any]] = [serving, stopped]
    await asyncio.wait(events, return_when="FIRST_COMPLETED")
    if serving.done():
        serving.result()
        return 0
    # Cancelling `serving` would wait for the thread that reads stdin; end the kernels here.
    await server.sessions.__aexit__(None, None, None)
    return 128 + stopped.result()


async def http(server: App, settings: Settings) -> int:
    """Serve both HTTP transports on one port until a signal."""
    check_exposure(settings)
    config = uvicorn.Config(
        both_transports(server, settings),
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=2,
        # Longer than clients keep an idle connection: one that the server closes just when a
        # client sends loses the message, and legacy SSE clients then wait for ever.
        timeout_keep_alive=75,
        ws="none",
    )
    listening = bind(settings)
    runner = uvicorn.Server(config)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    log.info("MCP at %s/mcp (streamable HTTP) and %s/sse (legacy SSE)", address, address)
    await runner.serve(sockets=[listening])
    return 0


def both_transports(server: App, settings: Settings) -> ASGIApp:
    """Streamable HTTP and legacy SSE as one application, by path."""
    guard: dict[str, Any] = {
        "host_origin_protection": True,
        "allowed_hosts": ["localhost", "127.0.0.1", "::1", settings.host, *settings.allowed_hosts],
    }
    streamable = server.mcp.http_app(path="/mcp", **guard)
    legacy = server.mcp.http_app(transport="sse", path="/sse", **guard)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        chosen = legacy if path == "/sse" or path.startswith("/messages") else streamable
        await chosen(scope, receive, send)

    return dispatch


def check_exposure(settings: Settings) -> None:
    """Other machines may reach the server only with a token.

    Raises:
        BadSettings: they could without.
    """
    try:
        local = settings.host == "localhost" or ip_address(settings.host).is_loopback
    except ValueError:
        local = False
    if settings.rmi_agent_token is None and not local:
        raise BadSettings(
            f"HOST: {settings.host} can be reached by other machines, and this server runs any"
            " code it is given. Set RMI_AGENT_TOKEN to a long random text first."
        )
    if settings.rmi_agent_token is None:
        log.warning(
            "No RMI_AGENT_TOKEN is set: every program on this machine, and everybody behind a"
            " tunnel to it, may run code here."
        )


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
        listening.listen(2048)  # now: whoever reads our log may connect at once
    except OSError as error:
        listening.close()
        raise BadSettings(
            f"PORT: can't listen on {settings.host}:{settings.port}: {error.strerror}."
            " Stop the program that has the port, or choose another with --port."
        ) from None
    listening.set_inheritable(False)
    return listening


def stop_signal() -> asyncio.Future[int]:
    """A future that SIGINT or SIGTERM resolves to its number."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if stopped.done():  # asked twice: leave at once
            os._exit(128 + number)
        stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, int(number))
        except NotImplementedError:  # Windows' loop has none
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, n))
    return stopped


if __name__ == "__main__":
    main()
