"""The errors of this layer, and those of the libraries below that calls to a server raise.

NoModelError(ValueError)         no model can be used for `chat`; the text says what to do
NoConversationError(ValueError)  none that `chat` has kept can be continued; the text says why
Failed         commands/check.py: a step of `check` had another result than expected
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


class Refused(Exception):
    """The server refused a call; the text says why and what to do."""


class RequestError(Exception):
    """The server could not handle a request; the text says why."""


class NoModelError(ValueError):
    """No model can be used; the text says what to do."""


NoModelError(ValueError)         no model can be used for `chat`; the text says what to do
NoConversationError(ValueError)  none that `chat` has kept can be continued; the text says why
Failed         commands/check.py: a step of `check` had another result than expected
ResidentEnded  commands/connect.py: the background server ended before the command did
