"""What code in a sandbox can't do, and what it still can: each case tried on a real kernel."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import IPython
import psutil
import pytest
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from rmi_agent.kernels import (
    TIERS,
    Config,
    KernelStartError,
    Launch,
    Policy,
    Run,
    Session,
    Sessions,
    Tier,
    why_not,
)
from rmi_agent.kernels.sandbox.syscalls import MACHINES

from tests.conftest import cell, kernel_env, stream, value
from tests.kernels.fork.plain import is_forked
from tests.processes import still_running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.security,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's"),
]
# Folders with the interpreters, which are shown, and this package's own file among them.
SEEN = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve()]
CANARY = f"canary-{secrets.token_hex(8)}"


class House:
    """A host with secrets, and sessions of two principals in sandboxes on it."""

    def __init__(self, folder: Path, tier: Tier) -> None:
        self.folder, self.projects = folder, folder / "projects"
        self.notebooks, self.outside = folder / "notebooks", folder / "outside"
        for made in (self.projects, self.notebooks, self.outside):
            made.mkdir()
        for place in (self.notebooks, self.outside, self.projects):
            (place / "secret.txt").write_text(CANARY if place != self.projects else "seen")
        self.policy = Policy(tier, self.projects, folder / "homes", hide=(self.notebooks,))
        self.sessions: Sessions

    def box(self, principal: str = "alice") -> Path:
        """A principal's own folder."""
        (found,) = self.policy.homes.glob(f"{principal}-*")
        return found


def usable(tier: Tier) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "p").mkdir()
        if why := why_not(Policy(tier, Path(folder, "p"), Path(folder, "homes"))):
            pytest.skip(f"{tier}: {why}")


@pytest.fixture(scope="module", params=TIERS)
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    usable(request.param)
    built = House(tmp_path_factory.mktemp("h"), request.param)
    os.environ["CANARY"] = CANARY
    env = {name: text for name, text in kernel_env().items() if name != "CANARY"}
    launch = Launch(cwd=built.projects, runtime=Path(), env=env)
    config = Config(built.notebooks)
    try:
        async with Sessions(
            config, launch, warm=0, policy=built.policy, expected=("alice",)
        ) as built.sessions:
            yield built
    finally:
        del os.environ["CANARY"]


@pytest.fixture(scope="module")
async def shared(house: House) -> AsyncIterator[Session]:
    """A session for attempts that leave nothing behind; bob has a home beside it."""
    await house.sessions.close(await house.sessions.open("bob"))
    opened = await house.sessions.open("alice")
    yield opened
    await house.sessions.close(opened)


@pytest.fixture
async def session(house: House) -> AsyncIterator[Session]:
    opened = await house.sessions.open("alice")
    yield opened
    await house.sessions.close(opened)


async def outcome(session: Session, code: str) -> str:
    """What came of an attempt: `done` and what it got, or the error that stopped it."""
    indented = "\n".join(f"    {line}" for line in code.strip().splitlines())
    run = await cell(
        session, f"got = None\ntry:\n{indented}\nexcept BaseException as e: got = e\nrepr(got)"
    )
    assert run.status == "ok", stream(run, "stderr")
    return str(ast.literal_eval(value(run)))


# -- denied

STEPS_OUT = {
    "shadow": "got = open('/etc/shadow').read()",
    "home_of_root": "import os; got = {{*os.listdir('/root')}} - {{*{interpreters}}} or 1 / 0",
    "homes": "import os; got = {{*os.listdir('/home')}} - {{*{interpreters}}} or 1 / 0",
    "own_home": "import os; got = {{*os.listdir({real_home!r})}} - {{*{interpreters}}} or 1 / 0",
    "outside": "got = open({outside!r} + '/secret.txt').read()",
    "outside_by_dots": "got = open({projects!r} + '/../outside/secret.txt').read()",
    "outside_by_link": "import os; os.symlink({outside!r}, 'away'); got = os.listdir('away')",
    "outside_by_proc_root": "got = open('/proc/1/root' + {outside!r} + '/secret.txt').read()",
    "outside_by_proc_cwd": "import os; got = os.listdir('/proc/1/cwd' + {outside!r})",
    "notebooks": "import os; got = [x for x in os.listdir({notebooks!r})] or 1 / 0",
    "runtime": "import os; got = [x for x in os.listdir({runtime!r}) if x != 'p0'] or 1 / 0",
    "write_outside": "open({outside!r} + '/new.txt', 'w').write('x'); got = 'wrote'",
    "write_packages": "import json, os; open(os.path.dirname(json.__file__) + '/x.py', 'w')",
    "write_site_packages": "import IPython, os; open(os.path.dirname(IPython.__file__) + '/x', 'w')",
    "write_etc": "open('/etc/hosts', 'a')",
    "write_proc_sys": "open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')",
    "write_sysrq": "open('/proc/sysrq-trigger', 'w').write('h')",
    "make_a_device": "import os, stat; os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
    "chroot": "import os; os.chroot('.')",
    "mount": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.mount(b'none', b'/tmp', b'tmpfs', 0, None): raise OSError(ctypes.get_errno())\n"
        "got = 'mounted'"
    ),
    "user_namespace": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.unshare(0x10000000): raise OSError(ctypes.get_errno())\n"
        "got = 'new namespace'"
    ),
    "user_namespace_by_command": (
        "import subprocess\n"
        "got = subprocess.run(['unshare', '-Ur', 'id'], capture_output=True, check=True)"
    ),
    "ptrace_a_child": (
        "import ctypes, subprocess; l = ctypes.CDLL(None, use_errno=True)\n"
        "p = subprocess.Popen(['sleep', '60'])\n"
        "failed = l.ptrace(16, p.pid, None, None); n = ctypes.get_errno(); p.kill()\n"
        "if failed: raise OSError(n)\n"
        "got = 'attached'"
    ),
    "read_a_childs_memory": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.process_vm_readv(1, None, 0, None, 0, 0): raise OSError(ctypes.get_errno())\n"
        "got = 'read'"
    ),
    "signal_the_server": "import os; os.kill({server}, 0); got = 'reached'",
    "signal_everybody": "import os, signal; os.kill({server}, signal.SIGTERM); got = 'sent'",
    "bobs_folder": "import os; got = os.listdir({bob!r})",
    "everybodys_folders": "import os; got = os.listdir({homes!r}) == [{own!r}] and 1 / 0",
    "connection_file": (
        "import ipykernel.connect as c; open(c.get_connection_file(), 'w').write('{{}}')"
    ),
    "connection_file_moved": (
        "import ipykernel.connect as c, os; f = c.get_connection_file(); os.rename(f, f + 'x')"
    ),
    "connection_file_linked": (
        "import ipykernel.connect as c, os; f = c.get_connection_file()\n"
        "os.symlink('/etc/passwd', os.path.dirname(f) + '/other.json')"
    ),
    "kernel_keyring": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.syscall({keyctl}, 0, -3, 1) < 0: raise OSError(ctypes.get_errno())\n"
        "got = 'keyring'"
    ),
    "mode_outside": "import os; os.chmod({outside!r} + '/secret.txt', 0o644); got = 'changed'",
    "mode_outside_by_link": (
        "import os; os.symlink({outside!r}, 'away')\n"
        "os.chmod('away/secret.txt', 0o644); got = 'changed'"
    ),
    "mode_of_what_is_read": (
        "import json, os; os.fchmod(os.open(json.__file__, os.O_RDONLY), 0o644); got = 'changed'"
    ),
    "mode_of_a_device": "import os; os.chmod('/dev/null', 0o666); got = 'changed'",
    "mode_by_proc": (
        "import json, os; fd = os.open(json.__file__, os.O_RDONLY)\n"
        "os.chmod(f'/proc/self/fd/{{fd}}', 0o644); got = 'changed'"
    ),
    "mode_by_another_name": (
        "import json, os; fd = os.open(json.__file__, os.O_RDONLY)\n"
        "os.chmod(f'/dev/fd/{{fd}}', 0o644); got = 'changed'"
    ),
    "mode_of_a_name_like_none": (
        "import json, os; os.symlink(json.__file__, 'pipe:[1]')\n"
        "try: os.chmod('pipe:[1]', 0o644); got = 'changed'\n"
        "finally: os.unlink('pipe:[1]')"
    ),
    "times_outside": "import os; os.utime({outside!r} + '/secret.txt'); got = 'changed'",
    "times_of_what_is_read": (
        "import json, os; os.utime(os.open(json.__file__, os.O_RDONLY)); got = 'changed'"
    ),
    "owner_outside": (
        "import os; os.chown({outside!r} + '/secret.txt', os.getuid(), os.getgid()); got = 'changed'"
    ),
    "attribute_outside": (
        "import os; os.setxattr({outside!r} + '/secret.txt', 'user.x', b'x'); got = 'changed'"
    ),
    "lease_on_what_is_read": (
        "import fcntl, json; f = open(json.__file__)\n"
        "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK); got = 'leased'"
    ),
    "limits_of_the_server": (
        "import resource as r; r.prlimit({server}, r.RLIMIT_CORE, (0, 0)); got = 'limited'"
    ),
    "limits_of_the_server_in_odd_words": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "odd = ctypes.c_ulong({server} | 7 << 32)\n"
        "if l.syscall({prlimit64}, odd, 4, (ctypes.c_ulong * 2)(0, 0), None) < 0:\n"
        "    raise OSError(ctypes.get_errno())\n"
        "got = 'limited'"
    ),
    "priority_of_the_server": "import os; os.setpriority(os.PRIO_PROCESS, {server}, 0); got = 'set'",
    "processors_of_the_server": (
        "import os; os.sched_setaffinity({server}, os.sched_getaffinity(0)); got = 'set'"
    ),
    "scheduling_of_the_server": (
        "import os; os.sched_setscheduler({server}, os.SCHED_OTHER, os.sched_param(0)); got = 'set'"
    ),
    "sockets_to_the_hypervisor": "import socket; socket.socket(40, socket.SOCK_STREAM); got = 'made'",
    "sockets_of_the_kernels_own": "import socket; socket.socket(38, socket.SOCK_SEQPACKET); got = 1",
    "packets": "import socket; socket.socket(17, socket.SOCK_RAW); got = 'made'",
    "events_of_devices": "import socket; socket.socket(16, socket.SOCK_RAW, 15); got = 'made'",
    "pairs_of_other_sockets": "import socket; socket.socketpair(30, socket.SOCK_STREAM); got = 1",
    "shared_memory_of_old": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.shmget(0, 4096, 0o1600) < 0: raise OSError(ctypes.get_errno())\n"
        "got = 'made'"
    ),
    "pressure": "open('/proc/pressure/memory', 'w')",
    "memory_of_the_next_process": (
        "import subprocess; p = subprocess.Popen(['sleep', '60'])\n"
        "try: open(f'/proc/{{p.pid}}/mem', 'r+b')\n"
        "finally: p.kill()"
    ),
}
IN_LANDLOCK = {  # in bubblewrap these reach what is inside
    "priority_of_all": "import os; os.setpriority(os.PRIO_USER, 0, 0); got = 'set'",
    "queues_of_the_host": (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "if l.mq_open(b'/no-such', 0) < 0: raise OSError(ctypes.get_errno())\n"
        "got = 'opened'"
    ),
}
REFUSALS = (
    "PermissionError",
    "FileNotFoundError",
    "ProcessLookupError",
    "OSError",
    "ZeroDivisionError",  # the attempt itself says that there was nothing to see
    "CalledProcessError",
    "NotADirectoryError",
)


@pytest.mark.parametrize("attempt", [*STEPS_OUT, *IN_LANDLOCK])
async def test_a_step_out_is_refused(attempt: str, house: House, shared: Session) -> None:
    if attempt in IN_LANDLOCK and house.policy.tier != "landlock":
        pytest.skip("there it reaches what is inside")
    words = {
        "outside": str(house.outside),
        "projects": str(house.projects),
        "notebooks": str(house.notebooks),
        "runtime": str(kernel_launch(shared).runtime.parent.parent),
        "real_home": str(Path.home()),
        "server": os.getpid(),
        "interpreters": [part for path in SEEN for part in path.parts],
        "bob": str(house.box("bob")),
        "homes": str(house.policy.homes),
        "own": house.box().name,
        **MACHINES[os.uname().machine].numbers,
    }
    got = await outcome(shared, (STEPS_OUT | IN_LANDLOCK)[attempt].format(**words))
    assert got.startswith(REFUSALS), got
    assert CANARY not in got
    assert value(await cell(shared, "6 * 7")) == "42"
    assert not (house.outside / "new.txt").exists()
    with contextlib.suppress(FileNotFoundError):
        (house.projects / "away").unlink()


