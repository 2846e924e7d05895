"""Kernels from a fork server are kernels like any other, and there sooner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpec
from rmi_agent.kernels.errors import CannotFork
from rmi_agent.kernels.fork import (
    TEMPLATES,
    ForkedProcess,
    ForkserverProvisioner,
    forked_process,
    pool,
)
from rmi_agent.kernels.fork.provisioner import log_once
from rmi_agent.kernels.fork.request import request_for

from tests.conftest import kernel_env
from tests.kernels.fork.plain import (
    OURS,
    STOCK,
    Running,
    is_forked,
    kernel,
    manager_of,
    preloaded,
)
from tests.processes import still_running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.templates,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork"),
]


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No template outlives its test."""
    yield
    TEMPLATES.close()
    log_once.cache_clear()


@pytest.mark.slow
async def test_kernels_come_from_one_template_and_each_leads_a_group_of_its_own() -> None:
    async with kernel() as first, kernel() as second:
        assert is_forked(first.process)
        assert first.process.ppid() == second.process.ppid()
        for each in (first, second):
            pid = each.process.pid
            assert os.getpgid(pid) == os.getsid(pid) == pid
            assert await each.value("os.getpid()", "import os") == pid


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ports are reserved on Linux")
@pytest.mark.parametrize("fork", [True, False])
async def test_the_ports_of_a_kernel_are_given_to_nobody_else(
    fork: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_of(OURS, {"preload": [], "wait_for_template": True, "fork": fork})

    def assert_nobody_gets_them() -> None:
        for port in manager.ports:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((manager.ip, port))

    launch = ForkserverProvisioner.launch_kernel

    async def launch_late(self: ForkserverProvisioner, cmd: list[str], **kwargs: Any) -> Any:
        assert_nobody_gets_them()
        return await launch(self, cmd, **kwargs)

    monkeypatch.setattr(ForkserverProvisioner, "launch_kernel", launch_late)
    await manager.start_kernel(env=kernel_env())
    ports, provisioner = list(manager.ports), manager.provisioner
    assert isinstance(provisioner, ForkserverProvisioner)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        await manager.restart_kernel(now=True)
        await client.wait_for_ready(timeout=60)
        assert manager.ports == ports
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    assert provisioner.free_ports is not None and not provisioner.free_ports.alive


async def test_an_address_of_another_machine_is_refused_as_ever() -> None:
    manager = manager_of(OURS, {})
    manager.ip = "192.0.2.1"
    with pytest.raises(RuntimeError, match="local interface"):
        await manager.start_kernel(env=kernel_env())


@pytest.mark.slow
async def test_a_template_can_be_reached_by_its_owner_alone_and_has_no_thread() -> None:
    async with kernel(preload=["json"]) as running:
        parent = running.process.parent()
        assert parent is not None
        assert parent.net_connections("all") == [
            each for each in parent.net_connections("unix") if not each.laddr and not each.raddr
        ]
        assert parent.num_threads() == 1


LOOKS = """
import gc, os, signal, sys, threading, locale
def descriptors():
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return 0
    links = [os.readlink(f"{folder}/{n}") for n in os.listdir(folder) if os.path.exists(f"{folder}/{n}")]
    return len([link for link in links if "history.sqlite" not in link])
def looks():
    return {
        "path": sys.path,
        "argv": sys.argv[0],
        "orig_argv": sys.orig_argv[:3],
        "flags": list(sys.flags),
        "executable": sys.executable,
        "prefix": [sys.prefix, sys.exec_prefix],
        "main": [sys.modules["__main__"].__name__, hasattr(sys.modules["__main__"], "__file__")],
        "cwd": os.getcwd(),
        "umask": (lambda mask: (os.umask(mask), mask)[1])(os.umask(0)),
        "signals": {s.name: str(signal.getsignal(s)).split(" at ")[0] for s in signal.Signals},
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "threads": sorted(
            thread.name.split("-")[0]
            for thread in threading.enumerate()
            if "Poller" not in type(thread).__name__  # its template ends it
        ),
        "environment": sorted(os.environ),
        "gc": [gc.isenabled(), gc.get_threshold()],
        "locale": locale.getlocale(),
        "descriptors": descriptors(),
        "hooks": [sys.excepthook.__qualname__, sys.displayhook.__class__.__name__],
        "names": sorted(globals()),
    }
"""


@pytest.mark.slow
async def test_a_forked_kernel_looks_like_a_stock_one() -> None:
    async with kernel(STOCK) as stock, kernel() as forked:
        assert is_forked(forked.process)
        assert not is_forked(stock.process)
        expected, found = [await each.value("looks()", LOOKS) for each in (stock, forked)]
        assert found.pop("descriptors") <= expected.pop("descriptors")
        assert found == expected


@pytest.mark.slow
async def test_its_modules_are_a_stock_kernels_and_the_preload() -> None:
    async with kernel(STOCK) as stock, preloaded(["numpy"]) as forked:
        names = "sorted(sys.modules)"
        await stock.value("1", "import numpy, json, sys")
        expected = set(await stock.value(names, "import sys"))
        found = set(await forked.value(names, "import sys"))
        assert expected - found == set()
        # What a stock kernel imports with its first completion or traceback.
        assert {name.partition(".")[0] for name in found - expected} <= {"debugpy", "gc"}
        importable = "[importlib.util.find_spec(n) is None for n in ('pool', 'provisioner',"
        importable += " 'zygote', 'afterfork', 'kernel_app', 'script_runner')]"
        assert all(await forked.value(importable, "import importlib.util"))


@pytest.mark.slow
async def test_what_must_be_a_kernels_own_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    own = """
import multiprocessing, os, random, secrets, tempfile, uuid
import numpy
"""
    facts = (
        "[random.random(), numpy.random.rand(), numpy.random.default_rng().random(),"
        " secrets.token_hex(), str(uuid.uuid4()), tempfile.mktemp(),"
        " multiprocessing.current_process().authkey.hex(),"
        " os.environ['OWN'], os.getcwd(), os.getpid()]"
    )
    preload = ["numpy", "random", "tempfile", "uuid", "multiprocessing"]
    async with (
        kernel(preload=preload, env={**kernel_env(), "OWN": "1"}, cwd=str(tmp_path)) as first,
        kernel(
            preload=preload, env={**kernel_env(), "OWN": "2"}, cwd=str(tmp_path / "a")
        ) as second,
        kernel(
            preload=preload,
            env={**kernel_env(), "OWN": "1", "PYTEST_CURRENT_TEST": "another"},
            cwd=str(tmp_path / "a"),
        ) as third,
    ):
        assert await third.value("os.environ['PYTEST_CURRENT_TEST']", "import os") == "another"
        found = [await each.value(facts, own) for each in (first, second, third)]
        assert first.process.ppid() == third.process.ppid() != second.process.ppid()
    assert [row[7] for row in found] == ["1", "2", "1"]
    assert [Path(row[8]).name for row in found] == [tmp_path.name, "a", "a"]
    for column in (0, 1, 2, 3, 4, 5, 6, 9):
        assert len({row[column] for row in found}) == 3, column


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "code"),
    [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("signal.raise_signal(11)", -11)],
)
async def test_exit_codes_are_those_of_a_process(ending: str, code: int) -> None:
    async with kernel() as running:
        running.client.execute(f"import os, signal; {ending}")
        assert await until_ended(running) == code


