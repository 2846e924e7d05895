"""Which sandbox a server takes, when it refuses to start, and what it keeps to itself."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from rmi_agent.kernels.sandbox import confine
from rmi_agent.server import Settings, load
from rmi_agent.server import sandboxing as isolation
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.launch import launch as kernel_launch
from rmi_agent.server.sandboxing import choose_policy, policy_of

from tests.server.conftest import fill, server_env
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's"),
]
CANARY = "canary-of-the-server"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(python_projects_dir=fill(tmp_path), sandbox="auto")


def works(*tiers: str) -> object:
    """Stands for the probe: only these tiers work."""
    return lambda policy: "" if policy.tier in tiers else "it is broken"


@pytest.mark.parametrize(
    ("working", "taken"), [(("bwrap", "landlock"), "bwrap"), (("landlock",), "landlock")]
)
def test_auto_takes_the_best_that_works(
    working: tuple[str, ...], taken: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "why_not", works(*working))
    policy = choose_policy(settings, exposed=False)
    assert policy is not None
    assert policy.tier == taken


def test_without_any_http_is_refused_and_stdio_goes_on_with_one_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isolation, "why_not", works())
    with pytest.raises(
        BadSettings, match=r"bwrap: it is broken; landlock: .* --no-sandbox"
    ) as said:
        choose_policy(settings, exposed=True)
    assert "\n" not in str(said.value)
    assert choose_policy(settings, exposed=False) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_landlock_that_lets_signals_out_is_for_stdio_or_who_asks_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isolation, "why_not", works("landlock"))
    monkeypatch.setattr(confine, "landlock_version", lambda: 5)
    with pytest.raises(
        BadSettings, match=r"before Linux 6\.12.*RMI_AGENT_SANDBOX=landlock accepts"
    ):
        choose_policy(settings, exposed=True)
    asked = settings.model_copy(update={"sandbox": "landlock"})
    for given, exposed in ((settings, False), (asked, True)):
        caplog.clear()
        policy = choose_policy(given, exposed=exposed)
        assert policy is not None
        assert "can signal this server" in caplog.text
        assert "can signal this server" in isolation.describe_gaps(policy, given)


def test_a_tier_that_is_asked_for_is_taken_or_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "why_not", works("bwrap"))
    asked = settings.model_copy(update={"sandbox": "landlock"})
    for exposed in (True, False):
        with pytest.raises(BadSettings, match="landlock: it is broken"):
            choose_policy(asked, exposed=exposed)


@pytest.mark.parametrize(
    ("exposed", "asked", "network"),
    [(False, None, True), (True, None, False), (True, True, True), (False, False, False)],
)
def test_there_is_a_network_on_stdio_and_none_over_http_unless_asked(
    exposed: bool, asked: bool | None, network: bool, settings: Settings
) -> None:
    asking = settings.model_copy(update={"sandbox_network": asked})
    policy = choose_policy(asking, exposed=exposed)
    assert policy is not None
    assert policy.network is network


def test_the_servers_own_files_are_out_of_reach(settings: Settings) -> None:
    policy = policy_of(settings, "bwrap", network=False)
    package = Path(isolation.__file__).parent
    assert settings.notebooks in policy.hide
    assert any(package.is_relative_to(folder) for folder in policy.fixed)


def test_the_settings_file_that_was_read_is_hidden_wherever_the_process_goes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    Path(".env").write_text("RMI_AGENT_PORT=8001\n")
    hidden = policy_of(settings, "bwrap", network=False).hide
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "start" / ".env" in hidden
    assert all(path.is_absolute() for path in hidden)


def test_a_settings_file_that_kernels_could_change_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.projects)
    Path(".env").write_text("RMI_AGENT_PORT=8001\n")
    with pytest.raises(BadSettings, match=r"it contains .*\.env"):
        choose_policy(settings, exposed=False)


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("linked", ["there", "away"])
def test_no_folder_that_kernels_change_has_a_settings_file(
    linked: str, readonly: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the file nor a link to it, also where the folder has another name."""
    for name in ("shared", "kept"):
        (tmp_path / name).mkdir()
    file = tmp_path / "shared" / ("link" if linked == "away" else ".env")
    file.write_text("RMI_AGENT_PORT=8001\n")
    (tmp_path / "folder").symlink_to(tmp_path / "shared")
    if linked == "away":  # from where the server starts, which is no folder of theirs
        (tmp_path / "kept" / ".env").symlink_to(file)
        monkeypatch.chdir(tmp_path / "kept")
    else:
        monkeypatch.chdir(tmp_path / "shared")
        (tmp_path / "kept" / "target").write_text("RMI_AGENT_PORT=8001\n")
        file.unlink()
        file.symlink_to(tmp_path / "kept" / "target")
    asking = settings.model_copy(
        update={"sandbox_write": (str(tmp_path / "folder"),), "projects_readonly": readonly}
    )
    with pytest.raises(
        BadSettings, match=rf"^RMI_AGENT_SANDBOX_WRITE: it contains {file}.*Move that"
    ):
        choose_policy(asking, exposed=False)


