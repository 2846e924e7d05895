"""Stands where Claude Desktop would: starts an unpacked extension and runs hello world through it.

    python mcpb_host.py FOLDER_WITH_MCPB_OF_NPM UNPACKED_EXTENSION HOME

The command and its environment are made of manifest and settings by the function of
`@anthropic-ai/mcpb` that Claude Desktop itself uses. Knows nothing of how the server is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

FILL_IN = """
import { readFileSync } from "fs";
import { getMcpConfigForManifest } from "@anthropic-ai/mcpb";
const [extensionPath, home, userConfig] = JSON.parse(process.argv[1]);
const manifest = JSON.parse(readFileSync(`${extensionPath}/manifest.json`, "utf-8"));
const systemDirs = { HOME: home, DOCUMENTS: `${home}/Documents` };
const given = { manifest, extensionPath, systemDirs, userConfig, pathSeparator: "/" };
console.log(JSON.stringify(await getMcpConfigForManifest(given)));
"""


def command(npm: str, extension: str, home: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`command`, `args` and `env` for a user's settings."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", FILL_IN, json.dumps([extension, home, settings])],
        cwd=npm,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def started(made: dict[str, Any], home: str) -> Client[Any]:
    """A client of the command, which has a home folder of its own and time for slow machines."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env = {**kept, "HOME": home, "RMI_AGENT_RESPONSE_DEADLINE": "200", **made["env"]}
    transport = StdioTransport(made["command"], made["args"], env=env, cwd=home, keep_alive=False)
    return Client(transport, timeout=300, init_timeout=300)  # the first start installs everything


async def by_defaults(npm: str, extension: str, home: str, listed: list[str]) -> None:
    """As a new user, who changes nothing."""
    since = time.monotonic()
    async with started(command(npm, extension, home, {}), home) as client:
        tools = [tool.name for tool in await client.list_tools()]
        assert sorted(tools) == sorted(listed), tools
        print(f"first start: {time.monotonic() - since:.0f} s")
        hello = {"file_name": "hello_world.py", "content": 'print("Hello, World!")\n'}
        await client.call_tool("write_python_file", hello)
        result = await client.call_tool("run_python", {"file_name": "hello_world.py"})
        assert result.content[0].text.startswith("Hello, World!"), result
        code = "import pandas\npandas.Series([1, 3, 2]).plot();"
        plot = await client.call_tool("run_cell", {"code": code, "timeout": 180})
        assert [block.type for block in plot.content] == ["text", "image"], plot


async def by_own_settings(npm: str, extension: str, home: str, folder: str) -> None:
    """As a user who has changed everything."""
    settings = {"folder": folder, "timeout": 1, "sandbox": False}
    since = time.monotonic()
    async with started(command(npm, extension, home, settings), home) as client:
        print(f"second start: {time.monotonic() - since:.0f} s")
        code = f"import os, time; print(os.path.exists({extension!r})); time.sleep(60)"
        result = await client.call_tool("run_cell", {"code": code})
        assert result.structured_content["status"] == "timeout", result
        assert result.content[0].text.startswith("True"), result  # no sandbox hides it


def main(npm: str, extension: str, home: str) -> None:
    """Both, one after the other, and what they leave."""
    listed = json.loads(Path(extension, "manifest.json").read_text("utf-8"))["tools"]
    asyncio.run(by_defaults(npm, extension, home, [tool["name"] for tool in listed]))
    below = Path(home, "Documents", "rmi-agent")
    assert (below / "python_projects" / "hello_world.py").is_file()
    notebooks = [nbformat.read(path, 4) for path in (below / "notebooks").glob("*.ipynb")]
    assert any("Hello, World!" in str(notebook.cells) for notebook in notebooks)
    chosen = Path(home, "My own folder")
    asyncio.run(by_own_settings(npm, extension, home, str(chosen)))
    assert chosen.is_dir()
    print("The extension runs hello world, by its defaults and by settings of one's own.")


if __name__ == "__main__":
    main(*sys.argv[1:])
