"""What kernels are told of proxies, certificates and package indexes: all but passwords."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rmi_agent.server import load
from rmi_agent.server.launch import launch
from rmi_agent.server.package_settings import (
    CERTIFICATES,
    from_environment,
    from_files,
    named_paths,
    pip_files,
)
from rmi_agent.server.sandboxing import policy_of

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("HTTPS_PROXY", f"http://me:{SECRET}@proxy.test:3128", "http://proxy.test:3128"),
        ("https_proxy", f"me:{SECRET}@proxy.test:3128", "proxy.test:3128"),
        ("NO_PROXY", "localhost,.test", "localhost,.test"),
        ("PIP_INDEX_URL", f"https://{SECRET}@a.test/simple", "https://a.test/simple"),
        (
            "PIP_EXTRA_INDEX_URL",
            f"https://me:{SECRET}@a.test/x https://b.test/@c",
            "https://a.test/x https://b.test/@c",
        ),
        ("UV_INDEX", f"mine=https://me:a@{SECRET}@a.test/x", "mine=https://a.test/x"),
        ("PIP_CERT", "/etc/ca.pem", "/etc/ca.pem"),
        ("REQUESTS_CA_BUNDLE", "/etc/ca.pem", "/etc/ca.pem"),
        ("PIP_CONFIG_FILE", "/etc/my-pip.conf", "/etc/my-pip.conf"),
    ],
)
def test_a_variable_reaches_kernels_without_a_password(
    name: str,
    given: str,
    kept: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(name, given)
    assert launch(load()).env[name] == kept
    assert SECRET not in caplog.text
    assert (name in caplog.text) == (SECRET in given)
    assert launch(load(kernel_env=name)).env[name] == given


@pytest.mark.parametrize(
    "name", ["PIP_TARGET", "PIP_USER", "PIP_PREFIX", "UV_PUBLISH_TOKEN", "UV_INDEX_A_PASSWORD"]
)
def test_other_variables_stay_away(name: str) -> None:
    assert from_environment({name: "x"}) == {}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes the configuration files of pip and uv; none of this machine's are read."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")) or name in CERTIFICATES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    files = "rmi_agent.server.package_settings.pip_files"
    monkeypatch.setattr(files, lambda _: [tmp_path / "system.conf", tmp_path / "users.conf"])

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


def test_pips_files_are_translated_for_pip_and_uv(
    configured: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    configured(
        "system.conf",
        "[global]\nindex-url = https://old.test/simple\ncert = /etc/ca.pem\ntarget = /x\n",
    )
    configured(
        "users.conf",
        f"[global]\nindex_url = https://me:{SECRET}@new.test/simple\n[install]\nfind-links =\n"
        "    /a\n    /b\nuser = true\n",
    )
    expected = {
        "PIP_INDEX_URL": "https://new.test/simple",
        "PIP_CERT": "/etc/ca.pem",
        "PIP_FIND_LINKS": "/a /b",
        "UV_DEFAULT_INDEX": "https://new.test/simple",
        "UV_FIND_LINKS": "/a,/b",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    assert from_files({}) == expected
    assert SECRET not in caplog.text
    whole = from_files({}, ("PIP_INDEX_URL",))
    assert SECRET in whole["PIP_INDEX_URL"]
    assert SECRET not in whole["UV_DEFAULT_INDEX"]
    in_the_environment = {"PIP_INDEX_URL": "https://here.test/simple"}
    found = from_files(in_the_environment)
    assert "PIP_INDEX_URL" not in found
    assert found["UV_DEFAULT_INDEX"] == "https://here.test/simple"


def test_uvs_file_is_translated(configured: Callable[[str, str], None]) -> None:
    configured(
        "uv/uv.toml",
        f'native-tls = true\n[[index]]\nurl = "https://me:{SECRET}@a.test/simple"\ndefault = true\n'
        '[[index]]\nname = "b"\nurl = "https://b.test"\n[[index]]\nurl = "https://c.test"\n'
        '[pip]\nfind-links = ["/a", "/b"]\n',
    )
    assert from_files({}) == {
        "UV_NATIVE_TLS": "1",
        "UV_DEFAULT_INDEX": "https://a.test/simple",
        "UV_INDEX": "b=https://b.test https://c.test",
        "UV_FIND_LINKS": "/a,/b",
    }


@pytest.mark.parametrize("text", ["[global", "\xff", "index = 3", "[[index]]\nurl = 1"])
def test_a_broken_file_stops_nothing(
    text: str, configured: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("system.conf", "uv/uv.toml"):
        configured(name, text)
    with caplog.at_level(logging.WARNING):
        from_files({})


def test_pips_files_come_in_pips_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    named = tmp_path / "named.conf"
    found = [str(path) for path in pip_files({"PIP_CONFIG_FILE": str(named)})]
    assert found[:2] == ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"]
    assert found[2:4] == [f"{tmp_path}/.pip/pip.conf", f"{tmp_path}/c/pip/pip.conf"]
    assert found[4:] == [f"{sys.prefix}/pip.conf", str(named)]
    named.touch()
    found = [str(path) for path in pip_files({"PIP_CONFIG_FILE": str(named)})]
    assert f"{tmp_path}/.pip/pip.conf" not in found
    assert [*pip_files({"PIP_CONFIG_FILE": os.devnull})] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's")
def test_a_sandbox_shows_the_files_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Callable[[str, str], None]
) -> None:
    projects, wheels = tmp_path / "p", tmp_path / "wheels"
    index = tmp_path / "index"
    for folder in (projects, wheels, index, projects / "w"):
        folder.mkdir()
    (tmp_path / "ca.pem").touch()
    configured("users.conf", f"[global]\ncert = {tmp_path}/ca.pem\n")
    monkeypatch.setenv("PIP_FIND_LINKS", f"file://{wheels} {projects}/w https://a.test {tmp_path}")
    monkeypatch.setenv("UV_INDEX", f"mine=file://{index}/simple https://b.test")
    policy = policy_of(load(python_projects_dir=projects), "bwrap", network=True)
    assert {*policy.package_files} == {tmp_path / "ca.pem", wheels, index}
    assert dict(policy.package_env)["PIP_CERT"] == f"{tmp_path}/ca.pem"
    assert named_paths({"SSL_CERT_FILE": "relative.pem", "PIP_CONSTRAINT": "/no/such"}) == ()
