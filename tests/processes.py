"""Whether other processes have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits for init, which takes up orphans when it likes."""
    try:
        return not process.is_running() or (
            process.status() == psutil.STATUS_ZOMBIE and process.ppid() <= 1
        )
    except psutil.NoSuchProcess:
        return True


def still_running(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there when so many seconds have gone."""
    until = time.monotonic() + seconds
    left = [process for process in processes if not has_ended(process)]
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = [process for process in left if not has_ended(process)]
    return left
