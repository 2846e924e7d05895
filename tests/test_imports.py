"""What our programs and our provisioner import at their start, and what they leave out."""

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


def test_other_programs_import_nothing_but_the_provisioner() -> None:
    """They wait for it at their first kernel."""
    code = """if True:
        import jupyter_client.manager, jupyter_client.provisioning.local_provisioner, sys
        before = set(sys.modules)
        import rmi_agent.kernels.fork.provisioner
        print(*{name.partition(".")[0] for name in sys.modules.keys() - before})
        print(*(n for n in sys.modules if n.startswith("rmi_agent.kernels.")))"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    packages, ours = map(str.split, run.stdout.splitlines())
    assert set(packages) - sys.stdlib_module_names <= {"rmi_agent", "psutil"}
    folders = {name.split(".")[2] for name in ours}
    assert folders == {"errors", "fork", "inside", "process_tree", "regular_file"}
