"""Nothing that goes on in the background is left behind, or ends unseen."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.kernels import LOCAL, Config, Instances, KernelError, Launch, Sessions, Takeover
from rmi_agent.kernels.cluster.leases import Lease
from rmi_agent.kernels.cluster.stores import open_store
from rmi_agent.kernels.remote.heartbeat import Heartbeat

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
MAKING = {"create_task", "ensure_future", "run_coroutine_threadsafe"}
# Functions that make tasks without a `Supervisor`, how many, and who sees their end.
OWNED = {
    ("kernels/supervision.py", "start"): 1,  # the supervisor itself
    ("kernels/remote/provisioner_loop.py", "submit"): 1,  # the future that it returns is awaited
    ("kernels/fork/provisioner.py", "forked"): 1,  # awaited, also when the caller is cancelled
    # In the kernel: their callback sees the end, and a failed one ends the process.
    ("kernels/inside/socket_kernel.py", "_start"): 1,
    ("kernels/remote/heartbeat.py", "beats"): 1,  # cancelled in `finally`; waits for events alone
    (
        "kernels/kernel/exchange.py",
        "look_up",
    ): 1,  # its result is taken, or it is cancelled in `finally`
    ("kernels/kernel/cell_run.py", "run"): 2,  # cancelled and awaited in `finally`
    ("kernels/kernel/cell_run.py", "relay"): 1,  # the same
    ("kernels/kernel/exchange.py", "begin"): 1,  # its error is raised; cancelled in `finally`
    ("kernels/kernel/exchange.py", "_keeping_late"): 1,  # the same
    ("kernels/kernel/joining.py", "get_joined"): 2,  # results are taken; cancelled in `finally`
    ("kernels/session/checkpoints.py", "keep"): 1,  # its callback sees the copy's end
    ("kernels/kernel/set_up.py", "unless_dead"): 2,  # results are taken; cancelled in `finally`
    (
        "kernels/jupyter_server/process.py",
        "_begin",
    ): 1,  # awaited there, and by `close` if that is stopped
    ("kernels/cluster/stores.py", "_request"): 1,  # awaited, also when the caller is cancelled
    ("server/tools/environment_choice.py", "followed"): 1,  # the same
    ("server/tools/elicitation.py", "ask"): 1,  # cancelled and awaited in `finally`
    ("server/commands/stdio.py", "stdio"): 2,  # their results are taken, or the process ends
    ("server/opening.py", "begin"): 1,  # logs each exception itself; cancelled in `__aexit__`
    (
        "server/resident/proxy.py",
        "_watched",
    ): 1,  # logs each exception itself; cancelled in `finally`
    (
        "client/commands/connect.py",
        "while_it_runs",
    ): 2,  # results are taken; cancelled and awaited in `finally`
    ("client/child.py", "open"): 1,  # tells its end to who waits; cancelled and awaited in `close`
    ("client/terminal/screen.py", "__aenter__"): 1,  # cancelled and awaited in `__aexit__`
    # One is the work, awaited there or by the other, which is awaited there.
    ("client/commands/connect.py", "connected"): 2,
    ("client/commands/interrupts.py", "stop"): 1,  # handles all failures; cancelled in `finally`
    # One is awaited, and cancelled in `finally`; the other is the task of `__aenter__`, begun again.
    ("client/terminal/screen.py", "wait_for"): 2,
}


def tasks_made(path: Path) -> Counter[tuple[str, str]]:
    """How many tasks each function of a module makes, those of a `TaskGroup` left out."""
    found: Counter[tuple[str, str]] = Counter()

    def visit(node: ast.AST, function: str, groups: frozenset[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.AsyncWith):
            groups |= {
                ast.unparse(item.optional_vars)
                for item in node.items
                if item.optional_vars and "TaskGroup" in ast.unparse(item.context_expr)
            }
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if name in MAKING and owner not in groups:
                found[path.relative_to(ROOT).as_posix(), function] += 1
        for child in ast.iter_child_nodes(node):
            visit(child, function, groups)

    visit(ast.parse(path.read_text("utf-8")), "", frozenset())
    return found


def test_every_task_has_an_owner_that_sees_its_end() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for floor in ("kernels", "server", "client", "cli"):
        for path in (ROOT / floor).rglob("*.py"):
            found += tasks_made(path)
    assert found == OWNED, "start it with a Supervisor, or say here who sees its end"


def instances(folder: Path) -> Instances:
    return Instances(open_store(str(folder / "store")), "here:1", beat=0.05, alive=5.0)


async def test_sessions_that_can_not_be_taken_over_leave_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, launch = Config(tmp_path / "notebooks"), Launch(cwd=tmp_path, runtime=tmp_path)
    shared = Takeover(instances(tmp_path))
    async with Sessions(config, launch, warm=0, directory=shared) as sessions:
        unknown = Lease("a" * 20, LOCAL, home="gone", turn=1, server="http://127.0.0.1:1")
        for number in range(3):
            await shared.leases.write(replace(unknown, id=f"{number}" * 20))
        records = await shared.leases.all()
        assert len(records) == 3

        async def fails(*_: object, **__: object) -> None:
            await asyncio.sleep(0.01)
            raise KernelError("out of reach")

        monkeypatch.setattr(sessions.pool, "lease", fails)
        asking = [shared.open_here(record.id, LOCAL) for record in records for _ in range(4)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, KernelError) for one in found)
        del found
        assert not shared._taking  # its locks show nowhere else


async def test_signs_of_life_go_on_when_one_fails_in_a_way_that_nobody_thought_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with instances(tmp_path) as mine:
        beat, failures = mine.beat, iter([ValueError("nobody thought of it")])
        again = asyncio.Event()

        async def failing() -> None:
            if (error := next(failures, None)) is not None:
                raise error
            await beat()
            again.set()

        monkeypatch.setattr(mine, "beat", failing)
        async with asyncio.timeout(20):
            await again.wait()
    assert "sending heartbeats failed and is restarted" in caplog.text


async def test_a_heartbeat_that_can_not_be_followed_ends_what_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def connect_hb(self) -> Any:
            return self

        def setsockopt(self, *_: object) -> None: ...

        def close(self, linger: int) -> None: ...

        async def send(self, _: bytes) -> None:
            raise RuntimeError("nobody thought of it")

    async def lives() -> bool:
        return True

    client: Any = Broken()
    heartbeat = Heartbeat(client, 60.0, lives)
    heartbeat.start()
    async with asyncio.timeout(10):
        await heartbeat.ended.wait()
    assert "nobody thought of it" in heartbeat.why
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    await heartbeat.stop()


async def test_who_stops_waiting_for_a_heartbeat_leaves_no_task() -> None:
    async def lives() -> bool:
        return True

    client: Any = None
    heartbeat = Heartbeat(client, 60.0, lives)
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(heartbeat.beats())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
