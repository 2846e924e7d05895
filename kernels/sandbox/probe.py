"""Check whether a sandbox holds on this machine, with a process that tries to get out.

Knows what may be missing or in the way; `policy.py` makes the sandbox.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import KernelStartError
from . import seccomp
from .command import DEVICE_FILES, command, program
from .interpreters import TIMEOUT, where
from .places import SYSTEM
from .policy import Policy

# Checks from inside that the sandbox holds.
PROBE = """
import os, sys
inside, home, secret = sys.argv[1:]
os.listdir(inside)
try:
    os.utime(home)
except OSError as error:
    sys.exit(f"code in it can't change the times of its own files: {error.strerror}")
read = lambda path: os.close(os.open(path, os.O_RDONLY))
for path, reach in ((secret, read), ("/etc/shadow", read), (secret, os.utime)):
    try:
        reach(path)
    except OSError:
        continue
    sys.exit(f"code in it can reach {path}")
print("holds")
"""


def why_not(policy: Policy) -> str:
    """Try the policy with a real process; return why it fails, or an empty string if it holds."""
    if sys.platform != "linux":
        return "it needs Linux"
    if policy.tier == "bwrap" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed (its package is called bubblewrap)"
    if policy.tier == "landlock" and not seccomp.knows_system_calls():
        return f"its system calls are not known for {os.uname().machine}"
    if policy.tier == "landlock" and (why := within_reach(policy)):
        return why
    with tempfile.TemporaryDirectory(prefix="rmi-probe-") as folder:
        runtime = Path(folder)
        secret = runtime / "secret"
        secret.touch()
        sandbox = replace(policy, homes=runtime / "homes").sandbox("probe", runtime)
        try:
            wrapped = [*command(sandbox, sys.executable), sys.executable, "-I", "-S", "-c", PROBE]
            done = subprocess.run(
                [*wrapped, *map(str, (policy.projects, sandbox.home, secret))],
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except (KernelStartError, OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.stdout == "holds\n" and done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"the process that tries it exited with {done.returncode}"


def lets_signals_out(policy: Policy) -> bool:
    """Return whether kernels may send signals to other processes of the server's user."""
    if policy.tier != "landlock":
        return False
    from .confine import SIGNALS_SCOPED, landlock_version  # needs Linux's libc

    return landlock_version() < SIGNALS_SCOPED


def keeps_devices(policy: Policy) -> bool:
    """Return whether kernels can't change the modes of /dev/null and similar (owned by root)."""
    if policy.tier != "bwrap" or os.getuid() != 0:
        return True
    look = f"import os; print(all(os.statvfs(p).f_flag & os.ST_RDONLY for p in {DEVICE_FILES}))"
    wrap = program("confine.py", {"read_only": DEVICE_FILES})
    looking = [*wrap, sys.executable, "-I", "-S", "-c", look]
    try:
        done = subprocess.run(looking, capture_output=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout == b"True\n"


def within_reach(policy: Policy) -> str:
    """Return why Landlock can't hold: it can't make exceptions inside an allowed folder."""
    ours = [*map(Path, where(sys.executable))]
    changed = [*policy.write, *([] if policy.read_only else [policy.projects])]
    seen = [*changed, policy.projects, *policy.read, *policy.package_files, *ours]
    seen += map(Path, SYSTEM)
    for protected, folders, verb in (
        ((*policy.fixed, *ours), changed, "keep {} from changes"),
        ((*policy.hide, policy.homes), seen, "hide {}"),
    ):
        for path in protected:
            for folder in folders:
                if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                    return f"Landlock can't {verb.format(path)}, as it lies in {folder}"
    return ""
