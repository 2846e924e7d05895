"""Sessions in environments: their kernels, what is lent to them, and their templates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rmi_agent.kernels import Config, Environment, KernelError, Sessions, Tier, why_not
from rmi_agent.kernels import environments as env
from rmi_agent.kernels.environments import pythons
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.fork.pool import MAX_EXTRA
from rmi_agent.kernels.fork.template import Template
from rmi_agent.kernels.kernel import Kernel
from rmi_agent.kernels.process import LocalProcess, SocketProcess

from tests.conftest import cell, launch, policy, stream, value
from tests.wheels import make_venv, make_wheel, settings_for

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def opened(
    folder: Path,
    tier: str | None = None,
    network: bool = True,
    warm: int = 0,
    memory_limit: int = 0,
) -> AsyncIterator[Sessions]:
    projects = folder / "projects"
    projects.mkdir(exist_ok=True)
    wheels = folder / "wheels"
    wheels.mkdir(exist_ok=True)
    more = {} if tier is None else {"tier": tier}
    rules = policy(projects, package_files=(wheels,), network=network, **more)
    variables = settings_for(wheels)
    if rules is not None:
        del variables["UV_CACHE_DIR"]  # which the sandbox does not show
        rules = replace(rules, package_env=tuple(variables.items()))
    start = replace(launch(projects), package_env=variables)
    config = Config(folder / "notebooks", memory_limit=memory_limit)
    async with Sessions(config, start, warm, policy=rules) as sessions:
        yield sessions


async def in_venv(sessions: Sessions, venv: Path) -> Environment:
    found = await sessions.environments.in_folder("local", venv, venv.parent.name)
    assert found is not None
    return found


@pytest.mark.slow
async def test_its_kernels_are_forked_from_a_template_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as sessions:
        environment = await in_venv(
            sessions, make_venv(tmp_path / "projects" / ".venv", mine="A = 1")
        )
        for _ in range(2):
            session = await sessions.open(environment=environment)
            assert session.kernel is not None
            assert isinstance(session.kernel.process, SocketProcess)
            run = await cell(session, "import sys, mine; sys.prefix + str(mine.A)")
            assert value(run) == repr(f"{environment.prefix}1")
            hidden = await cell(session, "import pytest")
            assert hidden.cell.metadata.rmi_agent.error_name == "ModuleNotFoundError"
            children = "!python -c 'import ipykernel'"
            assert "ModuleNotFoundError" in stream(await cell(session, children))
        # A restart keeps the environment, and sees what has been installed since.
        (environment.packages / "later.py").write_text("B = 2")
        await session.restart()
        assert value(await cell(session, "import later; later.B")) == "2"


@pytest.mark.slow
async def test_few_templates_are_kept_for_environments_beside_the_default_ones(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as sessions:
        await sessions.open()
        for number in range(MAX_EXTRA + 2):
            venv = make_venv(tmp_path / "projects" / f"e{number}" / ".venv")
            session = await sessions.open(environment=await in_venv(sessions, venv))
            assert value(await cell(session, f"{number}")) == str(number)
        living = [each for each in TEMPLATES._living.values() if not each.ended]
        assert sum(each.is_extra for each in living) == MAX_EXTRA
        assert any(not each.is_extra for each in living)


@pytest.mark.slow
async def test_templates_that_nobody_uses_or_that_take_too_much_are_retired(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as sessions:
        for number in range(3):
            venv = make_venv(tmp_path / "projects" / f"e{number}" / ".venv")
            session = await sessions.open(environment=await in_venv(sessions, venv))
            await sessions.close(session)
        templates = [each for each in TEMPLATES._living.values() if each.is_extra]
        assert all(5_000_000 < each.memory() < 500_000_000 for each in templates)
        TEMPLATES.retire_unused()
        assert [each for each in TEMPLATES._living.values() if each.is_extra] == templates
        TEMPLATES.retire_unused(unused=0.0, most_bytes=sum(map(Template.memory, templates[1:])))
        for each in templates:
            await asyncio.to_thread(each.process.wait, 10)
        assert not TEMPLATES.has_extra


@pytest.mark.slow
async def test_a_kernel_of_the_environment_used_last_is_kept_warm(tmp_path: Path) -> None:
    async with opened(tmp_path, warm=1) as sessions:
        pool, found = sessions.pool, []
        for name in "ab":
            venv = make_venv(tmp_path / "projects" / name / ".venv")
            found.append(await in_venv(sessions, venv))
        first, second = found

        async def spare_of(environment: Environment) -> Kernel:
            for _ in range(1000):
                other = pool.owners.of("local").other
                if other and other.environment == environment and other.ready:
                    return other.ready[0].kernel.result()
                await asyncio.sleep(0.02)
            raise AssertionError("there is no spare")

        await sessions.open(environment=first)
        spare = await spare_of(first)
        session = await sessions.open(environment=first)
        assert session.kernel is spare
        assert value(await cell(session, "import sys; sys.prefix")) == repr(str(first.prefix))
        await spare_of(first)
        await sessions.open(environment=second)  # there is one spare, and it moves
        await spare_of(second)
        assert pool.owners.of("local").of(first) is None
        (second.packages / "new-1.0.dist-info").mkdir()  # it may have imported what is older
        changed = await in_venv(sessions, second.prefix or tmp_path)
        assert changed != second
        again = await sessions.open(environment=changed)
        assert value(await cell(again, "1")) == "1"
        await spare_of(changed)
        assert pool.warm <= 2
        assert len(pool.owners.of("local").ready) <= 1


@pytest.mark.slow
async def test_a_template_is_kept_when_an_import_has_made_a_folder_for_bytecode(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as sessions:
        environment = await in_venv(
            sessions, make_venv(tmp_path / "projects" / ".venv", mine="A = 1")
        )
        session = await sessions.open(environment=environment)
        await cell(session, "import sys; sys.dont_write_bytecode = False; import mine")
        assert (environment.packages / "__pycache__").is_dir()
        template = next(each for each in TEMPLATES._living.values() if each.is_extra)
        await sessions.open(environment=environment)
        assert template in TEMPLATES._living.values()
        (environment.packages / "other.pth").write_text("")
        await sessions.open(environment=environment)
        assert template not in TEMPLATES._living.values()


@pytest.mark.slow
async def test_uv_has_the_memory_limit_of_a_session(tmp_path: Path) -> None:
    backend = "x = bytearray(300_000_000)\nimport time\ntime.sleep(60)\n"
    async with opened(tmp_path, memory_limit=150_000_000) as sessions:
        source = tmp_path / "projects" / "greedy"
        source.mkdir()
        (source / "pyproject.toml").write_text(
            "[build-system]\nrequires = []\nbuild-backend = 'greedy'\nbackend-path = ['.']\n"
            "[project]\nname = 'greedy'\nversion = '1'\n"
        )
        (source / "greedy.py").write_text(backend)
        environment = await in_venv(sessions, make_venv(tmp_path / "projects" / ".venv"))
        with pytest.raises(
            KernelError, match="Nothing was installed. uv was stopped.*RMI_AGENT_MEMORY_LIMIT"
        ):
            await sessions.environments.install("local", environment, [str(source)])
        assert not sessions.environments.jobs.running


@pytest.mark.slow
def test_nothing_of_uv_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    """Without a sandbox, which would end it."""
    program = f"""
