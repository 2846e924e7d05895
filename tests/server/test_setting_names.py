"""What settings are called: present, former, misspelled and retired names, and other programs'."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from rmi_agent.server import load
from rmi_agent.server.doctor import examine
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.hosts import LOCAL_NAME
from rmi_agent.server.package_settings import PASSED
from rmi_agent.server.settings import RETIRED, VARIABLES, set_here

from tests.server.conftest import HTTP_SERVER, fill, server_env

ROOT = Path(__file__).parents[2]


def set_only(monkeypatch: pytest.MonkeyPatch, folder: Path, **env: str) -> None:
    """An environment with these variables, in a folder of its own."""
    for name in list(os.environ):
        if name.startswith("RMI"):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)


def test_all_but_the_names_of_old_and_of_ngrok_have_the_prefix() -> None:
    own = {one.name for one in VARIABLES.values() if not one.name.startswith("RMI_AGENT_")}
    assert own == {"PYTHON_PROJECTS_DIR", "PYTHON_TIMEOUT", "NGROK_AUTHTOKEN"}


@pytest.mark.parametrize(
    ("former", "value", "field", "meaning"),
    [
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("HOST", "::1", "host", "::1"),
        ("HOST", "localhost", "host", "localhost"),
        ("PORT", "8123", "port", 8123),
        ("SANDBOX", "landlock", "sandbox", "landlock"),
        ("AUTH", "token+oauth", "auth", "token+oauth"),
        ("ATTACH", "never", "attach", "never"),
        ("KERNEL_MAX", "3", "kernel_max", 3),
        ("SANDBOX_READ", "/usr/share, /opt", "sandbox_read", ("/usr/share", "/opt")),
        ("ALLOWED_HOSTS", "a.example,*.b.example", "allowed_hosts", ("a.example", "*.b.example")),
    ],
)
def test_a_former_name_is_read_with_one_warning_that_names_the_new_one(
    former: str,
    value: str,
    field: str,
    meaning: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    set_only(monkeypatch, tmp_path, **{former: value})
    settings = load()
    assert getattr(settings, field) == meaning
    (line,) = settings.warnings(http=True)
    assert former in line and VARIABLES[field].name in line


@pytest.mark.parametrize(
    ("former", "value", "whose", "valid"),
    [
        ("HOST", "x86_64-conda-linux-gnu", "conda's compilers", "127.0.0.1"),
        ("HOST", "build-box.example.org", "tcsh", "127.0.0.1"),
        ("PORT", "tcp://10.0.0.7:80", "Docker's links", "8000"),
        ("SANDBOX", "false", "a payment service's client", "auto"),
        ("SANDBOX", "gemini-cli-sandbox-0", "Gemini CLI", "auto"),
        ("SANDBOX_WRITE", "/:/var/tmp:/dev/null", "Portage", ""),
        ("AUTH", "Bearer s3cret", "mcp-remote", "token"),
        ("ATTACH", "1", "some shell", "auto"),
        ("PUBLIC_URL", ".", "Create React App", "https://a.example"),
        ("RATE_LIMIT", "10/minute", "Flask-Limiter", "600"),
        ("ALLOWED_HOSTS", "*", "Django", ""),
        ("JUPYTER_SERVER_URL", "http://localhost:8888/lab", "JupyterLab's terminals", ""),
    ],
)
def test_another_programs_variable_changes_nothing_and_is_reported(
    former: str,
    value: str,
    whose: str,
    valid: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    set_only(monkeypatch, tmp_path)
    usual = load()
    monkeypatch.setenv(former, value)
    settings = load()
    assert settings.model_dump() == usual.model_dump(), whose
    (line,) = settings.warnings(http=True)
    assert f"RMI_AGENT_{former}" in line and "s3cret" not in line
    monkeypatch.setenv(f"RMI_AGENT_{former}", valid)
    assert load().warnings(http=True) == []  # how to be rid of it


def test_what_only_http_has_a_use_for_is_not_reported_on_stdio(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, HOST="x86_64-conda-linux-gnu")
    assert load().warnings(http=False) == []
    assert len(load().warnings(http=True)) == 1
    assert load(host="127.0.0.1").warnings(http=True) == []  # said on the command line


def test_the_present_name_wins_wherever_it_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, KERNEL_MAX="3", HOST="mybox")
    (tmp_path / ".env").write_text("RMI_AGENT_KERNEL_MAX=4\nHOST=0.0.0.0\nKERNEL_POOL=1\n")
    settings = load()
    assert (settings.kernel_max, settings.host, settings.kernel_pool) == (4, "0.0.0.0", 1)


def test_a_jupyter_servers_former_names_count_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {"JUPYTER_SERVER_URL": "http://a:1", "JUPYTER_SERVER_TOKEN": "s3cret"}
    set_only(monkeypatch, tmp_path, **given)
    assert load().jupyter_server_url == ("http://a:1",)
    assert "s3cret" not in str(load().warnings(http=True))


def test_a_bad_value_of_a_former_name_says_both_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, MEMORY_LIMIT="lots")
    with pytest.raises(BadSettings, match=r"^MEMORY_LIMIT \(now RMI_AGENT_MEMORY_LIMIT\): "):
        load()


def test_a_retired_setting_is_reported_with_what_holds_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, **dict.fromkeys(RETIRED, "7"))
    lines = load().warnings(http=True)
    assert len(lines) == len(RETIRED)
    for name, now in RETIRED.items():
        assert [line for line in lines if line.startswith(f"{name} ") and now in line]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PYTHON_TIMEOUTS", "PYTHON_TIMEOUT"),
        ("PYTHON_TIME_OUT", "PYTHON_TIMEOUT"),
        ("PYHTON_TIMEOUT", "PYTHON_TIMEOUT"),
        ("PYTHON_PROJECT_DIR", "PYTHON_PROJECTS_DIR"),
        ("PYTHON_PROJECTS", "PYTHON_PROJECTS_DIR"),
        ("NGROK_AUTH_TOKEN", "NGROK_AUTHTOKEN"),
        ("RMI_AGENT_SANBOX", "RMI_AGENT_SANDBOX"),
        ("RMI_AGENT_KERNELS_MAX", "RMI_AGENT_KERNEL_MAX"),
        ("RMI_AGENT_PYTHON_TIMEOUT", "PYTHON_TIMEOUT"),
        ("RMI_AGENT_TIMEOUT", "PYTHON_TIMEOUT"),
        ("RMI_AGENT_NETWORK", "RMI_AGENT_SANDBOX_NETWORK"),
        ("RMI_AGNET_HOST", "RMI_AGENT_HOST"),
        ("RMIAGENT_TOKEN", "RMI_AGENT_TOKEN"),
        ("RMI_AGENT_ALLOWED_HOST", "RMI_AGENT_ALLOWED_HOSTS"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_misspelled_setting_is_named_with_the_one_that_was_meant(
    written: str, meant: str, in_file: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, **({} if in_file else {written: "7"}))
    if in_file:
        (tmp_path / ".env").write_text(f"{written}=7\n")
    assert load().warnings(http=False) == [
        f"{written} is not a setting and is ignored. Did you mean {meant}?"
    ]


def test_an_unknown_name_with_the_prefix_is_reported_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, RMI_AGENT_FROBNICATE="1", RMI_AGENT_MODEL="openai:x")
    (line,) = load().warnings(http=False)
    assert line.startswith("RMI_AGENT_FROBNICATE is not a setting and is ignored. ")


COMMON = """
PATH HOME USER LOGNAME SHELL LANG LC_ALL TZ TERM PWD OLDPWD SHLVL EDITOR PAGER DISPLAY HOSTNAME
HOSTTYPE MACHTYPE OSTYPE VENDOR GROUP MAIL LS_COLORS COLORTERM TMPDIR XDG_RUNTIME_DIR
XDG_SESSION_TYPE XDG_DATA_DIRS DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK SSH_CONNECTION SSH_TTY
VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_EXE CONDA_PYTHON_EXE CONDA_BACKUP_HOST BUILD
PYTHONPATH PYTHONHOME PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PYTHONSTARTUP
PYTHON_VERSION PYTHON_SHA256 PYTHON_PIP_VERSION PYTHON_SETUPTOOLS_VERSION PYTHON_GET_PIP_URL
PYTHON_GET_PIP_SHA256 PYTHON_HISTORY PYTHON_GIL PYTHON_CPU_COUNT PYTHON_COLORS PYTHON_JIT
PYTHON_BASIC_REPL PYTHON_EXECUTABLE PYTHON_BIN_PATH PYTHON_LIB_PATH PYTHON_INCLUDE_DIR PYTHON_PATH
PYTHON_CONFIG PYTHON_KEYRING_BACKEND PYTHON_PROJECT PYTHON_DIR PYENV_ROOT PIP_INDEX_URL
PIP_DEFAULT_TIMEOUT PIP_CACHE_DIR UV_CACHE_DIR UV_PYTHON UV_PROJECT POETRY_HOME PIPENV_TIMEOUT
JUPYTER_PATH JUPYTER_SERVER_ROOT JUPYTERHUB_USER JPY_PARENT_PID KERNEL_ID KERNEL_USERNAME
MPLBACKEND OMP_NUM_THREADS CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH NODE_ENV NODE_OPTIONS NPM_TOKEN
NVM_DIR JAVA_HOME GOPATH CARGO_HOME DOCKER_HOST DATABASE_URL REDIS_URL SECRET_KEY DEBUG LOG_LEVEL
OPENAI_API_KEY ANTHROPIC_API_KEY AWS_PROFILE AWS_REGION GOOGLE_APPLICATION_CREDENTIALS
NGROK_API_KEY NGROK_CONFIG NGROK_AUTHTOKEN HTTP_PROXY HTTPS_PROXY NO_PROXY CI GITHUB_ACTIONS
GITHUB_TOKEN VSCODE_PID TERM_PROGRAM CLAUDE_CODE_ENTRYPOINT CLAUDE_CONFIG_DIR MCP_TIMEOUT
REQUEST_TIMEOUT TIMEOUT PROJECTS_DIR PROJECT_DIR RMI_PORT RMI_REGISTRY_HOST
"""


def test_a_common_environment_raises_no_false_alarm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = COMMON.split()
    assert len(common) > 100
    set_only(monkeypatch, tmp_path, **dict.fromkeys(common, "1"))
    assert load().warnings(http=True) == []


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_doctor_and_the_start_name_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    projects = fill(tmp_path / "here")
    done = subprocess.run(
        HTTP_SERVER[:3],
        env=server_env(projects, PYTHON_TIMEOUTS="7", KERNEL_POOL="0"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Did you mean PYTHON_TIMEOUT?" in done.stderr
    assert done.stderr.count("RMI_AGENT_KERNEL_POOL, the setting's current name") == 1
    monkeypatch.setenv("PYTHON_TIMEOUTS", "7")
    found = []
    async for finding in examine():
        found.append(finding)
        if len(found) == 3:
            break
    assert found[2].what == "settings" and "Did you mean PYTHON_TIMEOUT?" in found[2].detail


def test_hosts_get_settings_by_their_present_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_only(monkeypatch, tmp_path, KERNEL_MAX="3", HOST="0.0.0.0", JUPYTER_SERVER_TOKEN="s")
    (tmp_path / ".env").write_text("SANDBOX=off\n")
    assert set_here() == {"RMI_AGENT_KERNEL_MAX": "3", "RMI_AGENT_SANDBOX": "off"}


ONE_WORD = {"HOST", "PORT", "AUTH", "ATTACH", "SANDBOX"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["cli", "server", "kernels", "client"])
def test_messages_name_settings_as_they_are_called_now(folder: str) -> None:
    former = {one.former for one in VARIABLES.values() if one.former} - ONE_WORD
    names = re.compile(rf"(?<![\w$])({'|'.join(former)})(?!\w)")
    single = re.compile(rf"(?<![\w$:/{{])({'|'.join(ONE_WORD)})(?=: |=[\w{{]|\)|$)")
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said = names.findall(node.value) + single.findall(node.value)
                found += [f"{path.name}:{node.lineno}: {name}" for name in said]
    # mcp-remote's own variable, and what was read of old
    known = re.compile(r"(entry|probe|tokens|install|merge)\.py:\d+: AUTH$|setting_fields\.py:")
    assert [one for one in found if not known.match(one)] == []


def test_an_entry_of_old_is_rewritten_with_the_present_names(tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    env = {
        "PYTHON_PROJECTS_DIR": str(fill(tmp_path / "here")),
        "NOTEBOOKS_DIR": str(tmp_path / "mine"),
        "KERNEL_ENV": "A",
        "SANDBOX": "off",
        "OTHER": "2",
    }
    entry = {"command": HTTP_SERVER[0], "args": HTTP_SERVER[1:3], "env": env}
    config.write_text(json.dumps({"mcpServers": {LOCAL_NAME: entry}}))
    install = [*HTTP_SERVER[:3], "install", "cursor", "--config", str(config), "--no-check"]
    more = ["--env", "KERNEL_MAX=4", "--env", "RMI_AGENT_SESSION_IDLE=10"]
    done = subprocess.run(
        [*install, *more],
        env={k: os.environ[k] for k in os.environ if k not in PASSED and k[:4] != "RMI_"},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(config.read_text())["mcpServers"][LOCAL_NAME]["env"] == {
        "PYTHON_PROJECTS_DIR": env["PYTHON_PROJECTS_DIR"],
        "RMI_AGENT_NOTEBOOKS_DIR": env["NOTEBOOKS_DIR"],
        "RMI_AGENT_KERNEL_ENV": "A",
        "RMI_AGENT_SANDBOX": "off",
        "RMI_AGENT_KERNEL_MAX": "4",
        "RMI_AGENT_SESSION_IDLE": "10",
        "OTHER": "2",
    }
