"""A user's own environment: pip works in it as elsewhere, and the server's packages stay."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pip
import pytest
from rmi_agent.kernels import TIERS, Config, Launch, Policy, Session, Sessions, Tier
from rmi_agent.kernels.fork import user_venv

from tests.conftest import cell, kernel_env, stream, value
from tests.kernels.sandbox.test_sandbox import usable

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.security,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's"),
]


class Place:
    """A server's folders, and wheels in its projects folder."""

    def __init__(self, tier: Tier, folder: Path) -> None:
        usable(tier)
        self.folder, self.projects = folder, folder / "p"
        self.projects.mkdir()
        self.policy = Policy(tier, self.projects, folder / "homes")

    @contextlib.asynccontextmanager
    async def session(
        self, principal: str = "alice", kernel: str = "python3", **env: str
    ) -> AsyncIterator[Session]:
        inherited = {n: v for n, v in kernel_env().items() if not n.startswith(("PIP_", "UV_"))}
        launch = Launch(self.projects, Path(), kernel, env={**inherited, **env}, preload=())
        config = Config(self.folder / "n")
        async with Sessions(config, launch, warm=0, policy=self.policy) as sessions:
            session = await sessions.open(principal)
            yield session
            await sessions.close(session)

    @property
    def home(self) -> Path:
        (found,) = self.policy.homes.glob("alice-*")
        return found