async def until_ended(running: Running) -> int | None:
    provisioner = running.manager.provisioner
    assert provisioner is not None
    async with asyncio.timeout(20):
        while (code := await provisioner.poll()) is None:
            await asyncio.sleep(0.02)
    return code


@pytest.mark.slow
async def test_interrupt_terminate_kill_and_restart() -> None:
    async with kernel() as running:
        first = running.process
        request = running.client.execute("import time; time.sleep(60)")
        await asyncio.sleep(0.3)
        await running.manager.interrupt_kernel()
        reply = await running.client.get_shell_msg(timeout=10)
        while reply["parent_header"]["msg_id"] != request:
            reply = await running.client.get_shell_msg(timeout=10)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        await running.manager.restart_kernel()
        await running.client.wait_for_ready(timeout=60)
        assert not first.is_running()
        assert is_forked(running.process)
        provisioner = running.manager.provisioner
        assert provisioner is not None
        await provisioner.terminate()
        assert await until_ended(running) == -signal.SIGTERM
    async with kernel() as running:
        assert running.manager.provisioner is not None
        await running.manager.provisioner.kill()
        assert await until_ended(running) == -signal.SIGKILL


@pytest.mark.slow
async def test_a_kernel_outlives_its_template_and_the_next_has_a_new_one() -> None:
    async with kernel() as running:
        template = running.process.parent()
        assert template is not None
        template.kill()
        template.wait()
        assert await running.value("1 + 1") == 2
        assert await running.manager.is_alive()
        async with kernel() as second:
            assert is_forked(second.process)
            assert second.process.ppid() != template.pid
        running.client.execute("import os; os._exit(3)")
        assert await until_ended(running) == forked_process.UNKNOWN


