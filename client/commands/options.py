"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from .completing import open_sessions

Server = Annotated[
    str | None,
    Parameter(
        name=["--server", "-S"],
        help="Server to use: an address (127.0.0.1:8000, https://example.com), a script or a"
        " command. By default, the background server, or one started for this command.",
    ),
]
OtherServer = Annotated[
    str | None,
    Parameter(
        name=["--server", "-S"],
        help="Server whose open sessions to take instead: an address, a script or a command.",
    ),
]
Timeout = Annotated[
    float | None,
    Parameter(
        name=["--timeout", "-t"],
        help="Seconds until the run is interrupted. By default, there is no limit.",
    ),
]
Session = Annotated[
    str | None,
    Parameter(
        name=["--session", "-s"],
        help="ID of an open session to run in. By default, opens a new one.",
        completer=open_sessions,
    ),
]
ProjectsDir = Annotated[
    str | None,
    Parameter(
        help="Folder with your Python files, or several: A,B. By default, PYTHON_PROJECTS_DIR, or"
        " python_projects.",
    ),
]
NoSandbox = Annotated[
    bool,
    Parameter(help="Run the code with all that you may do (RMI_AGENT_SANDBOX=off).", negative=()),
]
Quiet = Annotated[
    bool,
    Parameter(
        name=["--quiet", "-q"],
        help="Print only what the code prints: no notebook, no session.",
        negative=(),
    ),
]


def server_module(name: str, *words: str) -> list[str]:
    """The command line that runs a command of the server, which the client must not import."""
    return [sys.executable, "-m", f"rmi_agent.server.commands.{name}", *words]
