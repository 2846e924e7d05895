"""Checks, in order, what a server needs on this machine; tries everything for real.

Creates nothing: what a server would create on this machine, the checks create in a temporary place.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil

from ..auth import DEFAULT_NAME, configured_tokens
from ..errors import AttachError, BadSettings, StdoutPolluted
from ..hosts import hosts, starts_us
from ..middleware import SMALL_FILES, whole_files_are_taken
from ..net import bind
from ..plurals import counted
from ..resident import (
    RESTART,
    START,
    check,
    check_supported,
    found,
    is_held,
    recorded,
    resident_endpoint,
)
from ..sandboxing import choose_policy
from ..settings import Settings, load
from ..state_dir import TOKEN, private_text, token_file
from .hosts import of_host
from .kernels import of_jupyter_servers, of_kernels, of_sandbox
from .result import CheckResult
from .scratch import scratch
from .stdio import conversation
from .url import examine_url

PACKAGES = ("rmi-agent-mcp-server", "fastmcp", "ipykernel", "jupyter-client")
STDIO_TIMEOUT = 120.0  # max seconds for the conversation on stdio; a machine may be busy


async def examine(url: str | None = None) -> AsyncIterator[CheckResult]:
    """Run the checks one after another; with a URL, also check the way to that server."""
    yield CheckResult("Python", True, f"{platform.python_version()} on {platform.platform()}")
    yield CheckResult("packages", True, ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    try:
        settings = load()
    except BadSettings as error:
        yield CheckResult("settings", False, str(error))
        return
    for line in settings.warnings(http=True):
        yield CheckResult("settings", None, line)
    async for result in of_server(settings):
        yield result
    with scratch(settings) as place:
        for host in hosts():
            if host.is_here:
                async for result in of_host(host, place.env):
                    yield result
    if absent := [host.title for host in hosts() if not host.is_here]:
        yield CheckResult("hosts", None, f"not found on this machine: {', '.join(absent)}")
    if url is not None:
        async for result in examine_url(settings, url):
            yield result


async def of_server(settings: Settings) -> AsyncIterator[CheckResult]:
    """Check what a server with these settings needs on this machine."""
    for root in settings.roots:
        yield of_folder("projects", root, "PYTHON_PROJECTS_DIR")
    yield of_folder("notebooks", settings.notebooks, "RMI_AGENT_NOTEBOOKS_DIR")
    if settings.jupyter_server_url:
        async for result in of_jupyter_servers(settings):
            yield result
    with scratch(settings) as place:
        async for result in of_running(place.settings):
            detail, todo = map(place.with_real_paths, (result.detail, result.todo))
            yield replace(result, detail=detail, todo=todo)
    taken = await whole_files_are_taken()
    yield CheckResult("files over HTTP", taken, "of every size" if taken else SMALL_FILES)
    yield of_port(settings)
    yield of_token(settings)
    yield await of_resident(settings)


async def of_running(settings: Settings) -> AsyncIterator[CheckResult]:
    """Check what runs code, in folders that may all be changed."""
    for exposed in (False, True):
        yield of_sandbox(settings, exposed=exposed)
    try:
        policy = choose_policy(settings, exposed=False)
    except BadSettings:
        return  # reported above
    for result in await of_kernels(settings, policy):
        yield result
    yield await of_stdio()


def of_folder(what: str, folder: Path, variable: str) -> CheckResult:
    """Check that a file can be created in a folder, or the folder itself if it is missing."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        is_empty = there != folder or next(folder.iterdir(), None) is None
    except OSError as error:
        why = f"{there} can't be written to: {error.strerror}"
        if there != folder:
            why = f"{folder} can't be created: {why}"
        return CheckResult(what, False, why, f"Set {variable} to a folder that you can write to.")
    state = "" if not is_empty else ": empty" if there == folder else ": new, empty"
    return CheckResult(what, True, f"{folder} ({variable}){state}")


async def of_stdio() -> CheckResult:
    """Check that a stdio server writes only the protocol to stdout, whatever its code prints."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = await conversation(
                ["--attach", "never", "--notebooks-dir", folder], STDIO_TIMEOUT
            )
        except StdoutPolluted as error:
            todo = "Run rmi-agent-mcp-server --log-level debug by hand to see why."
            return CheckResult("stdout on stdio", False, str(error), todo)
    return CheckResult("stdout on stdio", True, f"{counted(count, 'message')}, and nothing else")


def of_port(settings: Settings) -> CheckResult:
    """Check that the HTTP port is free, or say who listens there."""
    at = f"{settings.host}:{settings.port}"
    try:
        bind(settings).close()
        return CheckResult("port", True, f"{at} is free" if settings.port else "any free one")
    except BadSettings as error:
        holder = listener(settings.port)
        if holder is None:
            return CheckResult("port", False, str(error))
    if starts_us(holder[1]):
        return CheckResult("port", True, f"{at}: this server listens (process {holder[0]})")
    why = f"{at} is taken by {holder[1][0]} (process {holder[0]})"
    return CheckResult("port", False, why, "For HTTP, stop it or set RMI_AGENT_PORT to another.")


def listener(port: int) -> tuple[int, list[str]] | None:
    """The process that listens on a port and its command line, or None if we can't see it."""
    try:
        for one in psutil.net_connections("tcp"):
            listens = one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
            if listens and one.pid is not None:
                process = psutil.Process(one.pid)
                return one.pid, process.cmdline() or [process.name()]
    except psutil.Error:  # other users' processes; on macOS, all of them
        return None
    return None


def of_token(settings: Settings) -> CheckResult:
    """Check which tokens HTTP will accept and where they are stored; never shows a token."""
    try:
        if tokens := configured_tokens(settings):
            named = sorted(set(tokens) - {DEFAULT_NAME})
            parts = ["RMI_AGENT_TOKEN"] if DEFAULT_NAME in tokens else []
            parts += [f"RMI_AGENT_TOKENS for {', '.join(named)}"] if named else []
            return CheckResult("token", True, " and ".join(parts))
        path = token_file()
        if not path.exists():
            return CheckResult("token", None, "none yet; the first start over HTTP creates one")
        if not TOKEN.fullmatch(private_text(path, "RMI_AGENT_TOKEN").strip()):
            raise BadSettings(f"there is none in {path}. Delete it; the next start creates one.")
        mode = f"mode {path.stat().st_mode & 0o777:o}"
        return CheckResult("token", True, f"created by an earlier start, in {path} ({mode})")
    except BadSettings as error:
        return CheckResult("token", False, str(error))


async def of_resident(settings: Settings) -> CheckResult:
    """Check for a background server, and whether processes set like this would attach to it."""
    what = "background server"
    try:
        check_supported()
    except BadSettings as error:
        return CheckResult(what, None, str(error))
    try:
        record = found()
        if record is None:
            crashed = not is_held() and recorded() is not None
            none = "none; the last one crashed or was killed" if crashed else "none"
            return CheckResult(what, None, f"{none}; {START} starts one")
        about = f"process {record.pid}, {record.url}, version {record.version}"
        facts = await resident_endpoint(record).facts()
    except AttachError as error:
        return CheckResult(what, False, str(error))
    except BadSettings as error:
        return CheckResult(what, False, str(error), RESTART)
    about += f"; {counted(facts.busy + facts.idle, 'session')}"
    try:
        check(settings, "auto", facts)
    except AttachError as error:
        return CheckResult(what, None, f"{about}. It is not used with these settings: {error}")
    return CheckResult(what, True, about)
