"""Settings that options of a command give the server that is started for it."""

from __future__ import annotations

import os
from pathlib import Path


def use_settings(server: str | None, projects_dir: str | None, no_sandbox: bool) -> str | None:
    """Set what the options say for a server that is started here; returns what is wrong."""
    if server is not None and (projects_dir or no_sandbox):
        return "--projects-dir and --no-sandbox are settings of a server: start it with them."
    if projects_dir is not None:
        for folder in projects_dir.split(","):
            if not Path(folder).expanduser().is_dir():
                return f"--projects-dir: there is no folder {folder}."
        os.environ["PYTHON_PROJECTS_DIR"] = projects_dir
    if no_sandbox:
        os.environ["RMI_AGENT_SANDBOX"] = "off"
    return None
