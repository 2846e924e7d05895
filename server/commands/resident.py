"""`rmi-agent start | stop | status`: controls this user's background server.

Prints what happened, and exits with the codes that the LSB defines for services. Knows processes
and the record, not what the server serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import psutil
from cyclopts import Parameter

from .. import logs, quick_imports
from ..console import die, program, say
from ..errors import AlreadyRunning, AttachError, BadSettings
from ..launch import make_folders
from ..plurals import counted
from ..resident import (
    POLL_INTERVAL,
    START,
    Facts,
    Record,
    check,
    check_supported,
    found,
    is_held,
    log_file,
    record_file,
    recorded,
    resident_endpoint,
)
from ..settings import Settings, load
from ..state_dir import PACKAGE, VERSION, private_folder
from .options import NoSandbox, NotebooksDir, ProjectsDir

START_TIMEOUT = 75.0  # max seconds from starting a server to finding it
STOP_TIMEOUT = 30.0  # max seconds to end kernels and close notebooks
KILL_TIMEOUT = 10.0  # max seconds to exit once killed
NOT_RUNNING, UNCLEAR = 3, 4  # exit codes of LSB's `status`


def start(
    *,
    projects_dir: ProjectsDir = None,
    notebooks_dir: NotebooksDir = None,
    port: Annotated[
        int | None,
        Parameter(
            name=["--port", "-p"],
            help="Port to listen on. By default, RMI_AGENT_PORT if it is set, or any free one.",
        ),
    ] = None,
    no_sandbox: NoSandbox = False,
    foreground: Annotated[
        bool, Parameter(help="Stay in the foreground, as service managers expect.", negative=())
    ] = False,
    log_file: Annotated[
        Path | None, Parameter(help="With --foreground: log to this file instead of stderr.")
    ] = None,
    log_level: Annotated[logs.Level, Parameter(help="Least severe messages to log.")] = "info",
) -> None:
    """Start a background server, whose sessions outlive their clients; clients find it.

    It listens on this machine only and serves only you.
    """
    given = {
        "python_projects_dir": projects_dir,
        "notebooks_dir": notebooks_dir,
        "port": port,
        "sandbox": "off" if no_sandbox else None,
    }
    try:
        check_supported()
        settings = load(**{name: value for name, value in given.items() if value is not None})
        make_folders(settings)
        if foreground:
            serve(settings, log_file, log_level)
        else:
            for line in settings.warnings(http=True):
                say(f"{program()}: {line}", sys.stderr)
            say(in_background(settings, log_level))
    except BadSettings as error:
        die(error)


def serve(settings: Settings, log_file: Path | None, log_level: logs.Level) -> None:
    """Run as the background server in the foreground.

    Raises:
        BadSettings: a setting can't be used.
    """
    quick_imports.import_jsonschema()
    from ..process_life import be_unreadable, give_memory_back, main_loop
    from ..serving import resident

    private_folder()
    logs.set_up(log_level, "text", log_file)
    logs.log_run_context()
    for line in settings.warnings(http=True):
        logging.getLogger(__name__).warning(line)
    give_memory_back()
    be_unreadable()
    try:
        main_loop(resident(settings, os.path.abspath(log_file) if log_file else None))
    except AlreadyRunning as error:
        say(f"{program()}: {error}", sys.stderr)
        raise SystemExit(1) from None


def in_background(settings: Settings, log_level: logs.Level) -> str:
    """Start a server that outlives this process and its terminal; returns what to print.

    Raises:
        BadSettings: it does not start, or one with other settings or another version runs.
    """
    if record := found():
        return check_matches(record, settings)
    words = [sys.executable, "-m", "rmi_agent.server.cli", "start", "--foreground"]
    words += ["--projects-dir", settings.projects_dir]
    words += ["--notebooks-dir", str(settings.notebooks)]
    words += ["--log-file", str(log_file()), "--log-level", log_level]
    words += ["--port", str(settings.port)] if "port" in settings.model_fields_set else []
    words += ["--no-sandbox"] if settings.sandbox == "off" else []
    private_folder()
    with log_file().open("ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        ended = process.poll() is not None  # asked first: if another start won, it is found by now
        if record := found():
            ours = record.pid == process.pid
            return describe(record, "is running") if ours else check_matches(record, settings)
        if ended:
            raise BadSettings(last_words(before))
        time.sleep(POLL_INTERVAL)
    process.terminate()
    raise BadSettings(
        f"start: the server did not come up within {START_TIMEOUT:.0f} s. See its log: {log_file()}"
    )


def last_words(before: int) -> str:
    """The last line logged after position `before`, where a failed server says why."""
    with log_file().open("rb") as log:
        log.seek(before)
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix(f"{PACKAGE}: ") if lines else f"start: see {log_file()}"


def check_matches(record: Record, settings: Settings) -> str:
    """Describe a server that runs already, if it does what these settings ask for.

    Raises:
        BadSettings: it has another version or other settings.
    """
    try:
        check(settings, "always", asyncio.run(resident_endpoint(record).facts()))
    except AttachError as error:
        raise BadSettings(f"start: {error}") from None
    return describe(record, "is already running")


def describe(record: Record, how: str) -> str:
    """Describe where a server runs, in one line."""
    return (
        f"The background server {how}: process {record.pid}, {record.url},"
        f" version {record.version}."
    )


def stop() -> None:
    """Shut down the background server: its kernels end and its notebooks are closed.

    A server that takes too long is killed; the next start repairs its notebooks.
    """
    try:
        check_supported()
        record = found()
        sessions = facts_of(record) if record is not None else ""
        process = psutil.Process(record.pid) if record is not None else None
    except BadSettings as error:
        die(error)
    except psutil.NoSuchProcess:  # it has just exited
        process = None
    if record is None or process is None or not record.lives:
        say("No background server is running.")
        return
    process.terminate()
    if not ends_within(record, STOP_TIMEOUT):
        process.kill()
        ends_within(record, KILL_TIMEOUT)
        print(
            f"The background server (process {record.pid}) did not stop within {STOP_TIMEOUT:.0f} s"
            " and was killed. Its kernels end too; the next start repairs its notebooks.",
            file=sys.stderr,
        )
        raise SystemExit(1)
    count = sessions.busy + sessions.idle if isinstance(sessions, Facts) else 0
    more = f" {counted(count, 'session')} ended with it." if count else ""
    say(f"The background server (process {record.pid}) has stopped.{more}")


def ends_within(record: Record, seconds: float) -> bool:
    """Wait for a server to exit; whether it did within `seconds`."""
    until = time.monotonic() + seconds
    while record.lives:
        if time.monotonic() > until:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def facts_of(record: Record) -> Facts | str:
    """What a server reports about itself, or why it does not."""
    try:
        return asyncio.run(resident_endpoint(record).facts())
    except AttachError as error:
        return str(error)


def status() -> None:
    """Show where the background server is and what it is doing."""
    try:
        lines, code = inspect_server()
    except BadSettings as error:
        lines, code = [str(error)], UNCLEAR
    say("\n".join(lines))
    raise SystemExit(code)


def inspect_server() -> tuple[list[str], int]:
    """The status to print, and the exit code.

    Raises:
        BadSettings: this is Windows, or other users could have written the record.
    """
    check_supported()
    record = found()
    if record is None:
        if is_held():
            return ["A background server is starting or stopping."], UNCLEAR
        if old := recorded():
            return [
                f"No background server is running. The last one (process {old.pid}) crashed or was"
                f" killed. Its log: {old.log or 'with its service manager'}"
            ], NOT_RUNNING
        broken = f" {record_file()} can't be read." if record_file().exists() else ""
        return [f"No background server is running.{broken} Start one with: {START}"], NOT_RUNNING
    facts = facts_of(record)
    lines = [
        describe(record, "is running"),
        f"Log: {record.log or 'with its service manager'}",
    ]
    if isinstance(facts, str):
        return [*lines, facts], 0 if record.version != VERSION else UNCLEAR
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.started))
    lines.append(f"Since {since}; sessions: {facts.busy} busy, {facts.idle} idle")
    lines.append(f"Python files: {facts.projects}")
    lines.append(f"Notebooks: {facts.notebooks}")
    return lines, 0
