"""The server is killed at random moments; what it had acknowledged is on record."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from rmi_agent.kernels import PID_FILE_SUFFIX
from rmi_agent.kernels.notebook import recover

from tests.conftest import kernel_env
from tests.server.conftest import fill
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.slow,  # how soon anything is over does not count here
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"),
]

RECORDING = """
import sys
from rmi_agent.server.quick_imports import import_jsonschema
import_jsonschema()
from pathlib import Path
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels.notebook.writer import Recorder
recorder = Recorder(Path(sys.argv[1]), {})
print("ready", flush=True)
for number in range(100_000):
    cell = new_code_cell(f"number = {number}")
    recorder.start(cell, "crash")
    cell.outputs = [new_output("stream", text="x" * (37_000 * (number % 30)) + str(number))]
    cell.metadata["rmi_agent"] = {"status": "ok"}
    recorder.finish(cell, "crash")
    print(number, flush=True)
"""


def killed_while(program: str, folder: Path, seconds: float) -> int:
    """Start a program, kill it some seconds after it is ready; the last number it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=kernel_env(),
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    acknowledged = [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    return acknowledged[-1] if acknowledged else -1


def check(folder: Path, acknowledged: int) -> None:
    """Every acknowledged cell is there once, in order, in a valid notebook, and no pid file is left."""
    (path,) = folder.glob("*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert len(set(sources)) == len(sources)
    assert len(sources) in (acknowledged + 1, acknowledged + 2)
    statuses = [cell.metadata.rmi_agent.status for cell in notebook.cells]
    assert statuses[: acknowledged + 1] == ["ok"] * (acknowledged + 1)
    assert statuses[acknowledged + 1 :] in ([], ["ok"], ["interrupted"])
    assert not list(folder.glob(f".*{PID_FILE_SUFFIX}"))
    assert not list(folder.glob(".*.tmp"))


def test_a_recorder_killed_in_the_middle_of_its_writes_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    for attempt in range(30):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        acknowledged = killed_while(RECORDING, folder, chance.uniform(0, 0.15))
        if acknowledged < 0 and not list(folder.glob("*.ipynb")):
            continue
        recover(folder)
        check(folder, acknowledged)


LAUNCHER = """
import json, os, signal, sys
from rmi_agent.server import cli
from rmi_agent.server import app, cluster
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(order["env"])
        os.dup2(os.open(order["stdin"], os.O_RDONLY), 0)
        os.dup2(os.open(order["stdout"], os.O_WRONLY), 1)
        cli.main()
    print(pid, flush=True)
"""


class Forked:
    """A server forked from a process that has imported it already: a start costs little."""

    stderr = None

    def __init__(self, launcher: subprocess.Popen[str], folder: Path, env: dict[str, str]) -> None:
        paths = {name: str(folder / f"{name}-{random.random()}") for name in ("stdin", "stdout")}
        for path in paths.values():
            os.mkfifo(path)
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(json.dumps({**paths, "env": env}) + "\n")
        launcher.stdin.flush()
        self.process = psutil.Process(int(launcher.stdout.readline()))
        self.stdin = open(paths["stdin"], "w", encoding="utf-8")  # noqa: SIM115
        self.stdout = open(paths["stdout"], encoding="utf-8")  # noqa: SIM115
        self.kill, self.terminate = self.process.kill, self.process.terminate

    def wait(self, timeout: float = 20) -> None:
        self.process.wait(timeout)


@pytest.fixture
def launcher() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=kernel_env(),
        text=True,
    )
    yield process
    process.communicate()


def cells_until_killed(wire: Wire, name: int, seconds: float) -> int:
    """Run cells on a server until it is killed; the last one that it acknowledged."""
    session = wire.call("run_cell", code=f"name = {name}")["structuredContent"]["session_id"]
    killing = threading.Timer(seconds, wire.process.kill)
    killing.start()
    number = 0
    try:
        while True:
            code = f"# {name}, {number + 1}\nprint({number} * 'y')"
            wire.call("run_cell", code=code, session_id=session)
            number += 1
    except (AssertionError, BrokenPipeError, ValueError):  # the wire was cut
        pass
    killing.join()
    wire.process.wait()
    with contextlib.suppress(BrokenPipeError):
        wire.close()
    return number


def test_a_server_killed_again_and_again_loses_nothing_that_it_had_acknowledged(
    tmp_path: Path, launcher: subprocess.Popen[str]
) -> None:
    chance = random.Random(7)
    projects = fill(tmp_path)
    env = {"PYTHON_PROJECTS_DIR": str(projects), "RMI_AGENT_KERNEL_POOL": "0"}
    acknowledged = []
    for name in range(8):  # each start puts right what the one before it has left
        wire = Wire(projects, Forked(launcher, tmp_path, env))
        acknowledged.append(cells_until_killed(wire, name, chance.uniform(0.0, 0.4)))
    last = Wire(projects, Forked(launcher, tmp_path, env))
    last.call("run_cell", code="name = 8")
    last.close()
    last.process.wait(20)
    notebooks = {}
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        notebooks[int(notebook.cells[0].source.split(" = ")[1])] = notebook.cells[1:]
    assert sorted(notebooks) == list(range(9))
    for name, count in enumerate(acknowledged):
        sources = [cell.source.splitlines()[0] for cell in notebooks[name]]
        assert len(sources) in (count, count + 1)
        assert sources == [f"# {name}, {number + 1}" for number in range(len(sources))]
        statuses = [cell.metadata.rmi_agent.status for cell in notebooks[name]]
        assert statuses[:count] == ["ok"] * count
        assert statuses[count:] in ([], ["ok"], ["interrupted"])
    assert sum(acknowledged) > 8
    assert list((tmp_path / "notebooks").glob(".*")) == []


def test_what_a_living_process_records_is_left_alone(tmp_path: Path) -> None:
    from nbformat.v4 import new_code_cell
    from rmi_agent.kernels.notebook import Recorder

    recorder = Recorder(tmp_path, {})
    recorder.start(new_code_cell("running"), "alive")
    assert recover(tmp_path) == []
    recorder.finish(new_code_cell("running"), "alive")
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 1


FULL = """
import json, resource, sys
from pathlib import Path
import nbformat
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels.notebook.writer import Recorder
recorder = Recorder(Path(sys.argv[1]), {})
problems, recorded = [], []
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for number in range(12):
    limit = soft if number in (0, 1, 10, 11) else 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    cell = new_code_cell(f"{number}")
    recorder.start(cell, "full")
    cell.outputs = [new_output("stream", text="x" * 30_000)]
    recorder.finish(cell, "full")
    problems.append(recorder.problem)
    notebook = nbformat.read(recorder.path, as_version=4)
    nbformat.validate(notebook)
    recorded.append(sum(bool(cell.outputs) for cell in notebook.cells))
recorder.close()
print(json.dumps([problems, recorded, [cell.source for cell in notebook.cells]]))
"""


def test_a_disk_that_takes_no_more_loses_nothing_and_recording_resumes(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write in the middle, as a full disk does."""
    printed = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    problems, recorded, sources = json.loads(printed)
    assert problems[:3] + problems[10:] == [None] * 5
    assert all("File too large" in problem for problem in problems[3:10])
    assert recorded == [1, 2, 3, *[3] * 7, 11, 12]
    assert sources == [str(number) for number in range(12)]


def test_two_servers_on_one_folder_do_not_collide(tmp_path: Path) -> None:
    projects = fill(tmp_path)
    servers = [Wire(projects, RMI_AGENT_KERNEL_POOL="0") for _ in range(2)]
    sessions = ["", ""]
    for number in range(6):
        for index, wire in enumerate(servers):
            key = {"session_id": sessions[index]} if number else {}
            facts = wire.call("run_cell", code="server = 'same title'", **key)["structuredContent"]
            assert facts["status"] == "ok"
            sessions[index] = facts["session_id"]
        if number == 2:  # one more starts and must leave what the others record alone
            servers.append(Wire(projects, RMI_AGENT_KERNEL_POOL="0"))
            facts = servers[2].call("run_cell", code="1")["structuredContent"]
            sessions.append(facts["session_id"])
    for wire in servers:
        assert wire.process.stdin is not None
        wire.process.stdin.close()
        wire.process.wait(20)
        wire.close()
    paths = list((tmp_path / "notebooks").iterdir())
    lengths = sorted(len(nbformat.read(path, as_version=4).cells) for path in paths)
    assert lengths == [4, 6, 6]
