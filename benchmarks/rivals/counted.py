"""Runs a command, and prints the processor seconds of all that it has started: Linux only.

    python counted.py FILE COMMAND …

FILE gets `{"wall": seconds until the command's end, "processor": seconds, "code": exit code}`. As
the subreaper, this process inherits what the command leaves behind, and waits for it. Not every
process is waited for by its parent, so the tree is sampled as well, and the larger sum counts.
"""

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
INTERVAL = 0.02  # seconds between two samples
PATIENCE = 20.0  # seconds for what the command has left behind
TICK = 1 / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """All processes beneath one."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                found += [child, *descendants(child)]
    return found


def seconds(pid: int) -> tuple[tuple[int, str], float]:
    """A process (with its start, since ids are used again), and its own processor seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (pid, fields[19]), TICK * (int(fields[11]) + int(fields[12]))


def main() -> None:
    """Run it."""
    out, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    sampled: dict[tuple[int, str], float] = {}
    wall, code = 0.0, None
    while not wall or time.perf_counter() < began + wall + PATIENCE:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                key, spent = seconds(pid)
                sampled[key] = spent
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if ended == process.pid:
            wall, code = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
        if not ended:
            time.sleep(INTERVAL)
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = max(waited.ru_utime + waited.ru_stime, sum(sampled.values()))
    Path(out).write_text(json.dumps({"wall": wall, "processor": spent, "code": code}))


main()
