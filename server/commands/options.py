"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

ProjectsDir = Annotated[
    Path | None,
    Parameter(help="Folder with your Python files, or several: A,B (PYTHON_PROJECTS_DIR)."),
]
NotebooksDir = Annotated[
    Path | None, Parameter(help="Folder with the sessions' notebooks (RMI_AGENT_NOTEBOOKS_DIR).")
]
NoSandbox = Annotated[
    bool, Parameter(help="Run kernels without a sandbox (RMI_AGENT_SANDBOX=off).", negative=())
]
