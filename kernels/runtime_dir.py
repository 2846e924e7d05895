"""The folder for sockets and connection files: private, and tied to one process.

Knows folders only, not what is put there.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import warnings
from pathlib import Path

import platformdirs
import psutil

LONGEST = 60  # max bytes of the base path; a socket's path may have 103, and we append 43


def runtime_folder() -> Path:
    """A private folder for this process's sockets and connection files, with a short path.

    Also removes the folders that dead processes left next to it.
    """
    with warnings.catch_warnings():  # it warns without XDG_RUNTIME_DIR, but chooses well
        warnings.simplefilter("ignore")
        base = Path(platformdirs.user_runtime_dir("rmi-agent"))
    # Windows has no socket files, so the length does not matter there.
    if sys.platform != "win32":
        short = len(os.fsencode(base)) <= LONGEST
        if not short or not made_private(base):
            base = Path(tempfile.gettempdir(), f"rmi-agent-{os.getuid()}")
            if not made_private(base):  # somebody else was there first
                base = Path(tempfile.mkdtemp(prefix="rmi-agent-"))
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear_after_dead(base)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))


def made_private(folder: Path) -> bool:
    """Create a folder that only this user can access; returns whether that succeeded."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        if stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)
        return os.access(folder, os.W_OK)
    except OSError:
        return False


def clear_after_dead(base: Path) -> None:
    """Remove the subfolders left by dead processes; their names start with the pid."""
    for old in base.glob("*-*"):
        pid = old.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            for unlisted in old.glob("*/x"):  # sandboxes removed the read permission
                unlisted.chmod(0o700)
            shutil.rmtree(old, ignore_errors=True)


def ipython_folder(folder: Path) -> Path:
    """Create an IPython profile for kernels: no history file, none of the user's start-up code.

    It contains everything IPython would create there, so kernels only need write access to `db`.
    """
    profile = folder / "profile_default"
    for name in ("db", "log", "pid", "security", "startup"):
        (profile / name).mkdir(mode=0o700, parents=True)
    (profile / "ipython_kernel_config.py").write_text(
        "c.HistoryManager.hist_file = ':memory:'\n", "utf-8"
    )
    (profile / "startup" / "README").touch()  # older versions copy theirs if there is none
    return folder
