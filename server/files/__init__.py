"""The project's files, by names that come from callers.

No name leads out of its folder, whatever links are made meanwhile.
"""

from . import project_files, safe_open
from .project_files import PathNotAllowedError

__all__ = [
    "PathNotAllowedError",
    "project_files",
    "safe_open",
]
