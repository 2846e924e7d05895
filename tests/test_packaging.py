"""What is shipped says the same everywhere: the extension, the registry's entry, the package."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from rmi_agent.server import App, load
from rmi_agent.server.errors import BadSettings
from rmi_agent.server.settings import VARIABLES

ROOT = Path(__file__).parent.parent
MCPB = ROOT / "packaging" / "mcpb"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


MANIFEST, REGISTRY = read(MCPB / "manifest.json"), read(ROOT / "server.json")


def test_all_versions_are_one() -> None:
    [package] = REGISTRY["packages"]
    versions = {PROJECT["version"], MANIFEST["version"], REGISTRY["version"], package["version"]}
    assert len(versions) == 1


def test_the_registrys_entry_names_the_package_and_the_readme_names_the_entry() -> None:
    [package] = REGISTRY["packages"]
    assert package["identifier"] == PROJECT["name"] == MANIFEST["name"]
    [name] = re.findall(r"<!-- mcp-name: (\S+) -->", (ROOT / "README.md").read_text("utf-8"))
    assert name == REGISTRY["name"]


@pytest.mark.anyio
async def test_the_extension_lists_the_servers_tools_and_prompts(tmp_path: Path) -> None:
    async with Client(App(load(python_projects_dir=tmp_path, kernel_pool=0)).mcp) as client:
        tools = {tool.name for tool in await client.list_tools()}
        prompts = {
            prompt.name: [argument.name for argument in prompt.arguments or ()]
            for prompt in await client.list_prompts()
        }
    assert {tool["name"] for tool in MANIFEST["tools"]} == tools
    assert {one["name"]: one["arguments"] for one in MANIFEST["prompts"]} == prompts


def test_what_is_set_are_settings() -> None:
    variables = {*MANIFEST["server"]["mcp_config"]["env"]}
    variables |= {one["name"] for one in REGISTRY["packages"][0]["environmentVariables"]}
    assert variables <= {one.name for one in VARIABLES.values()}
    used = re.findall(r"user_config\.(\w+)", json.dumps(MANIFEST["server"]))
    assert set(used) == set(MANIFEST["user_config"])


def test_the_extensions_switch_and_folder_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of mine")
    # As the host fills them in: its own defaults may come as they stand in the manifest.
    folder = MANIFEST["user_config"]["folder"]["default"]
    assert load(sandbox="true", python_projects_dir=folder).sandbox == "auto"
    assert load(sandbox="false").sandbox == "off"
    expected = Path("/home/of mine/Documents/rmi-agent/python_projects")
    assert load(python_projects_dir=folder).python_projects_dir == (expected,)
    with pytest.raises(BadSettings, match=r"PYTHON_PROJECTS_DIR: .*write the path itself"):
        load(python_projects_dir="${user_config.folder}")


def test_the_icon_is_of_the_size_that_is_said() -> None:
    head = (MCPB / MANIFEST["icon"]).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    assert MANIFEST["icons"] == [{"src": MANIFEST["icon"], "size": f"{width}x{height}"}]


def test_the_bundle_has_the_whole_source_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, str(MCPB / "build.py"), str(tmp_path / "bundle")]
    subprocess.run(command, check=True)
    built = {str(p.relative_to(tmp_path / "bundle")) for p in (tmp_path / "bundle").rglob("*.*")}
    source = {
        str(path.relative_to(ROOT))
        for folder in ("cli", "server", "kernels", "client")
        for path in (ROOT / folder).rglob("*.*")
        if "__pycache__" not in path.parts
    }
    assert built == {*source, "manifest.json", "icon.png", "pyproject.toml", "README.md"}
    assert (tmp_path / "bundle" / "LICENSE").is_file()
    assert (tmp_path / "bundle" / MANIFEST["server"]["entry_point"]).is_file()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr
