"""What a kernel can write runs in no template, and reaches neither it nor other kernels."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import pytest
from rmi_agent.kernels import (
    TIERS,
    Config,
    KernelStartError,
    Launch,
    Policy,
    Session,
    Sessions,
    Tier,
)
from rmi_agent.kernels.fork.pool import Template

from tests.conftest import cell, kernel_env, stream, value
from tests.kernels.fork.plain import is_forked
from tests.kernels.sandbox.test_sandbox import listening, outcome, usable

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.security,
    pytest.mark.templates,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's"),
]
PRELOADED = "fastjsonschema"  # a package of the server's that kernels do not import
RECORDS = """
import os, sys
with open({ran!r}, "a") as record:
    record.write(f"{{os.getpid()}}\\n")
"""


class Place:
    """A folder for a server, whose principals' homes outlast its sessions."""

    def __init__(self, tier: Tier, folder: Path) -> None:
        usable(tier)
        self.folder, self.projects = folder, folder / "p"
        self.projects.mkdir()
        self.policy = Policy(tier, self.projects, folder / "homes")

    @contextlib.asynccontextmanager
    async def sessions(self, kernel_name: str = "python3", **env: str) -> AsyncIterator[Sessions]:
        launch = Launch(
            self.projects,
            Path(),
            kernel_name,
            env={**kernel_env(), **env},
            preload=(PRELOADED,),
        )
        config = Config(self.folder / "n")
        async with Sessions(config, launch, warm=0, policy=self.policy) as opened:
            yield opened

    @property
    def home(self) -> Path:
        (found,) = self.policy.homes.glob("alice-*")
        return found

    @property
    def venv(self) -> Path:
        """The user's own environment, which the first kernel makes."""
        (found,) = self.home.glob(".venvs/*-*")
        return found

    @property
    def packages(self) -> Path:
        (found,) = self.venv.glob("lib/python*/site-packages")
        return found


@pytest.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made = Place(request.param, tmp_path)
    async with made.sessions() as sessions:  # so that the home is there
        await sessions.close(await sessions.open("alice"))
    return made


async def loaded_ahead(sessions: Sessions) -> Session:
    """A session whose kernel came after the preload."""
    while True:
        session = await sessions.open("alice")
        if value(await cell(session, f"import sys; {PRELOADED!r} in sys.modules")) == "True":
            return session
        await sessions.close(session)


PLANTED = {
    "sitecustomize": "PACKAGES/sitecustomize.py",
    "a_preloaded_module": f"PACKAGES/{PRELOADED}.py",
    "a_module_of_every_kernel": "PACKAGES/tornado/__init__.py",
    "a_module_of_the_standard_library": "PACKAGES/json.py",
    "what_site_runs": "PACKAGES/first.pth",
    "the_environments_python": "VENV/bin/python",
    "a_program_of_a_librarys": "VENV/bin/ld",
    "ipythons_start": ".ipython/profile_default/startup/first.py",
    "ipythons_settings": ".ipython/profile_default/ipython_kernel_config.py",
    "jupyters_settings": ".jupyter/jupyter_config.py",
    "in_the_project": "../../p/sitecustomize.py",
}


@pytest.mark.parametrize("what", PLANTED)
async def test_what_a_kernel_can_write_runs_in_no_template(
    what: str, made: list[Template], place: Place
) -> None:
    ran = place.home / "ran"
    named = PLANTED[what].replace("PACKAGES", str(place.packages)).replace("VENV", str(place.venv))
    planted = place.home / named
    ran.touch()
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.unlink(missing_ok=True)
    records = RECORDS.format(ran=str(ran))
    program = f"import os; exec({records!r})" if planted.suffix == ".pth" else records
    planted.write_text(f"#!{sys.executable}\n" + program)
    planted.chmod(0o755)
    path = {"PYTHONPATH": str(place.projects)} if what == "in_the_project" else {}
    kernels: set[str] = set()
    async with place.sessions(**path) as sessions:
        with contextlib.suppress(KernelStartError):  # an ordinary start may run into it
            for _ in range(3):
                session = await sessions.open("alice")
                kernels.add(value(await cell(session, "import os; os.getpid()")))
                await sessions.close(session)
        serving = [each for each in made if not (each.ended or each.stale)]
        assert serving
        assert all(template.forked or template.is_usable() for template in serving)
    if kernels:
        assert {*ran.read_text().split()} <= kernels


async def test_no_line_of_the_users_comes_before_the_last_wall(place: Place) -> None:
    """As soon as there is code of theirs, it reaches no socket of the host."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        listening(socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/s") as stream_reached,
        listening(socket.AF_UNIX, socket.SOCK_DGRAM, f"{folder}/d") as packets_reached,
        listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)) as udp_reached,
    ):
        (place.packages / "sitecustomize.py").write_text(f"""