SET_ID = {
    "chmod": "os.close(os.open('it', os.O_CREAT)); os.chmod('it', {mode})",
    "fchmod": "os.fchmod(os.open('it', os.O_CREAT | os.O_RDWR), {mode})",
    "fchmodat": "os.close(os.open('it', os.O_CREAT)); os.chmod('it', {mode}, dir_fd=os.open('.', 0))",
    "fchmodat2": "os.close(os.open('it', os.O_CREAT)); call({fchmodat2}, -100, b'it', {mode}, 0)",
    "chmod_odd": "os.close(os.open('it', os.O_CREAT)); call({fchmodat}, -100, b'it', {mode} | 1 << 40)",
    "open": "os.open('it', os.O_CREAT | os.O_WRONLY, {mode})",
    "openat2": "call({openat2}, -100, b'it', struct.pack('QQQ', 0o100, {mode}, 0), 24)",
    "nameless": (
        "fd = os.open('.', os.O_TMPFILE | os.O_WRONLY, {mode})\n"
        "call({linkat}, -100, b'/proc/self/fd/%d' % fd, -100, b'it', 0x400)"
    ),
    "mknod": "os.mknod('it', stat.S_IFREG | {mode})",
    "copied": "shutil.copy({suid!r}, 'it')",
    "installed": "subprocess.run(['install', '-m', '{mode:o}', '/bin/true', 'it'], check=True)",
    "copied_by_a_program": "subprocess.run(['cp', '-p', {suid!r}, 'it'], check=True)",
    "unpacked": (
        "with tarfile.open('t.tar', 'w') as t:\n"
        "    i = tarfile.TarInfo('it'); i.mode = {mode}; t.addfile(i)\n"
        "with tarfile.open('t.tar') as t: t.extractall('.', filter='fully_trusted')"
    ),
    "linked": "os.link({suid!r}, 'it')",
    "ring": "call({io_uring_setup}, 8, bytes(120))",
}
CALL = """
import ctypes, os, shutil, stat, struct, subprocess, tarfile
libc = ctypes.CDLL(None, use_errno=True)
def call(*given):
    given = [each if isinstance(each, bytes) else ctypes.c_long(each) for each in given]
    if libc.syscall(*given) < 0: raise OSError(ctypes.get_errno(), 'refused')
"""


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
@pytest.mark.parametrize("way", SET_ID)
async def test_no_file_runs_as_the_servers_user_for_everybody(
    way: str, mode: int, house: House, shared: Session
) -> None:
    words = MACHINES[os.uname().machine].numbers | {
        "linkat": {"x86_64": 265, "aarch64": 37}[os.uname().machine],
        "suid": str(next(path for path in map(Path, SET_ID_PROGRAMS) if path.exists())),
    }
    it = house.projects / "it"
    got = await outcome(shared, CALL + SET_ID[way].format(mode=mode, **words))
    try:
        assert not it.exists() or not it.stat().st_mode & 0o6000, got
    finally:
        it.unlink(missing_ok=True)
    # Some of them go on without the bits.
    assert way in ("copied", "unpacked", "copied_by_a_program") or got.startswith(REFUSALS), got


SET_ID_PROGRAMS = ("/usr/bin/passwd", "/usr/bin/su", "/usr/bin/mount")


def kernel_launch(session: Session) -> Launch:
    assert session.kernel is not None
    return session.kernel.launch


@contextlib.contextmanager
def listening(family: int, kind: int, address: object) -> Iterator[list[bytes]]:
    """A socket of the host; what reached it."""
    reached: list[bytes] = []
    with socket.socket(family, kind) as host:
        host.bind(address)  # type: ignore[arg-type]
        if kind == socket.SOCK_STREAM:
            host.listen()
        host.settimeout(0.1)
        over = threading.Event()

        def receive() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    if kind == socket.SOCK_STREAM:
                        with host.accept()[0]:
                            reached.append(b"connected")
                    else:
                        reached.append(host.recv(100))

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            reached.append(repr(host.getsockname()).encode())
            yield reached
        finally:
            over.set()
            thread.join()


REACHING = {
    "tcp": ("AF_INET", "SOCK_STREAM", ("127.0.0.1", 0)),
    "udp": ("AF_INET", "SOCK_DGRAM", ("127.0.0.1", 0)),
    "tcp6": ("AF_INET6", "SOCK_STREAM", ("::1", 0)),
    "abstract_stream": ("AF_UNIX", "SOCK_STREAM", f"\0{CANARY}"),
    "abstract_datagram": ("AF_UNIX", "SOCK_DGRAM", f"\0{CANARY}-d"),
    "pathname_stream": ("AF_UNIX", "SOCK_STREAM", "path"),
    "pathname_datagram": ("AF_UNIX", "SOCK_DGRAM", "path"),
}


@pytest.mark.parametrize("kind", REACHING)
@pytest.mark.parametrize("by", ["socket", "socketpair"])
async def test_no_socket_of_the_host_is_reached(
    kind: str, by: str, house: House, shared: Session
) -> None:
    family, type_, address = REACHING[kind]
    if by == "socketpair" and type_ == "SOCK_STREAM":
        pytest.skip("a pair of streams can't be connected again")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        place = f"{folder}/s" if address == "path" else address
        with listening(getattr(socket, family), getattr(socket, type_), place) as reached:
            (name,) = reached
            made = (
                f"socket.socket(socket.{family}, socket.{type_})"
                if by == "socket"
                else f"socket.socketpair(socket.AF_UNIX, socket.{type_})[0]"
            )
            got = await outcome(
                shared,
                f"import socket; s = {made}; s.settimeout(2)\n"
                f"s.connect({name.decode()}) if s.type == socket.SOCK_STREAM else"
                f" s.sendto(b'hello', {name.decode()}); got = 'sent'",
            )
        assert reached == [name], got
    if kind != "udp" or house.policy.tier == "landlock":  # to one's own loopback it is sent
        assert got.startswith((*REFUSALS, "ConnectionRefusedError", "TypeError")), got


