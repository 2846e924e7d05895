"""Serves over stdin and stdout: through the background server, or with kernels of our own.

All messages go to stderr; stdout carries only the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .. import logs
from ..console import say
from ..errors import AttachError, BadSettings
from ..process_life import resume_gc, stop_signal
from ..settings import Settings
from ..state_dir import record_file
from .stdio_pipes import read_and_write_on_the_loop

if TYPE_CHECKING:  # each run needs only one way to serve, and each is slow to import
    from fastmcp import FastMCP

    from ..resident import ResidentProxy

log = logging.getLogger(__name__)

FAREWELL = 2.0  # seconds between a failed start of the kernels and the end of the server

# Bytes that a run may output at a person's terminal unless it is set; needs thrice the memory.
ATTENDED_OUTPUT = 100_000_000

WAITING = """\
This server waits for an MCP client to speak JSON-RPC on stdin, which is your terminal.
Press Ctrl-C to end it. What you may be looking for:

  rmi-agent run FILE.py              run a file
  rmi-agent repl                     type Python
  rmi-agent install claude-desktop   have an application start this server
  rmi-agent serve --transport http   serve other programs and machines
  rmi-agent --help                   everything else"""


def explain_to_a_person() -> None:
    """Say on stderr what the server waits for if stdin is a terminal, where no client writes."""
    if sys.stdin is not None and sys.stdin.isatty():
        say(WAITING, sys.stderr)


async def on_stdio(settings: Settings, few_runs: bool = False) -> int:
    """Serve over stdin and stdout, through the background server or with our own kernels.

    Args:
        settings: the server's settings.
        few_runs: whether to make no kernel and import no module ahead: a command that runs one
            file would have to wait for what it does not need.

    Raises:
        BadSettings: a background server is required, and none can be attached to.
    """
    if (attached := await resident_proxy(settings)) is not None:
        # Errors are in the answers, and their tracebacks in the background server's log.
        logging.getLogger("fastmcp").setLevel(logging.CRITICAL)
        resume_gc()
        return await stdio(attached.mcp, attached.aclose)
    from ..sandboxing import choose_policy

    with ThreadPoolExecutor(1) as beside:  # other processes try the sandbox, for 0.1 s
        choosing = beside.submit(choose_policy, settings, exposed=False)
        from ..app import App
    from ..cluster import shared_instances

    logs.log_run_context()
    if few_runs:
        settings = for_few_runs(settings)
    instances = await shared_instances(settings)
    server = App(settings, instances=instances, in_background=True, choosing=choosing.result)

    async def end() -> None:
        await server.opening.__aexit__(None, None, None)

    return await stdio(server.mcp, end, server.opening.failed)


def for_few_runs(settings: Settings) -> Settings:
    """Settings with which nothing is made ahead, and a person gets more output than a model."""
    changed = {"kernel_pool": 0, "kernel_preload": ()}
    if "output_limit" not in settings.model_fields_set:
        changed["output_limit"] = ATTENDED_OUTPUT
    return settings.model_copy(update=changed)


async def resident_proxy(settings: Settings) -> ResidentProxy | None:
    """The proxy to the background server; None if this process serves on its own.

    Raises:
        BadSettings: attaching is required but not possible.
    """
    if settings.attach == "never":
        return None
    is_named = settings.rmi_agent_server is not None
    if settings.attach == "auto" and not is_named and not record_file().exists():
        return None  # the usual case, for which nothing need be imported
    from ..resident import find_endpoint, found

    if settings.attach == "auto" and not is_named and found() is None:
        return None
    try:
        endpoint = await find_endpoint(settings, settings.attach)
    except AttachError as error:
        if settings.attach == "always":
            raise BadSettings(f"RMI_AGENT_ATTACH: {error}") from None
        log.warning("Not attached to the background server, serving on its own instead: %s", error)
        return None
    log.info("%s handles all requests; its sessions outlive this process", endpoint.label)
    from ..resident import ResidentProxy

    return ResidentProxy(settings, settings.attach, endpoint)


async def stdio(
    mcp: FastMCP[Any], end: Callable[[], Awaitable[None]], failed: asyncio.Event | None = None
) -> int:
    """Serve over stdin and stdout until EOF or a signal, or until the server has failed."""
    read_and_write_on_the_loop()
    serving = asyncio.create_task(mcp.run_stdio_async(show_banner=False))
    stopped = stop_signal()
    failing = asyncio.create_task((failed or asyncio.Event()).wait())
    events: list[asyncio.Future[Any]] = [serving, stopped, failing]
    await asyncio.wait(events, return_when="FIRST_COMPLETED")
    if failing.done():  # calls that have waited for kernels are answered first
        await asyncio.wait(events[:2], timeout=FAREWELL, return_when="FIRST_COMPLETED")
    failing.cancel()
    if serving.done():
        serving.result()
        return int(failing.done() and not failing.cancelled())
    # Cancelling `serving` may have to wait for a thread that reads stdin, so end the kernels here.
    await end()
    return 128 + stopped.result() if stopped.done() else 1
