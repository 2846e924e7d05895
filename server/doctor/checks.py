"""`rmi-agent-mcp-server doctor`: reports what works on this machine and how to fix the rest.

Tries everything for real. Changes nothing, except that it creates the folders a server would.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import Parameter

from ...kernels import Api, KernelError, Policy, Session, Sessions
from .. import launch
from ..auth import DEFAULT_NAME, given
from ..console import speak_plainly
from ..errors import (
    AttachError,
    BadSettings,
    ProbeFailed,
    ProbeSkipped,
    StdoutPolluted,
    UnusableFile,
)
from ..hosts import Entry, Host, address, env_of, hosts, is_ours, kind, starts_us, tools_of
from ..hosts import config_file as hostfile
from ..launch import make_folders
from ..middleware import SMALL_FILES, whole_files_are_taken
from ..net import bind
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
from ..sandboxing import chosen, left_open, told
from ..settings import Settings, load
from ..state_dir import TOKEN, private_text, token_file
from .result import CheckResult
from .stdio import conversation
from .url import examine_url

PACKAGES = ("rmi-agent-mcp-server", "fastmcp", "ipykernel", "jupyter-client")
SOON = 30.0  # max seconds for a cell, or for the stdio conversation
EXPOSED = "Over HTTP none works: install bubblewrap, or start with --no-sandbox."


def doctor(
    *,
    url: Annotated[
        str | None, Parameter(help="Also check each step of the way to the server at this URL.")
    ] = None,
    json: Annotated[bool, Parameter(negative=(), help="Print the results as JSON.")] = False,
) -> None:
    """Check what a server needs on this machine; exits with 1 if a check fails."""
    speak_plainly()
    results = asyncio.run(report(url, show=not json))
    if json:
        print(dumps([asdict(result) for result in results], indent=2))
    raise SystemExit(1 if any(result.ok is False for result in results) else 0)


async def report(url: str | None, *, show: bool) -> list[CheckResult]:
    """Collect all results, printing each as soon as it is known if `show`."""
    results = []
    async for result in examine(url):
        results.append(result)
        if show:
            print(result, flush=True)
    return results


async def examine(url: str | None = None) -> AsyncIterator[CheckResult]:
    """Run the checks one after another; with a URL, also check the way to that server."""
    yield CheckResult("Python", True, f"{platform.python_version()} on {platform.platform()}")
    yield CheckResult("packages", True, ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    try:
        settings = load()
        make_folders(settings)
    except BadSettings as error:
        yield CheckResult("settings", False, str(error))
        return
    for line in settings.warnings(http=True):
        yield CheckResult("settings", None, line)
    async for result in of_server(settings):
        yield result
    for host in hosts():
        async for result in of_host(host):
            yield result
    if url is not None:
        async for result in examine_url(settings, url):
            yield result


async def of_server(settings: Settings) -> AsyncIterator[CheckResult]:
    """Check what a server with these settings needs on this machine."""
    yield writable("projects", settings.projects, "PYTHON_PROJECTS_DIR")
    yield writable("notebooks", settings.notebooks, "RMI_AGENT_NOTEBOOKS_DIR")
    if settings.jupyter_server_url:
        async for result in of_jupyter_servers(settings):
            yield result
    policies: dict[bool, Policy | None] = {}
    for exposed, name in ((False, "sandbox over stdio"), (True, "sandbox over HTTP")):
        try:
            policy = policies[exposed] = chosen(settings, exposed=exposed)
        except BadSettings as error:
            todo = EXPOSED if exposed and not settings.jupyter_server_url else ""
            yield CheckResult(name, False, str(error), todo)
            continue
        held = (
            policy is not None or settings.sandbox == "off" or not launch.kernels_are_here(settings)
        )
        todo = f"Left open: {left_open(policy, settings)}."
        yield CheckResult(name, held, told(policy, settings), todo)
    if False in policies:
        for result in await of_kernels(settings, policies[False]):
            yield result
        yield await pure()
    taken = await whole_files_are_taken()
    yield CheckResult("files over HTTP", taken, "of every size" if taken else SMALL_FILES)
    yield of_port(settings)
    yield of_token(settings)
    yield await of_resident(settings)


def writable(what: str, folder: Path, variable: str) -> CheckResult:
    """Check that a file can be created in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return CheckResult(what, True, f"{folder} ({variable})")
    except OSError as error:
        told = f"{folder} can't be written to: {error.strerror}"
        return CheckResult(what, False, told, f"Set {variable} to a folder of yours.")


