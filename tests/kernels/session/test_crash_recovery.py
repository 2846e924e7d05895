"""Going on after the kernel has died: what is as before, and when no copy is made."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from rmi_agent.kernels import TIERS, Config, Policy, Run, Session, Sessions, Tier, why_not

from tests.conftest import cell, launch, policy, stream, value
from tests.kernels.session.kinds_of_state import KEPT, NOT_COPIED, QUICK, Kind

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.branches,
    pytest.mark.skipif(sys.platform != "linux", reason="forks need Linux"),
]

BEFORE = "Variables are as before this cell; files, processes and connections are not undone."
HERE = {
    name: kind
    for name, kind in KEPT.items()
    if not kind.needs or importlib.util.find_spec(kind.needs)
}
PLAIN = {name: kind for name, kind in KEPT.items() if not kind.needs and name != "autoreload"}
MEMORY = 400_000_000
LOOK = """
import json as _json, sys
def _look(checks):
    found = {}
    for name, check in checks.items():
        try: found[name] = repr(eval(check, globals()))
        except BaseException as error: found[name] = f'{type(error).__name__}: {error}'
    return found
def _change(changes):
    failed = {}
    for name, change in changes.items():
        try: exec(change, globals())
        except BaseException as error: failed[name] = f'{type(error).__name__}: {error}'
    return failed
def _show(**found): print(_json.dumps(found), flush=True)
"""
DEATHS = {
    "segfault": "import ctypes; ctypes.string_at(0)",
    "os._exit": "import os; os._exit(3)",
    "kill": "import os; os.kill(os.getpid(), 9)",
    "abort": "import os; os.abort()",
    "memory": "more = []\nwhile True: more.append(bytearray(b'x' * 10_000_000))",
    "stack": (
        "sys.setrecursionlimit(10**8)\n"
        "def deeper(n): return sorted([1, 2], key=lambda _: deeper(n + 1))\ndeeper(0)"
    ),
    "deaf": "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)",
    "stopped": "import os; os.kill(os.getpid(), 19)",
    "exec": "import os; os.execv('/bin/sh', ['sh', '-c', 'exit 3'])",
    "thread": "import threading, os; threading.Thread(target=os._exit, args=(3,)).start()\n"
    "threading.Event().wait()",
    "parent-of-a-child": "import os, time\nif os.fork(): os._exit(3)\ntime.sleep(60)",
    "exit": "exit()",
}
DEAF = ("deaf", "stopped")  # which end when their time is up


@asynccontextmanager
async def recovering(folder: Path, tier: str = "off", **settings: Any) -> AsyncIterator[Sessions]:
    """Sessions that go on after a death."""
    project = folder / "p"
    project.mkdir()
    if tier != "off" and (why := why_not(Policy(cast(Tier, tier), project, folder / "homes"))):
        pytest.skip(why)
    config = Config(folder / "notebooks", crash_recovery=True, **settings)
    async with Sessions(config, launch(project), policy=policy(project, tier)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def recoverable(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sessions]:
    """Such sessions, shared by this module's tests, and with little memory."""
    folder = tmp_path_factory.mktemp("r")
    async with recovering(folder, memory_limit=MEMORY) as opened:
        yield opened


async def shown(session: Session, code: str) -> str:
    """What a cell printed or returned; it must not fail."""
    run = await cell(session, code)
    assert run.status == "ok", run.cell
    return stream(run) or value(run)


async def copied(session: Session) -> str:
    """Wait until there is a copy of the session's kernel; returns why there is none, or empty."""
    async with asyncio.timeout(15):
        while session.recovery.copy is None:
            if (why := session.recovery.why_not) and "idle for" not in why and "Nothing" not in why:
                return why
            await asyncio.sleep(0.01)
    return ""


def first_line(text: str) -> Any:
    return json.loads(text.partition("\n")[0])