def test_a_file_with_tokens_is_hidden_or_refused(settings: Settings) -> None:
    file, store = settings.projects / "tokens", settings.projects / "store"
    file.write_text(f"alice:{'a' * 32}\n")
    store.mkdir()
    asking = settings.model_copy(
        update={"rmi_agent_tokens": SecretStr(str(file)), "session_store": SecretStr(str(store))}
    )
    with pytest.raises(BadSettings, match=r"^PYTHON_PROJECTS_DIR: it contains .*tokens.*Move that"):
        policy_of(asking, "bwrap", network=False)
    readable = asking.model_copy(update={"projects_readonly": True})
    assert {file, store} <= {*policy_of(readable, "bwrap", network=False).hide}
    for inline in ("alice:" + "a" * 32, ",".join(f"u{n}:{'a' * 32}" for n in range(200))):
        asking = settings.model_copy(update={"rmi_agent_tokens": SecretStr(inline)})
        assert policy_of(asking, "bwrap", network=False).hide


def state_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's own folder, in another than it is in the tests, and not there yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    return folder / "state" / "rmi-agent"


def test_what_is_hidden_is_there_before_the_first_kernel(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_in(settings.projects, monkeypatch)
    notebooks = settings.projects / "notebooks"
    asking = settings.model_copy(update={"notebooks_dir": notebooks, "sandbox": "bwrap"})
    policy = choose_policy(asking, exposed=False)
    assert policy is not None
    for folder in (state, notebooks):
        assert folder in policy.hide
        assert folder.is_dir()
    assert state.stat().st_mode & 0o777 == 0o700
    with pytest.raises(BadSettings, match=r"landlock: Landlock can't hide .*, as it lies in"):
        choose_policy(asking.model_copy(update={"sandbox": "landlock"}), exposed=False)


def test_a_folder_that_can_not_be_hidden_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_in(settings.projects, monkeypatch)
    state.parent.write_text("a file")
    with pytest.raises(BadSettings, match=r"XDG_STATE_HOME: can't create .* Set it to"):
        choose_policy(settings, exposed=False)


@pytest.mark.parametrize("readonly", ["0", "1"])
def test_a_token_that_is_made_after_the_start_is_not_seen(
    readonly: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = fill(tmp_path)
    state = state_in(projects, monkeypatch)
    wire = Wire(
        projects,
        RMI_AGENT_SANDBOX="bwrap",
        RMI_AGENT_PROJECTS_READONLY=readonly,
        RMI_AGENT_NOTEBOOKS_DIR=str(tmp_path / "n"),
        XDG_STATE_HOME=str(state.parent),
    )
    look = f"import os; os.path.exists({str(state / 'token')!r}), os.path.exists('hello_world.py')"
    assert wire.call("run_cell", code=look)["content"][0]["text"].startswith("(False, True)")
    (state / "token").write_text(CANARY)
    assert wire.call("run_cell", code=look)["content"][0]["text"].startswith("(False, True)")
    wire.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "in a sandbox, without network access, where it can read and change the projects folder",
        ),
        ({"sandbox_network": "1"}, "in a sandbox, with network access, where"),
        ({"projects_readonly": "1"}, "where it can read the projects folder"),
        ({"sandbox_write": "{folder}"}, "and other folders that the server's settings name"),
        ({"sandbox": "off"}, "with all rights of the account that runs the server"),
        ({"jupyter_server_url": "http://a:1"}, "on another machine, which decides what it can do"),
    ],
    ids=str,
)
def test_people_are_told_what_code_can_really_do(
    changed: dict[str, str],
    said: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "why_not", works("bwrap"))
    (tmp_path / "more").mkdir()
    more = {name: value.format(folder=tmp_path / "more") for name, value in changed.items()}
    given = load(python_projects_dir=settings.projects, **{"sandbox": "auto", **more})
    told = isolation.describe_rights(choose_policy(given, exposed=True), given)
    assert said in told


def test_a_whole_home_is_no_projects_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(settings.projects / "me"))
    with pytest.raises(BadSettings, match="contains your whole home folder"):
        choose_policy(settings, exposed=False)
    readable = settings.model_copy(update={"projects_readonly": True})
    assert choose_policy(readable, exposed=False) is not None


