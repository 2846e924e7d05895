"""Web pages that show live and past sessions: a list, and each session's notebook as it grows.

Reads notebooks and asks open sessions for what is not written yet; runs nothing itself.
"""

from .access import LINK_SECONDS, ByFirstLink, ByToken, NoSignIn
from .index import Index
from .middleware import ReviewAuth
from .responses import is_page

__all__ = [
    "LINK_SECONDS",
    "ByFirstLink",
    "ByToken",
    "Index",
    "NoSignIn",
    "ReviewAuth",
    "is_page",
]
