"""Files over HTTP: upload and download with the caller's token, and one-time links for a person.

Names are looked up as the file tools do; bytes are streamed. Knows no tools and no sessions.
"""

from typing import TYPE_CHECKING

from .links import DOWNLOAD, FILES, LIFETIME, Links

if TYPE_CHECKING:
    from .endpoint import FileEndpoint, LinkEndpoint

__all__ = [
    "DOWNLOAD",
    "FILES",
    "LIFETIME",
    "FileEndpoint",
    "LinkEndpoint",
    "Links",
]


def __getattr__(name: str) -> object:
    """Import the endpoints on first access: servers on stdio have none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import endpoint

    found: object = getattr(endpoint, name)
    globals()[name] = found  # later accesses skip this function
    return found