@pytest.mark.parametrize("variable", ["sandbox_read", "sandbox_write"])
def test_a_folder_that_is_not_there_is_named(variable: str, settings: Settings) -> None:
    asking = settings.model_copy(update={variable: ("/nowhere/at/all",)})
    with pytest.raises(BadSettings, match=f"{variable.upper()}: /nowhere/at/all does not exist"):
        choose_policy(asking, exposed=False)


def test_a_refused_sandbox_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rmi_agent.server.cli", "--transport", "http", "--port", "0"],
        env=server_env(fill(tmp_path), RMI_AGENT_SANDBOX="bwrap", PATH="/nowhere"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "RMI_AGENT_SANDBOX" in line
    assert "bubblewrap is not installed" in line


def test_no_sandbox_means_none(tmp_path: Path) -> None:
    wire = Wire(fill(tmp_path), options=("--no-sandbox",), RMI_AGENT_SANDBOX="bwrap")
    result = wire.call("run_cell", code="import os; os.path.exists('/etc/shadow')")
    assert result["content"][0]["text"].startswith("True")
    wire.close()


def test_a_hint_follows_errors_that_the_sandbox_has_caused(tmp_path: Path) -> None:
    for name in ("outside.csv", ".hidden"):
        (tmp_path / name).write_text("1")
    wire = Wire(fill(tmp_path), RMI_AGENT_SANDBOX="auto", RMI_AGENT_SANDBOX_NETWORK="0")

    def text(code: str) -> str:
        return str(wire.call("run_cell", code=code)["content"][0]["text"])

    assert "outside.csv exists outside the sandbox" in text(f"open('{tmp_path}/outside.csv')")
    assert "sandbox" not in text("open('nothing.csv')")
    assert "sandbox" not in text(f"open('{tmp_path}/.hidden')")
    assert "sandbox" not in text("1 / 0")
    reach = "import urllib.request as u; u.urlopen('http://192.0.2.1:9', timeout=5)"
    assert "without network access" in text(reach)
    wire.close()


def test_auto_leaves_kernels_of_other_machines_to_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tmp_path / "kernels" / "away" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        '{"argv": ["python"], "display_name": "Away", "language": "python", "metadata":'
        ' {"kernel_provisioner": {"provisioner_name": "distributed-provisioner"}}}'
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    caplog.set_level(logging.INFO)
    away = {"python_projects_dir": fill(tmp_path), "kernel_name": "away"}
    assert choose_policy(load(sandbox="auto", **away), exposed=True) is None
    assert "that machine confines the code, not RMI_AGENT_SANDBOX" in caplog.text
    assert kernel_launch(load(sandbox="auto", **away)).remote_options.confined
    assert not kernel_launch(load(sandbox="off", **away)).remote_options.confined
    with pytest.raises(
        BadSettings, match="bwrap confines kernels on this machine.* Set it to auto"
    ):
        choose_policy(load(sandbox="bwrap", **away), exposed=False)


LOOK = f"""
import glob, os
found = [name for name, text in os.environ.items() if {CANARY!r} in text]
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try: text = open(path, 'rb').read()
    except OSError: continue
    if {CANARY.encode()!r} in text: found.append(path)
found
"""


@pytest.mark.parametrize("sandbox", ["bwrap", "landlock", "off"])
def test_what_the_server_alone_may_know_is_not_in_any_process(tmp_path: Path, sandbox: str) -> None:
    if sandbox == "off" and os.getuid() == 0:
        pytest.skip("root without a sandbox may read every process")
    wire = Wire(fill(tmp_path), RMI_AGENT_SANDBOX=sandbox, MY_SECRET=CANARY)
    assert wire.call("run_cell", code=LOOK)["content"][0]["text"].startswith("[]")
    wire.close()


def test_doctor_names_the_tier_and_what_it_leaves_open(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rmi_agent.server.cli", "doctor"],
        env=server_env(
            fill(tmp_path), RMI_AGENT_SANDBOX="auto", RMI_AGENT_PORT="0", HOME=str(tmp_path)
        ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("sandbox over HTTP: ", "no network", "Left open: ", "fork server: new kernels"):
        assert words in done.stdout
    assert "✗" not in done.stdout


def test_code_may_use_all_projects_folders(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = load(python_projects_dir=f"{one},{two}", sandbox="auto")
    policy = policy_of(settings, "bwrap", network=False)
    assert (policy.projects, policy.write, policy.read) == (one, (two,), ())
    policy = policy_of(
        settings.model_copy(update={"projects_readonly": True}), "bwrap", network=False
    )
    assert (policy.projects, policy.write, policy.read) == (one, (), (two,))
    with pytest.raises(BadSettings, match="contains your whole home folder"):
        home = load(python_projects_dir=f"{one},{Path.home()}", sandbox="auto")
        policy_of(home, "bwrap", network=False)
