"""The benchmarks start, and print what the documentation says they print; nothing is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import kernel_env

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")
ROOT = Path(__file__).parent.parent
OPTIONAL = {"benchmarks.servers"}  # imports what nothing here installs
IMPORT_ALL = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from benchmarks.scaling import CALCULATED, MEASURED
print(json.dumps([*MEASURED, *CALCULATED]))
"""
ALIKE = "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\nunittest.main()\n"
OTHERWISE = (
    "import os, unittest\nclass T(unittest.TestCase):\n"
    "    def test(self): self.assertNotIn('RMI_AGENT_KERNEL', os.environ)\nunittest.main()\n"
)


@pytest.mark.slow
def test_all_benchmarks_import_and_scaling_prints_the_rows_of_its_page() -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("benchmarks/**/*.py")]
    served = {"nothing_server", "subprocess_server", "counted", "__init__", "__main__"}
    names = {".".join(path.parts) for path in paths if path.name not in served} - OPTIONAL
    assert "benchmarks.parts.cells" in names
    printed = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *sorted(names)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8").splitlines()
    rows = [
        line.split("|")[1].strip(" *") for line in page if line.startswith("| ")
    ]  # * has a note
    assert [row for row in rows if row in json.loads(printed)] == json.loads(printed)


@pytest.mark.slow
def test_fidelity_names_the_files_that_differ_and_how(tmp_path: Path) -> None:
    for name, text in (("alike", ALIKE), ("otherwise", OTHERWISE)):
        (tmp_path / f"test_{name}.py").write_text(text)
    out = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.fidelity", str(tmp_path), "--json", str(out)],
        cwd=ROOT,
        env={**os.environ, **kernel_env()},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    found = json.loads(out.read_text())
    assert (found["same"], [one["name"] for one in found["differences"]]) == (
        1,
        ["test_otherwise.py"],
    )
    assert "only by run_python: FAIL: test (__main__.T.test)" in run.stdout
