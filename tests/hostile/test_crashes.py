"""The server is killed at random moments; what it had acknowledged is on record."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from rmi_agent.kernels import Config, Sessions
from rmi_agent.kernels.journal import SUFFIX, recover

from tests.conftest import kernel_env, launch

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"),
]

RECORDING = """
import sys
from pathlib import Path
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels.recorder import Recorder
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

RUNNING = """
import asyncio, os, sys
from pathlib import Path
from rmi_agent.kernels import Config, Launch, Sessions
async def main():
    folder = Path(sys.argv[1])
    launch = Launch(cwd=folder, runtime=folder, env=dict(os.environ))
    async with Sessions(Config(folder), launch, warm=1) as sessions:
        session = await sessions.open()
        print("ready", flush=True)
        for number in range(100_000):
            run = await session.submit_cell(f"print({number} * 'y')").task
            print(number, flush=True)
asyncio.run(main())
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
    """Every acknowledged cell is there once, in order, in a valid notebook, and no journal is left."""
    (path,) = folder.glob("*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert len(set(sources)) == len(sources)
    assert len(sources) in (acknowledged + 1, acknowledged + 2)
    statuses = [cell.metadata.rmi_agent.status for cell in notebook.cells]
    assert statuses[: acknowledged + 1] == ["ok"] * (acknowledged + 1)
    assert statuses[acknowledged + 1 :] in ([], ["ok"], ["interrupted"])
    assert not list(folder.glob(f".*{SUFFIX}"))
    assert not list(folder.glob(".*.tmp"))


def test_a_recorder_killed_a_hundred_times_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    for attempt in range(100):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        acknowledged = killed_while(RECORDING, folder, chance.uniform(0, 0.15))
        if acknowledged < 0 and not list(folder.glob("*.ipynb")):
            continue
        recover(folder)
        check(folder, acknowledged)


@pytest.mark.anyio
async def test_a_server_killed_while_it_runs_cells_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        acknowledged = killed_while(RUNNING, folder, chance.uniform(0.05, 0.6))
        async with Sessions(Config(folder), launch(tmp_path), warm=0):
            pass  # the next start puts things right
        if acknowledged >= 0:
            check(folder, acknowledged)


def test_what_a_living_process_records_is_left_alone(tmp_path: Path) -> None:
    from nbformat.v4 import new_code_cell
    from rmi_agent.kernels.recorder import Recorder

    recorder = Recorder(tmp_path, {})
    recorder.start(new_code_cell("running"), "alive")
    assert recover(tmp_path) == []
    recorder.finish(new_code_cell("running"), "alive")
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 1
