"""What our programs import at their start, and what they leave out."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = "rfc3987_syntax"  # generates a parser when it is imported


@pytest.mark.parametrize(
    "program",
    ["rmi_agent.server.cli, rmi_agent.server.app", "rmi_agent.client.cli, rmi_agent.client"],
)
def test_no_parser_is_generated_at_a_start_but_it_is_there_for_who_wants_it(program: str) -> None:
    pytest.importorskip(SLOW)
    code = f"""if True:
        import {program}, jsonschema, sys
        assert "{SLOW}" not in sys.modules
        import {SLOW}
        assert {SLOW}.is_valid_syntax("iri", "https://example.com")"""
    subprocess.run([sys.executable, "-c", code], check=True)
