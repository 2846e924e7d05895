"""Sessions on a person's kernel: what both see, and what must never happen to it."""

from __future__ import annotations

import asyncio
import json
import os
from ast import literal_eval
from collections.abc import AsyncIterator
from pathlib import Path

import nbformat
import psutil
import pytest
from rmi_agent.kernels import Config, KernelError, Script, Session, Sessions
from rmi_agent.kernels.addresses import PersonsKernel

from tests.conftest import cell, launch, stream, value
from tests.kernels.joined.person import Person, person

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.joined]

LOOP = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)"


@pytest.fixture(scope="module")
async def theirs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Person]:
    async with person(tmp_path_factory.mktemp("theirs")) as found:
        yield found


@pytest.fixture
async def joined(sessions: Sessions, theirs: Person) -> AsyncIterator[Session]:
    opened = await sessions.join(theirs.kernel)
    yield opened
    await sessions.close(opened)


async def begun(session: Session) -> None:
    """Wait until the last run of a session has printed something."""
    async with asyncio.timeout(30):
        while not session.runs.executions[-1].outputs.size:
            await asyncio.sleep(0.01)


async def held(session: Session) -> None:
    """Wait until the last run of a session waits for another client's cell."""
    async with asyncio.timeout(30):
        while not session.runs.executions[-1].waits_for_others:
            await asyncio.sleep(0.01)


async def busy(session: Session) -> None:
    """Wait until a session knows that a cell of another client runs."""
    assert session.kernel is not None and session.kernel.joined is not None
    async with asyncio.timeout(30):
        while not session.kernel.joined.traffic.is_busy:
            await asyncio.sleep(0.01)


async def test_variables_are_seen_both_ways(joined: Session, theirs: Person) -> None:
    await theirs.reply(theirs.cell("theirs = 20"))
    assert value(await cell(joined, "ours = theirs + 1; ours")) == "21"
    assert await theirs.value("ours") == "21"


async def test_the_person_sees_what_ran_and_what_it_printed(
    joined: Session, theirs: Person
) -> None:
    run = await cell(joined, "print('from ' + 'ours')")
    assert stream(run) == "from ours\n"
    await theirs.seen("execute_input", "print('from ' + 'ours')")
    await theirs.seen("stream", "from ours")
    assert run.cell.execution_count is not None


async def test_nothing_of_ours_is_left_in_their_kernel(sessions: Sessions, theirs: Person) -> None:
    look = (
        "sorted({*globals(), *vars(get_ipython()), *__import__('sys').modules,"
        " *__import__('os').environ, __import__('os').getcwd(), repr(get_ipython().displayhook),"
        " *map(repr, get_ipython().events.callbacks.items())} - {'_i', '_ii', '_iii'})"
    )
    before = await theirs.value(look)
    session = await sessions.join(theirs.kernel)
    await cell(session, "pass")
    assert await theirs.value("get_ipython().history_manager.input_hist_raw[-1]") == "'pass'"
    await sessions.close(session)
    changed = set(literal_eval(await theirs.value(look))) ^ set(literal_eval(before))
    assert all(name.startswith("_i") for name in changed), changed  # IPython's own, of each cell


async def test_cells_of_others_are_not_recorded(joined: Session, theirs: Person) -> None:
    await cell(joined, "1")
    await theirs.reply(theirs.cell("print('not yours')"))
    loop = "import time\nfor i in range(20): print('mine', flush=True); time.sleep(0.02)"
    ours = joined.submit_cell(loop, 30)
    await begun(joined)
    await theirs.reply(theirs.cell("print('nor this')"))
    await ours.task
    await cell(joined, "2")
    assert joined.notebook is not None
    notebook = nbformat.read(joined.notebook, 4)
    assert [each.source for each in notebook.cells] == ["1", loop, "2"]
    assert "yours" not in json.dumps(notebook) and "nor this" not in json.dumps(notebook)
    assert notebook.metadata.rmi_agent.attached == {"connection_file": "kernel-theirs.json"}


async def test_a_timeout_interrupts_our_own_cell(joined: Session, theirs: Person) -> None:
    await cell(joined, "kept = 5")
    run = await cell(joined, LOOP, timeout=0.5)
    assert (run.status, run.state) == ("timeout", "kept")
    assert value(await cell(joined, "kept")) == "5"
    assert psutil.pid_exists(theirs.pid)


