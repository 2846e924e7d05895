"""Access to the projects' files by names that callers supply.

No name leads out of the projects folders, whatever links are created meanwhile.
"""

from . import project_files, safe_open
from .changes import Changed, Changes, Watching
from .project_files import FileStatus, OpenFile, PythonFile
from .projects import Projects, identities
from .run_folder import run_folder
from .text_pages import TextPage, text_codec, text_page

__all__ = [
    "Changed",
    "Changes",
    "FileStatus",
    "OpenFile",
    "Projects",
    "PythonFile",
    "TextPage",
    "Watching",
    "identities",
    "project_files",
    "run_folder",
    "safe_open",
    "text_codec",
    "text_page",
]
