"""Access to the project's files by names that callers supply.

No name leads out of the projects folder, whatever links are created meanwhile.
"""

from . import project_files, safe_open

__all__ = [
    "project_files",
    "safe_open",
]
