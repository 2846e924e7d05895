"""The errors of this layer, and those of the libraries below that calls to a server raise.

NoModelError(ValueError)   no model can be used for `chat`; the text says what to do
Failed                     commands/check.py: a step of `check` had another result than expected
NotConnected               commands/connect.py: there is no connection; the text says what to do
ResidentEnded              commands/connect.py: the background server ended before the command did

`RmiMcpClient` raises what FastMCP's client does: `ToolError` if the server refuses a call, whose
text says what to do; `PermissionError` if it knows no token that we sent; and the others in
`FAILURES` if it can't be reached, started or understood. Their texts are for the user: none holds a
token.
"""

from __future__ import annotations

import httpx2
from fastmcp.exceptions import ToolError
from mcp import MCPError

FAILURES = (ToolError, MCPError, httpx2.HTTPError, OSError, RuntimeError, ValueError)


class NoModelError(ValueError):
    """No model can be used; the text says what to do."""
