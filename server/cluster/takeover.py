"""Makes sure that a call's session is open in this server instance before the call is served.

Knows where an MCP message names its session; `kernels` does the takeover itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext

from ..tools import elicitation_state, failures_as_refusals, principal

if TYPE_CHECKING:
    from ...kernels import Takeover

NAMED = re.compile(r"(?:notebook|variable)://([^/?#]+)")


class TakeoverMiddleware(Middleware):
    """Takes over sessions of dead instances; refuses calls for those that another instance has.

    Args:
        shared: the directory of all instances' sessions.
    """

    def __init__(self, shared: Takeover) -> None:
        self._shared = shared

    async def on_request(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]
    ) -> Any:
        """Serve a request; raises `Refusal` if its session can't be opened here."""
        if session_id := session_of(context):
            with failures_as_refusals():
                await self._shared.open_here(session_id, principal())
        return await call_next(context)


def session_of(context: MiddlewareContext[Any]) -> str | None:
    """The id of the session that a request is for, if any."""
    message, found = context.message, None
    if context.method == "tools/call":
        ctx = context.fastmcp_context
        if ctx is not None and (before := elicitation_state(ctx)) is not None:
            return before.session_id  # the first call may not have named one
        # Its `notebook` argument may be a session's id.
        key = "notebook" if message.name == "resume_session" else "session_id"
        found = (message.arguments or {}).get(key)
    elif context.method == "resources/read":
        named = NAMED.match(str(message.uri))
        found = named[1] if named else None
    elif context.method == "completion/complete":  # still raw JSON, not parsed into a model yet
        given: Any = message
        for key in ("context", "arguments", "session_id"):
            given = given.get(key) if isinstance(given, Mapping) else None
        found = given
    return found if isinstance(found, str) else None
