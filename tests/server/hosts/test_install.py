"""The entry in a host's own config: right, alone changed, and never at the cost of the rest."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import platformdirs
import pytest
from fastmcp import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from platformdirs import windows
from platformdirs.macos import MacOS
from rmi_agent.server.auth.tokens import token_file
from rmi_agent.server.commands import app
from rmi_agent.server.errors import UneditableFile
from rmi_agent.server.hosts import Host, host_of, hosts, json_text
from rmi_agent.server.hosts import config_file as hostfile
from rmi_agent.server.hosts import entry as entries
from rmi_agent.server.hosts.entry import installed_script
from rmi_agent.server.package_settings import PASSED

from tests.conftest import SANDBOX
from tests.server.conftest import fill, server_env

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes, links and pipes")
NO_ROOT = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may all")
NAMES = [host.name for host in hosts()]
TYPED = {"claude-code": "http", "vscode": "http", "goose": "streamable_http"}  # on HTTP
TOKEN = "a-token-that-nobody-else-has"
URL = "https://tunnel.example/mcp"
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of nobody, as the current one."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / ".state"))
    for name in (
        "XDG_CONFIG_HOME",
        "CLAUDE_CONFIG_DIR",
        "CODEX_HOME",
        "RMI_AGENT_SANDBOX",
        "RMI_AGENT_KERNEL_PRELOAD",
        *(name for name in os.environ if name.upper() in PASSED),  # of this machine
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def run(host: str, **options: Any) -> int:
    """The exit code of the command line with these options."""
    url, removed = options.pop("url", None), options.pop("remove", False)
    words = ["uninstall", host] if removed else ["connect", host, url] if url else ["install", host]
    for name, value in {**({} if removed else {"check": False}), **options}.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option if value else f"--no-{option[2:]}"]
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, str(one)]
    with pytest.raises(SystemExit) as left:
        app(words)
    return int(left.value.code or 0)


def config_of(name: str) -> Path:
    return host_of(name).config  # type: ignore[arg-type]


def written(name: str, entry: str = "python") -> Any:
    """An entry as it stands in a host's config."""
    host: Host = host_of(name)  # type: ignore[arg-type]
    return hostfile.read(host.config, host.format).config[host.section][entry]


