"""A server in this process that signs people in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rmi_agent.server.auth import throttle as guesses

from tests.server.auth.oauth import Signing
from tests.server.conftest import fill


@pytest.fixture
async def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Signing]:
    """A server in this process that signs people in, with nothing stored."""
    for name in ("XDG_STATE_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "state"))
    monkeypatch.setattr(guesses, "FAILURE_DELAY", 0.0)
    async with Signing(fill(tmp_path)) as made:
        yield made
