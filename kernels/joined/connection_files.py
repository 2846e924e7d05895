"""Connection files of kernels that a person has started, and the folder where Jupyter keeps them.

Whoever has such a file has the kernel, so each is read with care. Knows files; nothing of what a
caller may join.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from ..addresses import JupyterServer, PersonsKernel
from ..errors import KernelStartError
from ..regular_file import regular_file

MOST = 10_000  # max bytes of a file; a connection file has 500
FILES = 100  # max files of a folder that are looked at, the newest first
PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
TEXTS = ("key", "signature_scheme", "kernel_name", "curve_publickey", "curve_secretkey")
WHERE = (
    "%connect_info in a cell of the kernel shows the file's name, and `jupyter --runtime-dir` the"
    " folder."
)


def jupyter_folder() -> Path:
    """Where Jupyter's programs keep the connection files of this user's kernels."""
    return Path(jupyter_runtime_dir())


def kernel_of(path: Path) -> PersonsKernel:
    """The kernel of a connection file.

    Raises:
        KernelStartError: it is none of this user's kernels on this machine; says why.
    """
    try:
        found = private_json(path)
        return PersonsKernel(path.name, checked(found))
    except FileNotFoundError:
        raise KernelStartError(f"There is no connection file {path}. {WHERE}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise KernelStartError(f"{path} is not used as a connection file: {why}. {WHERE}") from None


def private_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file that only this user can write.

    Raises:
        OSError: it can't be read, or is no file.
        ValueError: it is somebody else's, too large, or no object in JSON.
    """
    with open(path, "rb", opener=regular_file) as file:
        status = os.fstat(file.fileno())
        if sys.platform != "win32":
            if status.st_uid != os.getuid():
                raise ValueError("it belongs to another user")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError("other users can write to it")
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError("it is too large")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it has no channels")
    return found


def checked(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a connection file says, if it names channels on this machine.

    Raises:
        ValueError: it does not.
    """
    transport, ip = found.get("transport", "tcp"), found.get("ip", "")
    ports = {name: found.get(name) for name in PORTS}
    if not isinstance(ip, str) or not all(
        isinstance(port, int) and 0 < port <= 65535 for port in ports.values()
    ):
        raise ValueError("it has no channels")
    if transport == "tcp" and not is_loopback(ip):
        raise ValueError("its kernel is not on this machine")
    if transport == "ipc" and not os.path.isabs(ip):
        raise ValueError("its sockets have no absolute path")
    if transport not in ("tcp", "ipc"):
        raise ValueError("its channels are neither tcp nor ipc")
    texts = {name: found[name] for name in TEXTS if name in found}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its texts are none")
    if not re.fullmatch(r"hmac-\w+", texts.setdefault("signature_scheme", "hmac-sha256")):
        raise ValueError("its signature scheme is unknown")
    if not texts.get("key"):  # else anybody on this machine could answer in its place
        raise ValueError("it has no key")
    return {"transport": transport, "ip": ip, **ports, **texts}


def is_loopback(ip: str) -> bool:
    """Whether an address is one of this machine alone."""
    try:
        return ip == "localhost" or ip_address(ip).is_loopback
    except ValueError:
        return False


def newest(pattern: str) -> list[Path]:
    """The files in Jupyter's folder that a pattern fits, the newest first."""
    found: list[tuple[float, Path]] = []
    for path in files_in(jupyter_folder(), pattern):
        try:
            found.append((path.lstat().st_mtime, path))
        except OSError:  # removed meanwhile
            continue
    return [path for _, path in sorted(found, reverse=True)][:FILES]


def files_in(folder: Path, pattern: str) -> Iterable[Path]:
    """The files that a pattern fits; none if the folder can't be read."""
    return folder.glob(pattern) if folder.is_dir() else ()


def running_servers() -> list[JupyterServer]:
    """This user's Jupyter Servers on this machine, as `jupyter server list` finds them."""
    servers: dict[str, JupyterServer] = {}
    for path in newest("jpserver-*.json"):
        try:
            found = private_json(path)
        except (OSError, ValueError):
            continue
        url, token = found.get("url"), found.get("token", "")
        if isinstance(url, str) and isinstance(token, str) and re.match(r"https?://", url):
            servers.setdefault(url.rstrip("/"), JupyterServer(url.rstrip("/"), token))
    return list(servers.values())
