"""Finds the resident server that a stdio process may attach to, or says why it may not.

Refuses a server of another version, or with other folders or settings. Knows where servers are,
not what is sent to them once attached.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import httpx2
from pydantic import BaseModel, ValidationError

from ..errors import AttachError, BadSettings, NoResidentServer
from ..settings import Attach, Settings, variable_of
from ..state_dir import PACKAGE, VERSION
from .record import Record, found

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 5.0  # max seconds for an answer from a server on this machine
START_TIMEOUT = 90.0  # max seconds to start a server on demand
FACTS_LIMIT = 100_000  # max bytes of a server's facts
FACTS_PATH = "/resident"
START = "rmi-agent-mcp-server start"
STOP = "rmi-agent-mcp-server stop"
RESTART = f"Run: {STOP}, then {START}"


class Facts(BaseModel):
    """What a server reports about itself to an authenticated caller.

    Attributes:
        version: the package's version when the server started.
        pid: the server's process ID.
        started: start time in seconds since 1970.
        prefix: `sys.prefix` of the Python environment, whose packages kernels have.
        projects: PYTHON_PROJECTS_DIR.
        notebooks: RMI_AGENT_NOTEBOOKS_DIR.
        settings: the other settings that sessions depend on, as JSON.
        busy: number of sessions with a running cell.
        idle: number of other sessions.
    """

    version: str
    pid: int
    started: float
    prefix: str
    projects: str
    notebooks: str
    settings: dict[str, Any]
    busy: int
    idle: int


@dataclass(frozen=True)
class Endpoint:
    """A server's address and our credentials for it.

    Attributes:
        url: its TCP base URL, which names it in messages.
        token: its bearer token, which is sent nowhere else.
        record: the resident server's record; its socket is used instead of TCP.
        start: identifies one start of the server; empty until its facts have been read.
    """

    url: str
    token: str = field(repr=False)
    record: Record | None = None
    start: str = ""

    @property
    def label(self) -> str:
        """The server's name in messages."""
        process = f" (process {self.record.pid})" if self.record else ""
        return f"The resident server at {self.url}{process}"

    @property
    def base_url(self) -> str:
        """The base of request URLs; with a Unix socket, its host is a placeholder."""
        return "http://localhost" if self.record else self.url

    def client(self, timeout: httpx2.Timeout | float = ANSWER_TIMEOUT) -> httpx2.AsyncClient:
        """An HTTP client for this server only, without proxies.

        There is no TLS, so it skips loading certificates, which takes 0.1 s.
        """
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=timeout,
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                uds=self.record.socket if self.record else None,
                verify=False,
                trust_env=False,
                limits=httpx2.Limits(),
            ),
        )

    async def facts(self) -> Facts:
        """What the server reports about itself.

        Raises:
            AttachError: it does not answer, refuses our token, or is not a server of this version.
        """
        cure = RESTART if self.record else "Start it, or correct RMI_AGENT_SERVER and its token"
        if self.record is not None:
            check_owner(Path(self.record.socket))
        body = bytearray()
        try:
            async with (
                self.client() as client,
                client.stream("GET", f"{self.base_url}{FACTS_PATH}") as answer,
            ):
                if answer.status_code == 401:
                    raise AttachError(f"The server at {self.url} refuses our token. {cure}.")
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > FACTS_LIMIT:
                        break
            return Facts.model_validate_json(bytes(body[:FACTS_LIMIT]))
        except ValidationError:
            raise AttachError(
                f"What listens at {self.url} is not a server of version {VERSION}. {cure}."
            ) from None
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise AttachError(f"{self.label} does not answer: {why}. {cure}.") from None


def check_owner(path: Path) -> None:
    """Refuse a socket that another user may have put there.

    Raises:
        AttachError: another user owns the socket or its folder, or may change the folder.
    """
    try:
        folder, entry = path.parent.stat(), path.lstat()
    except OSError as error:
        raise AttachError(
            f"The resident server's socket {path} can't be used: {error.strerror}. {RESTART}."
        ) from None
    if {folder.st_uid, entry.st_uid} != {os.getuid()}:
        raise AttachError(
            f"The resident server's socket {path} belongs to another user. Delete it, then run:"
            f" {STOP}"
        )
    if folder.st_mode & 0o022:
        raise AttachError(
            f"Other users may change {path.parent}, which has the resident server's socket."
            f" {RESTART}."
        )


