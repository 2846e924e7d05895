"""Raises MCP's own body limit of 4 MiB, which is less than a file may have.

FastMCP has no parameter for it, so we search its objects for the limit, whatever the attribute
is called, and log a warning if it is not found. Knows objects; nothing about requests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fastmcp import FastMCP
from mcp.server.transport_security import RequestBodyLimitMiddleware
from starlette.applications import Starlette

from .limits import BODY_LIMIT

log = logging.getLogger(__name__)

DEPTH = 4  # max attribute steps from a route to the limit: 3 as of FastMCP 4.2
MODULES = ("fastmcp.server.", "mcp.server.")
SMALL_FILES = (
    "Files larger than 4 MB can't be written over HTTP: this version of FastMCP does not let us"
    " raise mcp's limit. Install FastMCP 4.2, or write large files from code."
)


def take_whole_files(app: Starlette) -> bool:
    """Let a transport accept bodies of `BODY_LIMIT` bytes; returns whether that was possible."""
    limits = [limit for route in app.routes for limit in limits_of(route, DEPTH + 1)]
    for limit in limits:
        limit.max_body_size = BODY_LIMIT
    if not limits:
        log.warning(SMALL_FILES)
    return bool(limits)


async def whole_files_are_taken() -> bool:
    """Whether both transports of the installed FastMCP accept files of any size."""
    mcp: FastMCP[None] = FastMCP("probe")
    legacy, streamable = mcp.http_app(transport="sse"), mcp.http_app()
    async with streamable.router.lifespan_context(streamable):
        return take_whole_files(legacy) and take_whole_files(streamable)


def limits_of(thing: object, depth: int) -> Iterator[RequestBodyLimitMiddleware]:
    """The limits among an object and its attributes, `depth` steps down."""
    thing = getattr(thing, "__self__", thing)  # unwrap a bound method
    if isinstance(thing, RequestBodyLimitMiddleware):
        yield thing
    elif depth and type(thing).__module__.startswith((*MODULES, "starlette.")):
        for inner in vars(thing).values():
            yield from limits_of(inner, depth - 1)
