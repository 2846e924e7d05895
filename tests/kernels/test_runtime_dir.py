"""Sockets and connection files: whose they are, where they lie, and that they go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rmi_agent.kernels import Config, Launch, Sessions
from rmi_agent.kernels.process import clear_after_dead, runtime_folder
from rmi_agent.kernels.runtime_dir import made_private

from tests.conftest import cell, kernel_env

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.security,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes"),
]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777  # ipykernel sets the sticky bit as well


async def test_they_are_their_owners_alone_and_go_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only kernels that are not formed in their template have any.
    monkeypatch.setattr("rmi_agent.kernels.fork.template.FORMED", (Path("/missing.py"),))
    launch = Launch(cwd=tmp_path, runtime=Path(), env=kernel_env())
    async with Sessions(Config(tmp_path / "n"), launch, warm=0) as sessions:
        session = await sessions.open()
        await cell(session, "1")
        assert session.kernel is not None
        runtime = session.kernel.launch.runtime
        (connection,) = runtime.glob("k*.json")
        sockets = [path for path in runtime.iterdir() if path.is_socket()]
        assert len(sockets) >= 4
        assert (mode(runtime), mode(runtime.parent), mode(connection)) == (0o700, 0o700, 0o600)
    assert not runtime.exists()


async def test_a_server_that_starts_clears_after_dead_ones_and_no_others(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living, other = (
        tmp_path / name for name in (f"{ended.pid}-abc", f"{os.getpid()}-abc", "my-things")
    )
    for folder in (dead, living, other):
        folder.mkdir()
        (folder / "k.json").write_text("{}")
    (tmp_path / f"{ended.pid}-link").symlink_to(other)
    clear_after_dead(tmp_path)
    assert not dead.exists()
    assert (living / "k.json").exists()
    assert (other / "k.json").exists()


async def test_a_folder_that_others_may_look_into_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert made_private(tmp_path / "open")
    assert mode(tmp_path / "open") == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "foreign"])
async def test_what_somebody_else_may_have_put_there_is_not_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "run" / "rmi-agent"
    base.parent.mkdir()
    if kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o777)
        base.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        base.write_text("")
    elif os.getuid() == 0:
        base.mkdir()
        os.chown(base, 12345, 12345)
    else:
        pytest.skip("only root can give a folder to somebody else")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base.parent))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    chosen = runtime_folder()
    assert not chosen.is_relative_to(base)
    assert not chosen.resolve().is_relative_to(tmp_path / "theirs")
    assert mode(chosen) == 0o700
