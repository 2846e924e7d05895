"""Settings: read once, and a bad one is one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rmi_agent.kernels import Instances, Launch
from rmi_agent.server import load
from rmi_agent.server.cluster import shared_instances
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.launch import jupyter_servers, launch, make_folders
from rmi_agent.server.sandboxing import choose_policy


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load()
    assert (settings.python_timeout, settings.response_deadline) == (30, 45)
    assert (settings.kernel_pool, settings.kernel_max, settings.session_idle) == (2, 16, 1800)
    assert (settings.host, settings.port, settings.kernel_name) == ("127.0.0.1", 8000, "python3")
    assert settings.projects.name == "python_projects"
    assert settings.notebooks == settings.projects.parent / "notebooks"


def test_notebooks_lie_beside_the_projects_folder_unless_set(tmp_path: Path) -> None:
    assert load(python_projects_dir=tmp_path / "p").notebooks == tmp_path / "notebooks"
    assert load(notebooks_dir=tmp_path / "n").notebooks == tmp_path / "n"


def test_projects_folders_are_one_or_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, comma = (tmp_path / name for name in ("one", "two", "a,b"))
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", f"{one}, {two},{one}")
    settings = load()
    assert settings.roots == (one.resolve(), two.resolve())
    assert (settings.projects, settings.projects_dir) == (one.resolve(), f"{one},{two}")
    assert settings.notebooks == tmp_path / "notebooks"
    make_folders(settings)
    assert one.is_dir() and two.is_dir()
    assert load(python_projects_dir=comma).roots == (
        (tmp_path / "a").resolve(),
        Path("b").resolve(),
    )
    comma.mkdir()
    assert load(python_projects_dir=str(comma)).roots == (comma.resolve(),)
    for given in (",", f"{one},{one / 'inner'}", f"{one / 'inner'},{one}"):
        with pytest.raises(BadSettings, match="^python_projects_dir|^PYTHON_PROJECTS_DIR"):
            load(python_projects_dir=given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHON_TIMEOUT", "soon"),
        ("PYTHON_TIMEOUT", "-1"),
        ("RMI_AGENT_KERNEL_POOL", "-1"),
        ("RMI_AGENT_KERNEL_MAX", "0"),
        ("RMI_AGENT_PORT", "99999"),
        ("RMI_AGENT_PORT", ""),
        ("RMI_AGENT_KERNEL_NAME", ""),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as error:
        load()
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:8888", "http://localhost:8888"),
        ("http://localhost:8888/lab", "http://localhost:8888"),
        ("https://hub.example/user/ada/", "https://hub.example/user/ada"),
        ("https://hub.example/user/ada/lab/", "https://hub.example/user/ada"),
    ],
)
def test_a_jupyter_servers_address_may_be_that_of_its_pages(given: str, base: str) -> None:
    (server,) = jupyter_servers(load(jupyter_server_url=given, jupyter_server_token="t"))
    assert (server.url, server.token) == (base, "t")


@pytest.mark.parametrize(
    "given",
    [
        "http://localhost:8888/lab?token=s3cret",
        "http://ada:s3cret@localhost:8888",
        "localhost:8888/s3cret",
        "ftp://s3cret",
        "http://:8888/s3cret",
        "http://localhost:port/s3cret",
    ],
)
def test_an_address_that_will_not_do_is_not_repeated(given: str) -> None:
    with pytest.raises(BadSettings, match="^RMI_AGENT_JUPYTER_SERVER_URL: ") as error:
        load(jupyter_server_url=given)
    assert "s3cret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("never", 0),
        ("forever", 0),
        ("12h", 43_200),
        ("90d", 7_776_000),
        (" 8 W ", 4_838_400),
    ],
)
def test_how_long_records_are_kept_has_a_unit(given: str, seconds: float) -> None:
    assert load(notebooks_keep=given).notebooks_keep == seconds


@pytest.mark.parametrize(
    "given", ["90", "0d", "-1d", "1.5d", "soon", "9999999d", "1m", "d", "1d2h"]
)
def test_another_text_is_no_time_to_keep_records(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMI_AGENT_NOTEBOOKS_KEEP", given)
    with pytest.raises(BadSettings, match="^RMI_AGENT_NOTEBOOKS_KEEP: .*90d"):
        load()


def test_servers_have_one_token_together_or_one_each() -> None:
    urls = "http://a:1, http://b:2"

    def tokens(given: str) -> list[str]:
        settings = load(jupyter_server_url=urls, jupyter_server_token=given)
        return [server.token for server in jupyter_servers(settings)]

    assert tokens("x") == ["x", "x"]
    assert tokens("x,y") == ["x", "y"]
    assert tokens("") == ["", ""]
    for bad in ("x,y,z", "two words", "tab\tbed"):
        with pytest.raises(BadSettings, match="^RMI_AGENT_JUPYTER_SERVER_TOKEN: ") as error:
            tokens(bad)
        assert bad not in str(error.value)


def test_a_jupyter_servers_kernels_get_nothing_of_this_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMI_AGENT_JUPYTER_SERVER_TOKEN", "s3cret")
    monkeypatch.setenv("RMI_AGENT_KERNEL_ENV", "RMI_AGENT_JUPYTER_SERVER_TOKEN")
    assert "s3cret" not in str(launch(load()))
    settings = load(jupyter_server_url="http://a:1")
    started = launch(settings)
    assert (started.env, started.servers) == ({}, jupyter_servers(settings))
    assert "s3cret" not in str(started) and "s3cret" not in repr(settings)


@pytest.mark.parametrize("exposed", [False, True])
def test_no_sandbox_is_claimed_for_kernels_elsewhere(exposed: bool) -> None:
    where = {"jupyter_server_url": "http://a:1"}
    assert choose_policy(load(**where, sandbox="auto"), exposed=exposed) is None
    with pytest.raises(
        BadSettings, match="^RMI_AGENT_SANDBOX: bwrap .*RMI_AGENT_JUPYTER_SERVER_URL"
    ):
        choose_policy(load(**where, sandbox="bwrap"), exposed=exposed)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="^PYTHON_PROJECTS_DIR: can't use"):
        make_folders(load(python_projects_dir=tmp_path / "file" / "p"))


def test_dotenv_is_read_but_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PYTHON_TIMEOUT=7\nOPENAI_API_KEY=sk-secret\n")
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.python_timeout == 7
    assert "OPENAI_API_KEY" not in launch(settings).env


def test_kernels_inherit_an_allowlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_FLAG", "1")
    assert {"OPENAI_API_KEY", "MY_FLAG"}.isdisjoint(launch(load()).env)
    assert "PATH" in launch(load()).env
    monkeypatch.setenv("RMI_AGENT_KERNEL_ENV", "MY_FLAG, OTHER")
    assert launch(load()).env["MY_FLAG"] == "1"


def test_provisioners_get_their_variables_and_none_with_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = "KERNEL_USERNAME KERNEL_LAUNCH_TIMEOUT GP_REMOTE_HOSTS EG_NAMESPACE"
    secret = "GP_REMOTE_PWD KERNEL_API_TOKEN EG_SSL_KEYFILE KERNEL_DB_PASSWORD"
    for name in f"{theirs} {secret} KERNEL_POOL AWS_KERNEL_X".split():
        monkeypatch.setenv(name, "1")
    found = launch(load())
    assert set(found.remote_options.env) == set(theirs.split())
    assert "KERNEL_USERNAME" not in found.env  # kernels of this machine have no use for them


def test_what_kernels_preload_is_what_the_library_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RMI_AGENT_KERNEL_PRELOAD")
    assert load().kernel_preload == Launch.preload  # written twice: settings import no kernels


async def instances_of(port: int = 8000, **settings: Any) -> Instances | None:
    return await shared_instances(load(**settings), port)


@pytest.mark.anyio
async def test_sign_ins_of_one_server_are_not_for_several(tmp_path: Path) -> None:
    with pytest.raises(
        BadSettings, match="^RMI_AGENT_AUTH: token.oauth stores sign-ins in one server"
    ):
        await instances_of(
            session_store=str(tmp_path / "store"),
            auth="token+oauth",
            public_url="https://python.example",
        )
    assert await instances_of(session_store="memory") is None


@pytest.mark.anyio
async def test_copies_that_record_elsewhere_do_not_start(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    given = {"session_store": store, "python_projects_dir": tmp_path / "p"}
    first = await instances_of(**given, notebooks_dir=tmp_path / "a")
    assert first is not None
    async with first:
        with pytest.raises(
            BadSettings, match=r"^RMI_AGENT_NOTEBOOKS_DIR: .*/b is not the folder where"
        ):
            await instances_of(8001, **given, notebooks_dir=tmp_path / "b")
        second = await instances_of(8001, **given, notebooks_dir=tmp_path / "a")
        assert second is not None
        await second.store.close()


def test_an_empty_folder_is_none_and_not_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHON_PROJECTS_DIR", "RMI_AGENT_NOTEBOOKS_DIR"):
        monkeypatch.delenv(name, raising=False)
    usual = load()
    for name in ("PYTHON_PROJECTS_DIR", "RMI_AGENT_NOTEBOOKS_DIR"):
        monkeypatch.setenv(name, "")
    assert load().python_projects_dir == usual.python_projects_dir
    assert load().notebooks == usual.notebooks
