"""Finds the background server that a stdio process may attach to, or says why it may not.

Refuses a server of another version, or with other folders or settings. Knows nothing about what
is sent to it once attached.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import anyio

from ..attach_modes import Attach
from ..errors import AttachError, BadSettings, NoResidentServer
from ..setting_place import Place, reading_elsewhere
from ..settings import Settings, load, variable_of
from ..state_dir import PACKAGE, VERSION
from .endpoint import START, STOP, Caller, Endpoint, Facts
from .record import Record, found

log = logging.getLogger(__name__)

START_TIMEOUT = 90.0  # max seconds to start a server on demand


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
                raise NoResidentServer(f"No background server runs. Start it: {START}.")
            endpoint = resident_endpoint(record)
    except (BadSettings, OSError) as error:
        raise AttachError(str(error)) from None
    facts = await endpoint.facts()
    check(settings, attach, facts)
    return replace(endpoint, start=f"{facts.pid} {facts.started}")


def resident_endpoint(record: Record) -> Endpoint:
    """The endpoint of the background server with this record.

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
        BadSettings: other users could have written the background server's record.
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
        ("python_projects_dir", ",".join(map(str, settings.roots)), facts.projects),
        ("notebooks_dir", settings.notebooks, facts.notebooks),
    )
    for name, here, there in folders:
        counts = attach == "auto" or name in settings.model_fields_set
        if counts and os.path.realpath(here) != os.path.realpath(there):
            raise AttachError(format_difference(variable_of(name), str(here), there))
    # A named server may use any environment; a resident one must have this one's packages.
    if settings.rmi_agent_server is None and facts.prefix != sys.prefix:
        raise AttachError(format_difference("the Python environment", sys.prefix, facts.prefix))
    for name, value in settings.shared().items():
        if name in settings.model_fields_set and facts.settings.get(name) != value:
            there = f"{facts.settings.get(name)}"
            raise AttachError(format_difference(variable_of(name), f"{value}", there))


def check_caller(caller: Caller, facts: Facts) -> None:
    """Check that this server would do what a server of the caller's own would do.

    Raises:
        AttachError: it would not, or the caller's settings ask for another one.
        BadSettings: the caller's settings can't be used, or not read from here.
    """
    check_version(caller.version, facts.pid)
    if (caller.prefix, caller.home) != (facts.prefix, str(Path.home())):
        raise AttachError(format_difference("the Python environment", caller.prefix, facts.prefix))
    with reading_elsewhere(Place(Path(caller.folder), caller.environ)):
        settings = load()
        if settings.attach == "never" or settings.rmi_agent_server is not None:
            raise AttachError("The settings ask for no server, or for another one.")
        check(settings, settings.attach, facts)


def format_difference(what: str, here: str, there: str) -> str:
    """Say what differs, and what to do about it."""
    return (
        f"The background server was started differently: {what} is {there} there, and {here} here."
        f" Make them match, or run {STOP}: the next one starts with the settings of that time."
    )


def check_version(other: str, pid: int) -> None:
    """Check that a server has this process's version.

    Raises:
        AttachError: the versions differ; says which of the two to restart.
    """
    if other == VERSION:
        return
    versions = (
        f"The background server (process {pid}) is version {other}, and this process {VERSION}."
    )
    if version(PACKAGE) != VERSION:  # upgraded since this process started
        raise AttachError(
            f"{versions} Restart this application: it was started before the upgrade."
        )
    raise AttachError(
        f"{versions} Restart the background server: {STOP}, then {START}. Its sessions end with it;"
        " their notebooks stay."
    )


async def start(settings: Settings) -> None:
    """Start a background server with these settings.

    Runs the user's own command, which exits, so hosts that kill all descendants of a stdio
    process don't find the server among them.

    Raises:
        AttachError: the server does not start; includes its error message.
    """
    log.info("No background server runs; starting one")
    words = [sys.executable, "-m", "rmi_agent.server.cli", "start"]
    words += ["--projects-dir", settings.projects_dir]
    words += ["--notebooks-dir", str(settings.notebooks)]
    words += ["--no-sandbox"] if settings.sandbox == "off" else []
    try:
        with anyio.fail_after(START_TIMEOUT):
            done = await anyio.run_process(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
            )
    except TimeoutError:
        raise AttachError(f"No background server started within {START_TIMEOUT:.0f} s.") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1].removeprefix(f"{PACKAGE}: ") if lines else f"exit code {done.returncode}"
        raise AttachError(f"The background server can't be started: {why}")