@pytest.fixture(params=TIERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


def wheel(
    folder: Path, name: str, version: str, *, tag: str = "py3-none-any", **files: str
) -> Path:
    """A wheel with a module that knows its version, and a command of the same name."""
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    contents = {
        f"{name}.py": f"version = {version!r}\ndef main(): print('{name}', version)\n",
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in contents.items():
            archive.writestr(file, text)
    return path


async def shell(session: Session, command: str, timeout: float = 60) -> str:
    """What a command prints, with its exit code if it is not 0."""
    code = f"import subprocess as s; d = s.run({command!r}, shell=True, stdin=s.DEVNULL, stdout=s.PIPE, stderr=s.STDOUT, text=True)"
    code += "\nprint(d.stdout + (f'exit {d.returncode}' if d.returncode else ''))"
    run = await cell(session, code, timeout)
    assert run.status == "ok", run.cell.outputs
    return stream(run).strip()


async def test_pip_and_python_are_the_kernels_own(place: Place) -> None:
    async with place.session() as session:
        prefix = value(await cell(session, "import sys; sys.prefix")).strip("'")
        assert Path(prefix).is_relative_to(place.home)
        where = await shell(session, "which python python3 pip pip3 pytest")
        assert where.split() == [
            f"{prefix}/bin/{n}" for n in ("python", "python3", "pip", "pip3", "pytest")
        ]
        assert await shell(session, "python -c 'import sys, IPython; print(sys.prefix)'") == prefix
        assert value(await cell(session, "import sys; sys.executable")) == repr(
            f"{prefix}/bin/python"
        )
        packages = await shell(session, "python -m pip list --format=json")
        names = [package["name"] for package in json.loads(packages.splitlines()[0])]
        assert len(names) == len({*names}) > 20
        assert "ipykernel" in names
        assert "pytest" in await shell(session, "pytest --version")


async def test_pip_installs_upgrades_and_uninstalls(place: Place) -> None:
    for version in ("1.0", "2.0"):
        wheel(place.projects, "tiny_thing", version)
    wheel(place.projects, "other_thing", "1.0")
    pip = "pip install -q --no-index --find-links . --disable-pip-version-check"
    async with place.session() as session:
        assert await shell(session, f"{pip} tiny_thing==1.0 other_thing") == ""
        assert value(await cell(session, "import tiny_thing; tiny_thing.version")) == "'1.0'"
        assert await shell(session, "tiny_thing; other_thing") == "tiny_thing 1.0\nother_thing 1.0"
        assert await shell(session, f"{pip} -U tiny_thing; tiny_thing") == "tiny_thing 2.0"
        assert "2.0" in await shell(session, "pip show tiny_thing")
    async with place.session() as session:  # it stays for the next server
        assert value(await cell(session, "import tiny_thing; tiny_thing.version")) == "'2.0'"
        assert "Successfully" in await shell(session, "pip uninstall -y tiny_thing")
        assert await shell(session, "tiny_thing") != "tiny_thing 2.0"
        assert "ModuleNotFoundError" in await shell(session, "python -c 'import tiny_thing'")
    async with place.session("bob") as session:
        assert (await cell(session, "import other_thing")).error_name == "ModuleNotFoundError"


async def test_an_editable_install_is_the_projects_code(place: Place) -> None:
    source = place.projects / "mine"
    source.mkdir()
    (source / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "1"\n')
    (source / "mine.py").write_text("x = 1")
    backend = 'build-backend = "backend"\nbackend-path = ["."]\nrequires = []\n'
    (source / "pyproject.toml").write_text(f"[build-system]\n{backend}")
    (source / "backend.py").write_text(BACKEND.format(folder=str(source)))
    async with place.session() as session:
        assert "exit" not in await shell(session, "pip install -q --no-index -e ./mine")
        assert "mine 1.0" in " ".join((await shell(session, "pip list -e")).split())
    (source / "mine.py").write_text("x = 2")
    async with place.session() as session:
        assert value(await cell(session, "import mine; mine.x")) == "2"
        assert "Successfully" in await shell(session, "pip uninstall -y mine")


BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "mine-1.0-py3-none-any.whl", "mine-1.0.dist-info"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        wheel.writestr("mine.pth", {folder!r})
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name
"""


async def test_a_package_of_the_servers_is_replaced_and_restored(place: Place) -> None:
    wheel(place.projects, "fastjsonschema", "99.0")
    look = "python -c 'import fastjsonschema as f; print(getattr(f, \"version\", 0))'"
    async with place.session() as session:
        servers = await shell(session, look)
        pip = "pip install -q --no-index --disable-pip-version-check"
        assert await shell(session, f"{pip} ./fastjsonschema-99.0-py3-none-any.whl") == ""
        assert await shell(session, look) == "99.0"
        assert await shell(session, "pip list | grep -c fastjsonschema") == "1"
    async with place.session() as session:
        mine = "import fastjsonschema, importlib.metadata as m; fastjsonschema.version, m.version('fastjsonschema')"
        assert value(await cell(session, mine)) == "('99.0', '99.0')"
        assert await shell(session, "pip list | grep -c fastjsonschema") == "1"
        assert "Successfully" in await shell(session, "pip uninstall -y fastjsonschema")
        assert await shell(session, look) == servers
    async with place.session() as session:  # and is listed again
        assert await shell(session, "pip list | grep -c fastjsonschema") == "1"
        assert "exit" not in await shell(session, "python -m pip uninstall -y fastjsonschema")
        assert await shell(session, look) == servers


async def test_packages_that_pip_once_put_into_a_folder_stay_behind_the_servers(
    place: Place,
) -> None:
    async with place.session():
        pass
    older = place.home / "packages"
    with zipfile.ZipFile(wheel(place.projects, "tiny_thing", "1.0")) as archive:
        archive.extractall(older)
    (older / "fastjsonschema.py").write_text("raise ImportError('of another Python')")
    async with place.session() as session:
        assert value(await cell(session, "import tiny_thing; tiny_thing.version")) == "'1.0'"
        assert (await cell(session, "import fastjsonschema")).status == "ok"
        assert await shell(session, "python -c 'import tiny_thing, fastjsonschema'") == ""
    compiled = wheel(place.projects, "fast_thing", "1.0", tag="cp27-cp27m-linux_x86_64")
    with zipfile.ZipFile(compiled) as archive:
        archive.extractall(older)
    async with place.session() as session:  # none of that folder is used then
        assert (await cell(session, "import tiny_thing")).error_name == "ModuleNotFoundError"


async def test_what_another_kernel_writes_while_it_is_made_does_no_harm(place: Place) -> None:
    """A home in which the user has prepared links, to what only the server may change."""
    outside = place.folder / "outside"
    outside.mkdir()
    async with place.session():
        pass
    shutil.rmtree(place.home / ".venvs")
    (place.home / ".venvs").mkdir()
    (place.home / ".venvs" / user_venv_name()).symlink_to(outside)
    async with place.session() as session:
        assert value(await cell(session, "6 * 7")) == "42"
    assert [*outside.iterdir()] == []


def user_venv_name() -> str:
    return f"python3-{user_venv.SERIES}{user_venv.FREE_THREADED}"


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_a_command_of_any_python_runs_in_an_environment_of_its_version(
    version: str, tmp_path: Path
) -> None:
    """What starts a kernel that is not forked; pip is of its version, whatever PATH has."""
    asked = subprocess.run(
        [
            shutil.which(f"python{version}") or "false",
            "-c",
            "import pip, sys; print(sys.executable)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        pytest.skip("is not installed with pip")
    look = "import os, pip, sys; os.system('pip --version; python -c \"import sys; print(sys.prefix)\"')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", user_venv.__file__, asked.stdout.strip(), "-c", look],
        env={"PATH": os.environ["PATH"], user_venv.VARIABLE: f"{tmp_path}/venv"},
        capture_output=True,
        text=True,
        check=True,
    )
    pip, prefix = done.stdout.splitlines()
    assert pip.endswith(f"(python {version})")
    assert prefix == f"{tmp_path}/venv-{version}"
    assert done.stderr == ""


async def test_without_a_network_pip_fails_at_once_and_says_why(place: Place) -> None:
    async with place.session() as session:
        run = await cell(session, "%pip install no_such_package_0", 60)
        assert (run.status, run.error_name) == ("error", "CalledProcessError")
        assert "Retrying" not in stream(run)
        (error,) = [each for each in run.cell.outputs if each.output_type == "error"]
        assert "RMI_AGENT_SANDBOX_NETWORK=1" in error.traceback[-1]
        run = await cell(session, "%pip uninstall -y", 60)  # fails without a network's fault
        (error,) = [each for each in run.cell.outputs if each.output_type == "error"]
        assert "RMI_AGENT" not in str(error)


def test_an_interpreter_without_pip_is_lent_the_servers(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    lender = Path(pip.__file__).parent.parent
    look = "import os; os.system('pip --version; pip list; pip uninstall -qy pip; pip list')"
    variables = {user_venv.VARIABLE: f"{tmp_path}/venv", user_venv.LENDER: str(lender)}
    command = [sys.executable, "-I", "-S", user_venv.__file__, f"{tmp_path}/bare/bin/python"]
    runs = [
        subprocess.run(
            [*command, "-c", code],
            env={"PATH": "/no/such", **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        for code in (look, "import os; os.system('pip list')")
    ]
    first, again = runs
    assert f"from {tmp_path}/venv-" in first.stdout
    assert first.stdout.count("\npip ") == 1
    assert [line.split()[0] for line in again.stdout.splitlines()[2:]] == ["pip"]
    assert lender.joinpath("pip", "__init__.py").exists()
