"""Files over HTTP: upload and download with the caller's token, and one-time links for a person.

Names are looked up as the file tools do; bytes are streamed. Knows no tools and no sessions.
"""

from .endpoint import DOWNLOAD, FILES, FileEndpoint, LinkEndpoint
from .links import LIFETIME, Links

__all__ = [
    "DOWNLOAD",
    "FILES",
    "LIFETIME",
    "FileEndpoint",
    "LinkEndpoint",
    "Links",
]
