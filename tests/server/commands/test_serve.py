"""What `rmi-agent-mcp-server` does before it serves."""

from __future__ import annotations

import io
import sys

import pytest
from rmi_agent.server import logs
from rmi_agent.server.commands import app
from rmi_agent.server.commands.stdio import explain_to_a_person, for_few_runs
from rmi_agent.server.settings import load


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_at_a_terminal_is_told_what_the_server_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stdin in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        explain_to_a_person()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stdin", Terminal())
    explain_to_a_person()
    said = capsys.readouterr()
    assert said.out == ""  # it carries the protocol
    assert "waits for an MCP client" in said.err
    for command in ("rmi-agent run ", "install claude-desktop", "serve --transport http"):
        assert command in said.err


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ([], "warning"),
        (["--transport", "stdio"], "warning"),
        (["--transport", "http"], "info"),
        (["--tunnel", "ngrok"], "info"),
        (["--log-level", "debug"], "debug"),
        (["--transport", "http", "--log-level", "error"], "error"),
    ],
)
def test_hosts_get_warnings_only_and_servers_log_more(
    words: list[str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known(Exception):
        pass

    def set_up(level: str, *_: object) -> None:
        raise Known(level)

    monkeypatch.setattr(logs, "set_up", set_up)
    with pytest.raises(Known, match=f"^{level}$"):
        app(words)


def test_its_lines_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", said := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    explain_to_a_person()
    assert max(map(len, said.getvalue().splitlines())) <= 40


def test_a_person_gets_more_output_than_a_model_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RMI_AGENT_OUTPUT_LIMIT", raising=False)
    assert for_few_runs(load()).output_limit == 100_000_000
    monkeypatch.setenv("RMI_AGENT_OUTPUT_LIMIT", "10000000")
    assert for_few_runs(load()).output_limit == 10_000_000
    assert for_few_runs(load()).kernel_pool == 0