import asyncio, sys
from pathlib import Path
from rmi_agent.kernels import Config, Launch, Sessions
from rmi_agent.kernels import environments as env
async def main():
    folder = Path({str(tmp_path)!r})
    launch = Launch(cwd=folder, runtime=folder, env={{"PATH": {os.environ["PATH"]!r}}}, preload=())
    async with Sessions(Config(folder / "notebooks"), launch, 0) as sessions:
        place = sessions.environments.place_of("local")
        async def say(line):
            print(line, flush=True)
        await env.run(place, sys.executable, ["sh", "-c", "echo $$; exec sleep 60"], say)
asyncio.run(main())
"""
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert server.stdout is not None
    uv = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.wait()
    server.stdout.close()
    uv.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "happens",
    [
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import os; os._exit(3)",
        "import sys; sys.modules['ipykernel'] = None",
    ],
    ids=["starts a thread", "exits", "hides ipykernel"],
)
async def test_a_kernel_that_no_template_can_form_is_started(tmp_path: Path, happens: str) -> None:
    async with opened(tmp_path) as sessions:
        venv = make_venv(tmp_path / "projects" / ".venv", happens=happens)
        environment = await in_venv(sessions, venv)
        text = "import sys; any('zygote' in a for a in sys.orig_argv) and __import__('happens')\n"
        (environment.packages / "x.pth").write_text(text)
        session = await sessions.open(environment=environment)
        assert session.kernel is not None
        assert isinstance(session.kernel.process, LocalProcess)
        assert value(await cell(session, "import sys; sys.prefix")) == repr(str(venv))


async def test_an_environment_that_ends_every_kernel_is_an_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as sessions:
        environment = await in_venv(sessions, make_venv(tmp_path / "projects" / ".venv"))
        (environment.packages / "x.pth").write_text("import os; os._exit(3)\n")
        with pytest.raises(KernelError, match="environment='default'.*exit code 3"):
            await sessions.open(environment=environment)


async def test_a_script_environment_is_made_once_by_concurrent_calls(tmp_path: Path) -> None:
    source = b"# /// script\n# dependencies = ['minute']\n# ///\n"
    async with opened(tmp_path) as sessions:
        make_wheel(tmp_path / "wheels", "minute")
        script = tmp_path / "projects" / "a.py"
        script.write_bytes(source)
        lines: list[str] = []
        of_script = sessions.environments.of_script
        first = asyncio.create_task(of_script("local", script, source, lines.append))
        others = [of_script("local", script, source, lines.append) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()  # the others still get it
        found = await asyncio.gather(*others)
        assert len({each.prefix for each in found if each}) == 1
        assert lines.count(" + minute==1.0") <= 3
        again = await of_script("local", script, source, lines.append)
        assert again == found[0]


@pytest.mark.slow
async def test_a_script_environment_has_what_was_read_and_nothing_from_around(
    tmp_path: Path,
) -> None:
    """What lies in the projects folder is everybody's, and what is made stays the caller's."""
    source = b"\xef\xbb\xbf# /// script\n# dependencies = ['tiny']\n# ///\n"
    rules = policy(tmp_path, "bwrap")
    confined = rules is not None and not why_not(rules)
    async with opened(tmp_path, "bwrap" if confined else None) as sessions:
        make_wheel(tmp_path / "wheels", "tiny")
        projects, script = tmp_path / "projects", tmp_path / "projects" / "{new}.py"
        make_wheel(projects / "theirs", "tiny", "6.0")
        (projects / "uv.toml").write_text(f"find-links = ['{projects / 'theirs'}']\n")
        script.write_bytes(source.replace(b"tiny", b"replaced"))
        found = await sessions.environments.of_script("local", script, source)
        assert found is not None
        assert env.installed(found.packages) == {"tiny": "1.0"}
        if confined:  # else it would change the server's own
            changes = await sessions.environments.install("local", None, ["tiny"])
            assert changes.came == {"tiny": "1.0"}


@pytest.mark.slow
async def test_the_lock_beside_a_script_decides(tmp_path: Path) -> None:
    source = b"# /// script\n# dependencies = ['tiny']\n# ///\n"
    async with opened(tmp_path) as sessions:
        make_wheel(tmp_path / "wheels", "tiny")
        script = tmp_path / "projects" / "a.py"
        script.write_bytes(source)
        place = sessions.environments.place_of("local")
        uv = env.where_uv_is()[0]
        await env.run(place, sys.executable, [uv, "lock", "--script", str(script)])
        make_wheel(tmp_path / "wheels", "tiny", "2.0")
        found = await sessions.environments.of_script("local", script, source)
        assert found is not None
        assert env.installed(found.packages) == {"tiny": "1.0"}
        with pytest.raises(KernelError, match="uv lock"):  # uv's advice
            newer = source.replace(b"tiny", b"tiny>=2")
            script.write_bytes(newer)
            await sessions.environments.of_script("local", script, newer)


async def test_equal_installations_are_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as sessions:
        make_wheel(tmp_path / "wheels", "tiny")
        environment = await in_venv(sessions, make_venv(tmp_path / "projects" / ".venv"))
        install = sessions.environments.install
        installs = (install("local", environment, ["tiny"]) for _ in range(3))
        assert [each.came for each in await asyncio.gather(*installs)] == [{"tiny": "1.0"}] * 3


@pytest.mark.slow
async def test_a_repaired_environment_is_forked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as sessions:
        venv = make_venv(tmp_path / "projects" / ".venv")
        (packages,) = venv.glob("lib/*/site-packages")
        (packages / "ipykernel.py").write_text("broken")  # before what is lent
        environment = await in_venv(sessions, venv)
        for _ in range(2):
            with contextlib.suppress(KernelError):
                await sessions.open(environment=environment)
        (packages / "ipykernel.py").unlink()
        monkeypatch.setattr("rmi_agent.kernels.fork.pool.RETRY", 0.0)
        session = await sessions.open(environment=environment)
        assert session.kernel is not None
        assert isinstance(session.kernel.process, SocketProcess)


async def test_a_principal_has_few_runs_of_uv_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.session.shared_work.MOST_AT_ONCE", 1)
    async with opened(tmp_path) as sessions:
        make_wheel(tmp_path / "wheels", "tiny")
        environment = await in_venv(sessions, make_venv(tmp_path / "projects" / ".venv"))
        install = sessions.environments.install
        first = asyncio.create_task(install("local", environment, ["tiny"]))
        await asyncio.sleep(0)
        with pytest.raises(KernelError, match="already"):
            await install("local", environment, ["little"])
        assert (await first).came == {"tiny": "1.0"}


@pytest.mark.security
async def test_no_packages_are_listed_of_folders_that_code_cannot_see(tmp_path: Path) -> None:
    outside = make_venv(tmp_path / "outside" / ".venv")
    (packages,) = outside.glob("lib/*/site-packages")
    (packages / "secret-9.0.dist-info").mkdir()
    async with opened(tmp_path) as sessions:
        projects = tmp_path / "projects"
        (projects / "all").symlink_to("/")
        for name, what in (("a", outside), ("b", packages), ("c", packages.parent)):
            if name == "a":
                (projects / "a").mkdir()
                (projects / "a" / ".venv").symlink_to(outside)
                continue
            venv = make_venv(projects / name / ".venv")
            place = venv / what.relative_to(outside)
            shutil.rmtree(place)
            place.symlink_to(what)
        found = sessions.environments.summaries("local", [projects], str)
        if sessions.environments.place_of("local").wrap is not None:
            assert "secret" not in repr(found)
        assert not [each for each in found if "/all/" in each.name]


@pytest.mark.network
async def test_another_python_is_lent_an_ipykernel_that_fits_it(tmp_path: Path) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = [each for each in pythons() if not each.version.startswith(own)]
    if not others:
        pytest.skip("there is no other Python")
    try:
        await _run_on(tmp_path, [each.version for each in others])
    except KernelError as error:
        if "error sending request" in str(error) or "Failed to fetch" in str(error):
            pytest.skip("there is no package registry")
        raise


async def _run_on(folder: Path, versions: list[str]) -> None:
    from rmi_agent.server.package_settings import from_files

    projects = folder / "projects"
    projects.mkdir()
    start = replace(launch(projects), package_env=from_files(os.environ))
    async with Sessions(
        Config(folder / "notebooks"), start, 0, policy=policy(projects)
    ) as sessions:
        for version in versions:
            source = f"# /// script\n# requires-python = '=={version}.*'\n# ///\n".replace(
                f"{version}.*", version if version.count(".") > 1 else f"{version}.*"
            )
            script = projects / "a.py"
            script.write_text(source)
            found = await sessions.environments.of_script("local", script, source.encode())
            session = await sessions.open(environment=found)
            run = await cell(session, "import sys; sys.version.split()[0]")
            assert value(run).startswith(f"'{version}")
            assert "3" in stream(await cell(session, "!echo 3"))


@pytest.mark.security
@pytest.mark.parametrize("tier", ["bwrap", "landlock"])
async def test_nothing_of_an_environment_runs_outside_the_sandbox(
    tmp_path: Path, tier: Tier
) -> None:
    """Its interpreter, `.pth` files and packages could be anybody's who can write there."""
    projects = tmp_path / "projects"
    projects.mkdir()
    rules = policy(projects, tier)
    assert rules is not None
    if why := why_not(rules):
        pytest.skip(why)
    secret = tmp_path / "secret"
    secret.write_text("x")
    venv = make_venv(projects / ".venv")
    (packages,) = venv.glob("lib/*/site-packages")
    probe = f"""
import socket
def attempt(name, what):
    try:
        what()
    except OSError:
        return
    open({str(projects / "reached")!r}, "a").write(name + " ")
attempt("secret", lambda: open({str(secret)!r}).read())
attempt("network", lambda: socket.create_connection(("127.0.0.1", 9), 1))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("8.8.8.8", 53)))
open({str(projects / "ran")!r}, "a").write("x")
"""
    (packages / "probe.py").write_text(probe)
    (packages / "x.pth").write_text("import probe\n")
    async with opened(tmp_path, tier, network=False) as sessions:
        environment = await in_venv(sessions, venv)
        session = await sessions.open(environment=environment)
        assert value(await cell(session, "1 + 1")) == "2"
        assert (projects / "ran").exists()
        assert not (projects / "reached").exists(), (projects / "reached").read_text()
        # An interpreter that was replaced runs nowhere else, either.
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").write_text(f"#!/bin/sh\ncat {secret} > {projects / 'reached'}\n")
        (venv / "bin" / "python").chmod(0o755)
        with contextlib.suppress(KernelError):
            again = await in_venv(sessions, venv)
            await sessions.open(environment=again)
        assert not (projects / "reached").exists() or not (projects / "reached").read_text()
        # And a base Python that it names is shown only if this machine's user has installed it.
        config = f"home = {tmp_path}\nversion = {'.'.join(map(str, sys.version_info[:3]))}\n"
        (venv / "pyvenv.cfg").write_text(config)
        with pytest.raises(KernelError, match="may not see its base Python"):
            await sessions.open(environment=await in_venv(sessions, venv))