import os, socket
said = ["ran"]
def attempt(act):
    try: act(); said.append("reached")
    except OSError as error: said.append(type(error).__name__)
attempt(lambda: socket.socket(socket.AF_UNIX).connect({folder!r} + "/s"))
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    attempt(lambda: socket.socket(socket.AF_UNIX, kind).sendto(b"x", {folder!r} + "/d"))
    attempt(lambda: socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"x", {folder!r} + "/d"))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
    b"x", {udp_reached[0].decode()}))
os.environ["SAID"] = " ".join(said)
""")
        async with place.sessions() as sessions:
            for _ in range(2):
                session = await sessions.open("alice")
                said = value(await cell(session, "import os; os.environ['SAID']"))
                assert said.startswith("'ran ")
                assert session.kernel.process.forked
                await session.restart()
                await sessions.close(session)
    for reached in (stream_reached, packets_reached, udp_reached):
        assert len(reached) == 1, said  # its own name


async def test_a_kernel_reads_and_changes_no_memory_of_its_template_or_of_others(
    place: Place,
) -> None:
    async with place.sessions() as sessions:
        session, other = await sessions.open("alice"), await sessions.open("alice")
        told = value(await cell(other, "import os; secret = 'x' * 10; os.getpid(), id(secret)"))
        for whose in ("os.getppid()", f"{told}[0]"):
            for mode in ("rb", "r+b"):
                got = await outcome(
                    session, f"import os; got = open(f'/proc/{{{whose}}}/mem', {mode!r})"
                )
                assert got.startswith(("PermissionError", "OSError(30")), (whose, mode, got)
            for file in ("environ", "maps"):
                got = await outcome(
                    session, f"import os; got = open(f'/proc/{{{whose}}}/{file}', 'rb').read()"
                )
                assert got.startswith("PermissionError"), (whose, file, got)
            got = await outcome(session, f"import os; os.kill({whose}, 19); got = 'stopped'")
            assert got.startswith("PermissionError"), (whose, got)
        mine = await outcome(
            session,
            "import os, subprocess, sys\n"
            "child = subprocess.Popen(['sleep', '60'])\n"
            "got = len(open(f'/proc/{child.pid}/maps').read()) > 0, os.listdir('/proc/self/fd') != []\n"
            "child.kill(); child.wait()",
        )
        assert mine == "(True, True)"
        assert value(await cell(other, "secret")) == f"{'x' * 10!r}"
        # The server, outside, still sees what it counts and clears up by.
        assert session.kernel is not None
        assert session.kernel.process.memory() > 1_000_000
        process = psutil.Process(session.kernel.process.pid)
        assert process.environ()["RMI_AGENT_KERNEL"]


async def test_no_kernel_changes_the_profile_that_others_start_with(place: Place) -> None:
    async with place.sessions() as sessions:
        session = await sessions.open("alice")
        for name in ("startup/first.py", "ipython_kernel_config.py", "ipython_config.py"):
            got = await outcome(
                session,
                "import os; folder = os.environ['IPYTHONDIR']\n"
                f"got = open(folder + '/profile_default/{name}', 'a').write('x')",
            )
            assert got.startswith(("PermissionError", "OSError")), (name, got)
        await cell(session, "kept = 7\n%store kept")
        await sessions.close(session)
        session = await sessions.open("alice")
        assert value(await cell(session, "%store -r kept\nkept")) == "7"


@pytest.mark.parametrize("how", ["installed", "editable"])
async def test_a_module_that_a_user_installs_hides_the_preloaded_one(
    how: str, place: Place
) -> None:
    version = f"import {PRELOADED}; getattr({PRELOADED}, 'mine', 'ours')"
    async with place.sessions() as sessions:
        session = await loaded_ahead(sessions)
        assert value(await cell(session, version)) == "'ours'"
        newer = place.packages / f"{PRELOADED}.py"
        if how == "editable":
            newer = place.home / "mine" / newer.name
            newer.parent.mkdir()
            (place.packages / "__editable__.mine.pth").write_text(f"{newer.parent}\n")
        await cell(session, f"open({str(newer)!r}, 'w').write('mine = 2')")
        await sessions.close(session)
        for _ in range(2):
            session = await sessions.open("alice")
            assert value(await cell(session, version)) == "2"
            assert session.kernel.process.forked
            await sessions.close(session)
        session = await sessions.open("alice")
        await cell(session, f"import os; os.unlink({str(newer)!r})")
        await sessions.close(session)
        session = await loaded_ahead(sessions)
        assert value(await cell(session, version)) == "'ours'"


async def test_a_module_of_every_kernels_that_a_user_installs_is_used(place: Place) -> None:
    mine = place.packages / "platformdirs" / "__init__.py"
    shutil.copytree(Path(platformdirs.__file__).parent, mine.parent)
    async with place.sessions() as sessions:
        session = await sessions.open("alice")
        assert session.kernel.process.forked  # the same version is no other
        await sessions.close(session)
        mine.write_text(mine.read_text() + "\nmine = 1\n")
        session = await sessions.open("alice")
        has = value(await cell(session, "import platformdirs as p; hasattr(p, 'mine')"))
        # Landlock without a network can't hold one that is started, so there it is the server's.
        started = place.policy.tier == "bwrap"
        assert (session.kernel.process.forked, has) == (not started, str(started))


LOOKS = """
import added, json, multiprocessing.spawn, os, site, subprocess, sys, sysconfig
OWN = "IPYTHONDIR JPY_PARENT_PID RMI_AGENT_KERNEL PWD".split()  # the last is bubblewrap's
ran = open(os.path.expanduser("~/ran")).read().split()
look = "import json, sys; print(json.dumps([sys.path, sys.flags.no_user_site, sys.prefix]))"
customs = map(sys.modules.get, ("sitecustomize", "usercustomize"))
print(json.dumps({
    "ran": sorted({*ran}),  # by several processes, whose `site` reads an environment twice
    "path": sys.path,
    "flags": list(sys.flags),
    "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable, site.PREFIXES],
    "sysconfig": [sysconfig.get_paths(), sysconfig.get_config_var("prefix")],
    "spawn": os.fsdecode(multiprocessing.spawn.get_executable()),
    "user": [site.ENABLE_USER_SITE, site.getuserbase(), site.getusersitepackages()],
    "environment": {name: os.environ[name] for name in sorted(os.environ) if name not in OWN},
    "child": json.loads(subprocess.check_output([sys.executable, "-c", look])),
    "python": json.loads(subprocess.check_output(["python", "-c", look])),
    "customs": [getattr(module, "__file__", None) for module in customs],
    "added": added.__file__,
}))
"""


@pytest.mark.parametrize("whose", ["servers", "users"])
async def test_a_forked_kernel_has_the_paths_of_one_that_is_started(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.pth` files and customs included: in the user's own environment on top of a server's.

    If users can change an interpreter's environment, it is their own, here with user sites.
    """
    place = Place("bwrap", tmp_path)
    python = with_user_sites((tmp_path if whose == "servers" else place.projects) / "env")
    spec = tmp_path / "kernels" / "mine" / "kernel.json"
    spec.parent.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found: list[dict[str, Any]] = []
    for provisioner in ("local-provisioner", "rmi-forkserver"):
        stanza = {"kernel_provisioner": {"provisioner_name": provisioner}}
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        told = {"argv": argv, "display_name": "M", "language": "python", "metadata": stanza}
        spec.write_text(json.dumps(told))
        async with place.sessions("mine", PYTHONPATH=str(place.projects)) as sessions:
            await sessions.close(await sessions.open("alice"))
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            users = place.home / ".local" / "lib" / version / "site-packages"
            packages = place.packages if whose == "servers" else users
            (packages / "added").mkdir(parents=True, exist_ok=True)
            (packages / "more.pth").write_text("added\nimport added; added.run('pth')\n")
            (packages / "added" / "added.py").write_text(
                "import os\ndef run(n): open(os.path.expanduser('~/ran'), 'a').write(n + ' ')\n"
            )
            custom = "import added; added.run(__name__)"
            (packages / "usercustomize.py").write_text(custom)
            (place.projects / "sitecustomize.py").write_text(custom)
            older = place.home / "packages" / "old_thing-1.dist-info"
            older.mkdir(parents=True, exist_ok=True)
            (place.home / "ran").unlink(missing_ok=True)
            session = await sessions.open("alice")
            assert session.kernel.process.forked == (provisioner == "rmi-forkserver")
            run = await cell(session, LOOKS)
            assert run.status == "ok", run.cell.outputs
            found.append(json.loads(stream(run)))
    started, forked = found
    assert forked.pop("environment").items() ^ started.pop("environment").items() == set()
    assert forked == started
    prefix = str(place.venv if whose == "servers" else python.parent.parent)
    assert started["prefixes"][0] == prefix
    assert {started["child"][2], started["python"][2]} == {prefix}
    if whose == "servers":
        assert started["ran"] == ["pth", "sitecustomize"]
        assert started["path"][-1] == str(older.parent)
    else:
        assert started["ran"] == ["pth", "sitecustomize", "usercustomize"]
        assert started["user"][0] is True


