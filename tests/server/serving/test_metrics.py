"""What operators see: a probe, figures for Prometheus, logs for programs, spans."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from rmi_agent.kernels.telemetry import traced
from rmi_agent.server import App, load, logs

from tests.server.conftest import HTTP_SERVER, fill, http_server, server_env, token

pytestmark = pytest.mark.anyio


def figures(text: str) -> dict[str, float]:
    """Each sample by its name and labels."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
async def test_probes_need_no_token_and_figures_need_one(tmp_path: Path) -> None:
    with http_server(fill(tmp_path)) as (url, _):
        async with httpx2.AsyncClient(base_url=url) as http:
            probe = await http.get("/healthz", headers={"Host": "10.1.2.3:8000"})
            assert (probe.status_code, probe.text) == (200, "ok\n")
            assert (await http.get("/metrics")).status_code == 401
            bearer = {"Authorization": f"Bearer {token()}"}
            assert (await http.get("/metrics", headers={**bearer, "Host": "evil.com"})).is_error
            async with Client(f"{url}/mcp", auth=token()) as client:
                await client.call_tool("run_python", {"file_name": "hello_world.py"})
                await client.call_tool_mcp("run_cell", {"code": "print('x' * 5000)\n1/0"})
                stuck = "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass"
                await client.call_tool_mcp("run_cell", {"code": stuck, "timeout": 0.3})
                found = figures((await http.get("/metrics", headers=bearer)).text)
    assert found["rmi_agent_runs_total file ok"] == 1
    assert found["rmi_agent_runs_total cell error"] == 1
    assert found["rmi_agent_runs_total cell timeout"] == 1
    assert found["rmi_agent_killed_runs_total"] == 1
    assert found["rmi_agent_run_seconds_count cell"] == 2
    assert found["rmi_agent_run_seconds_sum cell"] > 0.3
    assert 5000 < found["rmi_agent_output_bytes_total"] < 20_000
    assert found["rmi_agent_sessions idle"] == 3 and found["rmi_agent_sessions busy"] == 0
    assert found["rmi_agent_kernels leased"] == 2
    assert found["rmi_agent_kernels_most"] == 16
    if sys.platform == "linux":
        assert found["process_resident_memory_bytes"] > 1e7


@pytest.mark.slow
def test_logs_for_programs_are_one_object_a_line_from_the_first_to_the_last(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [*HTTP_SERVER, "--port", "0", "--log-format", "json"],
        env=server_env(fill(tmp_path), RMI_AGENT_TOKEN="a-token-of-this-test"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if "MCP at" in lines[-1]["message"]:
            process.terminate()
    process.wait(20)
    process.stderr.close()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


@pytest.mark.slow
async def test_log_lines_carry_the_sessions_short_id_the_cell_and_the_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rmi_agent")
    app = App(load(python_projects_dir=fill(tmp_path), kernel_pool=0))
    async with Client(app.mcp) as client:
        result = await client.call_tool("run_cell", {"code": "1"})
        session = result.structured_content["session_id"]
        await client.call_tool("close_session", {"session_id": session})
    (ended,) = [r for r in caplog.records if r.getMessage() == "The run has ended: ok"]
    assert logs.add_run_context(ended)
    line = logs.Lines("%(message)s").format(ended)
    assert line.startswith("The run has ended: ok status=ok state=kept seconds=0.")
    about = [r for r in caplog.records if getattr(r, "session", None) == session[:6]]
    assert [r.getMessage() for r in about] == [
        "A session was opened",
        "The session has ended: it was closed",
    ]
    assert all(session not in logs.Lines("%(message)s").format(r) for r in caplog.records)


def test_whatever_is_logged_during_a_run_names_it() -> None:
    record = logging.LogRecord("any", logging.WARNING, __file__, 1, "odd", (), None)
    with traced("0123456789", 3):
        assert logs.add_run_context(record)
    assert logs.Lines("%(message)s").format(record) == "odd session=012345 cell=3"


@pytest.mark.slow
async def test_the_kernels_part_is_a_span_beneath_the_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    # The process's own provider can be set once only; what its tracers ask is this.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    app = App(load(python_projects_dir=fill(tmp_path), kernel_pool=0))
    async with Client(app.mcp) as client:
        await client.call_tool_mcp("run_cell", {"code": "print('é')\n1/0"})
    by_name: dict[str, ReadableSpan] = {span.name: span for span in spans.get_finished_spans()}
    run, lease = by_name["kernel.run"], by_name["kernel.lease"]
    facts: dict[str, Any] = dict(run.attributes or {})
    assert facts["rmi_agent.status"] == "error" and facts["rmi_agent.cell"] == 1
    assert facts["rmi_agent.seconds"] >= 0 and facts["rmi_agent.output_bytes"] > 0
    assert len(facts["rmi_agent.session"]) == 6
    tool = next(
        s
        for s in spans.get_finished_spans()
        if run.parent and s.context.span_id == run.parent.span_id
    )
    assert "run_cell" in tool.name
    assert lease.parent is not None and lease.parent.span_id == tool.context.span_id
