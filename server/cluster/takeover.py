"""Before a call is served, its session is made to be open in this copy of the server.

Knows where a message of MCP names its session. How a session comes here is the kernels' matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext

from ...kernels import Takeover
from ..tools import asked_before, failures_as_refusals, principal

NAMED = re.compile(r"(?:notebook|variable)://([^/?#]+)")


class TakeoverMiddleware(Middleware):
    """Takes over the sessions of copies that are gone; refuses those that another copy has.

    Args:
        shared: the directory of all copies' sessions.
    """

    def __init__(self, shared: Takeover) -> None:
        self._shared = shared

    async def on_request(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Serve a request; raises `Refusal` if its session can't be open here."""
        if session_id := session_of(context):
            with failures_as_refusals():
                await self._shared.open_here(session_id, principal())
        return await call_next(context)


def session_of(context: MiddlewareContext[Any]) -> str | None:
    """The id of the session that a request is for, if it is for one."""
    message, found = context.message, None
    if context.method == "tools/call":
        ctx = context.fastmcp_context
        if ctx is not None and (before := asked_before(ctx)) is not None:
            return before.session_id  # its first call may have named none
        # It takes a session's id where others take the name of a file.
        key = "notebook" if message.name == "resume_session" else "session_id"
        found = (message.arguments or {}).get(key)
    elif context.method == "resources/read":
        named = NAMED.match(str(message.uri))
        found = named[1] if named else None
    elif context.method == "completion/complete":  # as it came: no model was made of it yet
        given: Any = message
        for key in ("context", "arguments", "session_id"):
            given = given.get(key) if isinstance(given, Mapping) else None
        found = given
    return found if isinstance(found, str) else None
