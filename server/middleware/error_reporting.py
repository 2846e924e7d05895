"""Turns unexpected exceptions into messages that say what failed and what to do next.

FastMCP masks what a tool raises as "Error calling tool 'run_cell'", which helps nobody. The
original exception is that error's cause; its traceback is logged under an incident number.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastmcp.exceptions import FastMCPError, PromptError, ResourceError, ToolError
from fastmcp.server.middleware import MiddlewareContext

from ...kernels import next_step
from ..refusals import Refusal
from .calls import CallMiddleware

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Next = Callable[[MiddlewareContext[Any]], Awaitable[Result]]

OTHERS = (
    "Try again; if it fails again, report it with the lines of incident {incident} in the server's"
    " log."
)


class UnexpectedErrors(CallMiddleware):
    """Says what failed where FastMCP would only say that something did."""

    async def on_call_tool(
        self, context: MiddlewareContext[Any], call_next: Next[Result]
    ) -> Result:
        """Run the tool; raises `ToolError` with an explanation."""
        return await reporting(context.message.name, ToolError, call_next(context))

    async def on_read_resource(
        self, context: MiddlewareContext[Any], call_next: Next[Result]
    ) -> Result:
        """Read the resource; raises `ResourceError` with an explanation."""
        return await reporting("reading the resource", ResourceError, call_next(context))

    async def on_get_prompt(
        self, context: MiddlewareContext[Any], call_next: Next[Result]
    ) -> Result:
        """Render the prompt; raises `PromptError` with an explanation."""
        return await reporting(context.message.name, PromptError, call_next(context))


async def reporting(what: str, kind: type[FastMCPError], work: Awaitable[Result]) -> Result:
    """Await the work; an error that masks an unexpected one is re-raised with an explanation."""
    try:
        return await work
    except kind as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, FastMCPError) or isinstance(error, Refusal):
            raise
        raise kind(message(what, cause), log_level=logging.DEBUG) from cause


def message(what: str, cause: BaseException) -> str:
    """What failed, why, and the next step; the log gets the rest.

    Only the operating system's texts are passed on: another exception's text may hold anything.
    """
    incident = secrets.token_hex(4)
    log.error("%s failed (incident %s): %r", what, incident, cause)
    if isinstance(cause, OSError) and cause.strerror:
        advice = next_step(cause) or OTHERS.format(incident=incident)
        return f"The server failed: {what}: {cause.strerror}. {advice}"
    return f"The server failed: {what}: {type(cause).__name__}. {OTHERS.format(incident=incident)}"
