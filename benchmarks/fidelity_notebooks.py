"""Do the code cells of notebooks have the same outputs by `run_cell` and by nbclient?

    python -m benchmarks.fidelity_notebooks FOLDER [--sandbox bwrap]

Runs every notebook in FOLDER twice, in copies of the folder: by nbclient, through jupyter_client's
local provisioner, and cell by cell in a session of a server, whose record is compared. A cell is
the same if its outputs have the same types in the same order: streams by name, values and pictures
by MIME types, errors by name. That texts are the same is counted too. Notebooks whose outputs
change from run to run are compared once more with a second run of nbclient: what differs there as
well is no difference.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]
LOCAL = "local-provisioner"
Outputs = list[dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A cell whose outputs have other types in a session than by nbclient."""

    notebook: str
    cell: int  # among the code cells that are not empty, from 1
    source: str
    nbclient: list[str]
    session: list[str]

    def __str__(self) -> str:
        rows = [f"{self.notebook}, code cell {self.cell}: {self.source.strip()[:200]!r}"]
        rows += [f"    nbclient: {self.nbclient}", f"    run_cell: {self.session}"]
        return "\n".join(rows)


def merged(outputs: Outputs) -> Outputs:
    """The outputs, with neighbouring pieces of one stream joined."""
    found: Outputs = []
    for each in outputs:
        if each["output_type"] == "stream" and found and found[-1].get("name") == each["name"]:
            found[-1] = {**found[-1], "text": found[-1]["text"] + each["text"]}
        else:
            found.append(dict(each))
    return found


def types(outputs: Outputs) -> list[str]:
    """Each output's type: `stream stdout`, `execute_result text/plain`, `error KeyError`."""
    found = []
    for each in merged(outputs):
        kind = each["output_type"]
        if kind == "stream":
            found.append(f"stream {each['name']}")
        elif kind == "error":
            found.append(f"error {each['ename']}")
        else:
            found.append(" ".join([kind, *sorted(each["data"])]))
    return found


def texts(outputs: Outputs) -> list[Any]:
    """Each output's text, without pictures and tracebacks."""
    return [
        each.get("text") or each.get("evalue") or each.get("data", {}).get("text/plain")
        for each in merged(outputs)
    ]


def sources(path: Path) -> list[str]:
    """The code cells that are not empty."""
    cells = nbformat.read(path, as_version=4).cells
    return [each.source for each in cells if each.cell_type == "code" and each.source.strip()]


async def by_nbclient(codes: list[str], folder: Path, seconds: float) -> list[Outputs]:
    """Each cell's outputs by nbclient.

    Raises:
        DeadKernelError: the kernel ended.
    """
    cells = [nbformat.v4.new_code_cell(code) for code in codes]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        notebook,
        timeout=seconds,
        interrupt_on_timeout=True,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    await client.async_execute()
    return [each.outputs for each in cells]


async def by_session(client: Client[Any], codes: list[str], seconds: float) -> list[Outputs]:
    """Each cell's outputs by `run_cell` in a fresh session, as its record has them."""
    session, place = None, ""
    try:
        for code in codes:
            arguments = {"code": code, "session_id": session, "timeout": seconds}
            result = await client.call_tool_mcp("run_cell", arguments)
            found = result.structured_content or {}
            if result.is_error:
                raise SystemExit(f"run_cell refused {code[:200]!r}: {result.content}")
            session, place = found["session_id"], found["notebook"]
    finally:
        if session:
            await client.call_tool_mcp("close_session", {"session_id": session})
    cells = [each for each in nbformat.read(place, as_version=4).cells if each.cell_type == "code"]
    assert [each.source for each in cells] == codes, f"the record {place} has other cells"
    return [each.outputs for each in cells]


@contextlib.asynccontextmanager
async def server(folder: Path, sandbox: str, seconds: float) -> AsyncIterator[Client[Any]]:
    """A server whose sessions run in `folder`."""
    kept = ("PATH", "HOME", "SHELL", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TMPDIR")
    beside = folder.parent
    env = {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **{f"XDG_{kind}_HOME": str(beside / kind) for kind in ("DATA", "STATE")},
        "PYTHON_PROJECTS_DIR": str(folder),
        "RMI_AGENT_NOTEBOOKS_DIR": str(beside / "notebooks"),
        "RMI_AGENT_SANDBOX": sandbox,
        "RMI_AGENT_RESPONSE_DEADLINE": str(seconds + 30),
        "RMI_AGENT_MEMORY_LIMIT": "0",
    }
    transport = StdioTransport(SERVER[0], SERVER[1:], env=env, keep_alive=False)
    async with Client(transport) as client:
        yield client


async def measure(source: Path, paths: list[Path], sandbox: str, seconds: float) -> dict[str, Any]:
    """Run all notebooks both ways and compare them."""
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = LOCAL
    differences: list[Difference] = []
    notebooks = cells = same = same_text = unstable = 0
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as name:
        stock, ours, again = (Path(name) / each / "work" for each in ("stock", "ours", "again"))
        for folder in (stock, ours, again):
            shutil.copytree(source, folder)
        async with server(ours, sandbox, seconds) as client:
            for path in paths:
                if not (codes := sources(path)):
                    continue
                try:
                    expected = await by_nbclient(codes, stock, seconds)
                except DeadKernelError:
                    print(f"{path.name}: left out, it ends its kernel", flush=True)
                    continue
                found = await by_session(client, codes, seconds)
                second: list[Outputs] = []
                if list(map(types, expected)) != list(map(types, found)):
                    second = await by_nbclient(codes, again, seconds)
                notebooks += 1
                for number, (code, one, other, more) in enumerate(
                    itertools.zip_longest(codes, expected, found, second), 1
                ):
                    cells += 1
                    same_text += texts(one) == texts(other)
                    if types(one) == types(other):
                        same += 1
                    elif types(one) != types(more):
                        unstable += 1
                    else:
                        place = str(path.relative_to(source))
                        differ = Difference(place, number, code, types(one), types(other))
                        differences.append(differ)
                        print(differ, flush=True)
                print(f"{path.name}: {len(codes)} cells", file=sys.stderr, flush=True)
    return {
        "notebooks": notebooks,
        "cells": cells,
        "same types": same,
        "same texts": same_text,
        "differ by nbclient alone": unstable,
        "differences": [asdict(each) for each in differences],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fidelity_notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="notebooks, and the files that they read")
    parser.add_argument("--sandbox", default="off", help="of the session (off)")
    parser.add_argument("--seconds", type=float, default=60, help="that a cell may take (60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    if not (paths := sorted(arguments.folder.rglob("*.ipynb"))):
        parser.error(f"{arguments.folder} has no notebook")
    found = asyncio.run(measure(arguments.folder, paths, arguments.sandbox, arguments.seconds))
    print(
        f"{found['same types']} of {found['cells']} cells of {found['notebooks']} notebooks have"
        f" outputs of the same types, {found['same texts']} the same texts;"
        f" {found['differ by nbclient alone']} differ between two runs of nbclient"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["differences"]))


if __name__ == "__main__":
    main()
