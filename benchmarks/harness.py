"""What the soak and the chaos run share: a server's start, its log, its notebooks, its traces.

Knows processes and files of a server; nothing of what clients ask of it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

SERVER = [sys.executable, "-m", "rmi_agent.server.cli"]


@dataclass(frozen=True)
class Acknowledged:
    """A run whose end a client was told of.

    Attributes:
        notebook: the path that the result named.
        cell: its number there.
        status: as the result had it.
        source: what was run; None is not compared.
        output: a text that its outputs have; empty is not looked for.
    """

    notebook: str
    cell: int
    status: str
    source: str | None = None
    output: str = ""


async def http_server(
    env: dict[str, str], port: int = 0, log_level: str = "info"
) -> tuple[str, asyncio.subprocess.Process]:
    """Start a server; its base URL and its process, whose stderr is to be read on."""
    command = [*SERVER, "--log-level", log_level, "--transport", "http", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, limit=2**22
    )
    assert process.stderr is not None
    lines = []
    async for line in process.stderr:
        lines.append(line.decode(errors="replace"))
        if "MCP at " in lines[-1]:
            return lines[-1].split("MCP at ")[1].split("/mcp")[0], process
    await process.wait()
    raise SystemExit(f"the server did not start:\n{''.join(lines[-20:])}")


async def drain(stream: asyncio.StreamReader, log: list[str]) -> None:
    """Read a server's log; keep its errors, each with the traceback that follows the line."""
    errors = False
    async for line in stream:
        text = line.decode(errors="replace").rstrip()
        if any(f" {level} " in text for level in ("ERROR", "WARNING", "INFO", "DEBUG")):
            errors = " ERROR " in text
        if errors:
            log.append(text[:300])


def check_notebooks(runs: Iterable[Acknowledged]) -> list[str]:
    """What is missing or wrong in the notebooks, against what clients were told."""
    problems = []
    by_path: dict[str, list[Acknowledged]] = {}
    for run in runs:
        by_path.setdefault(run.notebook, []).append(run)
    for path, expected in by_path.items():
        try:
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
        except Exception as error:
            problems.append(f"{path}: not a valid notebook: {str(error)[:200]}")
            continue
        records = [cell.metadata.get("rmi_agent", {}) for cell in notebook.cells]
        numbers = Counter(record["cell"] for record in records if "cell" in record)
        if repeated := [number for number, count in numbers.items() if count > 1]:
            problems.append(f"{path}: cells {repeated} are there more than once")
        if unfinished := sum(not record.get("status") for record in records):
            problems.append(f"{path}: {unfinished} cells have no status")
        cells = dict(zip((r.get("cell") for r in records), notebook.cells, strict=True))
        problems += [
            f"{path}: cell {run.cell}: {problem}"
            for run in expected
            if (problem := difference(run, cells.get(run.cell)))
        ]
    return problems


def difference(run: Acknowledged, cell: nbformat.NotebookNode | None) -> str:
    """What a cell on record has otherwise than a client was told; empty if nothing."""
    if cell is None:
        return f"not on record, acknowledged as {run.status}"
    status = cell.metadata["rmi_agent"].get("status")
    if status != run.status:
        return f"recorded as {status}, acknowledged as {run.status}"
    if run.source is not None and cell.source != run.source:
        return f"its source is {cell.source[:80]!r} and not {run.source[:80]!r}"
    if run.output and run.output not in str(cell.outputs):
        return f"its outputs lack {run.output!r}"
    return ""


def environ(process: psutil.Process) -> str:
    """A process's whole environment as one text; empty for this one and where it is private."""
    try:
        return " ".join(process.environ().values()) if process.pid != os.getpid() else ""
    except (psutil.Error, OSError):
        return ""


def descriptors(process: psutil.Process) -> Counter[str]:
    """What a process's file descriptors are, by kind."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            kinds[os.readlink(entry).partition(":")[0]] += 1
        except OSError:
            continue
    return kinds