def problems(kinds: dict[str, Kind], before: Any, dying: Any, after: Any) -> Iterator[str]:
    """The kinds of state that are not as before, or that the cell has not changed."""
    for name, kind in kinds.items():
        expected = kind.gives or before[name]
        if name in dying["failed"]:
            yield f"{name}: the change failed: {dying['failed'][name]}"
        elif dying["during"][name] == expected:
            yield f"{name}: not changed by the cell: {expected}"
        if after[name] != expected:
            yield f"{name}: {after[name]} instead of {expected}"


async def die_with(session: Session, kinds: dict[str, Kind]) -> list[str]:
    """Make the state, end the kernel in a cell that changes it, and look at it again."""
    wrong = []
    await shown(session, LOOK)
    for name, kind in kinds.items():
        run = await cell(session, kind.setup)
        if run.status != "ok":
            wrong.append(f"{name}: the setup failed: {run.cell.outputs}")
    checks = {name: kind.check for name, kind in kinds.items()}
    repeatable = {name: check for name, check in checks.items() if not kinds[name].gives}
    before = first_line(await shown(session, f"_show(**_look({repeatable!r}))"))
    assert not await copied(session)
    changes = {name: kind.change or kind.check for name, kind in kinds.items()}
    died = await cell(
        session,
        f"_show(failed=_change({changes!r}), during=_look({checks!r}))\nimport os; os._exit(3)",
    )
    assert (died.status, died.state) == ("dead", "kept"), died.notices
    assert BEFORE in died.notices
    after = first_line(await shown(session, f"_show(**_look({checks!r}))"))
    return [*wrong, *problems(kinds, before, first_line(stream(died)), after)]


async def test_what_needs_no_library_is_as_before_a_death(recoverable: Sessions) -> None:
    session = await recoverable.open()
    assert len(PLAIN) >= 50
    names = ["list", "closure", "generator", "folder-being-listed", "open-file"]
    setup = Kind("import os", "0", gives="0")
    kinds = {"os": setup, **{name: KEPT[name] for name in names}}
    wrong = [one for one in await die_with(session, kinds) if not one.startswith("os:")]
    assert not wrong, "\n".join(wrong)
    await recoverable.close(session)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["off", *TIERS])
async def test_every_kind_of_state_is_as_before_a_death(tier: Tier, tmp_path: Path) -> None:
    async with recovering(tmp_path, tier) as sessions:
        session = await sessions.open()
        assert len(HERE) >= 90
        wrong = await die_with(session, HERE)
        assert not wrong, "\n".join(wrong)
        folder = Path(first_line(await shown(session, "_show(name=temporary.name)"))["name"])
        if tier == "off":
            assert folder.exists()
        await sessions.close(session)
        if tier == "off":  # it is cleaned up once, by the kernel that was the last
            async with asyncio.timeout(5):
                while folder.exists():
                    await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["off", *TIERS])
async def test_every_kind_of_death_is_survived(tier: Tier, tmp_path: Path) -> None:
    async with recovering(tmp_path, tier, memory_limit=MEMORY) as sessions:
        session = await sessions.open()
        await shown(session, "import sys; items, n = [0], (n for n in range(99)); made = next(n)")
        for count, (name, code) in enumerate(DEATHS.items(), 1):
            assert not await copied(session)
            died = await cell(
                session, f"items.append('x'); next(n); sys.x = 1\n{code}", 2 if name in DEAF else 30
            )
            assert died.state == "kept" and BEFORE in died.notices, (name, died.notices)
            assert died.status == ("timeout" if name in DEAF else "dead"), name
            # The numbers of the cells go on, those of IPython are as before.
            assert await shown(session, f"items.append({count}); next(n), len(items)") == (
                f"({count}, {count + 1})"
            ), name
            assert not await copied(session)
        assert await shown(session, "hasattr(sys, 'x'), len(items)") == "(False, 13)"


