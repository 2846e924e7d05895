"""Half a minute of chaos: `python -m benchmarks.chaos` does this for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SANDBOX, kernel_env

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc"),
]
ROOT = Path(__file__).parent.parent.parent


def test_killed_and_stopped_processes_lose_no_acknowledged_cell_and_leave_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--minutes", "0.5", "--healthz", "5"]
    run = subprocess.run(
        [*command, "--sandbox", SANDBOX],
        cwd=ROOT,
        env=kernel_env(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2_000:]