def with_user_sites(folder: Path) -> Path:
    """A virtual environment with what this interpreter has, and user sites; its Python."""
    made = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(folder)]
    subprocess.run(made, check=True)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "ours.pth").write_text("\n".join(ours) + "\n")
    return folder / "bin" / "python"


async def test_landlock_without_a_network_refuses_what_can_not_be_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "kernels" / "plain"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "other_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "P"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    async with Place("landlock", tmp_path).sessions("plain") as sessions:
        with pytest.raises(KernelStartError, match="can't be forked .*install bubblewrap"):
            await sessions.open("alice")


SWAPS = """
import json, os, sys
ip = json.load(open(sys.argv[-1]))["ip"]
folder = os.path.dirname(ip)
for name in os.listdir(folder):
    path = os.path.join(folder, name)
    os.unlink(path)
    {act}
"""
SWAPPED = {
    "a_link": "os.symlink({host!r}, path)",
    "a_file": "open(path, 'w').close()",
    "a_folder": "os.mkdir(path)",
}


@pytest.mark.parametrize("what", SWAPPED)
async def test_the_server_connects_to_no_socket_but_the_kernels(what: str, place: Place) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        listening(socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/s") as reached,
    ):
        swap = SWAPS.format(act=SWAPPED[what].format(host=f"{folder}/s"))
        custom = place.packages / "sitecustomize.py"
        async with place.sessions() as sessions:
            custom.write_text(swap)  # it runs when the sockets are there, and races the server
            for _ in range(3):
                with contextlib.suppress(KernelStartError):
                    await sessions.close(await sessions.open("alice"))
            custom.unlink()
            session = await sessions.open("alice")
            assert session.kernel is not None
            sockets = session.kernel.launch.sockets
            assert sockets is not None
            names = value(await cell(session, f"import os; os.listdir({str(sockets)!r})"))
            # What is used is out of reach; the heartbeat's, which nobody asks, may be left.
            assert {name[-2:] for name in ast.literal_eval(names)} <= {"-5"}
            assert value(await cell(session, "6 * 7")) == "42"
        assert len(reached) == 1