async def find_endpoint(settings: Settings, attach: Attach) -> Endpoint:
    """Find the server to attach to; with `always`, start one if none runs.

    Raises:
        AttachError: there is no server, or it does not match.
    """
    try:
        if settings.rmi_agent_server is not None:
            endpoint = named_endpoint(settings, settings.rmi_agent_server)
        else:
            record = found()
            if record is None and attach == "always":
                await start(settings)
                record = found()
            if record is None:
                raise NoResidentServer(f"No resident server runs. Start it: {START}.")
            endpoint = resident_endpoint(record)
    except (BadSettings, OSError) as error:
        raise AttachError(str(error)) from None
    facts = await endpoint.facts()
    check(settings, attach, facts)
    return replace(endpoint, start=f"{facts.pid} {facts.started}")


def resident_endpoint(record: Record) -> Endpoint:
    """The endpoint of the resident server with this record.

    Raises:
        AttachError: it has another version, so it is not contacted.
    """
    check_version(record.version, record.pid)
    return Endpoint(record.url, record.key, record)


def named_endpoint(settings: Settings, url: str) -> Endpoint:
    """The endpoint of the server that RMI_AGENT_SERVER names.

    Once it has exited anybody may listen there, so only a token that was set for it is sent.

    Raises:
        AttachError: no token was set.
        BadSettings: other users could have written the resident server's record.
    """
    record = found()
    if record is not None and record.url == url:
        return resident_endpoint(record)
    if settings.rmi_agent_token is None:
        raise AttachError(
            f"RMI_AGENT_SERVER: no token is set for {url}. Set RMI_AGENT_TOKEN to its token."
        )
    return Endpoint(url, settings.rmi_agent_token.get_secret_value())


def check(settings: Settings, attach: Attach, facts: Facts) -> None:
    """Check that a server would do what this process would do by itself.

    With `auto`, all folders have to match; with `always`, only those that are set here.

    Raises:
        AttachError: the server's version, environment, folders or settings differ.
    """
    check_version(facts.version, facts.pid)
    folders = (
        ("python_projects_dir", settings.projects, facts.projects),
        ("notebooks_dir", settings.notebooks, facts.notebooks),
    )
    for name, ours, theirs in folders:
        counts = attach == "auto" or name in settings.model_fields_set
        if counts and os.path.realpath(ours) != os.path.realpath(theirs):
            raise AttachError(format_difference(variable_of(name), str(ours), theirs))
    # A named server may use any environment; a resident one must have this one's packages.
    if settings.rmi_agent_server is None and facts.prefix != sys.prefix:
        raise AttachError(format_difference("the Python environment", sys.prefix, facts.prefix))
    for name, value in settings.shared().items():
        if name in settings.model_fields_set and facts.settings.get(name) != value:
            there = f"{facts.settings.get(name)}"
            raise AttachError(format_difference(variable_of(name), f"{value}", there))


def format_difference(what: str, here: str, there: str) -> str:
    """Say what differs, and what to do about it."""
    return (
        f"The resident server was started differently: {what} is {there} there, and {here} here."
        f" Make them the same, or run {STOP}: the next one starts with what is set then."
    )


def check_version(theirs: str, pid: int) -> None:
    """Check that a server has this process's version.

    Raises:
        AttachError: the versions differ; says which of the two to restart.
    """
    if theirs == VERSION:
        return
    versions = (
        f"The resident server (process {pid}) is version {theirs}, and this process {VERSION}."
    )
    if version(PACKAGE) != VERSION:  # upgraded since this process started
        raise AttachError(
            f"{versions} Restart this application: it was started before the upgrade."
        )
    raise AttachError(
        f"{versions} Restart the resident server: {STOP}, then {START}. Its sessions end with it;"
        " their notebooks stay."
    )


async def start(settings: Settings) -> None:
    """Start a resident server with these settings.

    Runs the user's own command, which exits, so hosts that kill all descendants of a stdio
    process don't find the server among them.

    Raises:
        AttachError: the server does not start; includes its error message.
    """
    log.info("No resident server runs; starting one")
    words = [sys.executable, "-m", "rmi_agent.server.cli", "start"]
    words += ["--projects-dir", str(settings.python_projects_dir)]
    words += ["--notebooks-dir", str(settings.notebooks)]
    words += ["--no-sandbox"] if settings.sandbox == "off" else []
    try:
        with anyio.fail_after(START_TIMEOUT):
            done = await anyio.run_process(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
            )
    except TimeoutError:
        raise AttachError(f"No resident server started within {START_TIMEOUT:.0f} s.") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1].removeprefix(f"{PACKAGE}: ") if lines else f"exit code {done.returncode}"
        raise AttachError(f"The resident server can't be started: {why}")