@pytest.mark.slow
async def test_twenty_kernels_may_die_one_after_the_other(recoverable: Sessions) -> None:
    session = await recoverable.open()
    await shown(session, "items = []; shown = display('first', display_id=True)")
    for number in range(20):
        assert not await copied(session)
        died = await cell(session, "items.append('x'); import os; os.kill(os.getpid(), 9)")
        assert (died.status, died.state) == ("dead", "kept"), died.notices
        assert await shown(session, f"items.append({number}); len(items)") == str(number + 1)
        if number == 1:
            await shown(session, "shown.update('updated')")  # of a cell before the deaths
            assert "updated" in str(session.runs.executions[0].cell.outputs)
    await recoverable.close(session)


async def refused(sessions: Sessions, name: str) -> None:
    """Check that no copy is made of a kind of state, and that a death says why."""
    session = await sessions.open()
    code, reason = NOT_COPIED[name]
    await shown(session, code)
    why = await copied(session)
    assert reason in why, why
    died: Run = await cell(session, "import os; os._exit(3)")
    assert (died.status, died.state) == ("dead", "lost"), died.notices
    assert any("no copy" in notice and reason in notice for notice in died.notices)
    await sessions.close(session)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
async def test_no_copy_is_made_of_what_it_would_lack(name: str, recoverable: Sessions) -> None:
    await refused(recoverable, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NOT_COPIED if name not in QUICK])
async def test_no_copy_is_made_of_what_would_differ(name: str, recoverable: Sessions) -> None:
    await refused(recoverable, name)


@pytest.mark.slow
async def test_a_cell_at_once_after_another_has_no_copy(recoverable: Sessions) -> None:
    session = await recoverable.open()
    await shown(session, "x = 1")
    died = await cell(session, "import os; os._exit(3)")
    assert died.state == "lost" and any("idle for 0.3 s" in one for one in died.notices)
    await recoverable.close(session)


@pytest.mark.slow
async def test_a_step_back_drops_the_copy_of_what_was_undone(recoverable: Sessions) -> None:
    session = await recoverable.open()
    await shown(session, "x = 1")
    await session.submit_cell("x = 2", 30, checkpoint="needed").task
    assert not await copied(session)
    await recoverable.restore(session, 2)
    assert not await copied(session)
    died = await cell(session, "x = 3; import os; os._exit(3)")
    assert died.state == "kept"
    assert await shown(session, "x") == "1"
    await recoverable.close(session)


@pytest.mark.slow
async def test_looking_into_a_session_makes_the_copy_anew(recoverable: Sessions) -> None:
    session = await recoverable.open()
    await shown(
        session, "looks = []\nclass Looked:\n    def __dir__(self): looks.append(1); return []"
    )
    await shown(session, "one = Looked()")
    assert not await copied(session)
    await session.complete("one.")
    assert session.recovery.copy is None
    assert not await copied(session)
    before = await cell(session, "print(len(looks)); import os; os._exit(3)")
    assert before.state == "kept" and int(stream(before)) > 0
    assert await shown(session, "len(looks)") == stream(before).strip()
    await recoverable.close(session)


@pytest.mark.slow
async def test_what_a_cell_has_replaced_stalls_nothing(recoverable: Sessions) -> None:
    session = await recoverable.open()
    await shown(session, "import os, socket; one = socket.socket(); os.readlink = os.listdir = len")
    async with asyncio.timeout(5):
        assert await copied(session)
        assert await shown(session, "1 + 1") == "2"
    await recoverable.close(session)


@pytest.mark.slow
async def test_a_fork_and_a_file_that_dies_are_survived(
    recoverable: Sessions, tmp_path: Path
) -> None:
    session = await recoverable.open()
    await shown(session, "x = [1]")
    fork = await recoverable.fork(session)
    assert not await copied(fork)
    died = await cell(fork, "x.append(2); import os; os._exit(3)")
    assert (died.state, await shown(fork, "x")) == ("kept", "[1]")
    await recoverable.close(fork)
    await recoverable.close(session)
