"""Do other projects' tests end alike by `python -m pytest` and by `run_python(module="pytest")`?

    pip download --no-deps --no-binary :all: -d FOLDER attrs click more-itertools
    python -m benchmarks.project_tests FOLDER

FOLDER has source distributions. Each is unpacked and its tests run both ways with the Python that
runs this, each in a fresh session, without a sandbox unless `--sandbox` names one. Compared are the
outcome of every test, the exit code, the last line, and the facts that `run_python` gives.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
ARGS = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=src ."]
SECONDS = 600.0  # max seconds for a project's tests
TIMES = re.compile(r" in \d[\d.]*s.*")


@dataclass(frozen=True)
class Outcome:
    """How a project's tests have ended.

    Attributes:
        code: pytest's exit code.
        summary: its last line, without the time.
        tests: passed, failed, error or skipped, by the test's name.
    """

    code: int | None
    summary: str
    tests: dict[str, str]


def outcome(code: int | None, text: str, report: Path) -> Outcome:
    """Read an output, and a report in JUnit's format."""
    lines = [line for line in text.splitlines() if TIMES.search(line)]
    tests = {}
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        name = f"{case.get('classname')}::{case.get('name')}"
        tests[name] = next((child.tag for child in case if child.tag != "properties"), "passed")
    return Outcome(code, TIMES.sub("", lines[-1]).strip("= ") if lines else "", tests)


async def plain(project: Path, args: list[str], env: dict[str, str]) -> Outcome:
    """By `python -m pytest`."""
    report = project.parent / "plain.xml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *args, f"--junitxml={report}"),
        cwd=project,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    text, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    return outcome(process.returncode, text.decode(errors="replace"), report)


async def session(
    client: Client[Any], project: Path, args: list[str]
) -> tuple[Outcome, dict[str, Any]]:
    """By `run_python` in a fresh session, and the facts about the tests."""
    report = project / "session.xml"
    result = await client.call_tool_mcp(
        "run_python",
        {
            "module": "pytest",
            "cwd": project.name,
            "args": [*args, f"--junitxml={report}"],
            "timeout": SECONDS,
        },
    )
    found = result.structured_content or {}
    text = "\n".join(str(getattr(part, "text", "")) for part in result.content)
    if name := found.get("session_id"):
        await client.call_tool_mcp("close_session", {"session_id": name})
    got = outcome(found.get("exit_code"), text, report)
    report.unlink(missing_ok=True)
    return got, found.get("tests") or {}


def differences(plain: Outcome, session: Outcome, facts: dict[str, Any]) -> list[str]:
    """What is not the same, in lines."""
    rows = []
    for name in ("code", "summary"):
        if (one := getattr(plain, name)) != (other := getattr(session, name)):
            rows.append(f"{name}: {one!r} by python -m pytest, {other!r} by run_python")
    for test in sorted(plain.tests.keys() | session.tests.keys()):
        if (one := plain.tests.get(test)) != (other := session.tests.get(test)):
            rows.append(f"{test}: {one} by python -m pytest, {other} by run_python")
    counts = {name.rstrip("s"): count for name, count in facts.get("counts", {}).items()}
    said = {name.rstrip("s"): int(n) for n, name in re.findall(r"(\d+) ([a-z ]+)", plain.summary)}
    if counts != said:
        rows.append(f"counts: {said} by python -m pytest, {counts} by run_python")
    return rows


def unpack(folder: Path, root: Path) -> None:
    """Unpack all projects into one folder."""
    for archive in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(archive) as packed:
            packed.extractall(root, filter="data")


async def measure(folder: Path, extra: list[str], sandbox: str) -> int:
    """Compare all projects; returns how many differ."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as name:
        root = Path(name) / "projects"
        unpack(folder, root)
        kept = ("PATH", "HOME", "SHELL", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TMPDIR")
        env = {each: os.environ[each] for each in kept if each in os.environ}
        settings = {
            **{f"XDG_{kind}_HOME": f"{name}/{kind}" for kind in ("DATA", "STATE")},
            "PYTHON_PROJECTS_DIR": str(root),
            "RMI_AGENT_NOTEBOOKS_DIR": f"{name}/notebooks",
            "RMI_AGENT_SANDBOX": sandbox,
            "RMI_AGENT_RESPONSE_DEADLINE": str(SECONDS),
        }
        transport = StdioTransport(SERVER[0], SERVER[1:], env=env | settings, keep_alive=False)
        async with Client(transport) as client:
            for project in sorted(root.iterdir()):
                args = [*ARGS, *extra]
                theirs = await plain(project, args, env)
                ours, facts = await session(client, project, args)
                found = differences(theirs, ours, facts)
                wrong += bool(found)
                same = "the same" if not found else f"{len(found)} differences"
                print(f"{project.name}: {len(theirs.tests):,} tests, {theirs.summary}; {same}")
                print(*(f"    {row}" for row in found[:40]), sep="\n", end="\n" if found else "")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.project_tests", description=__doc__)
    parser.add_argument("folder", type=Path, help="has *.tar.gz of projects")
    parser.add_argument("args", nargs="*", help="more arguments of pytest, after --")
    parser.add_argument("--sandbox", default="off", help="off, bwrap or landlock (off)")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(measure(arguments.folder, arguments.args, arguments.sandbox)) > 0)


if __name__ == "__main__":
    main()