MODULES = {
    "fails": "raise RuntimeError('no luck')",
    "leaves": "import sys; sys.exit('early')",
    "threads": "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
    "hangs": "import time; time.sleep(60)",
    "chats": "print('hello'); import sys; print('there', file=sys.stderr); works = True",
}


@pytest.mark.slow
async def test_a_module_that_can_not_be_preloaded_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr("rmi_agent.kernels.fork.template.IMPORT_TIMEOUT", 1.0)
    monkeypatch.setattr("rmi_agent.kernels.fork.template.REQUEST_TIMEOUT", 3.0)
    env = {**kernel_env(), "PYTHONPATH": str(tmp_path)}
    preload = [*MODULES, "not_installed_anywhere"]
    loaded = f"[name in sys.modules for name in {preload}]"
    async with asyncio.timeout(150):
        while True:
            async with kernel(preload=preload, env=env) as running:
                found = await running.value(loaded, "import sys")
                if is_forked(running.process) and any(found):
                    break
    assert dict(zip(preload, found, strict=True)) == {
        **dict.fromkeys(preload, False),
        "chats": True,
    }
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for name, why in (
        ("fails", "no luck"),
        ("leaves", "SystemExit"),
        ("threads", "starts threads"),
        ("hangs", "takes more than 1 s"),
    ):
        assert [text for text in warnings if text.startswith(name) and why in text], warnings


@pytest.mark.slow
async def test_what_is_installed_meanwhile_is_seen(tmp_path: Path) -> None:
    env = {**kernel_env(), "PYTHONUSERBASE": str(tmp_path)}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    env["PYTHONPATH"] = str(packages)
    (packages / "fashion.py").write_text("season = 'old and long ago'")
    season = "fashion.season"
    async with preloaded(["fashion"], env=env) as before:
        assert await before.value(season, "import fashion") == "old and long ago"
        (packages / "fashion.py").write_text("season = 'new'")
        (packages / "fashion-2.dist-info").mkdir()
        async with kernel(preload=["fashion"], env=env) as after:
            assert is_forked(after.process)
            assert await after.value(season, "import fashion") == "new"


@pytest.mark.slow
async def test_many_at_once() -> None:
    async with contextlib.AsyncExitStack() as stack:
        opening = [stack.enter_async_context(kernel()) for _ in range(8)]
        running = [await each for each in opening]
        pids = [each.process.pid for each in running]
        assert len(set(pids)) == 8
        assert all(is_forked(each.process) for each in running)
        assert await asyncio.gather(*(each.value("os.getpid()", "import os") for each in running))


