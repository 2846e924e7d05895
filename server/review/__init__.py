"""Web pages that show live and past sessions: a list, and each session's notebook as it grows.

Reads notebooks and asks open sessions for what is not written yet; runs nothing itself.
"""

from typing import TYPE_CHECKING

from .. import lazy
from .index import Entry, Index, address

if TYPE_CHECKING:
    from .access import LINK_SECONDS, ByFirstLink, ByToken, NoSignIn
    from .middleware import ReviewAuth
    from .responses import is_page

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

# Only servers need the pages, and what these import.
__getattr__ = lazy.imports(
    __name__,
    {
        "access": ("LINK_SECONDS", "ByFirstLink", "ByToken", "NoSignIn"),
        "middleware": ("ReviewAuth",),
        "responses": ("is_page",),
    },
)
