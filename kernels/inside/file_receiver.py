"""What is set up besides in a Python kernel that runs on another machine.

A process group of its own, so that an interrupt reaches what its code has started; a warden
that clears up behind it; and a folder for the project's files, which are sent to it.

Sent to the kernel as text, like `setup.py`; it knows nothing of servers or notebooks.
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
NAMED = 20  # names of new files that are named one by one
BEHIND = "import os, sys; sys.path[:] = filter(None, sys.path); exec(sys.stdin.read())"


def install_files(shell: Any) -> None:
    """Prepare a kernel that can't see the project's files; its copy of them ends with it."""
    folder, owner = tempfile.mkdtemp(prefix="rmi-agent-"), os.getpid()
    shell._rmi_agent_files = Files(shell, folder).answer

    @atexit.register
    def _() -> None:
        if os.getpid() == owner:  # and not one that was forked from it
            shutil.rmtree(folder, ignore_errors=True)


def install_warden(
    shell: Any, variable: str, mark: str, warden: list[str], patience: float
) -> None:
    """Prepare a kernel whose end nobody sees but who is connected to it.

    Args:
        shell: the kernel's `InteractiveShell`, with its files.
        variable: of the environment; all that the kernel starts has the mark in it.
        mark: this kernel's own.
        warden: the texts of the warden's program.
        patience: seconds that the kernel lives on when nobody is connected to it.
    """
    with contextlib.suppress(AttributeError, OSError):  # Windows; it leads a group already
        os.setsid()
    environment = dict(os.environ)
    os.environ[variable] = mark
    if not hasattr(os, "fork"):
        return
    folder = shell._rmi_agent_files.__self__.folder
    app = shell.kernel.parent
    ports = [getattr(app, name + "_port") for name in ("shell", "iopub", "control", "hb")]
    guarded = (os.getpid(), mark, ports, [folder, app.abs_connection_file], patience)
    # The first process ends at once: a kernel's end would signal its children.
    program = f"""if os.fork(): os._exit(0)
names = {{'__name__': 'warden'}}
for text in {warden!r}:
    exec(text, names)
names['guard'](*{guarded!r})
"""
    subprocess.run(
        [sys.executable, "-c", BEHIND, "rmi-agent-warden", str(os.getpid())],
        input=program.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
        check=True,
    )


class Files:
    """The project's files as this kernel has them: in a private folder, or where they are."""

    def __init__(self, shell: Any, folder: str) -> None:
        self.shell = shell
        self.folder = folder
        self.shared: bool | None = None  # not decided yet
        self.sent: dict[str, str] = {}  # digests, by name
        self.reported: dict[str, tuple[int, int]] = {}  # sizes and times, by name

    def answer(self) -> None:
        """Do what the current request's metadata says; the answer is a payload of its reply."""
        request = dict(self.shell.get_parent()["metadata"]["rmi_agent"])
        answer = getattr(self, request.pop("do"))(**request)
        self.shell.payload_manager.write_payload({"source": FILES, **answer})

    def compare(
        self, root: str, files: dict[str, str], way: str, near: str, enter: bool
    ) -> dict[str, Any]:
        """Which of the server's files are not here yet; those that are gone there are removed.

        Args:
            root: their folder there.
            files: their digests, by names with slashes.
            way: `shared` if they are here by the same path, `auto` if that is to be seen.
            near: the folder in the project that the run is about.
            enter: whether to be in it from now on, and import what is there.
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
        """Write pieces of files: name, where the piece begins, and its bytes."""
        for name, start, packed in pieces:
            path = self.path(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if start == 0 and os.path.islink(path):
                os.remove(path)
            with open(path, "r+b" if start else "wb") as file:
                file.seek(start)
                file.write(zlib.decompress(base64.b64decode(packed)))
            if path.endswith(".py"):
                # Its time has seconds alone: two of one length in one second look the same.
                with contextlib.suppress(OSError, NotImplementedError):
                    os.remove(importlib.util.cache_from_source(path))
        return {}

    def written(self) -> dict[str, Any]:
        """What code has put or changed here, beside what was sent, and was not reported yet."""
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
        """Where a file is that was sent."""
        return os.path.join(self.folder, *name.split("/"))


def same(root: str, files: dict[str, str]) -> bool:
    """Whether a folder here has just these files with just these contents, and maybe more."""
    return all(digest(os.path.join(root, *name.split("/"))) == files[name] for name in files)


def digest(path: str) -> str:
    """SHA-256 of a file's bytes; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""
