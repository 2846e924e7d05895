"""Where sockets and connection files lie: a private folder that goes with its process.

Knows folders only, and not what is put there.
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

LONGEST = 60  # bytes; a socket's path may have 103, and 43 of our own come behind


def runtime_folder() -> Path:
    """A private folder for this process's sockets and connection files, with a short path.

    Folders that dead processes have left beside it are removed.
    """
    with warnings.catch_warnings():  # without XDG_RUNTIME_DIR it warns, and then chooses well
        warnings.simplefilter("ignore")
        base = Path(platformdirs.user_runtime_dir("rmi-agent"))
    # Windows has no socket files, so there the length does not matter.
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
    """Make a folder that only this user can look into; whether it is one now."""
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
    """Remove the folders in one that dead processes have left: they are named by their pids."""
    for old in base.glob("*-*"):
        pid = old.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            for unlisted in old.glob("*/x"):  # sandboxes have made them so
                unlisted.chmod(0o700)
            shutil.rmtree(old, ignore_errors=True)
