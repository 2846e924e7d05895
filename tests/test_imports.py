"""What our programs import at their start, and what they leave out."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = "rfc3987_syntax"  # generates a parser when it is imported


FASTMCP = {"fastmcp", "mcp", "mcp_types", "pydantic", "httpx2"}


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running code, which may print on stdout."""
    code += "\nimport sys; print('\\nloaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "program",
    [
        "from rmi_agent.server import quick_imports\nquick_imports.import_jsonschema()\n"
        "import rmi_agent.server.app\n",
        "import rmi_agent.client.cli, rmi_agent.client.commands.connect as connect\n"
        "connect.quick_imports.import_jsonschema()\n",
    ],
    ids=["server", "client"],
)
def test_no_parser_is_generated_at_a_start_but_it_is_there_for_who_wants_it(program: str) -> None:
    pytest.importorskip(SLOW)
    code = f"""
import jsonschema, sys
assert "{SLOW}" not in sys.modules
import {SLOW}
assert {SLOW}.is_valid_syntax("iri", "https://example.com")"""
    subprocess.run([sys.executable, "-c", program + code], check=True)


@pytest.mark.parametrize("layer", ["client", "server"])
def test_help_imports_nothing_that_speaks_a_protocol(layer: str) -> None:
    show = f"from rmi_agent.{layer}.cli import app; app(['--help'], result_action='return_value')"
    assert not imported(show) & (FASTMCP | {"rmi_agent.kernels"})
