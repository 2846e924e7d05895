"""Limits for one caller (requests, bytes, connections, texts, JSON values), and readable errors.

JSON is checked before it is parsed, arguments are read as clients send them, and an unexpected
exception becomes a message with a next step.
Each part sits in front of the tools and knows nothing about them.
"""

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from .arguments import Arguments
    from .body_limit import SMALL_FILES, take_whole_files, whole_files_are_taken
    from .connections import AT_A_TIME, Connection, Server
    from .error_reporting import UnexpectedErrors
    from .json_messages import flaw, has_more_values
    from .limits import BODY_LIMIT, SSE_LIMIT, Guard, principal_of
    from .text_lengths import Lengths
    from .transport_sessions import BoundedSessions
    from .unauthenticated import Door, Waiting

__all__ = [
    "AT_A_TIME",
    "BODY_LIMIT",
    "SMALL_FILES",
    "SSE_LIMIT",
    "Arguments",
    "BoundedSessions",
    "Connection",
    "Door",
    "Guard",
    "Lengths",
    "Server",
    "UnexpectedErrors",
    "Waiting",
    "flaw",
    "has_more_values",
    "principal_of",
    "take_whole_files",
    "whole_files_are_taken",
]

# A server on stdio starts without what is for HTTP.
__getattr__ = lazy.imports(
    __name__,
    {
        "arguments": ("Arguments",),
        "body_limit": ("SMALL_FILES", "take_whole_files", "whole_files_are_taken"),
        "connections": ("AT_A_TIME", "Connection", "Server"),
        "error_reporting": ("UnexpectedErrors",),
        "json_messages": ("flaw", "has_more_values"),
        "limits": ("BODY_LIMIT", "SSE_LIMIT", "Guard", "principal_of"),
        "text_lengths": ("Lengths",),
        "transport_sessions": ("BoundedSessions",),
        "unauthenticated": ("Door", "Waiting"),
    },
)
