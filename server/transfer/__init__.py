"""Files over HTTP: upload and download with the caller's token, and one-time links for a person.

Names are looked up as the file tools do; bytes are streamed. Knows no tools and no sessions.
"""

from typing import TYPE_CHECKING

from .. import lazy
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

# Servers on stdio have no endpoints.
__getattr__ = lazy.imports(__name__, {"endpoint": ("FileEndpoint", "LinkEndpoint")})