@pytest.mark.slow
async def test_few_templates_live_at_a_time(
    made: list[pool.Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_TEMPLATES", 2)
    for number in range(4):
        async with kernel(env={**kernel_env(), "LIBRARYS": str(number)}):
            pass
    assert len(made) == 4
    async with asyncio.timeout(10):
        while sum(not template.ended for template in made) > 2:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        ({"independent": True}, "independence"),
        ({"stdout": -1}, "pipes"),
        ({"close_fds": False}, "close_fds"),
        ({"env": {**os.environ, "PYTHONPATH": "lib"}}, "relative"),
        ({"cwd": "/does/not/exist"}, "no process was forked"),
    ],
)
async def test_what_a_fork_can_not_give_is_refused(launch: dict[str, Any], why: str) -> None:
    with contextlib.ExitStack() as opened, pytest.raises(CannotFork, match=why):
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "x"]
        await TEMPLATES.fork(request_for(command, launch, opened))


@pytest.mark.slow
async def test_kernels_are_started_until_their_template_is_ready_and_then_share_it(
    made: list[pool.Template],
) -> None:
    async with kernel(wait=False) as first:
        assert not is_forked(first.process)
        assert await first.value("1 + 1") == 2
        (template,) = made
        async with asyncio.timeout(60):
            while not (template.is_usable() and template.ready):
                await asyncio.sleep(0.02)
        async with kernel(wait=False) as second, kernel(wait=False) as third:
            pids = [each.process.ppid() for each in (second, third)]
            assert pids == [template.process.pid] * 2


@pytest.mark.slow
async def test_nobody_waits_for_a_template_that_is_importing(
    made: list[pool.Template], tmp_path: Path
) -> None:
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)")
    env = {**kernel_env(), "PYTHONPATH": str(tmp_path)}
    async with kernel(wait=False, preload=["hangs"], env=env):
        async with kernel(wait=False, preload=["hangs"], env=env) as second:
            assert not is_forked(second.process)
        (template,) = made
        template.process.kill()


async def test_a_shutdown_ends_a_kernel_that_is_being_forked(made: list[pool.Template]) -> None:
    manager = manager_of(OURS, {"preload": [], "wait_for_template": True})
    starting = asyncio.create_task(manager.start_kernel(env=kernel_env()))
    while not made:
        await asyncio.sleep(0.01)
    await manager.cleanup_resources()  # what nbclient does when it gets SIGTERM
    with pytest.raises(asyncio.CancelledError):
        await starting
    (template,) = made
    assert psutil.Process(template.process.pid).children() == []
    assert not Path(manager.connection_file).exists()


SIGNALLED = """
import nbformat
from nbclient import NotebookClient
cell = nbformat.v4.new_code_cell("import time; time.sleep(60)")
NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()
"""


@pytest.mark.slow
async def test_sigterm_ends_a_program_whose_first_kernel_is_starting(tmp_path: Path) -> None:
    """nbclient ends what it has started: before, that was nothing yet."""
    files = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SIGNALLED),
        env={**kernel_env(), **files, "JUPYTER_DEFAULT_PROVISIONER_NAME": OURS},
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    async with asyncio.timeout(50):
        while not list(tmp_path.glob("*.json")):
            await asyncio.sleep(0.01)
        process.terminate()
        assert await process.wait() == 1
    assert list(tmp_path.glob("*.json")) == []


async def test_other_kernels_are_started_in_the_ordinary_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with kernel(env={**kernel_env(), "PYTHONPATH": "lib"}) as running:
        assert not is_forked(running.process)
        assert await running.value("1 + 1") == 2
    assert "started, not forked: PYTHONPATH has a relative path" in caplog.text
    with contextlib.ExitStack() as opened, pytest.raises(CannotFork, match="does not run"):
        spec = KernelSpec(argv=["R", "--slave", "-f", "{connection_file}"])
        request_for(spec.argv, {}, opened)