def usual(name: str, entry: str = "python") -> Any:
    """An entry under the usual keys, without what the host adds."""
    host: Host = host_of(name)  # type: ignore[arg-type]
    found = host.shape.read(written(name, entry))
    return {key: found[key] for key in found if key in ("command", "args", "env", "url", "headers")}


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """All files below a folder, with their bytes, modes and times."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_host_gets_the_command_by_its_absolute_path_with_both_folders(
    name: str, home: Path
) -> None:
    assert run(name, projects_dir=home / "p") == 0
    expected = {
        "command": str(installed_script()),
        "env": {
            "PYTHON_PROJECTS_DIR": str(home / "p"),
            "RMI_AGENT_NOTEBOOKS_DIR": str(home / "notebooks"),
        },
    }
    assert usual(name) == expected
    assert written(name).get("type") == ("stdio" if name in TYPED else None)
    assert Path(str(expected["command"])).is_absolute()
    if sys.platform != "win32":
        assert stat.S_IMODE(config_of(name).stat().st_mode) == 0o600


# As programs and people write them, each in its own style.
OTHERS = {
    "claude-desktop": '{\n    "globalShortcut": "",\n    "mcpServers": {\n        "git": {\n'
    '            "command": "uvx"\n        }\n    },\n    "big": 12345678901234567890,\n    "z": "ü"\n}\n',
    "claude-code": '{\r\n\t"numStartups": 3,\r\n\t"mcpServers": {\r\n\t\t"git": {}\r\n\t}\r\n}',
    "codex": '# mine\nmodel = "x" # the best\n\n[mcp_servers.git]\ncommand = "uvx"\nargs = [\n  "git", # it\n]\n\n'
    "[tui]\nnotifications = true\nsince = 2026-11-27\n# the end\n",
    "cursor": '\ufeff{\n  "mcpServers": {\n    "git": {}\n  }\n}\n',
    "gemini": '// mine\n{\n  "mcpServers": {\n    // "off": {},\n    "git": {}, // the last\n  },\n  "ui": {"theme": "x",},\n}\n',
    "goose": "# mine\nGOOSE_MODE: auto # why\nextensions:\n  # the first\n  developer:\n    type: builtin\n    args:\n"
    "    - '-y' # yes\n    enabled: on # so\n\n# the rest\nslash_commands: []\nGOOSE_TEXT: |\n  a\n  b\n",
    "vscode": '{\n   "inputs": [],\n   "servers": {},\n   "a": "\\ud800"\n}\n\n',
    "windsurf": '{\n  "mcpServers": {\n    "git": {"command":"uvx", "args": ["a", 1.50]}\n  }\n}\n',
    "zed": '// Zed settings\n//\n// https://zed.dev/docs\n{\n  /* ui */ "buffer_font_size": 15,\n  "context_servers": {\n'
    '    "git": {"command": "uvx"} // "python": {}, }\n  }\n}\n',
}


@pytest.mark.parametrize("name", NAMES)
def test_all_else_in_the_file_stays_and_removing_gives_it_back(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = config_of(name), OTHERS[name].encode()
    put(path, before)
    path.chmod(0o640)
    assert run(name) == 0
    kept = iter(path.read_text("utf-8").replace(",", ""))
    others = before.decode().replace(",", "").replace("{}", "").replace("\r", "")
    assert all(character in kept for character in others)  # in this order
    (backup,) = path.parent.glob(f"{path.name}.bak-*")
    assert backup.read_bytes() == before
    assert str(backup) in capsys.readouterr().out
    if sys.platform != "win32":
        assert [stat.S_IMODE(one.stat().st_mode) for one in (path, backup)] == [0o640] * 2
    assert run(name, remove=True) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_no_byte_changes_and_no_backup_is_made(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(config_of(name), OTHERS[name])
    run(name, env=("PYTHON_TIMEOUT=60",))
    before = snapshot(home)
    assert run(name, env=("PYTHON_TIMEOUT=60",)) == 0
    assert run(name) == 0  # what was said once goes on to hold
    assert snapshot(home) == before
    assert capsys.readouterr().out.count("Nothing was changed.") == 2
    run(name, remove=True)
    before = snapshot(home)
    assert run(name, remove=True) == 0
    assert snapshot(home) == before


TEXTS = st.text(alphabet='a"\\/*ü\n{}[],: \ud800😀', max_size=6)
VALUES = st.recursive(
    TEXTS
    | st.booleans()
    | st.none()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(TEXTS, VALUES, max_size=4)
INDENTS = st.sampled_from([1, 2, 3, 4, 8, "\t"])


def in_style(config: dict[str, Any], indent: int | str) -> str:
    text = json.dumps(config, ensure_ascii=False, indent=indent)
    return text.replace("\ud800", "\\ud800")


@pytest.mark.slow
@settings(max_examples=200)
@given(CONFIGS, INDENTS, st.randoms())
def test_comments_and_trailing_commas_are_read_over(
    config: dict[str, Any], indent: int | str, random: Random
) -> None:
    lines = in_style(config, indent).splitlines()
    comments = ["", ' // , } "', " /* \n{ , */", "/**/"]
    text = "\n".join(line + random.choice(comments) for line in lines[:-1])
    text += random.choice([",", " , /* } */", ""]) if config else ""
    text += "\n" + lines[-1] + random.choice(comments)
    plain = json_text.without_commas(json_text.without_comments(text))
    assert json_text.parse(plain) == config
    assert len(plain) == len(text) and plain.count("\n") == text.count("\n")
    file = hostfile.ConfigFile(Path("c"), text, config, "jsonc")
    section = config.get("a") if isinstance(config.get("a"), dict) else {}
    assert isinstance(section, dict)
    after = {**config, "a": {**section, "new": {"b": [1], "c": {}}}}
    try:
        changed = file.text_with(after)
    except UneditableFile:  # a value with comments in it is not replaced
        assert "a" in config and not isinstance(config["a"], dict)
        return
    assert json_text.parse_commented(changed) == after
    assert list(json_text.parse_commented(changed)) == list(after)
    left = iter(changed)
    if "a" not in config or isinstance(config["a"], dict):
        assert all(one in left for one in text if one not in " \n,")  # no comment is lost
    again = hostfile.ConfigFile(Path("c"), changed, after, "jsonc")
    without = {**config, "a": {key: section[key] for key in section if key != "new"}}
    assert json_text.parse_commented(again.text_with(without)) == without


AROUND = [  # without the entry, and what the entry is between
    (
        "codex",
        ("# top\n\n", "\n# Of the other:\n# two lines\n[mcp_servers.git]\ncommand = 'x'\n# end\n"),
        "[mcp_servers.python]\ncommand = 'a' # ours\n# ours\n[mcp_servers.python.env]\nA = '1'\n",
    ),
    (
        "codex",
        ("a = 1\r\nb = '''\n[x]\n'''\n", "\r\n# p\n[p]\n"),
        "[mcp_servers.python]\nargs = [\n['x'],\n]\n",
    ),
    (
        "goose",
        ("a: 1\nextensions:{} # mine\n  # git:\n  #   cmd: x\n", "  # more\nz: 1\n"),
        "  python:\n    cmd: a # ours\n",
    ),
    ("goose", ("a: |\r\n  x\n  y\r\nextensions:\n  b: 1\r\n", "c: 1\n"), "  python:\n    cmd: a\n"),
]


@pytest.mark.parametrize(("name", "around", "ours"), AROUND)
def test_comments_and_line_ends_around_an_entry_stay_when_it_goes(
    name: str, around: tuple[str, str], ours: str
) -> None:
    language = host_of(name).format  # type: ignore[arg-type]
    text = ours.join(around).replace("{}", "")
    config = hostfile.LANGUAGES[language].parse(text)
    section = host_of(name).section  # type: ignore[arg-type]
    others = {key: value for key, value in config[section].items() if key != "python"}
    file = hostfile.ConfigFile(Path("c"), text, config, language)
    left = file.text_with({**config, section: others})
    assert lines(left) == lines("".join(around).replace("{}", " {}"))


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if line.strip()]


def test_what_an_entry_gets_stands_before_the_comments_behind_it() -> None:
    entry, behind = "[mcp_servers.python]\ncommand = 'a'\n", "\n# Of the other\n[mcp_servers.git]\n"
    git: dict[str, Any] = {}
    text = entry + behind
    config: dict[str, Any] = {"mcp_servers": {"python": {"command": "a"}, "git": git}}
    for more, shown in (
        ({"args": ["1"]}, 'args = ["1"]\n'),
        ({"env": {"A": "1"}}, '\n[mcp_servers.python.env]\nA = "1"\n'),
        ({"env": {"A": "1", "B": "2"}}, 'B = "2"\n'),
    ):
        changed: dict[str, Any] = {"python": config["mcp_servers"]["python"] | more, "git": git}
        after = {"mcp_servers": changed}
        text = hostfile.ConfigFile(Path("c"), text, config, "toml").text_with(after)
        entry, config = entry + shown, after
        assert lines(text) == lines(entry + behind)


COMMENTED = [
    ("zed", '{"context_servers": {"python": {"args": [1, /* mine */ 2]}}}'),
    ("codex", "[mcp_servers.python]\nargs = [\n  1, # mine\n]\n"),
    ("goose", "extensions:\n  python:\n    args: [1] # mine\n"),
    ("goose", "extensions:\n  python:\n    args:\n    - 1\n    # mine\n    - 2\n"),
]


@pytest.mark.parametrize(("name", "text"), COMMENTED)
def test_a_value_with_comments_in_it_is_not_replaced(name: str, text: str) -> None:
    host: Host = host_of(name)  # type: ignore[arg-type]
    config = hostfile.LANGUAGES[host.format].parse(text)
    file = hostfile.ConfigFile(Path("c"), text, config, host.format)
    with pytest.raises(UneditableFile):
        file.text_with({host.section: {"python": {"args": [3]}}})


HAND_WRITTEN = """{"mcpServers": { "git": {"command":"uvx", "args": ["a", 1.50, -0.0, 1e3]} },

   "b": null, "a": {}, "é": "\\u00e9\\n"}"""


def test_a_file_in_nobodys_style_keeps_its_values_and_their_order(home: Path) -> None:
    path, before = config_of("claude-desktop"), json.loads(HAND_WRITTEN)
    put(path, HAND_WRITTEN)
    assert run("claude-desktop") == 0
    after = json.loads(path.read_text("utf-8"))
    del after["mcpServers"]["python"]
    assert list(after.items()) == list(before.items())


@pytest.mark.parametrize("text", ["", " \n", "{}", "\ufeff{ }", "{\n}\n"])
def test_an_empty_file_gets_the_entry(text: str, home: Path) -> None:
    put(config_of("cursor"), text)
    assert run("cursor") == 0
    written_now = config_of("cursor").read_text("utf-8")
    assert written_now.startswith("\ufeff") == text.startswith("\ufeff")
    assert list(json.loads(written_now.removeprefix("\ufeff"))["mcpServers"]) == ["python"]


def test_a_token_is_asked_for_by_a_host_whose_file_has_comments(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '{\n  "inputs": [\n    {"id": "other"}, // mine\n  ],\n  "servers": {} // none\n}\n'
    put(config_of("vscode"), text)
    assert run("vscode", url=URL) == 0
    changed = config_of("vscode").read_text()
    ids = [one["id"] for one in json_text.parse_commented(changed)["inputs"]]
    assert ids == ["other", "python-remote-token"] and "// mine" in changed and "// none" in changed
    assert run("vscode", name="python-remote", remove=True) == 0
    assert config_of("vscode").read_text() == text


# Layouts in which nothing can be changed without losing something.
RIGID = {
    "codex": 'mcp_servers = { git = { command = "uvx" } }\n',
    "goose": "extensions: {\n  git: {cmd: uvx}, # mine\n}\n",
}


@pytest.mark.parametrize("name", RIGID)
@pytest.mark.parametrize("options", [{}, {"dry_run": True}])
def test_what_can_not_be_changed_in_place_is_shown_to_be_added_by_hand(
    name: str,
    options: dict[str, Any],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    path = config_of(name)
    put(path, RIGID[name])
    before = snapshot(home)
    assert run(name, url=URL, **options) == (0 if options else 1)
    said = capsys.readouterr()
    assert ("can't be changed here. Nothing was changed." in said.err) is not bool(options)
    where, _, fragment = said.out.partition("\n")
    assert str(path) in where and TOKEN not in said.out
    host: Host = host_of(name)  # type: ignore[arg-type]
    shown = hostfile.LANGUAGES[host.format].parse(fragment)
    assert shown[host.section].keys() == {"python-remote"}
    assert snapshot(home) == before


def test_one_changed_value_leaves_the_comments_beside_it(home: Path) -> None:
    for name in ("zed", "codex", "goose"):
        run(name, env=("PYTHON_TIMEOUT=61730",))
        path = config_of(name)
        mark = {"zed": "// mine", "codex": "# mine", "goose": "# mine"}[name]
        text = re.sub(r"(?m)^(.*PYTHON_PROJECTS_DIR.*)$", rf"\1 {mark}", path.read_text())
        put(path, text)
        assert run(name, env=("PYTHON_TIMEOUT=71730",)) == 0
        assert path.read_text() == text.replace("61730", "71730"), name
        (backup,) = path.parent.glob(f"{path.name}.bak-*")
        backup.unlink()


def test_the_entry_can_be_printed_for_any_host(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as left:
        app(["install", "--print"])
    assert not left.value.code
    shown = json.loads(capsys.readouterr().out)["mcpServers"]["python"]
    assert shown["command"] == str(installed_script()) and list(shown) == ["command", "env"]
    with pytest.raises(SystemExit):
        app(["install", "goose", "--print", "--name", "py"])
    goose = hostfile.LANGUAGES["yaml"].parse(capsys.readouterr().out)["extensions"]["py"]
    assert (goose["name"], goose["type"], goose["cmd"]) == ("py", "stdio", shown["command"])
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    with pytest.raises(SystemExit):
        app(["connect", "codex", URL, "--print"])
    said = capsys.readouterr()
    assert "[mcp_servers.python-remote]" in said.out and TOKEN not in said.out
    assert "Replace ******** with the token." in said.err
    with pytest.raises(SystemExit) as left:
        app(["install"])
    assert left.value.code == 2 and "--print the entry for another" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_proxies_and_indexes_go_along_without_their_passwords(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/company.pem")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://user:secret@index.example/simple")
    assert run("cursor", dry_run=True) == 0
    said = capsys.readouterr().err
    assert said.startswith("Taken over from here, without passwords: ") and "secret" not in said
    assert all(name in said for name in ("HTTPS_PROXY", "SSL_CERT_FILE", "UV_DEFAULT_INDEX"))
    assert run("cursor") == 0
    env = written("cursor")["env"]
    assert env["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert env["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert env["SSL_CERT_FILE"] == "/etc/company.pem"
    assert run("cursor", env=("HTTPS_PROXY=http://other.example:1",)) == 0
    assert run("cursor") == 0  # what was said once goes on to hold
    assert written("cursor")["env"]["HTTPS_PROXY"] == "http://other.example:1"


def test_a_host_without_legacy_sse_is_not_given_any(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    assert run("codex", url="https://far.example/sse") == 2
    assert "Write https://far.example/mcp" in capsys.readouterr().err
    assert run("gemini", url="https://far.example/sse") == 0
    assert written("gemini", "python-remote")["url"] == "https://far.example/sse"
    assert run("gemini", url="https://far.example/mcp") == 0
    assert written("gemini", "python-remote")["httpUrl"] == "https://far.example/mcp"
    assert "url" not in written("gemini", "python-remote")


def test_a_config_that_is_nested_too_deeply_to_be_written_is_refused(home: Path) -> None:
    config: dict[str, Any] = {}
    for _ in range(5000):
        config = {"a": config}
    with pytest.raises(hostfile.UnusableFile, match="nested too deeply"):
        hostfile.read(home / "c.json").text_with(config)
    del config


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "a comma too many": (b'{\n  "mcpServers": {},\n}', "is broken: line "),
    "a comma missing": (b'{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: Expecting ','"),
    "a comment": (b'{} // "', "line 1, column 4: Extra data"),
    "half of it": (b'{"mcpServers": {', "line 1, column 17: "),
    "a list": (b"[]", "the whole file should be an object"),
    "a section that is a list": (b'{"mcpServers": []}', '"mcpServers" should be an object'),
    "a section twice": (b'{"mcpServers": {}, "mcpServers": {}}', '"mcpServers" occurs twice'),
    "a key twice, deep inside": (b'{"a": [{"b": 1, "b": 1}]}', '"b" occurs twice'),
    "NaN": (b'{"a": NaN}', "NaN is not a number that JSON can represent"),
    "a number that would get lost": (
        b'{"a": 1E400}',
        "1E400 is not a number that JSON can represent",
    ),
    "brackets without end": (b"[" * 100_000, "nested too deeply"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8 (line 1)"),
    "another encoding": ('{"a":\n "ü"}'.encode("latin-1"), "is not UTF-8 (line 2)"),
}
BROKEN_TOML = {
    "an open text": (b'a = "x\n', "line 1, column 7"),
    "a table twice": (b"[a]\n[a]\n", "line 2"),
    "a section that is a text": (b'mcp_servers = "x"\n', '"mcp_servers" should be a table'),
}
BROKEN_YAML = {
    "a tab": (b"a:\n\tb: 1\n", "line 2, column 1: "),
    "a list": (b"- a\n", "the whole file should be a mapping"),
    "a section that is a list": (b"extensions: [a]\n", '"extensions" should be a mapping'),
    "a control character": (b"a: \x01\n", "special characters are not allowed"),
}
BROKEN_WITH_COMMENTS = {
    "a comment without end": (b"{} /* x", "line 1, column 4: "),
    "a text without end": (b'{"a": "// }', "line 1, column 7: "),
    "only a comma": (b'{"a": [ , ]}', "line 1, column 9: "),
    "two commas": (b'{"a": [1,,]}', "line 1, column 10: "),
    "an error behind a comment": (b'/* x\n */ {\n "a" 1 }', "line 3, column 6: "),
    "a comment in a word": (b'{"a": tr/**/ue}', "line 1, column 7: "),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "text", "words"),
    [
        pytest.param(host, *case, id=name)
        for host, cases in (
            ("claude-desktop", BROKEN),
            ("cursor", BROKEN_WITH_COMMENTS),
            ("codex", BROKEN_TOML),
            ("goose", BROKEN_YAML),
        )
        for name, case in cases.items()
    ],
)
@pytest.mark.parametrize("options", [{}, {"remove": True}, {"dry_run": True}, {"force": True}])
def test_a_broken_config_is_reported_with_its_place_and_left_alone(
    host: str,
    text: bytes,
    words: str,
    options: dict[str, Any],
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = config_of(host)
    put(path, text)
    before = snapshot(home)
    assert run(host, **options) == 1
    said = capsys.readouterr()
    assert words in said.err and str(path) in said.err and len(said.err.splitlines()) == 1
    assert said.out == ""
    assert snapshot(home) == before


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        pytest.param("pipe", marks=POSIX),
        pytest.param("unreadable", marks=NO_ROOT),
        pytest.param("read only", marks=NO_ROOT),
        "huge",
    ],
)
def test_what_can_not_be_written_is_told_in_a_line(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_of("cursor")
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("{}")
        path.chmod({"unreadable": 0o200, "read only": 0o400}.get(kind, 0o600))
    if kind == "huge":
        monkeypatch.setattr(hostfile, "MAX_SIZE", 1)
    assert run("cursor") == 1
    said = capsys.readouterr().err
    assert str(path) in said and "Nothing was changed." in said and len(said.splitlines()) == 1
    assert list(path.parent.iterdir()) == [path]


@POSIX
def test_a_link_stays_and_its_target_is_written(home: Path) -> None:
    target = home / "dotfiles" / "cursor.json"
    put(target, "{}")
    path = config_of("cursor")
    path.parent.mkdir()
    path.symlink_to(target)
    assert run("cursor") == 0
    assert path.is_symlink() and "python" in json.loads(target.read_text())["mcpServers"]
    assert [one.name for one in target.parent.iterdir()] == ["cursor.json"]
    assert len(list(path.parent.glob("mcp.json.bak-*"))) == 1


def test_a_file_that_changes_meanwhile_is_not_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_of("claude-code")
    put(path, "{}")
    fill_file = hostfile.fill

    def and_the_host_writes_too(*arguments: Any) -> None:
        fill_file(*arguments)
        path.write_text('{"numStartups": 4}')

    monkeypatch.setattr(hostfile, "fill", and_the_host_writes_too)
    assert run("claude-code") == 1
    assert "changed by another program" in capsys.readouterr().err
    assert path.read_text() == '{"numStartups": 4}'
    assert [one.name for one in home.iterdir()] == [".claude.json"]


def test_a_backup_is_never_overwritten(home: Path) -> None:
    path = config_of("cursor")
    put(path, "{}")
    for number in range(3):
        run("cursor", name=f"n{number}")
    assert len(list(path.parent.glob("mcp.json.bak-*"))) == 3


def test_a_dry_run_shows_the_difference_without_the_token_and_writes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    assert run("claude-desktop", dry_run=True) == 0
    assert '+    "python": {' in capsys.readouterr().out
    assert list(home.iterdir()) == []
    run("claude-desktop", url=URL)
    monkeypatch.setenv("RMI_AGENT_TOKEN", "another-token-than-before")
    before = snapshot(home)
    capsys.readouterr()
    assert run("claude-desktop", url="https://other.example", dry_run=True) == 0
    shown = capsys.readouterr().out
    assert '+        "https://other.example/mcp",' in shown
    assert "Bearer ********" in shown
    assert TOKEN not in shown and "another-token" not in shown
    assert snapshot(home) == before


def test_another_servers_entry_is_only_replaced_by_force(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_of("cursor")
    put(
        path,
        '{"mcpServers": {"python": {"command": "uvx", "args": ["other", "s3cret"], "cwd": "/", "env": {"A": "1"}}}}',
    )
    before = snapshot(home)
    for options in ({}, {"remove": True}):
        assert run("cursor", **options) == 1
        said = capsys.readouterr().err
        assert "another server: uvx." in said and "--name" in said and "s3cret" not in said
    assert snapshot(home) == before
    assert run("cursor", force=True) == 0
    assert written("cursor")["command"] == str(installed_script())
    assert list(written("cursor")) == ["command", "env"] and "A" not in written("cursor")["env"]


def test_a_token_goes_when_the_host_signs_in_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    run("claude-desktop", url=URL, env=("HTTPS_PROXY=http://p",))
    run("claude-desktop", url=URL, oauth=True, env=("HTTPS_PROXY=http://q",))
    assert TOKEN not in config_of("claude-desktop").read_text()
    assert written("claude-desktop", "python-remote")["env"]["HTTPS_PROXY"] == "http://q"


def test_what_was_added_to_our_entry_by_hand_stays(home: Path) -> None:
    old = {
        "command": "/old/bin/rmi-agent-mcp-server",
        "args": ["--no-sandbox"],
        "env": {"PYTHON_PROJECTS_DIR": "/elsewhere", "RMI_AGENT_KERNEL_ENV": "A"},
        "disabled": True,
    }
    put(config_of("vscode"), json.dumps({"servers": {"python": old}}))
    assert run("vscode", env=("PYTHON_TIMEOUT=9",)) == 0
    entry = written("vscode")
    assert entry["disabled"] is True and "args" not in entry
    assert (
        entry["env"]["PYTHON_PROJECTS_DIR"] == "/elsewhere"
        and entry["env"]["RMI_AGENT_KERNEL_ENV"] == "A"
    )
    assert entry["env"]["PYTHON_TIMEOUT"] == "9"
    assert entry["command"] == str(installed_script())


def test_notebooks_move_along_with_the_projects_unless_they_were_set(home: Path) -> None:
    run("cursor", projects_dir=home / "a" / "p")
    run("cursor", projects_dir=home / "b" / "p")
    assert written("cursor")["env"]["RMI_AGENT_NOTEBOOKS_DIR"] == str(home / "b" / "notebooks")
    run("cursor", notebooks_dir=home / "mine")
    run("cursor", projects_dir=home / "c" / "p")
    assert written("cursor")["env"]["RMI_AGENT_NOTEBOOKS_DIR"] == str(home / "mine")


def test_what_is_set_here_goes_along_but_no_secret_and_nothing_of_http(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".env").write_text("PYTHON_TIMEOUT=77\nKERNEL_MAX=3\nSESSION_IDLE=9\nOTHER=1\n")
    for name, value in {
        "RMI_AGENT_KERNEL_MAX": "4",
        "RMI_AGENT_KERNEL_PRELOAD": "",
        "RMI_AGENT_SANDBOX_READ": "data,/usr",
        "RMI_AGENT_TOKEN": TOKEN,
        "RMI_AGENT_TOKENS": f"a:{TOKEN}2",
        "RMI_AGENT_OAUTH_CLIENT_SECRET": "s",
        "RMI_AGENT_PORT": "9000",
    }.items():
        monkeypatch.setenv(name, value)
    assert run("cursor", env=("RMI_AGENT_SESSION_IDLE=10", "OTHER=2")) == 0
    env = written("cursor")["env"]
    assert {name: env[name] for name in env if not name.endswith("_DIR")} == {
        "PYTHON_TIMEOUT": "77",
        "RMI_AGENT_KERNEL_MAX": "4",
        "RMI_AGENT_KERNEL_PRELOAD": "",
        "RMI_AGENT_SANDBOX_READ": f"{home / 'data'},/usr",
        "RMI_AGENT_SESSION_IDLE": "10",
        "OTHER": "2",
    }


def test_whether_it_is_attached_stands_in_the_entry_and_stays_there() -> None:
    assert run("claude-desktop", attach="always") == 0
    assert written("claude-desktop")["env"]["RMI_AGENT_ATTACH"] == "always"
    assert run("claude-desktop") == 0
    assert written("claude-desktop")["env"]["RMI_AGENT_ATTACH"] == "always"
    assert run("claude-desktop", attach="never") == 0
    assert written("claude-desktop")["env"]["RMI_AGENT_ATTACH"] == "never"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": ("PYTHON_TIMEOUT=soon",)}, "PYTHON_TIMEOUT: "),
        ({"env": ("nonsense",)}, "is not NAME=VALUE"),
        ({"url": URL, "env": ("RMI_AGENT_KERNEL_MAX=2",)}, "Set the server's variables where it"),
        ({"env": ("RMI_AGENT_ATTACH=sometimes",)}, "RMI_AGENT_ATTACH: "),
        ({"url": URL}, "RMI_AGENT_TOKEN: set it"),
        ({"url": "http://far.example/mcp"}, "everybody on the way could read the token"),
        ({"url": "https://user:pass@far.example/mcp"}, "leave out what comes before @"),
        ({"url": "https://far.example/mcp?token=x"}, "leave out"),
        ({"url": "far.example"}, "RMI_AGENT_TOKEN: set it to the token of https://far.example/mcp"),
        ({"url": "far"}, "is no address"),
        ({"url": "https://far.example:port"}, "is no address"),
        ({"url": "http://127.0.0.1:8000"}, "RMI_AGENT_TOKEN: set it"),
    ],
)
def test_what_is_said_wrongly_is_one_line_and_nothing_is_written(
    options: dict[str, Any], words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cursor", **options) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_server_elsewhere_gets_its_token_in_a_header_and_in_no_argument(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    assert run(name, url="https://tunnel.example/") == 0
    entry = usual(name, "python-remote")
    if name == "claude-desktop":
        assert entry["args"] == ["-y", "mcp-remote", URL, "--header", "Authorization:${AUTH}"]
        assert entry["env"]["AUTH"] == f"Bearer {TOKEN}"
    else:
        token = "${input:python-remote-token}" if name == "vscode" else TOKEN
        assert entry["headers"] == {"Authorization": f"Bearer {token}"}
        assert entry["url"] == URL
        assert written(name, "python-remote").get("type") == TYPED.get(name)
    if name == "vscode":  # it may send the file away, and asks for the token itself
        whole = config_of(name).read_text()
        assert TOKEN not in whole
        assert [one["id"] for one in json.loads(whole)["inputs"]] == ["python-remote-token"]
    assert run(name, url="https://new.example/mcp") == 0  # a tunnel has a new name each time
    assert "https://new.example/mcp" in config_of(name).read_text()
    assert URL not in config_of(name).read_text()
    assert run(name, name="python-remote", remove=True) == 0
    assert TOKEN not in config_of(name).read_text()
    assert "python-remote" not in config_of(name).read_text()


def test_the_bridge_can_be_had_for_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    for name in NAMES:
        assert run(name, url=URL, bridge=True, env=("HTTPS_PROXY=http://p",)) == 0
        assert usual(name, "python-remote")["env"]["HTTPS_PROXY"] == "http://p"
        assert "mcp-remote" in usual(name, "python-remote")["args"]
        assert not any(TOKEN in word for word in usual(name, "python-remote")["args"])


def test_what_was_added_to_a_bridge_and_to_a_question_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    run("claude-desktop", url=URL, env=("HTTPS_PROXY=http://p",))
    run("claude-desktop", url="https://new.example")
    assert written("claude-desktop", "python-remote")["env"]["HTTPS_PROXY"] == "http://p"
    run("vscode", url=URL)
    config = json.loads(config_of("vscode").read_text())
    config["inputs"] = [{"id": "other"}, {**config["inputs"][0], "description": "mine"}]
    config_of("vscode").write_text(json.dumps(config))
    run("vscode", url="https://new.example")
    assert json.loads(config_of("vscode").read_text())["inputs"] == config["inputs"]
    run("vscode", name="python-remote", remove=True)
    assert json.loads(config_of("vscode").read_text())["inputs"] == [{"id": "other"}]


def test_sign_in_by_oauth_needs_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert run(name, url=URL, oauth=True, check=True) == (0 if name == "claude-desktop" else 1)
    assert "signs in with your browser" in capsys.readouterr().out
    assert written("claude-desktop", "python-remote")["args"] == ["-y", "mcp-remote", URL]
    assert written("vscode", "python-remote") == {"type": "http", "url": URL}


def test_a_server_of_this_machine_is_known_by_the_token_that_it_made(home: Path) -> None:
    put(token_file(), TOKEN)
    token_file().chmod(0o600)
    assert run("cursor", url="http://127.0.0.1:8000") == 0
    assert written("cursor", "python-remote")["headers"]["Authorization"] == f"Bearer {TOKEN}"
    assert run("cursor", url="https://elsewhere.example", name="x") == 2  # it stays on this machine


@pytest.mark.skipif(sys.platform == "win32", reason="hosts there look for it themselves")
def test_the_bridge_finds_node_where_the_host_would_not_look(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    put(home / "nvm" / "npx", "#!/bin/sh\n")
    (home / "nvm" / "npx").chmod(0o755)
    monkeypatch.setenv("PATH", str(home / "nvm"))
    assert run("claude-desktop", url=URL) == 0
    entry = written("claude-desktop", "python-remote")
    assert entry["command"] == str(home / "nvm" / "npx")
    assert entry["env"]["PATH"].split(":")[0] == str(home / "nvm")


def test_an_environment_in_a_cache_is_named_by_what_makes_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = home / "cache" / "uv"
    put(cache / "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55")
    monkeypatch.setattr(sys, "prefix", str(cache / "archive-v0" / "x"))
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.setattr(entries, "install_source", lambda: None)
    assert run("cursor", name="a") == 0
    assert "may be emptied" in capsys.readouterr().err
    put(home / "bin" / ("uvx.exe" if sys.platform == "win32" else "uvx"), "")
    next((home / "bin").iterdir()).chmod(0o755)
    own = cache / "archive-v0" / "x" / "bin" / next((home / "bin").iterdir()).name
    put(own, "")  # this package brings uv with it, and uvx puts that first on PATH
    own.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(own.parent), str(home / "bin"))))
    assert run("cursor", name="b") == 0
    assert written("cursor", "b")["command"] == str(next((home / "bin").iterdir()))
    assert written("cursor", "b")["args"] == ["rmi-agent-mcp-server"]
    monkeypatch.setattr(entries, "install_source", lambda: "git+https://e.example/r@1")
    assert run("cursor", name="c") == 0
    assert written("cursor", "c")["args"] == [
        "--from",
        "git+https://e.example/r@1",
        "rmi-agent-mcp-server",
    ]


def test_an_entry_that_does_not_work_stays_and_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entries, "installed_script", lambda: home / "gone" / "rmi-agent-mcp-server")
    assert run("cursor", check=True) == 1
    said = capsys.readouterr().out
    assert "✗ there is no program " in said and "The entry was kept" in said
    assert written("cursor")["command"].endswith("gone/rmi-agent-mcp-server")


@pytest.mark.parametrize("name", NAMES)
def test_another_config_file_can_be_named(name: str, home: Path) -> None:
    assert run(name, config=Path("project", ".mcp.json")) == 0
    assert "python" in (home / "project" / ".mcp.json").read_text()
    assert [one.name for one in home.iterdir()] == ["project"]


def test_a_launcher_of_another_project_is_not_ours(home: Path) -> None:
    launcher = home / "theirs" / "mcp_server.py"
    put(launcher, "")
    entry = {"command": "python", "args": [str(launcher)]}
    put(config_of("cursor"), json.dumps({"mcpServers": {"python": entry}}))
    assert run("cursor") == 1
    put(launcher.with_name("run_http_server.py"), "")  # as in checkouts of this one
    assert run("cursor") == 0
    assert "args" not in written("cursor")


@POSIX
def test_a_token_in_a_file_that_others_may_read_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RMI_AGENT_TOKEN", TOKEN)
    for mode, told in ((0o600, False), (0o644, True)):
        put(config_of("cursor"), "{}")
        config_of("cursor").chmod(mode)
        run("cursor", url=URL)
        assert ("chmod 600" in capsys.readouterr().out) is told


def test_the_documentation_shows_what_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[3]
    shown = [
        json.loads(block)["mcpServers"]
        for block in re.findall(
            r"```json\n(.*?)```", (root / "docs" / "hosts.md").read_text("utf-8"), re.DOTALL
        )
        if "mcpServers" in block
    ]
    monkeypatch.setenv("RMI_AGENT_TOKEN", "YOUR_TOKEN_or_a_longer_one")
    run("claude-desktop")
    run("claude-desktop", url="https://YOUR-TUNNEL/mcp")
    run("claude-code", url="https://YOUR-TUNNEL/mcp")
    local, bridge, direct = shown
    assert list(local["python"]) == list(written("claude-desktop"))
    assert list(local["python"]["env"]) == list(written("claude-desktop")["env"])
    for block, name in ((bridge, "claude-desktop"), (direct, "claude-code")):
        entry = json.loads(
            json.dumps(written(name, "python-remote")).replace("_or_a_longer_one", "")
        )
        if "command" in entry:  # here by its path
            entry["command"] = Path(entry["command"]).stem
            entry["env"].pop("PATH", None)
        assert entry == block["python-remote"]


def paths() -> dict[str, str]:
    return {host.name: host.config.as_posix() for host in hosts()}


def test_configs_are_found_where_each_system_has_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = home.as_posix()
    anywhere = {
        "claude-code": f"{at}/.claude.json",
        "codex": f"{at}/.codex/config.toml",
        "cursor": f"{at}/.cursor/mcp.json",
        "gemini": f"{at}/.gemini/settings.json",
        "windsurf": f"{at}/.codeium/windsurf/mcp_config.json",
    }
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    support = f"{at}/Library/Application Support"
    assert paths() == {
        **anywhere,
        "claude-desktop": f"{support}/Claude/claude_desktop_config.json",
        "goose": f"{at}/.config/goose/config.yaml",
        "vscode": f"{support}/Code/User/mcp.json",
        "zed": f"{at}/.config/zed/settings.json",
    }
    monkeypatch.setattr(platformdirs, "PlatformDirs", windows.Windows)
    monkeypatch.setattr(windows, "_RESOLVE_WIN_FOLDER", windows.get_win_folder_from_env_vars)
    monkeypatch.delenv("WIN_PD_OVERRIDE_LOCAL_APPDATA")
    monkeypatch.setenv("LOCALAPPDATA", f"{at}/Local")
    monkeypatch.setenv("APPDATA", f"{at}/Roaming")
    monkeypatch.setattr("rmi_agent.server.hosts.catalog.is_windows", lambda: True)
    assert paths() == {
        **anywhere,
        "claude-desktop": f"{at}/Roaming/Claude/claude_desktop_config.json",
        "goose": f"{at}/Roaming/Block/goose/config/config.yaml",
        "vscode": f"{at}/Roaming/Code/User/mcp.json",
        "zed": f"{at}/Roaming/Zed/settings.json",
    }
    (home / "Local" / "Packages" / "Claude_abc").mkdir(parents=True)
    assert paths()["claude-desktop"] == (
        f"{at}/Local/Packages/Claude_abc/LocalCache/Roaming/Claude/claude_desktop_config.json"
    )


def test_configs_are_found_where_the_environment_has_moved_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home / "work"))
    assert paths()["claude-code"] == f"{home.as_posix()}/work/.claude.json"
    monkeypatch.setenv("CODEX_HOME", str(home / "work"))
    assert paths()["codex"] == f"{home.as_posix()}/work/config.toml"
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
        assert paths()["vscode"] == f"{home}/xdg/Code/User/mcp.json"
        assert paths()["zed"] == f"{home}/xdg/zed/settings.json"
        assert paths()["goose"] == f"{home}/xdg/goose/config.yaml"
        assert paths()["claude-desktop"] == f"{home}/xdg/Claude/claude_desktop_config.json"


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_command_line_writes_what_another_client_can_start_from_anywhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = server_env(fill(tmp_path), RMI_AGENT_SANDBOX=SANDBOX, RMI_AGENT_KERNEL_PRELOAD="")
    words = [sys.executable, "-m", "rmi_agent.server.cli", "install", "claude-desktop"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ The server starts and lists 20 tools." in done.stdout
    assert done.stdout.endswith("Then ask: Run hello_world.py.\n")
    config = json.loads(config_of("claude-desktop").read_text())
    for name in env:  # what the entry has is enough
        if name not in ("HOME", "PATH"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir("/")
    async with Client(config) as client:
        result = await client.call_tool("run_python", {"file_name": "hello_world.py"})
        assert "Hello, World!" in str(result.content)