async def test_no_process_shows_the_servers_environment_or_memory(session: Session) -> None:
    run = await cell(
        session,
        "import glob\nfound = []\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: text = open(path, 'rb').read()\n"
        "    except OSError: continue\n"
        f"    if {CANARY.encode()!r} in text: found.append(open(path[:-7] + 'cmdline').read())\n"
        "found",
    )
    assert value(run) == "[]"
    got = await outcome(session, f"got = open('/proc/{os.getpid()}/mem', 'rb').read(1)")
    assert got.startswith(REFUSALS), got


LOOK_AROUND = """
import os, stat
found = []
for top in ('/proc', '/sys', '/dev'):
    for folder, folders, names in os.walk(top):
        if top == '/proc' and folder.count('/') == 1:
            folders[:] = [name for name in folders if not name.isdigit()]
        for path in (os.path.join(folder, name) for name in names):
            mode = os.lstat(path).st_mode
            try:
                if stat.S_ISREG(mode) and not mode & 0o004 and open(path, 'rb').read(1):
                    found.append(path)
                if stat.S_ISREG(mode): os.close(os.open(path, os.O_WRONLY)); found.append(path)
            except OSError: pass
            try:
                if not stat.S_ISLNK(mode): os.chmod(path, stat.S_IMODE(mode)); found.append(path)
            except OSError: pass
[path for path in found if not path.startswith(('/dev/pts', '/dev/shm', '/sys/devices/system/cpu/cpu'))]
"""


async def test_nothing_of_the_system_is_changed_or_read_by_roots_right(
    house: House, session: Session
) -> None:
    if house.policy.tier != "bwrap":
        pytest.skip("Landlock shows all of /proc, to be read")
    assert value(await cell(session, LOOK_AROUND, 60)) == "[]"


async def test_the_other_threads_of_a_kernel_have_the_same_walls(
    house: House, session: Session
) -> None:
    run = await cell(
        session,
        "import socket, threading\n"
        f"secret = {str(house.outside)!r} + '/secret.txt'\n"
        "said, done = {}, threading.Semaphore(0)\n"
        "def attempt():\n"
        "    for act in (lambda: open(secret).read(), lambda: socket.socket(socket.AF_UNIX)"
        ".connect('/nowhere')):\n"
        "        try: act(); error = 'none'\n"
        "        except OSError as e: error = type(e).__name__\n"
        "        said.setdefault(threading.current_thread().name, []).append(error)\n"
        "    done.release()\n"
        "import asyncio\n"
        "asyncio.get_running_loop().run_in_executor(None, attempt)\n"
        "threading.Thread(target=attempt).start()\n"
        "[done.acquire(timeout=10) for _ in range(2)], said",
    )
    refused = "PermissionError" if house.policy.tier == "landlock" else "FileNotFoundError"
    assert value(run).count("True") == 2
    assert value(run).count(refused) == 4, value(run)


async def test_a_kernel_that_swaps_its_files_does_not_bring_the_next_one_with_it(
    house: House, session: Session
) -> None:
    sockets = str(kernel_launch(session).sockets)
    await cell(
        session,
        "import os\n"
        f"for name in os.listdir({sockets!r}):\n"
        f"    path = os.path.join({sockets!r}, name)\n"
        f"    os.unlink(path); os.symlink({str(house.outside / 'secret.txt')!r}, path)",
    )
    await session.restart()
    assert value(await cell(session, "6 * 7")) == "42"
    for left in Path(sockets).iterdir():
        left.unlink()


async def test_limits_hold(house: House, session: Session) -> None:
    got = value(
        await cell(
            session,
            "import resource as r\n"
            "[r.getrlimit(n)[1] for n in (r.RLIMIT_CORE, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE)],"
            " int(open('/proc/self/oom_score_adj').read())",
        )
    )
    assert got == "([0, 10737418240, 4096], 500)"
    if house.policy.tier == "bwrap":
        sizes = await cell(
            session,
            "import os\n"
            "[os.statvfs(p).f_blocks * os.statvfs(p).f_frsize for p in ('/tmp', '/dev/shm')]",
        )
        assert value(sizes) == str([1 << 30, 1 << 30])


@pytest.mark.skipif(os.getuid() == 0, reason="Linux does not count root's processes")
async def test_a_fork_bomb_ends_at_the_limit(house: House, session: Session) -> None:
    if house.policy.tier == "landlock":
        pytest.skip("without a user namespace the limit is that of all the user's processes")
    got = await outcome(
        session,
        "import subprocess; running = []\n"
        "while True: running.append(subprocess.Popen(['sleep', '60']))",
    )
    assert got.startswith("BlockingIOError"), got


async def test_every_kernel_runs_its_exit_handlers_before_it_ends(house: House) -> None:
    farewells = [f"bye-{number}" for number in range(6)]
    sessions = [await house.sessions.open("alice") for _ in farewells]
    for opened, name in zip(sessions, farewells, strict=True):
        handler = f"import atexit, pathlib\natexit.register(pathlib.Path({name!r}).touch)"
        assert (await cell(opened, handler)).status == "ok"
    for opened in sessions:
        await house.sessions.close(opened)
    async with asyncio.timeout(30):
        while house.sessions.pool.count > house.sessions.pool.leased:
            await asyncio.sleep(0.01)
    found = [path.name for path in house.projects.glob("bye-*")]
    for name in found:
        (house.projects / name).unlink()
    assert sorted(found) == farewells


async def test_killing_what_holds_the_sandbox_leaves_no_kernel(house: House) -> None:
    if house.policy.tier != "bwrap":
        pytest.skip("nothing holds it")
    session = await house.sessions.open("carol")
    assert session.kernel is not None
    kernel = psutil.Process(session.kernel.process.pid)
    assert is_forked(kernel)
    for above in kernel.parents():
        if above.name() == "bwrap":
            outermost = above
    outermost.kill()
    kernel.wait(5)
    assert value(await cell(session, "6 * 7")) == "42"  # on a new one
    await house.sessions.close(session)


