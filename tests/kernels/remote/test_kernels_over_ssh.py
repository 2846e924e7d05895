"""Kernels that gateway-provisioners puts behind a real sshd: all is as at home.

The server is a process of its own, started as a host would; the far side is this machine, come
to by ssh (`sshd.py` says how that is so), and so its processes and files can be looked at.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from tests.kernels.remote.sshd import HOST, SshHost, ssh_host, why_not
from tests.processes import still_running
from tests.server.conftest import fill
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.xdist_group(__name__),
    pytest.mark.ssh,
    pytest.mark.hostile,  # alone: how soon one is noticed and ended counts
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
SOON = 2.5  # seconds in which a death is to be noticed
CLOSED = 5.0  # seconds in which all of a kernel is to be gone
SCRIPT = """
import helper, os, sys
print(sys.argv, helper.name, open("data.txt").read(), os.environ["SSH_CONNECTION"].split()[2])
print(os.path.samefile(__file__, sys.argv[0]), sys.path[0] == os.getcwd() == helper.folder)
print("wrong", file=sys.stderr)
open("made.txt", "w").write("made there")
sys.exit(3)
"""
HELPER = "import os\nname = 'helper'\nfolder = os.path.dirname(__file__)\n"
OFFSPRING = """
import multiprocessing, os, subprocess, time
started = [subprocess.Popen(["sleep", "600"]).pid]
started += [subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
child.start()
[os.getpid(), child.pid, *started]
"""
DEAF = """
import ctypes, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
ctypes.PyDLL(None).sleep(600)
"""
GETPID = "import os; os.getpid()"
BACKTRACK = "import re; re.match('(a+)+b', 'a' * 60)"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("ssh")) as opened:
        yield opened


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("far"))
    sub = folder / "sub"
    sub.mkdir()
    (sub / "main.py").write_text(SCRIPT)
    (sub / "helper.py").write_text(HELPER)
    (sub / "data.txt").write_text("data")
    (sub / ".hidden").write_text("stays")
    (folder / "large.bin").write_bytes(os.urandom(1_500_000))
    return folder


@contextlib.contextmanager
def started(host: SshHost, projects: Path, **settings: str) -> Iterator[Wire]:
    usual = {
        "RMI_AGENT_SANDBOX": "auto",
        "RMI_AGENT_KERNEL_POOL": "0",
        "RMI_AGENT_REMOTE_FILES": "sent",
    }
    wire = Wire(projects, **{**host.env, **usual, **settings})
    try:
        yield wire
    finally:
        wire.close()


@pytest.fixture(scope="module")
def server(host: SshHost, projects: Path) -> Iterator[Wire]:
    limits = {
        "RMI_AGENT_KERNEL_SILENCE": "2",
        "RMI_AGENT_KERNEL_MAX": "3",
        "RMI_AGENT_REMOTE_FILES_LIMIT": "1MB",
    }
    with started(host, projects, **limits) as wire:
        yield wire
        _, kernel = opened(wire)
        began = time.monotonic()
    assert time.monotonic() - began < CLOSED
    assert still_running([kernel], 0) == []


def call(server: Wire, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    result = server.call(tool, **arguments)
    return result["content"][0]["text"], dict(result.get("structuredContent") or {})


def cell(server: Wire, code: str, session: str | None = None, **more: Any) -> tuple[str, Any]:
    named = {"session_id": session} if session else {}
    return call(server, "run_cell", code=code, **named, **more)


def opened(server: Wire, code: str = "x = 41") -> tuple[str, psutil.Process]:
    """A new session, in which `code` has run, and its kernel's process on the far side."""
    text, facts = cell(server, f"{code}\n{GETPID}")
    return facts["session_id"], psutil.Process(int(text.splitlines()[0]))


def far_side(kernel: psutil.Process, *started: psutil.Process) -> list[psutil.Process]:
    """A kernel with all that stands around it there: its launcher's listener and its reaper."""
    reapers = those_with(f"rmi-agent-reaper {kernel.pid}")
    assert len(reapers) == 1
    return list({kernel, *kernel.children(recursive=True), *reapers, *started})


def those_with(words: str) -> set[psutil.Process]:
    """Processes with these words in their command lines; zombies have none."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if words in " ".join(process.cmdline()):
                found.add(process)
    return found


def zombies(server: Wire) -> list[psutil.Process]:
    """Children of a server that ended and were not waited for."""
    here = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in here if process.status() == psutil.STATUS_ZOMBIE]


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold in so many seconds."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def left_there(host: SshHost) -> list[str]:
    """Files on the far side besides what the launcher logs, and IPython's profile."""
    return [
        p.name for p in sorted(host.tmp.iterdir()) if p.suffix != ".log" and p.name != ".ipython"
    ]


def test_a_file_runs_there_with_its_neighbours_as_python_would_run_it(
    server: Wire, host: SshHost
) -> None:
    before = host.logins()
    text, facts = call(server, "run_python", file_name="sub/main.py", args=["a b"])
    assert host.logins() == before + 1  # by ssh: sshd says so, and the file's own environment
    assert text.splitlines()[:6] == [
        "['main.py', 'a b'] helper data 127.0.0.2",
        "True True",
        "--- stderr ---",
        "wrong",
        "[Process exited with code 3]",
        "[rmi-agent: The kernel's machine did not get all files of the project: large.bin would exceed"
        " RMI_AGENT_REMOTE_FILES_LIMIT (1 MB in all).]",
    ]
    assert "Written on the kernel's machine" in text and "sub/made.txt." in text
    assert (facts["status"], facts["exit_code"], facts["state"]) == ("error", 3, "kept")
    assert facts["elapsed"] < 5  # it waited for no process that is not the script's
    text, _ = cell(server, "helper.name, os.path.exists('.hidden')", facts["session_id"])
    assert text.startswith("('helper', False)")
    call(server, "close_session", session_id=facts["session_id"])


def test_what_has_changed_here_is_sent_again_and_what_is_gone_goes(
    server: Wire, projects: Path
) -> None:
    (projects / "changing.py").write_text("value = 1\n")
    (projects / "going.txt").write_text("here")
    (projects / "uses.py").write_text(
        "import changing, os\nprint(changing.value, os.path.exists('going.txt'))"
    )
    text, facts = call(server, "run_python", file_name="uses.py")
    assert text.startswith("1 True\n")
    (projects / "changing.py").write_text("value = 2\n")
    (projects / "going.txt").unlink()
    named = {"session_id": facts["session_id"]}
    text, _ = call(server, "run_python", file_name="uses.py", **named)
    assert text.startswith("2 False\n")
    call(server, "close_session", **named)


def test_a_cell_begins_in_a_copy_of_the_project(server: Wire) -> None:
    text, facts = cell(server, "from sub import helper\nopen('hello_world.py').read()[:3]")
    assert facts["status"] == "ok", text
    call(server, "close_session", session_id=facts["session_id"])


def test_state_lasts_and_a_timeout_interrupts_and_keeps_it(server: Wire) -> None:
    session, _ = opened(server)
    for code in ("while True: pass", "import os; os.system('sleep 60')", BACKTRACK):
        text, facts = cell(server, code, session, timeout=0.5)
        assert (facts["status"], facts["state"]) == ("timeout", "kept"), text
    text, facts = cell(server, "x + 1", session)
    assert text.startswith("42\n") and facts["cell"] == 5
    notebook = nbformat.read(facts["notebook"], as_version=4)
    assert [c.metadata.rmi_agent.status for c in notebook.cells][1:] == ["timeout"] * 3 + ["ok"]
    assert notebook.metadata.kernelspec.name == "ssh"
    call(server, "close_session", session_id=session)


def test_the_buttons_work(server: Wire) -> None:
    session, kernel = opened(server)
    named = {"session_id": session}
    keep_busy(server, "import time; time.sleep(60)", **named)
    assert "interrupt" in call(server, "interrupt_session", **named)[0].lower()
    assert cell(server, "x", session)[0].startswith("41\n")
    assert "fresh kernel" in call(server, "restart_session", session_id=session)[0]
    text, facts = cell(server, "'x' in dir()", session)
    assert text.startswith("False\n") and facts["state"] == "kept"
    assert still_running([kernel], CLOSED) == []
    assert "memory unknown" in call(server, "list_sessions")[0]
    call(server, "close_session", session_id=session)


@contextlib.contextmanager
def killed_soon(kill: Callable[[], None], noticed: float = SOON) -> Iterator[None]:
    """While something runs, and it is noticed within so many seconds."""
    timer = threading.Timer(0.5, kill)
    timer.start()
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 0.5 + noticed


def test_one_that_is_killed_there_is_told_soon_and_the_session_goes_on(server: Wire) -> None:
    session, kernel = opened(server)
    with killed_soon(kernel.kill):
        text, facts = cell(server, "import time; print('so far'); time.sleep(60)", session)
    assert (facts["status"], facts["state"]) == ("dead", "lost")
    assert text.startswith("so far\n") and "Its process is gone." in text
    text, facts = cell(server, "'x' in dir()", session)
    assert text.startswith("False\n") and facts["state"] == "kept"
    call(server, "close_session", session_id=session)


def test_one_that_falls_silent_is_told_and_ended(server: Wire) -> None:
    session, kernel = opened(server)
    family = far_side(kernel)
    with killed_soon(kernel.suspend, 2 + SOON):  # nothing is refused: as when its host is gone
        text, facts = cell(server, "import time; time.sleep(60)", session)
    assert (facts["status"], facts["state"]) == ("dead", "lost")
    assert "It and its machine have not answered for 2 s (RMI_AGENT_KERNEL_SILENCE)." in text
    assert still_running(family, CLOSED) == []
    call(server, "close_session", session_id=session)


def test_one_that_dies_while_idle_is_told_at_the_next_cell(server: Wire) -> None:
    session, kernel = opened(server)
    kernel.kill()
    assert still_running([kernel], 1) == []
    text, facts = cell(server, "'x' in dir()", session)
    assert facts["state"] == "lost" and "earlier variables lost" in text
    text, facts = cell(server, "'x' in dir()", session)
    assert text.startswith("False\n") and facts["state"] == "kept"
    call(server, "close_session", session_id=session)


def test_code_that_holds_the_interpreter_is_not_taken_for_silence(server: Wire) -> None:
    text, facts = cell(server, "import ctypes; ctypes.PyDLL(None).sleep(3); 'here'")
    assert (facts["status"], facts["state"]) == ("ok", "kept") and text.startswith("'here'")
    call(server, "close_session", session_id=facts["session_id"])


def test_a_full_pool_makes_room_by_ending_one_there(server: Wire) -> None:
    oldest, kernel = opened(server)
    others = [opened(server)[0] for _ in range(3)]  # RMI_AGENT_KERNEL_MAX is 3
    assert "has ended" in cell(server, "x", oldest)[0]
    assert still_running([kernel], CLOSED) == []
    for session in others:
        call(server, "close_session", session_id=session)


@pytest.mark.parametrize("deaf", [False, True], ids=["idle", "deaf"])
def test_closing_leaves_nothing_on_either_side_within_five_seconds(
    server: Wire, host: SshHost, deaf: bool
) -> None:
    text, facts = cell(server, OFFSPRING)
    named = {"session_id": facts["session_id"]}
    offspring = [psutil.Process(pid) for pid in ast.literal_eval(text.splitlines()[0])]
    family = far_side(*offspring)
    assert len(family) >= 6  # with the launcher's listener and the reaper
    if deaf:
        keep_busy(server, DEAF, **named)
        # Its run is interrupted, then killed: four seconds before the closing can begin.
    call(server, "close_session", **named)
    assert still_running(family, CLOSED) == []
    assert zombies(server) == []
    assert left_there(host) == []
    assert psutil.Process(host.process.pid).children(recursive=True) == []  # no ssh either


def keep_busy(server: Wire, code: str, **more: str) -> None:
    """Let a cell begin, and go on without its result."""
    params = {"name": "run_cell", "arguments": {"code": code, **more}}
    server.send({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
    assert within(10, lambda: "busy" in call(server, "list_sessions")[0])


def test_a_server_that_ends_while_a_kernel_comes_up_leaves_none(
    host: SshHost, projects: Path
) -> None:
    before, logins = those_with("launch_ipykernel"), host.logins()
    with started(host, projects, RMI_AGENT_KERNEL_POOL="1"):
        assert within(20, lambda: host.logins() > logins)
    assert still_running(those_with("launch_ipykernel") - before, CLOSED) == []


def test_a_project_that_is_there_by_the_same_path_is_used_there_and_no_server_is_outlived(
    host: SshHost, projects: Path
) -> None:
    (projects / "where.py").write_text("open('made_here.txt', 'w').write(__file__)\nprint(1)")
    before = left_there(host)
    with started(
        host, projects, RMI_AGENT_REMOTE_FILES="auto", RMI_AGENT_KERNEL_SILENCE="1"
    ) as server:
        text, facts = call(server, "run_python", file_name="where.py")
        assert (projects / "made_here.txt").read_text() == str(projects / "where.py")
        assert "Written on" not in text
        kernel = psutil.Process(int(cell(server, GETPID, facts["session_id"])[0].splitlines()[0]))
        family = far_side(kernel)
        server.process.send_signal(signal.SIGKILL)
    # By nobody's word: twice RMI_AGENT_KERNEL_SILENCE and three seconds after the last connection.
    assert still_running(family, 15) == []
    assert left_there(host) == before


def test_one_that_its_provisioner_puts_on_this_machine_is_refused_unless_that_is_allowed(
    host: SshHost, projects: Path
) -> None:
    spec = Path(host.env["JUPYTER_DATA_DIR"], "kernels", "ssh", "kernel.json")
    nearby = spec.parent.with_name("nearby") / spec.name
    nearby.parent.mkdir()
    nearby.write_text(spec.read_text().replace(HOST, "127.0.0.1"))
    logins = host.logins()
    with started(host, projects, RMI_AGENT_KERNEL_NAME="nearby") as server:
        text, _ = cell(server, "1")
        assert (
            "was put on this machine by its provisioner" in text and "RMI_AGENT_SANDBOX=off" in text
        )
    with started(host, projects, RMI_AGENT_KERNEL_NAME="nearby", RMI_AGENT_SANDBOX="off") as server:
        session, kernel = opened(server)
        assert cell(server, "x", session)[0].startswith("41\n") and host.logins() == logins
        with killed_soon(kernel.kill):
            _, facts = cell(server, "import time; time.sleep(60)", session)
        assert facts["status"] == "dead"
        _, kernel = opened(server)
        assert within(CLOSED, lambda: zombies(server) == [])  # the server's child, waited for
    assert still_running([kernel], 0) == []
