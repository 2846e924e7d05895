"""What is refused to a caller, in words for the model that reads them."""

from __future__ import annotations

import logging

from fastmcp.exceptions import ToolError


class Refusal(ToolError):
    """What we can't do, with what to do instead: for the model, and no error of the server's."""

    def __init__(self, text: str) -> None:
        super().__init__(text, log_level=logging.DEBUG)
