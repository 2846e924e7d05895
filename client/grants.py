"""The kernels that a person lets the assistant join, one by one: `rmi-agent attach --allow`.

Knows the file with them, which servers on this machine read; nothing of sessions.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import platformdirs

from .whole_file import write_whole

MOST = 10_000  # max characters of a connection file


def grants_file() -> Path:
    """Where grants are stored; must match the server's `grants_file`."""
    return platformdirs.user_state_path("rmi-agent", appauthor=False) / "joinable.json"


def grant(file: str) -> Path:
    """Let assistants join the kernel of a connection file, as long as that kernel runs.

    Returns the file's path. A name is that of a file in Jupyter's folder.

    Raises:
        OSError: the file can't be read, or the grant can't be written.
        ValueError: it is no connection file.
    """
    path = Path(os.path.abspath(Path(file).expanduser()))
    if not path.exists() and not os.path.dirname(file):
        from jupyter_core.paths import jupyter_runtime_dir  # lazy: --help does not need it

        path = Path(jupyter_runtime_dir()) / file
    with open(path, encoding="utf-8") as opened:
        found = json.loads(opened.read(MOST))
    key = found.get("key") if isinstance(found, dict) else None
    if not isinstance(key, str) or not key:
        raise ValueError("it has no key")
    # Another kernel may get a file of the same name later.
    files = {one: mark for one, mark in granted().items() if os.path.exists(one)}
    files[str(path)] = sha256(key.encode()).hexdigest()
    grants_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(grants_file(), json.dumps({"files": files}))
    return path


def granted() -> dict[str, str]:
    """What is granted already."""
    try:
        found = json.loads(grants_file().read_text("utf-8"))
        return {str(k): str(v) for k, v in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
