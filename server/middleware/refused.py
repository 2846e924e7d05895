"""How a request is refused: as an HTTP status, for programs, and as an MCP error, for models.

Knows nothing about why.
"""

from __future__ import annotations

from mcp_types import INVALID_REQUEST, ErrorData, JSONRPCError
from starlette.responses import Response


class RequestRefused(Exception):
    """A request that is not served.

    Args:
        status: the HTTP status.
        text: what clients show to their model: the cause and the next step.
        retry_after: seconds until the same request may succeed; None if it never will.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after

    @property
    def response(self) -> Response:
        """The response to the request."""
        error = ErrorData(code=INVALID_REQUEST, message=str(self))
        return Response(
            JSONRPCError(jsonrpc="2.0", id=None, error=error).model_dump_json(by_alias=True),
            self.status,
            {} if self.retry_after is None else {"Retry-After": f"{self.retry_after}"},
            "application/json",
        )
