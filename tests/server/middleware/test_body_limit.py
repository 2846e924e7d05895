"""mcp's own limit on bodies is found and raised, or it is said that it was not."""

from __future__ import annotations

import logging

import pytest
from fastmcp import FastMCP
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from rmi_agent.server.logs import WARNING_INTERVAL, RepeatFilter
from rmi_agent.server.middleware import BODY_LIMIT, take_whole_files, whole_files_are_taken
from rmi_agent.server.middleware import body_limit as whole_files
from rmi_agent.server.middleware.body_limit import DEPTH, limits_of

pytestmark = pytest.mark.anyio


async def test_both_transports_take_whole_files(caplog: pytest.LogCaptureFixture) -> None:
    assert DEFAULT_MAX_REQUEST_BODY_SIZE < BODY_LIMIT
    mcp: FastMCP[None] = FastMCP("probe")
    legacy, streamable = mcp.http_app(transport="sse"), mcp.http_app()
    async with streamable.router.lifespan_context(streamable):
        for app in (legacy, streamable):
            assert take_whole_files(app)
            found = [limit for route in app.routes for limit in limits_of(route, DEPTH + 1)]
            assert {limit.max_body_size for limit in found} == {BODY_LIMIT}
    assert await whole_files_are_taken()
    assert not caplog.records


async def test_a_limit_that_is_not_found_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(whole_files, "MODULES", ())
    assert not await whole_files_are_taken()
    assert "can't be written over HTTP" in caplog.text


def test_what_anybody_can_send_fills_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seldom = 100.0, RepeatFilter()
    monkeypatch.setattr("rmi_agent.server.logs.time.monotonic", lambda: now)

    def passes(level: int, text: str, *args: object) -> bool:
        return seldom.filter(logging.LogRecord("uvicorn.error", level, "", 0, text, args, None))

    assert [passes(logging.WARNING, "Invalid HTTP request.") for _ in range(3)] == [
        True,
        False,
        False,
    ]
    assert passes(logging.WARNING, "Unsupported upgrade request.")
    assert all(passes(logging.ERROR, "Exception in ASGI application\n") for _ in range(3))
    assert all(passes(logging.WARNING, "Signal %d", 15) for _ in range(3))
    now += WARNING_INTERVAL
    assert passes(logging.WARNING, "Invalid HTTP request.")