async def of_jupyter_servers(settings: Settings) -> AsyncIterator[CheckResult]:
    """Check that each Jupyter Server can be reached, accepts our token and has the kernel."""
    for server in launch.jupyter_servers(settings):
        api = Api(server)
        try:
            await api.kernelspec(settings.kernel_name)
            count = len(await api.kernels())
        except KernelError as error:
            why, _, todo = str(error).partition(". ")
            yield CheckResult("Jupyter Server", False, why, todo)
        else:
            told = f"{server.url} has {settings.kernel_name}; {count} kernels run there"
            yield CheckResult("Jupyter Server", True, told)
        finally:
            await api.close()


async def of_kernels(settings: Settings, policy: Policy | None) -> list[CheckResult]:
    """Start a kernel, run one cell on it and interrupt another."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(launch.sessions(settings, {}), notebooks=Path(folder))
        try:
            async with Sessions(config, launch.launch(settings), warm=0, policy=policy) as sessions:
                return await of_session(await sessions.open())
        except KernelError as error:
            if settings.jupyter_server_url:
                why, _, todo = str(error).partition(". ")
                return [CheckResult("kernel", False, why, todo)]
            todo = (
                f"{sys.executable} -m ipykernel_launcher shows why a python3 kernel does not start."
            )
            return [CheckResult("kernel", False, str(error), todo)]


async def of_session(session: Session) -> list[CheckResult]:
    """Check that a session runs a cell, interrupts another, and uses the fork server."""
    added = await session.submit_cell("6 * 7", SOON).task
    looped = await session.submit_cell("while True: pass", 0.2).task
    results = [
        CheckResult("kernel", added.status == "ok", f"a cell took {added.elapsed * 1000:.0f} ms"),
        CheckResult(
            "interrupt",
            (looped.status, looped.state) == ("timeout", "kept"),
            "a loop was stopped and the variables kept" if looped.state == "kept" else "killed",
        ),
    ]
    if not session.is_here:
        return results
    forked = session.forked
    told = "fresh kernels are forked" if forked else "fresh kernels are started: that takes longer"
    todo = "" if forked else "The log of a server says why (--log-level info)."
    return [*results, CheckResult("fork server", forked, told, todo)]


async def pure() -> CheckResult:
    """Check that a stdio server writes only the protocol to stdout, whatever its code prints."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = await conversation(["--attach", "never", "--notebooks-dir", folder], SOON)
        except StdoutPolluted as error:
            todo = "Started by hand, rmi-agent-mcp-server --log-level debug says more."
            return CheckResult("stdout on stdio", False, str(error), todo)
    return CheckResult("stdout on stdio", True, f"{count} messages, and nothing else")


