"""The base of middleware that handles certain requests, and has nothing to do for the others.

FastMCP's own chains a wrapper for each hook of each middleware, four for every call, though most
only pass on what they get. Knows which requests there are; nothing of what is done with them.
"""

from __future__ import annotations

from typing import Any

from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from mcp_types import CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams


class CallMiddleware(Middleware):
    """Middleware with hooks for calls of tools, resources and prompts only."""

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """Handle a request; one that could not be parsed is passed on, and still raw JSON here."""
        message = context.message
        if isinstance(message, CallToolRequestParams):
            return await self.on_call_tool(context, call_next)
        if isinstance(message, ReadResourceRequestParams):
            return await self.on_read_resource(context, call_next)
        if isinstance(message, GetPromptRequestParams):
            return await self.on_get_prompt(context, call_next)
        return await call_next(context)
