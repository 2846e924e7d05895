"""Access to the project's files by names that callers supply.

No name leads out of the projects folder, whatever links are created meanwhile.
"""

from . import project_files, safe_open
from .run_folder import run_folder

__all__ = [
    "project_files",
    "run_folder",
    "safe_open",
]
