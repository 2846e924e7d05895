"""Web pages that show live and past sessions: a list, and each session's notebook as it grows.

Reads notebooks and asks open sessions for what is not written yet; runs nothing itself.
"""

import importlib
from typing import TYPE_CHECKING

from .index import Entry, Index, address

if TYPE_CHECKING:
    from .access import LINK_SECONDS, ByFirstLink, ByToken, NoSignIn
    from .middleware import ReviewAuth
    from .responses import is_page

# The pages, each with the module that has it: only servers need them and what they import.
_HOMES = {
    "LINK_SECONDS": "access",
    "ByFirstLink": "access",
    "ByToken": "access",
    "NoSignIn": "access",
    "ReviewAuth": "middleware",
    "is_page": "responses",
}

__all__ = [
    "LINK_SECONDS",
    "ByFirstLink",
    "ByToken",
    "Entry",
    "Index",
    "NoSignIn",
    "ReviewAuth",
    "address",
    "is_page",
]


def __getattr__(name: str) -> object:
    """Import a part of the pages on first access."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found  # later accesses skip this function
    return found
