"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

ProjectsDir = Annotated[
    Path | None,
    Parameter(
        help="Folder with your Python files, or several: A,B. By default, PYTHON_PROJECTS_DIR, or"
        " python_projects."
    ),
]
NotebooksDir = Annotated[
    Path | None,
    Parameter(
        help="Folder with the sessions' notebooks. By default, RMI_AGENT_NOTEBOOKS_DIR, or"
        " notebooks beside the Python files."
    ),
]
NoSandbox = Annotated[
    bool,
    Parameter(
        help="Run kernels without a sandbox (RMI_AGENT_SANDBOX=off). By default, with one that"
        " works.",
        negative=(),
    ),
]
