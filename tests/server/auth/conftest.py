"""A server in this process that signs people in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from rmi_agent.server.auth import throttle as guesses
from rmi_agent.server.serving.application import PUBLIC_PATHS

from tests.server.auth.oauth import Signing
from tests.server.conftest import fill


def prepared(folder: Path, patch: pytest.MonkeyPatch) -> Signing:
    for name in ("XDG_STATE_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        patch.setenv(name, str(folder / "state"))
    patch.setattr(guesses, "FAILURE_DELAY", 0.0)
    return Signing(fill(folder))


@pytest.fixture
async def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Signing]:
    """A server in this process that signs people in, with nothing stored."""
    async with prepared(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    """The same for tests that sign nobody in: they share it."""
    with pytest.MonkeyPatch.context() as patch:
        with patch.context() as often:
            paths = tuple((path, 10_000) for path, _ in PUBLIC_PATHS["token+oauth"])
            often.setitem(PUBLIC_PATHS, "token+oauth", paths)
            made = prepared(tmp_path_factory.mktemp("r"), patch)
        yield made