@pytest.mark.slow
async def test_the_users_settings_of_matplotlib_hold_where_it_is_preloaded(place: Place) -> None:
    rc = place.home / ".config" / "matplotlib" / "matplotlibrc"
    width = (
        "import matplotlib as m, os; m.rcParams['lines.linewidth'], 'MPLCONFIGDIR' in os.environ"
    )
    launch = Launch(place.projects, Path(), env=kernel_env(), preload=("matplotlib.pyplot",))
    config = Config(place.folder / "n")
    async with Sessions(config, launch, warm=0, policy=place.policy) as sessions:
        ahead = "False"
        while ahead == "False":
            session = await sessions.open("alice")
            ahead = value(await cell(session, "import sys; 'matplotlib' in sys.modules", 60))
            assert value(await cell(session, width, 60)) == "(1.5, False)"
            await sessions.close(session)
        rc.parent.mkdir(parents=True, exist_ok=True)
        rc.write_text("lines.linewidth: 7")
        session = await sessions.open("alice")
        assert value(await cell(session, width, 60)) == "(7.0, False)"


async def test_what_replaces_a_socket_is_refused_in_words(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def swapped(source: Path, target: Path) -> None:
        if Path(source).parent.name == "s":
            os.unlink(source)
            os.symlink("/nowhere", source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", swapped)
    # Only kernels that are not formed in their template have sockets in a folder.
    monkeypatch.setattr("rmi_agent.kernels.fork.template.FORMED", (Path("/missing.py"),))
    async with place.sessions() as sessions:
        with pytest.raises(KernelStartError, match="sockets had been replaced"):
            await sessions.open("alice")


async def test_a_kernel_of_a_sandbox_is_forked(place: Place) -> None:
    async with place.sessions() as sessions:
        session = await loaded_ahead(sessions)
        assert session.kernel is not None
        assert is_forked(psutil.Process(session.kernel.process.pid))


async def test_no_kernel_finds_what_a_template_makes_for_itself(place: Place) -> None:
    """With Landlock a template's temporary files lie where kernels may write, too."""
    async with place.sessions() as sessions:
        session = await sessions.open("alice")
        assert session.kernel is not None
        folder = session.kernel.launch.runtime.parent / "x"
        assert folder.is_dir()
        for attempt in ("os.listdir(folder)", "os.chmod(folder, 0o700)"):
            got = await outcome(session, f"import os; folder = {str(folder)!r}; got = {attempt}")
            assert got.startswith(("PermissionError", "FileNotFoundError", "OSError")), got
        assert value(await cell(session, "import tempfile; tempfile.gettempdir()")) != repr(
            str(folder)
        )
