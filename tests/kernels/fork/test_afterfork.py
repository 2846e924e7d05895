"""The walls between a template and its kernels, on Linuxes old and new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rmi_agent.kernels.fork import afterfork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")
NEWEST = afterfork.Walls().version if sys.platform == "linux" else 0
# A template and a kernel of it, as an ordinary user: prints what the kernel could do.
PROGRAM = """
import ctypes, importlib.util, os, sys
path, version, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("afterfork", path)
afterfork = importlib.util.module_from_spec(spec)
spec.loader.exec_module(afterfork)
DUMPABLE, NO_NEW_PRIVS = 4, 38
prctl = ctypes.CDLL(None).prctl
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    prctl(DUMPABLE, 1, 0, 0, 0)
prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
walls = afterfork.Walls()
if version != "none":
    walls.version = int(version)
    walls.protect_template()
template, said = os.getpid(), []
def attempt(act):
    try: act(); said.append("done")
    except OSError as error: said.append(type(error).__name__)
if os.fork() == 0:
    if version != "none":
        walls.keep_apart()
    attempt(lambda: open(f"/proc/{template}/mem", "r+b").close())
    waiting, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end); os.read(waiting, 1); os._exit(0)
    attempt(lambda: open(f"/proc/{child}/maps").read())
    attempt(lambda: open("/proc/self/environ").read())
    for name in "ab": os.mkdir(f"{folder}/{name}")
    open(f"{folder}/a/file", "w").close()
    attempt(lambda: os.rename(f"{folder}/a/file", f"{folder}/b/file"))
    attempt(lambda: os.kill(template, 0))
    print(*said, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("version", ["none", 0, *range(2, NEWEST + 1)])
def test_a_kernel_has_no_access_to_its_template_and_all_to_its_own(
    version: str | int, tmp_path: Path
) -> None:
    traced = Path("/proc/sys/kernel/yama/ptrace_scope")
    if version == "none" and traced.exists() and traced.read_text().strip() != "0":
        pytest.skip("this system keeps all processes apart")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == Path.home().owner() and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)
    command = [sys.executable, "-c", PROGRAM, afterfork.__file__, str(version), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    memory, child, itself, move, reach = run.stdout.split() or [run.stderr]
    assert memory == ("done" if version == "none" else "PermissionError")
    assert (child, itself, move) == ("done", "done", "done")
    scoped = version != "none" and int(version) >= 6
    assert reach == ("PermissionError" if scoped else "done")
