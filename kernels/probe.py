"""Whether a sandbox holds on this machine, found out by a process that tries it.

Knows what may be missing or in the way; `sandbox.py` makes the sandbox.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from . import seccomp
from .interpreters import PATIENCE, where
from .sandbox import Policy

# Looks whether the wall stands, from inside.
PROBE = """
import os, sys
inside, home, secret = sys.argv[1:]
os.listdir(inside)
try:
    os.utime(home)
except OSError as error:
    sys.exit(f"there code can't change the times of its own files: {error.strerror}")
read = lambda path: os.close(os.open(path, os.O_RDONLY))
for path, reach in ((secret, read), ("/etc/shadow", read), (secret, os.utime)):
    try:
        reach(path)
    except OSError:
        continue
    sys.exit(f"{path} can be reached")
print("stands")
"""


def why_not(policy: Policy) -> str:
    """Try the policy with a real process; empty if the wall stands."""
    if sys.platform != "linux":
        return "it needs Linux"
    if policy.tier == "bwrap" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed (its package is called bubblewrap)"
    if policy.tier == "landlock" and not seccomp.known():
        return f"its system calls are not known for {os.uname().machine}"
    if policy.tier == "landlock" and (open_ := within_reach(policy)):
        return f"Landlock can't keep {open_[0]} from changes, as it lies in {open_[1]}"
    with tempfile.TemporaryDirectory(prefix="rmi-probe-") as folder:
        runtime = Path(folder)
        secret = runtime / "secret"
        secret.touch()
        sandbox = replace(policy, homes=runtime / "homes").sandbox("probe", runtime)
        wrapped = [*sandbox.command(sys.executable), sys.executable, "-I", "-S", "-c", PROBE]
        try:
            done = subprocess.run(
                [*wrapped, *map(str, (policy.projects, sandbox.home, secret))],
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.stdout == "stands\n" and done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"it ended with {done.returncode}"


def lets_signals_out(policy: Policy) -> bool:
    """Whether kernels may send signals to other processes of the server's user."""
    if policy.tier != "landlock":
        return False
    from .confine import SIGNALS_SCOPED, landlock_version  # it needs Linux's libc

    return landlock_version() < SIGNALS_SCOPED


def within_reach(policy: Policy) -> tuple[Path, Path] | None:
    """What must not be changed but lies in a folder that may be, if there is such a thing."""
    open_ = [*policy.write, *([] if policy.read_only else [policy.projects])]
    for kept in (*policy.hide, *policy.fixed, policy.homes, *map(Path, where(sys.executable))):
        for folder in open_:
            if Path(os.path.realpath(kept)).is_relative_to(os.path.realpath(folder)):
                return kept, folder
    return None
