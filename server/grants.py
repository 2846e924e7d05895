"""The kernels that a person has allowed to be joined, one by one, by `rmi-agent attach --allow`.

Knows the file with them in the state folder, which the client writes; nothing of kernels.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from .errors import BadSettings
from .state_dir import private_text, token_file


def grants_file() -> Path:
    """Where grants are stored; must match the client's `grants_file`."""
    return token_file().with_name("joinable.json")


def granted_files() -> dict[str, str]:
    """The connection files that may be used, each with the mark of its kernel."""
    try:
        path = grants_file()
        found = json.loads(private_text(path, "rmi-agent attach --allow")) if path.exists() else {}
    except (BadSettings, ValueError):
        return {}
    files = found.get("files") if isinstance(found, dict) else None
    return {str(k): str(v) for k, v in files.items()} if isinstance(files, dict) else {}


def kernel_mark(key: str) -> str:
    """What tells a kernel from a later one whose connection file has the same name."""
    return sha256(key.encode()).hexdigest()
