"""Reports `!commands` that failed: of pip as the cell's error, of others in its reply.

Executed in the kernel; see `setup.py`. IPython itself goes on as if a command had succeeded.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

# A command that installs packages, as the last part of a command line that `;` or a pipe divide.
PIP = re.compile(
    r"""(?:^|&&)\s*(?:\w+=\S*\s+|sudo\s+)*(?:'[^']*/|"[^"]*/|[^\s'"]*/)?
    (?:pip[\d.]*|python[\d.]*['"]?\s+-m\s+pip|(?:python[\d.]*['"]?\s+-m\s+)?uv\s+(?:pip|add|sync))
    (?:\s|$)""",
    re.VERBOSE,
)
FETCHES = ("add", "download", "index", "install", "sync", "wheel")  # what needs an index
CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")
SHOWN = 200  # max characters of a command in a message
OFFLINE = "RMI_AGENT_OFFLINE"  # why there is no network, if there is none


def watch_commands(shell: Any) -> None:
    """Note the commands of a cell that fail, and report them at its end."""
    failed: list[tuple[str, int]] = []
    offline = ""
    # Not the shell's method, which looks up the names in `!echo {name}` in its caller's frame.
    zmqshell: Any = sys.modules.get("ipykernel.zmqshell")
    run = zmqshell.system

    def system(command: str) -> Any:
        code = run(command)
        if isinstance(code, int) and code != 0:
            failed.append((command, code))
        return code

    def begin_cell(*_: Any) -> None:
        nonlocal offline  # a forked kernel has variables that its template did not have
        offline = os.environ.pop(OFFLINE, offline)
        failed.clear()

    def end_cell(result: Any) -> None:
        if result is None or not result.success:
            return
        for command, code in failed:
            shown = command.replace(shlex.quote(sys.executable), "python")  # `%pip` writes it out
            shown = CREDENTIALS.sub("****@", shown)
            shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
            found = PIP.search(re.split(r"[;|\n]", command.strip(" ;\n"))[-1])
            if found is None:
                source = "rmi_agent.command"
                payload = {"source": source, "command": shown, "exit_code": code}
                shell.payload_manager.write_payload(payload, single=False)
            elif result.success:
                error = subprocess.CalledProcessError(code, shown)
                result.error_in_exec = error
                lines = [f"{type(error).__name__}: {error}"]
                if offline and set(command.split()).intersection(FETCHES):
                    lines.append(offline)
                shell._showtraceback(type(error), error, lines)

    zmqshell.system = system
    shell.events.register("pre_run_cell", begin_cell)
    shell.events.register("post_run_cell", end_cell)
