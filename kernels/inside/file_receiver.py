"""Additional setup for a Python kernel that runs on another machine.

Gives the kernel its own process group, so that interrupts reach its child processes; a reaper that
cleans up after it; and a folder for the project's files, which are sent to it.

Sent to the kernel as text, like `setup.py`; knows nothing about servers or notebooks.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from typing import Any

FILES = "rmi_agent.files"
NAMED = 20  # max new files listed by name
BEHIND = "import os, sys; sys.path[:] = filter(None, sys.path); exec(sys.stdin.read())"


def install_files(shell: Any) -> None:
    """Prepare a kernel that can't see the project's files; its copy is deleted when it exits."""
    folder, owner = tempfile.mkdtemp(prefix="rmi-agent-"), os.getpid()
    shell._rmi_agent_files = Files(shell, folder).answer

    @atexit.register
    def _() -> None:
        if os.getpid() == owner:  # not in a forked child
            shutil.rmtree(folder, ignore_errors=True)


def start_reaper(shell: Any, variable: str, mark: str, programs: list[str], timeout: float) -> None:
    """Start a reaper, for a kernel whose end only connected clients would notice.

    Args:
        shell: the kernel's `InteractiveShell`, after `install_files`.
        variable: environment variable that holds the mark in all the kernel's child processes.
        mark: unique mark of this kernel.
        programs: source texts of the reaper.
        timeout: max seconds that the kernel lives on with nobody connected.
    """
    with contextlib.suppress(AttributeError, OSError):  # Windows, or already a group leader
        os.setsid()
    environment = dict(os.environ)
    os.environ[variable] = mark
    if not hasattr(os, "fork"):
        return
    folder = shell._rmi_agent_files.__self__.folder
    app = shell.kernel.parent
    ports = [getattr(app, name + "_port") for name in ("shell", "iopub", "control", "hb")]
    guarded = (os.getpid(), mark, ports, [folder, app.abs_connection_file], timeout)
    # The first process exits immediately: a kernel signals its children when it exits.
    program = f"""if os.fork(): os._exit(0)
names = {{'__name__': 'reaper'}}
for text in {programs!r}:
    exec(text, names)
names['guard'](*{guarded!r})
"""
    subprocess.run(
        [sys.executable, "-c", BEHIND, "rmi-agent-reaper", str(os.getpid())],
        input=program.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
        check=True,
    )


class Files:
    """The project's files as this kernel sees them: copied to a private folder, or in place."""

    def __init__(self, shell: Any, folder: str) -> None:
        self.shell = shell
        self.folder = folder
        self.shared: bool | None = None  # None: not decided yet
        self.sent: dict[str, str] = {}  # digest by name
        self.reported: dict[str, tuple[int, int]] = {}  # size and mtime by name

    def answer(self) -> None:
        """Do what the current request's metadata says; the answer is a payload of the reply."""
        request = dict(self.shell.get_parent()["metadata"]["rmi_agent"])
        answer = getattr(self, request.pop("do"))(**request)
        self.shell.payload_manager.write_payload({"source": FILES, **answer})

    def compare(
        self, root: str, files: dict[str, str], way: str, near: str, enter: bool
    ) -> dict[str, Any]:
        """Return which of the server's files are missing here; delete those gone on the server.

        Args:
            root: the project's folder on the server.
            files: digests by name, with slashes.
            way: `shared` if the files are here under the same path, `auto` to find out.
            near: the script's folder, relative to the project's.
            enter: whether to change into that folder and import from it from now on.
        """
        if self.shared is None:
            self.shared = way == "shared" or (way == "auto" and bool(files) and same(root, files))
        if not self.shared:
            for name in set(self.sent) - set(files):
                with contextlib.suppress(OSError):
                    os.remove(self.path(name))
            self.sent = dict(files)
        missing = [] if self.shared else [n for n in files if digest(self.path(n)) != files[n]]
        top = root if self.shared else self.folder
        near = os.path.normpath(os.path.join(top, near))
        if not self.shared:
            os.makedirs(near, exist_ok=True)
        if enter:
            os.chdir(near)
            if "" not in sys.path[:1]:
                sys.path.insert(0, "")
        return {"folder": top, "missing": missing, "shared": self.shared}

    def put(self, pieces: list[list[Any]]) -> dict[str, Any]:
        """Write pieces of files; each has a name, an offset and compressed bytes in base64."""
        for name, start, packed in pieces:
            path = self.path(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if start == 0 and os.path.islink(path):
                os.remove(path)
            with open(path, "r+b" if start else "wb") as file:
                file.seek(start)
                file.write(zlib.decompress(base64.b64decode(packed)))
            if path.endswith(".py"):
                # A .pyc has its source's mtime in seconds: same-size edits could go unnoticed.
                with contextlib.suppress(OSError, NotImplementedError):
                    os.remove(importlib.util.cache_from_source(path))
        return {}

    def written(self) -> dict[str, Any]:
        """Return the files that code created or changed here and that were not reported yet."""
        if self.shared:
            return {"count": 0, "names": []}
        found = []
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [each for each in folders if each != "__pycache__"]
            for name in names:
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, self.folder).replace(os.sep, "/")
                with contextlib.suppress(OSError):
                    status = os.stat(path)
                    known = (status.st_size, status.st_mtime_ns)
                    if self.reported.get(inside) != known:
                        self.reported[inside] = known
                        if digest(path) != self.sent.get(inside):
                            found.append(inside)
        return {"count": len(found), "names": sorted(found)[:NAMED]}

    def path(self, name: str) -> str:
        """Return the path here of a file that was sent."""
        return os.path.join(self.folder, *name.split("/"))


def same(root: str, files: dict[str, str]) -> bool:
    """Return whether a folder here has these files with these contents; it may have others."""
    return all(digest(os.path.join(root, *name.split("/"))) == files[name] for name in files)


def digest(path: str) -> str:
    """Return the SHA-256 of a file's bytes; empty if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""
