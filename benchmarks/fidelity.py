"""Do CPython's own tests pass alike by `python FILE` and by `run_python`?

    python -m benchmarks.fidelity FOLDER [NAME …]

FOLDER is a `Lib/test` for the Python that runs this; it is copied. Each `test_*.py` (or those
named) runs both ways without a sandbox, each in a fresh session, or after a cell (--after-cell);
what takes `python FILE` too long is left out. A file whose counts differ runs once more alone: only
what differs again counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
ENOUGH = 98.0  # percent of the files that have to give the same counts
SLOWER = 3.0  # times as long as `python FILE` may take, a file may take in a session
RAN = re.compile(r"^Ran (\d+) tests? in ", re.M)
VERDICT = re.compile(r"^(OK|FAILED|NO TESTS RAN)(?: \((.+)\))?$", re.M)
FAILED = re.compile(r"^(?:FAIL|ERROR): .+$", re.M)


@dataclass(frozen=True)
class Outcome:
    """What a test file has come to.

    Attributes:
        counts: `Ran 12, FAILED (failures=1)`; without such lines, how it ended.
        failures: the tests that failed.
        tail: the end of its output.
    """

    counts: str
    failures: tuple[str, ...]
    tail: str


@dataclass(frozen=True)
class Difference:
    """A file with other counts in a session than by itself."""

    name: str
    plain: Outcome
    session: Outcome

    def lines(self) -> list[str]:
        """The counts, and the failures that only one way has."""
        plain, session = Counter(self.plain.failures), Counter(self.session.failures)
        rows = [f"python FILE: {self.plain.counts}", f"run_python:  {self.session.counts}"]
        rows += [f"only by run_python: {test}" for test in (session - plain).elements()]
        rows += [f"only by python FILE: {test}" for test in (plain - session).elements()]
        return [self.name, *(f"    {row}" for row in rows)]


def outcome(text: str, ended: str) -> Outcome:
    """Read the last summary of unittest in an output."""
    ran, verdicts = RAN.findall(text), VERDICT.findall(text)
    counts = ended
    if ran and verdicts:
        verdict, details = verdicts[-1]
        counts = f"ran {ran[-1]}, {verdict}" + (f" ({details})" if details else "")
    return Outcome(counts, tuple(FAILED.findall(text)), text[-1500:])


@dataclass
class Tests:
    """A copy of the test files, and a server beside it.

    Attributes:
        root: the folder that has the package `test`.
        seconds: how long `python FILE` may take.
    """

    root: Path
    seconds: float
    client: Client[Any]
    cell: str  # runs before the file, in its session; may be empty

    async def plain(self, name: str) -> Outcome | None:
        """By `python FILE`; None if it takes too long."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(self.root / "test" / name)),
            cwd=self.root / "test",
            env=environment(self.root),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            text, _ = await asyncio.wait_for(process.communicate(), self.seconds)
        except TimeoutError:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return outcome(text.decode(errors="replace"), f"exit code {process.returncode}")

    async def session(self, name: str) -> Outcome:
        """By `run_python` in a session of its own, which is closed."""
        where = {}
        if self.cell:
            ran = await self.client.call_tool_mcp("run_cell", {"code": self.cell})
            where = {"session_id": (ran.structured_content or {})["session_id"]}
        result = await self.client.call_tool_mcp(
            "run_python",
            {"file_name": f"test/{name}", "timeout": SLOWER * self.seconds, **where},
        )
        found = result.structured_content or {}
        text = "\n".join(str(getattr(part, "text", "")) for part in result.content)
        if session := found.get("session_id"):
            await self.client.call_tool_mcp("close_session", {"session_id": session})
        code = found.get("exit_code")
        status = found.get("status", "refused")
        return outcome(text, f"exit code {code}" if code is not None else f"{status}")

    async def compare(self, name: str) -> Difference | str:
        """A difference, or `same`, or why the file does not count."""
        plain = await self.plain(name)
        if plain is None:
            return "too slow"
        session = await self.session(name)
        return "same" if plain.counts == session.counts else Difference(name, plain, session)


def environment(root: Path) -> dict[str, str]:
    """The variables that tests see both ways."""
    kept = ("PATH", "HOME", "SHELL", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TMPDIR")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": str(root),
    }


@contextlib.asynccontextmanager
async def ready(source: Path, seconds: float, at_once: int, cell: str) -> AsyncIterator[Tests]:
    """A copy of the folder, and a server that may run its files."""
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as name:
        root = Path(name) / "lib"
        shutil.copytree(source, root / "test", ignore=shutil.ignore_patterns("__pycache__"))
        env = {
            **environment(root),
            **{f"XDG_{kind}_HOME": f"{name}/{kind}" for kind in ("DATA", "STATE")},
            "PYTHON_PROJECTS_DIR": str(root),
            "RMI_AGENT_NOTEBOOKS_DIR": f"{name}/notebooks",
            "RMI_AGENT_SANDBOX": "off",
            "RMI_AGENT_KERNEL_ENV": "PYTHONPATH",
            "RMI_AGENT_KERNEL_MAX": str(at_once + 4),
            "RMI_AGENT_RESPONSE_DEADLINE": str(SLOWER * seconds + 30),
            "RMI_AGENT_OUTPUT_CHARS": "400000",
            "RMI_AGENT_MEMORY_LIMIT": "0",
        }
        transport = StdioTransport(SERVER[0], SERVER[1:], env=env, keep_alive=False)
        async with Client(transport) as client:
            yield Tests(root, seconds, client, cell)


async def measure(
    source: Path, names: list[str], seconds: float, at_once: int, cell: str
) -> dict[str, Any]:
    """Compare all files, some at once; those that differ once more alone."""
    counted: Counter[str] = Counter()
    differ: list[str] = []
    async with ready(source, seconds, at_once, cell) as tests:
        turns = asyncio.Semaphore(at_once)

        async def one(name: str) -> None:
            async with turns:
                found = await tests.compare(name)
            if isinstance(found, Difference):
                differ.append(name)
                print("?", name, flush=True)
            else:
                counted[found] += 1

        await asyncio.gather(*(one(name) for name in names))
        differences = []
        for name in sorted(differ):
            found = await tests.compare(name)
            if isinstance(found, Difference):
                differences.append(found)
                print(*found.lines(), sep="\n", flush=True)
            else:
                counted[found] += 1
    same, other = counted["same"], len(differences)
    return {
        "files": same + other,
        "same": same,
        "percent": 100 * same / max(1, same + other),
        "left out": counted["too slow"],
        "differences": [asdict(one) for one in differences],
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("folder", type=Path, help="a Lib/test for this Python")
    parser.add_argument("names", nargs="*", help="some files only, such as test_io.py")
    parser.add_argument("--seconds", type=float, default=10, help="what `python FILE` may take")
    parser.add_argument("--at-once", type=int, default=2, help="files that run at once (2)")
    parser.add_argument("--after-cell", default="", metavar="CODE", help="run this cell before")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    # A shell's background jobs inherit that Ctrl-C is ignored, and so would the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = arguments.names or sorted(path.name for path in arguments.folder.glob("test_*.py"))
    if not names:
        parser.error(f"{arguments.folder} has no test_*.py")
    found = asyncio.run(
        measure(
            arguments.folder,
            names,
            arguments.seconds,
            max(1, arguments.at_once),
            arguments.after_cell,
        )
    )
    print(
        f"{found['same']} of {found['files']} files give the same counts:"
        f" {found['percent']:.1f} %, {ENOUGH:g} wanted; {found['left out']} take too long"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(found["percent"] < ENOUGH)


if __name__ == "__main__":
    main()
