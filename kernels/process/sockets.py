"""A local kernel's sockets, moved to a folder that no kernel can reach.

Otherwise a cell could replace a socket by a link to one of the host's, and this process would
connect to that with its own privileges. Knows the files; nothing of what goes through them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
import time
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager

from ..errors import DeadKernelError, KernelStartError
from .kernel_process import describe_exit

CHANNELS = ("shell", "iopub", "control", "stdin", "hb")
NEEDED = 4  # how many of CHANNELS, from the first, to wait for
LAST_SOCKET = 1.0  # max seconds for stdin's socket, which some kernels create last or never
INTERVAL = 0.002  # seconds between checks whether the process has created its sockets


def socket_paths(manager: AsyncKernelManager) -> list[Path]:
    """Where a kernel creates its sockets: one file for each channel."""
    return [Path(f"{manager.ip}-{getattr(manager, f'{channel}_port')}") for channel in CHANNELS]


async def move_sockets(manager: AsyncKernelManager, paths: list[Path], folder: Path) -> None:
    """Wait for a kernel's sockets, move them to a folder, and let the manager connect there.

    Raises:
        KernelStartError: something other than a socket is there.
        DeadKernelError: the process ended first.
    """
    provisioner = manager.provisioner
    assert provisioner is not None
    until = math.inf
    while not all(map(os.path.lexists, paths[:NEEDED])):
        if all(map(os.path.lexists, paths[: NEEDED - 1])):
            until = min(until, time.monotonic() + LAST_SOCKET)
        if time.monotonic() > until:
            break
        if (code := await provisioner.poll()) is not None:
            raise DeadKernelError(describe_exit(code))
        await asyncio.sleep(INTERVAL)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, folder / path.name)
            found = os.lstat(folder / path.name)
            if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1:
                raise KernelStartError(
                    "A kernel was not used: its sockets had been replaced while it started, by code"
                    " that runs at each start or in another session. Try again, and if it happens"
                    " again, remove that code (~/packages/sitecustomize.py, say)."
                )
    manager.ip = str(folder / Path(manager.ip).name)
