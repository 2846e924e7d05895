"""The templates that a test starts."""

from __future__ import annotations

import pytest
from rmi_agent.kernels.fork import pool


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[pool.Template]:
    """Every template that is started, in order."""
    started: list[pool.Template] = []

    class Recorded(pool.Template):
        def __init__(self, first: pool.Request, preload: list[str]) -> None:
            super().__init__(first, preload)
            started.append(self)

    monkeypatch.setattr(pool, "Template", Recorded)
    return started