@pytest.mark.slow
async def test_a_fork_that_is_refused_ends_no_kernel(
    made: list[pool.Template], tmp_path: Path
) -> None:
    """As when there are too many processes."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import errno, os\nfork = os.fork\ndef few():\n"
        f"    if os.path.exists({str(tmp_path / 'full')!r}):\n"
        "        raise BlockingIOError(errno.EAGAIN, 'too many processes')\n"
        "    return fork()\nos.fork = few"
    )
    env = {**kernel_env(), "PYTHONPATH": str(folder)}
    async with kernel(env=env) as first:
        (tmp_path / "full").touch()
        async with kernel(env=env) as second:
            assert is_forked(first.process) and not is_forked(second.process)
        (tmp_path / "full").unlink()
        async with kernel(env=env) as third:
            assert third.process.parent() == first.process.parent()
        assert await first.value("1 + 1") == 2
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/null and limits as on Linux")
async def test_a_program_with_many_open_files_has_forked_kernels() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2_500:
        pytest.skip("few files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1_100)]
    try:
        async with kernel() as running:
            assert is_forked(running.process)
    finally:
        for each in held:
            os.close(each)
        TEMPLATES.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
async def test_a_template_that_does_not_start_is_given_up(
    made: list[pool.Template], tmp_path: Path
) -> None:
    (tmp_path / "IPython").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('fork/zygote' in a for a in sys.orig_argv): raise SystemExit(1)"
    )
    env = {**kernel_env(), "PYTHONPATH": str(tmp_path)}
    for _ in range(3):
        async with kernel(env=env) as running:
            assert not is_forked(running.process)
    assert len(made) == pool.MAX_FAILURES


@pytest.mark.slow
@pytest.mark.parametrize(
    "report",
    [
        pytest.param(b"[]", id="list"),
        *(
            pytest.param(report, id=name, marks=pytest.mark.slow)
            for name, report in (
                ("no why", b'{"unfit": {}}'),
                ("text", b'"ready"'),
                ("number", b'{"ready": 1}'),
                ("deep", b"[" * 100_000),
            )
        ),
    ],
)
async def test_reports_that_make_no_sense_end_a_template_and_no_kernel(
    made: list[pool.Template], report: bytes
) -> None:
    async with kernel() as running:
        (template,) = made
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            true, template.line = template.line, ours
            theirs.sendall(report + b"\n")
            assert not template.is_usable()
            template.line = true
        assert await running.value("1 + 1") == 2
        async with kernel() as second:
            assert is_forked(second.process)


@pytest.mark.slow
async def test_a_template_that_is_closed_while_its_answer_is_awaited_is_no_error(
    made: list[pool.Template],
) -> None:
    """Its owner reads a line that is closed: EBADF."""
    async with kernel():
        (template,) = made
    template.line.close()
    assert not template.is_usable()
    async with kernel() as running:
        assert is_forked(running.process)


@pytest.mark.parametrize("told", [b"", b"e", b"e\0\0", b"e\0\0\0\7"])
async def test_an_exit_code_that_comes_in_part_is_unknown(told: bytes) -> None:
    """A template that is killed has written as much as it has."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    ours, theirs = socket.socketpair()
    ended = ForkedProcess(child.pid, ours)
    await child.wait()
    theirs.sendall(told)
    theirs.close()
    assert ended.poll() == (
        7 if len(told) == forked_process.ANSWER.size else forked_process.UNKNOWN
    )
    assert ended.exit_code_lost == (len(told) < forked_process.ANSWER.size)
    assert ours.fileno() == -1