def of_port(settings: Settings) -> CheckResult:
    """Check that the HTTP port is free, or say who listens there."""
    at = f"{settings.host}:{settings.port}"
    try:
        bind(settings).close()
        return CheckResult("port", True, f"{at} is free" if settings.port else "any that is free")
    except BadSettings as error:
        holder = listener(settings.port)
        if holder is None:
            return CheckResult("port", False, str(error))
    if starts_us(holder[1]):
        return CheckResult("port", True, f"{at}: this server listens (process {holder[0]})")
    told = f"{at} is taken by {holder[1][0]} (process {holder[0]})"
    return CheckResult("port", False, told, "For HTTP, stop that or choose another PORT.")


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
        if tokens := given(settings):
            named = sorted(set(tokens) - {DEFAULT_NAME})
            parts = ["RMI_AGENT_TOKEN"] if DEFAULT_NAME in tokens else []
            parts += [f"RMI_AGENT_TOKENS for {', '.join(named)}"] if named else []
            return CheckResult("token", True, " and ".join(parts))
        path = token_file()
        if not path.exists():
            return CheckResult("token", None, "none yet; the first start over HTTP makes one")
        if not TOKEN.fullmatch(private_text(path, "RMI_AGENT_TOKEN").strip()):
            raise BadSettings(f"there is none in {path}. Delete it; the next start makes one.")
        mode = f"mode {path.stat().st_mode & 0o777:o}"
        return CheckResult("token", True, f"made by an earlier start, in {path} ({mode})")
    except BadSettings as error:
        return CheckResult("token", False, str(error))


async def of_resident(settings: Settings) -> CheckResult:
    """Check for a resident server, and whether processes with these settings would attach to it."""
    what = "resident server"
    try:
        check_supported()
    except BadSettings as error:
        return CheckResult(what, None, str(error))
    try:
        record = found()
        if record is None:
            crashed = not is_held() and recorded() is not None
            told = "none; the last one ended without saying so" if crashed else "none"
            return CheckResult(what, None, f"{told}; {START} starts one")
        told = f"process {record.pid}, {record.url}, version {record.version}"
        facts = await resident_endpoint(record).facts()
    except AttachError as error:
        return CheckResult(what, False, str(error))
    except BadSettings as error:
        return CheckResult(what, False, str(error), RESTART)
    told += f"; {facts.busy + facts.idle} sessions"
    try:
        check(settings, "auto", facts)
    except AttachError as error:
        return CheckResult(what, None, f"{told}. It is not used with what is set here: {error}")
    return CheckResult(what, True, told)


async def of_host(host: Host) -> AsyncIterator[CheckResult]:
    """Check that a host's entries for this server work."""
    try:
        entries = ours_in(host)
    except UnusableFile as error:
        yield CheckResult(
            host.title, False, str(error), f"Fix it: {host.title} can't read it either."
        )
        return
    if not entries:
        why = "no entry" if host.is_here else "not found on this machine"
        more = f"; rmi-agent-mcp-server install {host.name} makes one" if host.is_here else ""
        yield CheckResult(host.title, None, why + more)
    for name, entry in entries.items():
        yield await of_entry(host, name, entry)


def ours_in(host: Host) -> dict[str, Entry]:
    """The entries for this server in a host's config.

    Raises:
        UnusableFile: the config can't be read, or is not what the host expects.
    """
    entries = hostfile.read(host.config, host.comments).part(host.section, dict)
    return {name: entry for name, entry in entries.items() if is_ours(name, entry)}


async def of_entry(host: Host, name: str, entry: Entry) -> CheckResult:
    """Check that an entry works."""
    what = f'{host.title}, "{name}"'
    alone = env_of(entry).get("RMI_AGENT_ATTACH") == "always" and not is_held()
    if alone:  # or the check would leave a resident server behind
        entry = {**entry, "env": {**env_of(entry), "RMI_AGENT_ATTACH": "never"}}
    again = f"rmi-agent-mcp-server install {host.name} --name {name}"
    if kind(entry) == "url" and not host.speaks_http:
        told = f"{host.title} takes commands alone, and this is a URL"
        return CheckResult(what, False, told, f"Run: {again} --url {entry['url']}")
    try:
        tools = await tools_of(entry)
    except ProbeSkipped as error:
        return CheckResult(what, None, f"not tried: {error}")
    except ProbeFailed as error:
        there = address(entry)
        todo = f"See: rmi-agent-mcp-server doctor --url {there}" if there else f"Run: {again}"
        return CheckResult(what, False, str(error), todo)
    more = "; its resident server is started when the host first needs it" if alone else ""
    return CheckResult(what, True, f"starts and lists {len(tools)} tools{more}")
