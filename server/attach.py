"""Finding the resident server that a process on stdio may be attached to, and why it may not.

Two versions never talk past each other, nor do two sets of folders or settings. Knows where
servers are and how they show who they are; nothing of what is then said to them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import anyio
import httpx2

from .kept import PACKAGE, VERSION, known_token
from .proof import Facts, Stranger, bearer_for, facts_of
from .resident import Record, found
from .settings import Attach, BadSettings, Settings, variable_of

log = logging.getLogger(__name__)

SOON = 5.0  # seconds for an answer of a server on this machine
STARTING = 90.0  # seconds for one to be started on demand
START = "rmi-agent-mcp-server start"
STOP = "rmi-agent-mcp-server stop"


class Unattached(Exception):
    """There is no server to be attached to; the text is one line that says why and what to do."""


class Missing(Unattached):
    """No resident server runs."""


@dataclass(frozen=True)
class Place:
    """A server that has shown that it is the right one.

    Attributes:
        url: its base URL.
        bearer: what lets in.
        start: which start of it this is.
        record: its record, where it was found by that.
    """

    url: str
    bearer: str
    start: str
    record: Record | None

    @property
    def named(self) -> str:
        """How messages name it."""
        process = f" (process {self.record.pid})" if self.record else ""
        return f"The resident server at {self.url}{process}"


async def place(settings: Settings, attach: Attach) -> Place:
    """The server to be attached to; with `always`, one is started where there is none.

    Raises:
        Unattached: there is none, or it is not the right one.
    """
    try:
        if settings.rmi_agent_server is not None:
            return await named(settings, attach, settings.rmi_agent_server)
        record = found()
        if record is None and attach == "always":
            await start(settings)
            record = found()
    except (BadSettings, OSError) as error:
        raise Unattached(str(error)) from None
    if record is None:
        raise Missing(f"No resident server runs. Start it: {START}.")
    check_version(record.version, record.pid)  # before anything is said to another version
    return await introduced(settings, attach, record.url, kept_token(), record)


async def named(settings: Settings, attach: Attach, url: str) -> Place:
    """The server that RMI_AGENT_SERVER names.

    A token that you have set goes where you have said; the one that was made goes nowhere.

    Raises:
        Unattached: it does not answer, or is not the right one.
        BadSettings: others may know the token.
    """
    if settings.rmi_agent_token is not None:
        token = settings.rmi_agent_token.get_secret_value()
        async with local_client() as client:
            facts = await answered(url, facts_of(client, url, token))
        check(settings, attach, facts)
        return Place(url, token, start_of(facts), None)
    token_made = known_token()
    if token_made is None:
        raise Unattached(
            f"RMI_AGENT_SERVER: no token is known for {url}. Set RMI_AGENT_TOKEN to its token."
        )
    return await introduced(settings, attach, url, token_made, None)


async def introduced(
    settings: Settings, attach: Attach, url: str, token: str, record: Record | None
) -> Place:
    """A server, once it has shown that it is this user's and the right one.

    Raises:
        Unattached: it has not, or is not.
    """
    bearer, facts = await exchanged(url, token)
    check(settings, attach, facts)
    return Place(url, bearer, start_of(facts), record)


def start_of(facts: Facts) -> str:
    """Which start of a server its facts are from."""
    return f"{facts.pid} {facts.started}"


async def exchanged(url: str, token: str) -> tuple[str, Facts]:
    """What lets in at a server that has shown that it is this user's, and its facts.

    Raises:
        Unattached: it has not.
    """
    async with local_client() as client:
        bearer = await answered(url, bearer_for(client, url, token))
        return bearer, await answered(url, facts_of(client, url, bearer))


async def introduced_facts(record: Record) -> Facts:
    """What the resident server tells of itself, whatever it was started with.

    Raises:
        Unattached: it does not answer, or is not what it should be.
        BadSettings: others may know the token.
    """
    check_version(record.version, record.pid)
    _, facts = await exchanged(record.url, kept_token())
    return facts


def kept_token() -> str:
    """The token that this user's servers share.

    Raises:
        Unattached: it is gone.
        BadSettings: others may know it.
    """
    token = known_token()
    if token is None:
        raise Unattached(f"The token of your servers is gone. Run: {STOP}, then {START}")
    return token


async def answered(url: str, answer: Any) -> Any:
    """What a server has answered.

    Raises:
        Unattached: nothing, or nothing of use.
    """
    try:
        return await answer
    except Stranger as error:
        raise Unattached(f"What listens at {url} is not the resident server: {error}.") from None
    except httpx2.HTTPError as error:
        why = str(error) or type(error).__name__
        raise Unattached(f"The resident server at {url} does not answer: {why}.") from None


@asynccontextmanager
async def local_client() -> AsyncIterator[httpx2.AsyncClient]:
    """For requests to this machine: through no proxy, and not for long.

    There is no TLS on the way, so no certificates are read, which takes 0.1 s.
    """
    async with httpx2.AsyncClient(timeout=SOON, trust_env=False, verify=False) as client:
        yield client


def check(settings: Settings, attach: Attach, facts: Facts) -> None:
    """Whether a server does what this process would do by itself.

    With `auto` the folders have to be the same; with `always`, those that are set here.

    Raises:
        Unattached: it does something else.
    """
    check_version(facts.version, facts.pid)
    folders = (
        ("python_projects_dir", settings.projects, facts.projects),
        ("notebooks_dir", settings.notebooks, facts.notebooks),
    )
    for field, ours, theirs in folders:
        counts = attach == "auto" or field in settings.model_fields_set
        if counts and os.path.realpath(ours) != os.path.realpath(theirs):
            raise Unattached(differs(variable_of(field), str(ours), theirs))
    # One that is named may be anywhere; one that is found has this environment's packages.
    if settings.rmi_agent_server is None and facts.prefix != sys.prefix:
        raise Unattached(differs("the Python environment", sys.prefix, facts.prefix))
    for name, value in settings.shared().items():
        if name in settings.model_fields_set and facts.settings.get(name) != value:
            raise Unattached(differs(variable_of(name), f"{value}", f"{facts.settings.get(name)}"))


def differs(what: str, here: str, there: str) -> str:
    """What is said of a difference."""
    return (
        f"The resident server was started otherwise: {what} is {there} there, and {here} here."
        f" Make them the same, or run {STOP}; the next one is started as it is set then."
    )


def check_version(theirs: str, pid: int) -> None:
    """Whether a server is of this version.

    Raises:
        Unattached: it is not; says which of the two to restart.
    """
    if theirs == VERSION:
        return
    versions = (
        f"The resident server (process {pid}) is version {theirs}, and this process {VERSION}."
    )
    if version(PACKAGE) != VERSION:  # upgraded since we were started
        raise Unattached(f"{versions} Restart this application: it was started before the upgrade.")
    raise Unattached(
        f"{versions} Restart the resident server: {STOP}, then {START}. Its sessions end with it;"
        " their notebooks stay."
    )


async def start(settings: Settings) -> None:
    """Start a resident server with these settings, by the command that people use.

    Raises:
        Unattached: it does not start; says what it has said.
    """
    log.info("No resident server runs; starting one")
    words = [sys.executable, "-m", "rmi_agent.server.cli", "start"]
    words += ["--projects-dir", str(settings.python_projects_dir)]
    words += ["--notebooks-dir", str(settings.notebooks)]
    words += ["--no-sandbox"] if settings.sandbox == "off" else []
    try:
        with anyio.fail_after(STARTING):
            done = await anyio.run_process(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
            )
    except TimeoutError:
        raise Unattached(f"No resident server has started in {STARTING:.0f} s.") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1].removeprefix(f"{PACKAGE}: ") if said else f"exit code {done.returncode}"
        raise Unattached(f"The resident server can't be started: {why}")