# -- allowed

ALLOWED = {
    "projects": "open('mine.txt', 'w').write('x'); assert open('secret.txt').read() == 'seen'",
    "home": (
        "import os, pathlib; p = pathlib.Path.home() / 'x'; p.write_text('x')\n"
        "assert p.read_text() == 'x'; assert os.path.expanduser('~') == str(p.parent)"
    ),
    "tmp": "import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x' * 10_000_000)",
    "numpy_threads": (
        "import numpy as n, threading; a = n.random.rand(500, 500)\n"
        "t = [threading.Thread(target=lambda: a @ a) for _ in range(4)]\n"
        "[x.start() for x in t]; [x.join() for x in t]"
    ),
    "subprocess": (
        "import subprocess, sys\n"
        "assert subprocess.check_output([sys.executable, '-c', 'print(1)']) == b'1\\n'"
    ),
    "shell": "import os; assert os.system('ls | grep -q secret') == 0",
    "modes": (
        "import os, pathlib, shutil, subprocess; p = pathlib.Path('mine.sh'); p.write_text('exit 7')\n"
        "p.chmod(0o700); assert p.stat().st_mode & 0o7777 == 0o700\n"
        "with p.open() as f: os.fchmod(f.fileno(), 0o755); os.chmod(f'/proc/self/fd/{f.fileno()}', 0o751)\n"
        "assert p.stat().st_mode & 0o7777 == 0o751\n"
        "subprocess.run(['chmod', '640', 'mine.sh'], check=True)\n"
        "assert p.stat().st_mode & 0o7777 == 0o640\n"
        "os.chmod('mine.sh', 0o600, dir_fd=os.open('.', os.O_RDONLY)); os.mkdir('d', 0o700)\n"
        "os.chmod('d', 0o1777); os.rmdir('d'); assert p.stat().st_mode & 0o7777 == 0o600\n"
        "os.chmod(p.resolve(), 0o400); p.unlink()"
    ),
    "times": (
        "import os, pathlib, subprocess; p = pathlib.Path('mine'); p.touch(); p.touch()\n"
        "os.utime(p, ns=(1_000_000_007, 2_000_000_009)); assert p.stat().st_mtime_ns == 2_000_000_009\n"
        "with p.open() as f: os.utime(f.fileno(), (5, 6))\n"
        "assert (p.stat().st_atime, p.stat().st_mtime) == (5, 6)\n"
        "os.symlink('mine', 'link'); os.utime('link', (7, 8), follow_symlinks=False)\n"
        "assert (os.lstat('link').st_mtime, p.stat().st_mtime) == (8, 6)\n"
        "subprocess.run(['touch', '-d', '@9', 'link'], check=True); assert p.stat().st_mtime == 9\n"
        "os.unlink('link'); p.unlink()"
    ),
    "modes_by_descriptors": (
        "import os, pathlib, subprocess, threading; p = pathlib.Path('mine'); p.touch(); f = p.open()\n"
        "names = '/dev/fd', '/proc/self/fd', '/proc/thread-self/fd', '//proc//self/fd', f'/proc/{os.getpid()}/fd'\n"
        "def change():\n"
        "    for number, name in enumerate(names):\n"
        "        path = f'{name}/{f.fileno()}'; os.chmod(path, 0o640 | number); os.utime(path, (5, number))\n"
        "        assert (p.stat().st_mode & 0o7777, p.stat().st_mtime) == (0o640 | number, number)\n"
        "    said.append(1)\n"
        "said = []; change(); t = threading.Thread(target=change); t.start(); t.join()\n"
        "for number, name in enumerate(('stdin', 'stdout', 'stderr')):\n"
        "    subprocess.run(['chmod', '60' + str(number), '/dev/' + name], check=True, **{name: p.open('a')})\n"
        "    assert p.stat().st_mode & 0o7777 == 0o600 | number\n"
        "p.unlink(); assert said == [1, 1]"
    ),
    "modes_without_a_name": (
        "import os; pipe = os.pipe(); memory = os.memfd_create('x')\n"
        "for fd in (*pipe, memory):\n"
        "    os.fchmod(fd, 0o640); os.utime(fd, (5, 6)); os.chmod(f'/dev/fd/{fd}', 0o750)\n"
        "    assert os.fstat(fd).st_mode & 0o7777 == 0o750\n"
        "    os.close(fd)"
    ),
    "owners": (
        "import os; open('mine', 'w').close(); os.chown('mine', os.getuid(), -1)\nos.unlink('mine')"
    ),
    "copies": (
        "import json, os, shutil, stat; shutil.copy(json.__file__, 'a.py'); shutil.copy2('a.py', 'b.py')\n"
        "assert int(os.stat('a.py').st_mtime) == int(os.stat('b.py').st_mtime)\n"
        "shutil.copytree(os.path.dirname(json.__file__), 'tree'); shutil.move('tree', os.path.expanduser('~'))\n"
        "shutil.rmtree(os.path.expanduser('~/tree')); os.unlink('a.py'); os.unlink('b.py')"
    ),
    "archives": (
        "import os, pathlib, shutil; os.mkdir('in'); pathlib.Path('in/x').write_text('x')\n"
        "os.chmod('in/x', 0o751)\n"
        "for kind in ('gztar', 'zip'): shutil.unpack_archive(shutil.make_archive('a', kind, 'in'), 'out-' + kind)\n"
        "assert os.stat('out-gztar/x').st_mode & 0o777 == 0o751\n"
        "[shutil.rmtree(d) for d in ('in', 'out-gztar', 'out-zip')]\n"
        "[os.unlink(f) for f in ('a.tar.gz', 'a.zip')]"
    ),
    "git": (
        "import shutil, subprocess as s\n"
        "def git(*a): s.run(['git', '-c', 'user.name=n', '-c', 'user.email=e', *a], cwd='g', check=True, capture_output=True)\n"
        "import os; os.mkdir('g'); git('init'); open('g/x', 'w').write('x'); git('add', 'x')\n"
        "git('commit', '-m', 'm'); shutil.rmtree('g')"
    ),
    "own_processes": (
        "import os, resource, subprocess, threading\n"
        "os.nice(1); os.sched_setaffinity(0, os.sched_getaffinity(0)); p = subprocess.Popen(['sleep', '60'])\n"
        "os.setpriority(os.PRIO_PROCESS, p.pid, 15); assert os.getpriority(os.PRIO_PROCESS, p.pid) == 15\n"
        "os.sched_setaffinity(p.pid, {min(os.sched_getaffinity(0))})\n"
        "assert len(os.sched_getaffinity(p.pid)) == 1\n"
        "os.sched_setscheduler(p.pid, os.SCHED_BATCH, os.sched_param(0))\n"
        "assert os.sched_getscheduler(p.pid) == os.SCHED_BATCH; p.kill(); p.wait()\n"
        "own = threading.get_native_id(); os.sched_setaffinity(own, os.sched_getaffinity(own))\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.prlimit(os.getpid(), resource.RLIMIT_CORE)"
    ),
    "system": (
        "import multiprocessing, os, platform, psutil; assert os.cpu_count() and psutil.cpu_count()\n"
        "psutil.virtual_memory(); psutil.swap_memory(); psutil.cpu_times(); psutil.boot_time()\n"
        "psutil.disk_partitions(); psutil.Process().memory_info(); psutil.Process().open_files()\n"
        "os.getloadavg(); platform.platform(); os.sysconf('SC_PHYS_PAGES'); open('/proc/self/comm').read()\n"
        "open('/proc/sys/kernel/osrelease').read(); open('/dev/stdout', 'a').close()"
    ),
    "orphans": (
        "import os, subprocess, time\n"
        "pid = int(subprocess.check_output(['sh', '-c', 'sleep 0.1 > /dev/null & echo $!']))\n"
        "end = time.monotonic() + 20\n"
        "while os.path.exists(f'/proc/{pid}') and time.monotonic() < end: time.sleep(0.05)\n"
        "assert not os.path.exists(f'/proc/{pid}')"
    ),
    "user": "import getpass, os, pwd; assert getpass.getuser() == 'user'",
    "threads": (
        "import concurrent.futures as c\n"
        "with c.ThreadPoolExecutor(20) as p: assert sum(p.map(abs, range(-9, 0))) == 45"
    ),
    "matplotlib_cache": (
        "import matplotlib as m, matplotlib.font_manager, os, subprocess, sys\n"
        "assert os.access(m.get_cachedir(), os.W_OK)\n"
        "subprocess.run([sys.executable, '-c', 'import matplotlib.font_manager'], check=True)\n"
        "assert os.path.isdir(os.path.expanduser('~/.cache/matplotlib'))"
    ),
    "asyncio": "import asyncio; await asyncio.sleep(0.01)",
    "time_zone": "import time; time.localtime()",
    "certificates": "import ssl; ssl.create_default_context()",
    "sqlite": (
        "import sqlite3; d = sqlite3.connect('base.db'); d.execute('create table t(x)'); d.close()\n"
        "import os; os.unlink('base.db')"
    ),
}
IN_BWRAP = {
    "multiprocessing": (
        "import multiprocessing as m\n"
        "with m.get_context('fork').Pool(2) as p: assert p.map(abs, [-1, 2]) == [1, 2]\n"
        "q = m.Queue(); q.put(1); assert q.get(timeout=5) == 1"
    ),
    "shared_memory": (
        "from multiprocessing import shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=100); m.close(); m.unlink()"
    ),
    "own_name": "import socket; assert socket.gethostbyname(socket.gethostname())",
    "a_server_of_ones_own": (
        "import socket; s = socket.create_server(('127.0.0.1', 0))\n"
        "c = socket.create_connection(s.getsockname()); c.close(); s.close()"
    ),
}


