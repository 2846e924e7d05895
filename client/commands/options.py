"""Options that several commands share."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

Server = Annotated[
    str | None,
    Parameter(
        help="Server to use: a URL (…/mcp or …/sse), a script or a command. By default, starts one."
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
    Parameter(help="Seconds until the run is interrupted. By default, the server's setting."),
]
Session = Annotated[
    str | None, Parameter(help="ID of an open session to run in. By default, opens a new one.")
]


def server_module(name: str, *words: str) -> list[str]:
    """The command line that runs a command of the server, which the client must not import."""
    return [sys.executable, "-m", f"rmi_agent.server.commands.{name}", *words]
