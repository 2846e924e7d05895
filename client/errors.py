"""The errors of this layer, and those of the libraries below that calls to a server raise.

Refused        a server refused a call of a command; the text says what to do
RequestError   a server could not handle a request of a command at all
NoModelError(ValueError)         no model can be used for `chat`; the text says what to do
NoConversationError(ValueError)  none that `chat` has kept can be continued; the text says why
Failed         commands/check.py: a step of `check` had another result than expected
NotConnected   commands/connect.py: there is no connection; the text says what to do
ResidentEnded  commands/connect.py: the background server ended before the command did

`RmiMcpClient` raises what FastMCP's client does: `ToolError` if the server refuses a call, whose
text says what to do; `PermissionError` if it knows no token that we sent; and others if it can't be
reached, started or understood. Commands that speak to a server of their own (`direct.py`) raise
`Refused` and `RequestError` instead, since FastMCP takes long to import. What handles either asks
the functions below. The texts are for the user: none holds a token.
"""

from __future__ import annotations

import sys

Errors = tuple[type[Exception], ...]
NO_TOKEN = (
    "it asks for a token, and accepts none that we have. Set RMI_AGENT_TOKEN to its token, or unset"
    " it if the server on this machine generated one."
)


class Refused(Exception):
    """The server refused a call; the text says why and what to do."""


class RequestError(Exception):
    """The server could not handle a request; the text says why."""


class NoModelError(ValueError):
    """No model can be used; the text says what to do."""


class NoConversationError(ValueError):
    """No conversation that was kept can be continued; the text says why."""


def tool_errors() -> Errors:
    """What calls raise that the server refuses."""
    return (Refused, *imported("fastmcp.exceptions", "ToolError"))


def request_errors() -> Errors:
    """What requests raise that the server can't handle."""
    return (RequestError, *imported("mcp", "MCPError"))


def failures() -> Errors:
    """All that a connection and calls raise."""
    others = (*imported("httpx2", "HTTPError"), OSError, RuntimeError, ValueError)
    return (*tool_errors(), *request_errors(), *others)


def imported(module: str, name: str) -> Errors:
    """An error of a library; none if it was not imported, so that nothing has raised it."""
    return (getattr(sys.modules[module], name),) if module in sys.modules else ()
