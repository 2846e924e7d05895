"""The files for service managers: what they start is ours, and they are what the managers take."""

from __future__ import annotations

import configparser
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parent.parent / "packaging"
UNIT = PACKAGING / "systemd" / "rmi-agent.service"
PLIST = PACKAGING / "launchd" / "rmi-agent.plist"
COMMAND = ["rmi-agent-mcp-server", "start", "--foreground"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    command = tmp_path / ".local" / "bin" / COMMAND[0]
    command.parent.mkdir(parents=True)
    command.symlink_to(sys.executable)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(UNIT)],
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_starts_the_resident_server_and_lets_bubblewrap_make_namespaces() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text("utf-8"))
    service = unit["Service"]
    assert service["ExecStart"].split() == ["%h/.local/bin/rmi-agent-mcp-server", *COMMAND[1:]]
    # A user's manager makes these with a namespace of its own, or forbids new ones.
    assert not {"RestrictNamespaces", "ProtectSystem", "ProtectHome", "PrivateTmp"} & set(service)
    assert service["Restart"] == "on-failure"  # and not after `stop`


def test_the_plist_starts_the_resident_server_and_not_again_after_a_stop() -> None:
    job = plistlib.loads(PLIST.read_bytes())
    shell, option, line = job["ProgramArguments"]
    assert (shell, option) == ("/bin/sh", "-c")
    assert f"exec {' '.join(COMMAND)} " in line
    assert job["KeepAlive"] == {"SuccessfulExit": False}