@pytest.mark.parametrize("act", [*ALLOWED, *IN_BWRAP])
async def test_what_programs_do_works(act: str, house: House, shared: Session) -> None:
    if act in IN_BWRAP and house.policy.tier != "bwrap":
        pytest.skip("needs semaphores or sockets, which Landlock can't keep apart")
    run = await cell(shared, (ALLOWED | IN_BWRAP)[act], 60)
    assert run.status == "ok", run.cell.outputs


async def test_a_kernel_is_forked_inside_and_interrupted_there(session: Session) -> None:
    assert session.kernel is not None
    assert is_forked(psutil.Process(session.kernel.process.pid))
    run = await cell(session, "x = 1\nwhile True: pass", timeout=0.5)
    assert (run.status, run.state) == ("timeout", "kept")
    assert value(await cell(session, "x")) == "1"


async def test_a_kernel_that_is_not_forked_is_inside_and_interrupted_there(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "kernels" / "plain"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Plain",
                "language": "python",
                "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    launch = Launch(house.projects, Path(), "plain", env=kernel_env())
    # Without a network, Landlock takes no kernel that is not forked (fork/test_template_isolation.py).
    network = house.policy.tier == "landlock"
    policy = replace(house.policy, homes=tmp_path / "homes", network=network)
    async with Sessions(Config(tmp_path / "n"), launch, warm=0, policy=policy) as sessions:
        session = await sessions.open()
        assert not session.kernel.process.forked
        got = await outcome(session, f"got = open({str(house.outside)!r} + '/secret.txt').read()")
        assert got.startswith(REFUSALS), got
        run = await cell(session, "x = 1\nwhile True: pass", timeout=0.5)
        assert (run.status, run.state) == ("timeout", "kept")
        assert value(await cell(session, "x")) == "1"
        assert session.kernel is not None
        kernel = psutil.Process(session.kernel.process.pid)
        family = [kernel, *kernel.children(recursive=True)]
    assert not still_running(family, 5)


def spec_of(interpreter: Path, folder: Path) -> None:
    """A kernelspec `mine`, with an interpreter of its own."""
    spec = folder / "kernels" / "mine"
    spec.mkdir(parents=True)
    argv = [str(interpreter), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    words = {"argv": argv, "display_name": "Mine", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(words))


async def test_an_environment_that_kernels_can_change_runs_inside_alone(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = house.projects / "mine"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "servers.pth").write_text(str(Path(IPython.__file__).parent.parent))
    ran = house.outside / "ran"
    (packages / "sitecustomize.py").write_text(
        f"try: open({str(ran)!r}, 'w').close()\nexcept OSError: pass"
    )
    spec_of(python, tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    launch = Launch(house.projects, Path(), "mine", env=kernel_env())
    policy = replace(house.policy, homes=tmp_path / "homes")
    async with Sessions(Config(tmp_path / "n"), launch, warm=0, policy=policy) as sessions:
        session = await sessions.open()
        assert value(await cell(session, "import sys; sys.prefix")) == repr(str(environment))
    shutil.rmtree(environment)
    assert not ran.exists()


@pytest.mark.parametrize("trick", ["home", "link", "program"])
async def test_a_made_up_environment_shows_nothing_of_the_host(
    trick: str, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = house.projects / trick
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    ran = house.outside / "ran"
    away = house.outside / "bin" / "python"
    if trick == "link":
        away.parent.mkdir()
        shutil.copy(shutil.which("true") or "", away)
        python.symlink_to(away)
    else:
        python.write_text(f"#!/bin/sh\ntouch {ran}\ncat {house.outside}/secret.txt >&2\nexit 3\n")
        python.chmod(0o755)
    if trick == "home":
        (environment / "pyvenv.cfg").write_text(f"home = {house.outside}/bin\n")
    spec_of(python, tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    launch = Launch(house.projects, Path(), "mine", env=kernel_env())
    policy = replace(house.policy, homes=tmp_path / "homes")
    try:
        async with Sessions(Config(tmp_path / "n"), launch, warm=0, policy=policy) as sessions:
            with pytest.raises(KernelStartError) as said:
                await sessions.open()
    finally:
        shutil.rmtree(environment)
        shutil.rmtree(away.parent, ignore_errors=True)
    assert not ran.exists()
    assert CANARY not in str(said.value)
    assert ("RMI_AGENT_SANDBOX_READ" in str(said.value)) == (trick != "program")


async def test_a_provisioner_that_would_start_it_outside_is_refused(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "kernels" / "remote"
    spec.mkdir(parents=True)
    elsewhere = {"kernel_provisioner": {"provisioner_name": "elsewhere"}}
    (spec / "kernel.json").write_text(
        json.dumps(
            {"argv": ["x"], "display_name": "R", "language": "python", "metadata": elsewhere}
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    known = KernelProvisionerFactory.instance().provisioners
    monkeypatch.setitem(known, "elsewhere", known["local-provisioner"])
    launch = Launch(house.projects, Path(), "remote", env=kernel_env())
    policy = replace(house.policy, homes=tmp_path / "homes")
    async with Sessions(Config(tmp_path / "n"), launch, warm=0, policy=policy) as sessions:
        with pytest.raises(KernelStartError, match="can't be started in the sandbox"):
            await sessions.open()


async def test_what_is_in_a_home_stays_and_is_nobody_elses(house: House) -> None:
    first = await house.sessions.open("alice")
    await cell(first, "import pathlib; pathlib.Path.home().joinpath('kept').write_text('k')")
    await house.sessions.close(first)
    second, other = await house.sessions.open("alice"), await house.sessions.open("bob")
    look = "import pathlib; [p.name for p in pathlib.Path.home().iterdir() if p.name == 'kept']"
    assert value(await cell(second, look)) == "['kept']"
    assert value(await cell(other, look)) == "[]"
    for each in (second, other):
        await house.sessions.close(each)


PACKAGE = """
[project]
name = "tiny-thing"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("tiny_thing.py", "answer = 42")
        info = "tiny_thing-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


async def test_files_can_be_moved_between_folders(house: House, session: Session) -> None:
    for folder in ("os.getcwd()", "os.path.expanduser('~')", "os.environ['TMPDIR']"):
        code = (
            f"import os; there = {folder} + '/from'; os.mkdir(there); open(there + '/x', 'w').close()"
            "\nos.rename(there + '/x', there + '/../x'); os.rename(there + '/../x', there + '/y')"
            "\nos.remove(there + '/y'); os.rmdir(there); 'moved'"
        )
        assert value(await cell(session, code)) == "'moved'"


async def test_a_package_is_installed_for_all_sessions_of_its_principal(house: House) -> None:
    source = house.projects / "tiny"
    source.mkdir()
    (source / "pyproject.toml").write_text(PACKAGE)
    (source / "backend.py").write_text(BACKEND)
    session = await house.sessions.open("alice")
    install = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install',"
    run = await cell(
        session,
        f"{install} '-q', '--no-index', './tiny'], capture_output=True, text=True).stderr",
        60,
    )
    assert value(await cell(session, "import tiny_thing; tiny_thing.answer")) == "42", value(run)
    await house.sessions.close(session)
    later = await house.sessions.open("alice")
    assert value(await cell(later, "import tiny_thing; tiny_thing.answer")) == "42"
    await house.sessions.close(later)
    bob = await house.sessions.open("bob")
    assert (await cell(bob, "import tiny_thing")).error_name == "ModuleNotFoundError"
    await house.sessions.close(bob)
    shutil.rmtree(source)


# -- policies


async def one_cell(policy: Policy, folder: Path, code: str) -> Run:
    launch = Launch(cwd=policy.projects, runtime=Path(), env=kernel_env())
    async with Sessions(Config(folder / "n"), launch, warm=0, policy=policy) as sessions:
        session = await sessions.open()
        return await cell(session, code)


@pytest.mark.parametrize("tier", TIERS)
async def test_projects_can_be_read_only(tier: Tier, tmp_path: Path) -> None:
    usable(tier)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.txt").write_text("a")
    policy = Policy(tier, tmp_path / "p", tmp_path / "homes", read_only=True)
    run = await one_cell(policy, tmp_path, "print(open('a.txt').read())\nopen('b.txt', 'w')")
    assert stream(run) == "a\n"
    assert run.error_name in ("OSError", "PermissionError")


@pytest.mark.parametrize("tier", TIERS)
async def test_more_folders_can_be_shown(tier: Tier, tmp_path: Path) -> None:
    usable(tier)
    for name in ("p", "r", "w"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    policy = Policy(
        tier,
        tmp_path / "p",
        tmp_path / "homes",
        read=(tmp_path / "r",),
        write=(tmp_path / "w",),
    )
    run = await one_cell(
        policy,
        tmp_path,
        f"print(open({str(tmp_path / 'r' / 'a.txt')!r}).read())\n"
        f"open({str(tmp_path / 'w' / 'b.txt')!r}, 'w').write('b')\n"
        f"open({str(tmp_path / 'r' / 'b.txt')!r}, 'w')",
    )
    assert stream(run) == "r\n"
    assert run.error_name in ("OSError", "PermissionError")
    assert (tmp_path / "w" / "b.txt").read_text() == "b"


@pytest.mark.parametrize("tier", TIERS)
async def test_the_network_is_there_where_it_is_wanted(tier: Tier, tmp_path: Path) -> None:
    usable(tier)
    (tmp_path / "p").mkdir()
    policy = Policy(tier, tmp_path / "p", tmp_path / "homes", network=True)
    with listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)) as reached:
        run = await one_cell(
            policy,
            tmp_path,
            f"import socket; socket.create_connection({reached[0].decode()}, 5).close()\n"
            "assert socket.gethostbyname(socket.gethostname())",
        )
        assert run.status == "ok", run.cell.outputs


def templates() -> set[psutil.Process]:
    return {
        child
        for child in psutil.Process().children()
        if "fork/zygote.py" in " ".join(child.cmdline())
    }


@pytest.mark.parametrize("tier", TIERS)
async def test_the_templates_of_a_sandbox_end_with_its_sessions(tier: Tier, tmp_path: Path) -> None:
    usable(tier)
    (tmp_path / "p").mkdir()
    before = templates()
    await one_cell(Policy(tier, tmp_path / "p", tmp_path / "homes"), tmp_path, "1")
    assert templates() <= before


async def test_what_must_not_change_can_lie_in_what_may(tmp_path: Path) -> None:
    usable("bwrap")
    projects = tmp_path / "p"
    for name in ("deep/fixed", "deep/hidden"):
        (projects / name).mkdir(parents=True)
        (projects / name / "a.txt").write_text(CANARY)
    policy = Policy(
        "bwrap",
        projects,
        tmp_path / "homes",
        hide=(projects / "deep" / "hidden",),
        fixed=(projects / "deep" / "fixed",),
    )
    run = await one_cell(
        policy,
        tmp_path,
        "import os\n"
        "def attempt(act):\n"
        "    try: return act()\n"
        "    except OSError as e: return type(e).__name__\n"
        "acts = [lambda: os.rename('deep', 'shallow'), lambda: os.rename('deep/fixed', 'x'),\n"
        "    lambda: open('deep/fixed/a.txt', 'w'), lambda: os.listdir('deep/hidden')]\n"
        "[attempt(act) for act in acts], open('deep/new.txt', 'w').write('n')",
    )
    assert value(run) == "(['OSError', 'OSError', 'OSError', []], 1)"


@pytest.mark.parametrize(
    ("where", "why"),
    [("p", "Landlock can't hide"), ("r", "Landlock can't hide"), ("beside", "")],
)
@pytest.mark.parametrize("read_only", [True, False])
async def test_landlock_is_not_taken_where_it_can_not_hide(
    where: str, why: str, read_only: bool, tmp_path: Path
) -> None:
    usable("landlock")
    notebooks = tmp_path / where / "notebooks"
    for made in (notebooks, tmp_path / "p", tmp_path / "r"):
        made.mkdir(parents=True, exist_ok=True)
    policy = Policy(
        "landlock",
        tmp_path / "p",
        tmp_path / "homes",
        read_only=read_only,
        read=(tmp_path / "r",),
        hide=(notebooks,),
    )
    assert why_not(policy).startswith(why) if why else why_not(policy) == ""


async def test_landlock_is_not_taken_where_it_can_not_keep_from_changes(tmp_path: Path) -> None:
    usable("landlock")
    fixed = tmp_path / "p" / "fixed"
    fixed.mkdir(parents=True)
    policy = Policy("landlock", tmp_path / "p", tmp_path / "homes", fixed=(fixed,))
    assert why_not(policy).startswith("Landlock can't keep")
    assert why_not(replace(policy, read_only=True)) == ""


async def test_no_kernel_starts_where_what_is_to_be_hidden_is_gone(tmp_path: Path) -> None:
    """It would be seen once it is there again."""
    usable("bwrap")
    (tmp_path / "p").mkdir()
    policy = Policy("bwrap", tmp_path / "p", tmp_path / "homes", hide=(tmp_path / "p" / "n",))
    with pytest.raises(KernelStartError, match="/n must be hidden .* restart the server"):
        await one_cell(policy, tmp_path, "1")
    # Elsewhere it is seen in no case.
    policy = replace(policy, hide=(tmp_path / "n",))
    assert (await one_cell(policy, tmp_path, "1")).status == "ok"


# What a container may take from its root: the right to mount, or the system call alone.
TAKEN = {
    "nothing": "",
    "the right": "confine.libc.prctl(confine.DROP_FROM_BOUNDING_SET, 21, 0, 0, 0)",
    "the call": "confine.filter_calls(seccomp.program((seccomp.calls('mount'),)))",
}
LOOKS_AT_DEVICES = """
import subprocess, sys
from pathlib import Path
from rmi_agent.kernels import Policy
from rmi_agent.kernels.sandbox import confine, probe, seccomp
from rmi_agent.server import load, sandboxing as isolation
{take}
if sys.argv[1:]:
    policy = Policy("bwrap", Path("/p"), Path("/h"))
    settings = load(python_projects_dir="/p", sandbox="bwrap")
    print(probe.keeps_devices(policy), "/dev/null" in isolation.describe_gaps(policy, settings))
else:  # a right is gone with the next program
    subprocess.run([sys.executable, __file__, "again"], check=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="others do not own the devices")
@pytest.mark.parametrize("what", TAKEN)
def test_a_root_that_may_not_mount_starts_kernels_and_says_what_that_leaves_open(
    what: str, tmp_path: Path
) -> None:
    program = tmp_path / "looks.py"
    program.write_text(LOOKS_AT_DEVICES.format(take=TAKEN[what]))
    mounts = Path("/proc/self/mountinfo").read_text()
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (
        "True False\n" if what == "nothing" else "False True\n",
        "",
    )
    assert Path("/proc/self/mountinfo").read_text() == mounts
