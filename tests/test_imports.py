"""What our programs and our provisioner import at their start, and what they leave out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import server_env
from tests.server.served import INITIALIZE

SLOW = "rfc3987_syntax"  # generates a parser when it is imported


SERVE = "from rmi_agent.server.cli import main; main()"
# A server that answers one call.
STUB = """
import json
facts = dict(session_id="s", cell=1, execution_count=1, status="ok", exit_code=None,
    error_name=None, timed_out=False, state="kept", elapsed=0.0, truncated=False, notebook=None)
result = dict(content=[], structuredContent=facts)
print(json.dumps(dict(id=json.loads(input())["id"], result=result)), flush=True)
"""
FASTMCP = {"fastmcp", "mcp", "mcp_types", "pydantic", "httpx2"}


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running code, which may print on stdout."""
    code += "\nimport sys; print('\\nloaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "from rmi_agent.server import quick_imports\nquick_imports.import_jsonschema()\n"
        "import rmi_agent.server.app\n",
        "from rmi_agent.client import RmiMcpClient\nRmiMcpClient()\n",
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


@pytest.mark.parametrize("place", ["cli", "server.commands"])
def test_help_imports_nothing_that_speaks_a_protocol(place: str) -> None:
    show = f"from rmi_agent.{place} import app; app(['--help'], result_action='return_value')"
    assert not imported(show) & (FASTMCP | {"rmi_agent.kernels"})


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cli", "server.commands"])
def test_the_help_of_a_command_imports_no_fastmcp(place: str) -> None:
    show = f"""
from rmi_agent.{place} import app
for name in [*app]:
    if not name.startswith("-"):
        app([name, "--help"], result_action="return_value")"""
    assert "fastmcp" not in imported(show)


def test_a_command_that_speaks_to_its_own_server_imports_no_fastmcp() -> None:
    code = f"""
import sys
from rmi_agent.client.commands import connect, run
connect.FEW_RUNS = (sys.executable, "-c", {STUB!r})
connect.find_resident = lambda paths: None
try:
    run.cell("1")
except SystemExit as end:
    assert end.code == 0, end.code"""
    assert not imported(code) & (FASTMCP | {"anyio", "jsonschema", "rich"})


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["kernels", "client", "server", "cli"])
def test_what_a_layer_offers_is_there_whatever_was_imported_before(layer: str) -> None:
    code = f"""
import importlib, pkgutil, types
import rmi_agent.{layer} as package
for found in pkgutil.iter_modules(package.__path__):
    if found.name not in ("mcp_server", "run_http_server", "mcp_client", "__main__"):
        importlib.import_module(f"rmi_agent.{layer}." + found.name)
offered = [getattr(package, name) for name in package.__all__]
assert not [one for one in offered if isinstance(one, types.ModuleType)]"""
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
    assert folders == {"errors", "fork", "inside", "lazy", "process_tree", "regular_file"}


@pytest.mark.slow
def test_sessions_need_no_database_before_one_is_signed() -> None:
    assert "sqlite3" not in imported("import rmi_agent.kernels.session")


@pytest.mark.slow
def test_initialize_is_answered_before_what_only_kernels_need_is_imported(tmp_path: Path) -> None:
    run = f"import rmi_agent.server.opening as opening; opening.AFTER_ANSWER = 1e6; {SERVE}"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", run],
        input=json.dumps(INITIALIZE) + "\n",
        env=server_env(tmp_path, RMI_AGENT_SANDBOX="auto"),
        check=True,
        capture_output=True,
        text=True,
    )
    assert "The code runs" in json.loads(done.stdout)["result"]["instructions"]
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fastmcp.server.server" in names
    jupyter = {
        "jupyter_client",
        "zmq",
        "nbformat",
        "nbconvert",
        "jsonschema",
        "ipykernel",
        "IPython",
    }
    ours = {"rmi_agent.kernels.session", "rmi_agent.kernels.kernel", "rmi_agent.kernels.protocol"}
    ours |= {"rmi_agent.server.auth", "rmi_agent.server.net", "rmi_agent.server.resident"}
    others = {"fastmcp.client", "prometheus_client", "websockets", "filelock", "h11", "cyclopts"}
    assert names & (jupyter | ours | others) == set()
