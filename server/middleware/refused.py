"""How a request is refused: as an HTTP status, for programs, and as an MCP error, for models.

Knows nothing about why.
"""

from __future__ import annotations

from mcp_types import INVALID_REQUEST, ErrorData, JSONRPCError
from starlette.responses import Response

from ..errors import RequestRefused


def response_of(refused: RequestRefused) -> Response:
    """The response to a request that is not served."""
    error = ErrorData(code=INVALID_REQUEST, message=str(refused))
    return Response(
        JSONRPCError(jsonrpc="2.0", id=None, error=error).model_dump_json(by_alias=True),
        refused.status,
        {} if refused.retry_after is None else {"Retry-After": f"{refused.retry_after}"},
        "application/json",
    )