async def test_our_timeout_does_not_interrupt_their_cell(joined: Session, theirs: Person) -> None:
    request = theirs.cell("import time; time.sleep(3); lasted = True")
    await busy(joined)
    ours = joined.submit_cell("lasted", 2)  # its time begins when it does
    await held(joined)
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert value(await ours.task) == "True"


async def test_a_cell_that_waits_for_theirs_can_be_withdrawn(
    joined: Session, theirs: Person
) -> None:
    request = theirs.cell("import time; time.sleep(1.5); done = 1")
    await busy(joined)
    ours = joined.submit_cell("never_ran = 1", 30)
    await held(joined)
    assert joined.interrupt() is ours
    run = await ours.task
    assert (run.status, run.state) == ("interrupted", "kept")
    assert "None of it ran" in " ".join(run.notices)
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert await theirs.value("'never_ran' in globals()") == "False"


async def test_a_cell_that_waits_in_the_kernel_is_interrupted_when_it_begins(
    joined: Session, theirs: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(_: object) -> None:
        """Wait for nobody."""

    await cell(joined, "1")
    request = theirs.cell("import time; time.sleep(1.5); done = 2")
    await busy(joined)
    assert joined.kernel is not None and joined.kernel.joined is not None
    monkeypatch.setattr(joined.kernel.joined.traffic, "turn", at_once)  # as if not seen yet
    ours = joined.submit_cell("time.sleep(20); not_reached = 1", 30)
    await held(joined)
    assert joined.interrupt() is ours
    run = await ours.task
    assert run.status == "interrupted"
    assert "as soon as it begins" in " ".join(run.notices)
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert await theirs.value("'not_reached' in globals()") == "False"


async def test_a_busy_kernel_can_be_joined(
    sessions: Sessions, theirs: Person, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    request = theirs.cell(f"while not __import__('os').path.exists({str(flag)!r}): pass\nslept = 2")
    await theirs.seen("execute_input", "slept")
    session = await sessions.join(theirs.kernel)
    ours = session.submit_cell("slept", 30)
    await held(session)
    flag.touch()
    assert (await theirs.reply(request))["content"]["status"] == "ok"
    assert value(await ours.task) == "2"
    await sessions.close(session)


async def test_a_cell_that_ignores_interrupts_goes_on(joined: Session, theirs: Person) -> None:
    await theirs.reply(theirs.cell("stop = False"))
    stubborn = (
        "import time, threading\n"
        "print('begun', flush=True)\n"
        "while not stop:\n"
        "    try: time.sleep(5)\n"
        "    except KeyboardInterrupt: tries = globals().get('tries', 0) + 1\n"
        "    if tries == 3: stop = True\n"
    )
    run = await cell(joined, stubborn, timeout=0.3)
    assert (run.status, run.state) == ("timeout", "kept")
    assert "not killed" in " ".join(run.notices)
    ours = joined.submit_cell("'after'", 30)  # waits for the former one, whose stop it helps
    await asyncio.sleep(0.3)
    joined.interrupt()
    assert (await ours.task).status == "interrupted"
    assert value(await cell(joined, "tries")) == "3"


async def test_a_cell_that_was_given_up_does_not_print_in_a_later_one(
    joined: Session, theirs: Person
) -> None:
    await theirs.reply(theirs.cell("go_on = False"))
    stubborn = (
        "import time\n"
        "while not go_on:\n"
        "    try: time.sleep(5)\n"
        "    except KeyboardInterrupt: tries = globals().get('tries', 0) + 1\n"
        "    go_on = tries == 3\n"
        "print('late')\n"
        "1 / 0"
    )
    await theirs.reply(theirs.cell("tries = 0"))
    run = await cell(joined, stubborn, timeout=0.3)
    assert "unrecorded" in " ".join(run.notices)
    await theirs.manager.interrupt_kernel()
    run = await cell(joined, "print('later')")
    assert [output["output_type"] for output in run.cell.outputs] == ["stream"]
    assert stream(run) == "later\n"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
async def test_a_join_that_fails_leaves_nothing_open(sessions: Sessions, theirs: Person) -> None:
    ip = f"/tmp/{'x' * 300}"  # too long for a socket
    kernel = PersonsKernel(
        "kernel-odd.json", {**dict(theirs.kernel.connection or {}), "transport": "ipc", "ip": ip}
    )
    before: list[int] = []
    for _ in range(6):
        with pytest.raises(KernelError, match="does not describe"):
            await sessions.join(kernel)
        before.append(len(os.listdir("/proc/self/fd")))
    assert max(before[2:]) <= before[0] + 2


async def test_completions_do_not_interrupt_their_cell(joined: Session, theirs: Person) -> None:
    await cell(joined, "completed = 1")
    async with asyncio.timeout(60):
        while "completed" not in await joined.complete("comple"):  # the first one imports Jedi
            pass
    request = theirs.cell("import time; time.sleep(3)")
    await busy(joined)
    assert await joined.complete("comple") == []
    assert (await theirs.reply(request))["content"]["status"] == "ok"


async def test_input_is_asked_of_the_client_that_ran_the_cell(
    joined: Session, theirs: Person
) -> None:
    ours = joined.submit_cell("input('yours? ')", 30)
    async with asyncio.timeout(30):
        while (question := ours.question) is None:
            await asyncio.sleep(0.01)
    question.answer("yes")
    assert value(await ours.task) == "'yes'"


async def test_closing_the_session_leaves_the_kernel(sessions: Sessions, theirs: Person) -> None:
    session = await sessions.join(theirs.kernel)
    await cell(session, "left_behind = 7")
    await sessions.close(session)
    assert await theirs.value("left_behind") == "7"
    assert psutil.pid_exists(theirs.pid)


async def test_the_servers_end_leaves_the_kernel(tmp_path: Path, theirs: Person) -> None:
    async with Sessions(Config(tmp_path / "notebooks"), launch(tmp_path), warm=0) as sessions:
        session = await sessions.join(theirs.kernel)
        await cell(session, "outlived = 8")
        session.submit_cell(LOOP, 30)
        await begun(session)
    assert await theirs.value("outlived") == "8"


async def test_a_session_that_makes_room_leaves_the_kernel(tmp_path: Path, theirs: Person) -> None:
    sizes = {"warm": 0, "most": 1}
    async with Sessions(Config(tmp_path / "notebooks"), launch(tmp_path), **sizes) as sessions:
        session = await sessions.join(theirs.kernel)
        await cell(session, "made_room = 9")
        other = await sessions.open()
        assert session.closed
        assert value(await cell(other, "1 + 1")) == "2"
    assert await theirs.value("made_room") == "9"


async def test_restarts_files_and_forks_are_refused(joined: Session, tmp_path: Path) -> None:
    await cell(joined, "still = 1")
    with pytest.raises(KernelError, match="only that person can restart"):
        await joined.restart()
    script = Script(tmp_path / "a.py", b"1", (), "")
    with pytest.raises(KernelError, match="%run"):
        joined.submit_program(script)
    assert value(await cell(joined, "still")) == "1"


async def test_a_session_can_not_be_forked(joined: Session, sessions: Sessions) -> None:
    await cell(joined, "1")
    with pytest.raises(KernelError, match="a person has open"):
        await sessions.fork(joined)


async def test_a_kernel_that_its_owner_ends_is_lost(sessions: Sessions, tmp_path: Path) -> None:
    async with person(tmp_path) as theirs:
        session = await sessions.join(theirs.kernel)
        await cell(session, "1")
        ours = session.submit_cell(LOOP, 30)
        await begun(session)
        await theirs.manager.shutdown_kernel(now=True)
        run = await ours.task
        assert (run.status, run.state) == ("dead", "lost")
        assert "Its process has ended." in " ".join(run.notices)
        with pytest.raises(KernelError, match="has ended. attach_session joins it"):
            await cell(session, "2")
        await sessions.close(session)


async def test_a_kernel_that_its_owner_restarts_is_lost(sessions: Sessions, tmp_path: Path) -> None:
    async with person(tmp_path) as theirs:
        session = await sessions.join(theirs.kernel)
        await cell(session, "x = 1")
        await theirs.manager.restart_kernel()
        await theirs.client.wait_for_ready(timeout=60)
        with pytest.raises(KernelError, match="restarted by whoever owns it"):
            await cell(session, "x")
        await sessions.close(session)
        again = await sessions.join(theirs.kernel)
        assert (await cell(again, "x")).status == "error"
        await sessions.close(again)


async def test_a_kernel_that_is_gone_is_not_joined(sessions: Sessions, tmp_path: Path) -> None:
    async with person(tmp_path) as theirs:
        kernel = theirs.kernel
    with pytest.raises(KernelError, match="still runs"):
        await sessions.join(kernel)
