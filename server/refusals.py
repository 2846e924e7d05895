"""Refused calls, worded for the model that reads them."""

from __future__ import annotations

import logging

from fastmcp.exceptions import ToolError


class Refusal(ToolError):
    """A call we can't carry out, with what to do instead; not logged as a server error."""

    def __init__(self, text: str) -> None:
        super().__init__(text, log_level=logging.DEBUG)
