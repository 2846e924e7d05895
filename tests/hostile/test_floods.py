"""Floods of output: the server answers others all the while, stays small and ends the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.hostile.floods import FLOODS, flooded
from tests.server.conftest import fill
from tests.server.served import USERS, Served, served

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes"),
]
TIMEOUT = 3.0  # seconds; what grows without end has grown by then
SLOWEST = 2.0  # seconds; `python -m benchmarks.floods` has the bound for a machine at rest
GROWTH = 64_000_000  # bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    projects = fill(tmp_path_factory.mktemp("f"))
    with served(projects, RMI_AGENT_TOKENS=USERS, RMI_AGENT_RATE_LIMIT="0") as running:
        yield running


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_stops_nobody_else_and_is_not_kept(name: str, server: Served) -> None:
    found = await flooded(server, FLOODS[name], TIMEOUT)
    assert found.slowest < SLOWEST
    assert found.growth < GROWTH
    assert found.seconds < TIMEOUT + 15