async def test_an_exit_code_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that is stopped says nothing, and the loop has others to serve."""
    monkeypatch.setattr(forked_process, "EXIT_CODE_TIMEOUT", 1000.0)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    ours, theirs = socket.socketpair()
    with theirs:
        ended = ForkedProcess(child.pid, ours)
        await child.wait()
        assert ended.poll() is None
        monkeypatch.setattr(forked_process, "EXIT_CODE_TIMEOUT", 0.0)
        assert ended.poll() == forked_process.UNKNOWN
        assert ended.exit_code_lost


@pytest.mark.parametrize("by", ["poll", "template"])
async def test_an_exit_code_is_reported_whoever_has_read_it(by: str) -> None:
    """To kill a kernel that has just ended reads its exit code, too."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    ours, theirs = socket.socketpair()
    ended = ForkedProcess(child.pid, ours)
    reported: list[int | None] = []
    ended.when_reported(lambda: reported.append(ended.poll()))
    await child.wait()
    with theirs:
        theirs.sendall(b"e\0\0\0\7")
        if by == "poll":
            ended.kill()
        async with asyncio.timeout(10):
            while not reported:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
    assert reported == [7]


@pytest.mark.slow
async def test_templates_that_are_stopped_are_ended_with_their_kernels(
    made: list[pool.Template],
) -> None:
    other = {**kernel_env(), "PRINCIPAL": "other"}
    async with kernel() as first, kernel() as second, kernel(env=other) as third:
        assert len(made) == 2
        kernels = [each.process for each in (first, second, third)]
        first.client.execute("while True: pass")
        for template in made:
            template.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(TEMPLATES.close)
        assert all(template.ended for template in made)
        assert not still_running(kernels, seconds=5)


@pytest.mark.slow
async def test_a_stopped_template_is_closed_while_others_get_their_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end is waited for where nobody asks for kernels."""
    monkeypatch.setattr(pool, "CLOSE_TIMEOUT", 30.0)
    other = {**kernel_env(), "PRINCIPAL": "other"}
    async with kernel(env={**kernel_env(), "PRINCIPAL": "one"}) as first, kernel(env=other):
        template = first.process.parent()
        assert template is not None
        template.suspend()
        closing = asyncio.create_task(asyncio.to_thread(TEMPLATES.close, PRINCIPAL="one"))
        async with asyncio.timeout(15):
            async with kernel(env=other) as neighbour:
                assert is_forked(neighbour.process)
            async with kernel(env={**kernel_env(), "PRINCIPAL": "one"}) as next_one:
                assert is_forked(next_one.process)
                assert next_one.process.parent() != template
        assert not closing.done()
        template.resume()
        await closing
        assert not template.is_running()


@pytest.mark.slow
async def test_what_is_known_of_templates_ends_with_their_owner_alone(
    made: list[pool.Template], tmp_path: Path
) -> None:
    broken = {"PYTHONPATH": str(tmp_path), "PRINCIPAL": "broken"}
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('fork/zygote' in a for a in sys.orig_argv): raise SystemExit(1)"
    )

    async def tried(owner: dict[str, str], kernels: int = 1) -> int:
        """How many templates are started for kernels of this owner's."""
        before = len(made)
        for _ in range(kernels):
            async with kernel(env={**kernel_env(), **owner}) as running:
                assert is_forked(running.process) == (owner is not broken)
        return len(made) - before

    assert await tried({"PRINCIPAL": "one"}) == 1
    assert await tried(broken, kernels=3) == pool.MAX_FAILURES
    TEMPLATES.close(PRINCIPAL="one")
    assert await tried(broken) == 0
    TEMPLATES.close(PRINCIPAL="broken")
    assert await tried(broken) > 0


@pytest.mark.slow
async def test_a_kernel_that_fails_as_it_is_forked_costs_no_template(
    made: list[pool.Template], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kernel() as running:
        (template,) = made
        gone, place = tmp_path / "gone", str(tmp_path / "k")
        with contextlib.ExitStack() as opened, (tmp_path / "said").open("w+") as said:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", place]
            launch = {"cwd": str(gone), "env": kernel_env(), "stdout": said, "stderr": said}
            request = request_for(command, launch, opened)
            with pytest.raises(CannotFork, match="no process was forked"):
                await TEMPLATES.fork(request)
            said.seek(0)
            assert said.read() == ""  # it would stand in some run's output
        async with kernel() as second:
            assert second.process.parent() == running.process.parent()
        assert not template.hung
    (told,) = [each.message for each in caplog.records if "not forked" in each.message]
    assert str(gone) in told
    assert "has failed" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("asked", [1, 40])
async def test_a_template_that_hangs_holds_nobody_up(
    asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither other templates, nor the threads that all the server's work shares."""
    monkeypatch.setattr("rmi_agent.kernels.fork.template.REQUEST_TIMEOUT", 3.0)
    environment = {**kernel_env(), "PRINCIPAL": "other"}
    async with kernel() as first, kernel(env=environment):
        template = first.process.parent()
        assert template is not None
        template.suspend()
        try:
            with contextlib.ExitStack() as opened:
                waiting = []
                for number in range(asked):
                    place = str(tmp_path / str(number))
                    arguments = ["-f", f"{place}.json", "--transport=ipc", f"--ip={place}"]
                    command = [sys.executable, "-m", "ipykernel_launcher", *arguments]
                    launch = {"env": kernel_env()}
                    request = request_for(command, launch, opened)
                    waiting.append(asyncio.create_task(TEMPLATES.fork(request)))
                await asyncio.sleep(0.1)
                async with kernel(env=environment) as neighbour:
                    assert is_forked(neighbour.process)
                    await asyncio.to_thread(os.getpid)
                    assert not any(each.done() for each in waiting)
                forked = await asyncio.gather(*waiting)
                for each in forked:
                    assert psutil.Process(each.pid).ppid() != template.pid
                    each.kill()
                    await asyncio.to_thread(each.wait, 10)
        finally:
            template.resume()
        assert await first.value("1 + 1") == 2


KERNELS = 12  # of an owner that is killed


@pytest.mark.slow
async def test_an_owner_that_is_killed_leaves_neither_template_nor_kernel(tmp_path: Path) -> None:
    """On one processor, a kernel's end comes before its template has killed the next one."""
    owner = tmp_path / "owner.py"
    owner.write_text(
        "import asyncio, contextlib, os, signal\n"
        "from tests.kernels.fork.plain import kernel\n"
        "async def main():\n"
        "    async with contextlib.AsyncExitStack() as stack:\n"
        f"        kernels = [await stack.enter_async_context(kernel()) for _ in range({KERNELS})]\n"
        "        processes = [each.process for each in kernels]\n"
        "        with open(os.environ['SAYS'], 'w') as said:\n"
        "            print(processes[0].ppid(), *(each.pid for each in processes), file=said)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if hasattr(os, 'sched_setaffinity'):\n"
        "    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(owner),
        env={**os.environ, "PYTHONPATH": str(root), "SAYS": str(tmp_path / "said")},
    )
    await process.wait()
    pids = [int(pid) for pid in (tmp_path / "said").read_text().split()]
    assert len(pids) == 1 + KERNELS
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    try:
        assert not still_running(processes, seconds=5)
    finally:
        for left in still_running(processes, seconds=0):
            left.kill()


LEAVES = """
import atexit, threading, time
from types import SimpleNamespace
from rmi_agent.kernels.fork import kernel_app
atexit.register(print, "exit handlers")
def flush():
    time.sleep(0.3)
    print("flushed", flush=True)
control = threading.Thread(target=flush, daemon=True)
control.stop = lambda: None
control.start()
kernel_app.leave(SimpleNamespace(control_thread=control))
"""


async def test_exit_handlers_wait_for_the_thread_that_got_the_shutdown_request() -> None:
    """It flushes, and ipykernel's handler ends the thread that a flush waits for: 10 s each."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LEAVES), env=kernel_env(), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().split("\n") == ["flushed", "exit handlers", ""]


@pytest.mark.slow
async def test_exit_handlers_run(tmp_path: Path) -> None:
    async with kernel() as running:
        written = tmp_path / "written"
        await running.value("1", f"import atexit; atexit.register(open, {str(written)!r}, 'w')")
        running.client.stop_channels()
        await running.manager.shutdown_kernel()
        assert written.exists()
