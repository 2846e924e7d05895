"""How messages count things; each layer has the same function, since none may import another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rmi_agent.client.plurals import counted as in_client
from rmi_agent.kernels.plurals import counted as in_kernels
from rmi_agent.server.plurals import counted as in_server
from rmi_agent.server.views.worker_tables import counted as in_worker


@pytest.mark.parametrize("counted", [in_client, in_kernels, in_server, in_worker])
def test_only_one_thing_has_no_plural(counted: Callable[[int, str], str]) -> None:
    shown = [counted(number, "more row") for number in (0, 1, 2, 1_000)]
    assert shown == ["0 more rows", "1 more row", "2 more rows", "1,000 more rows"]


def test_a_noun_that_ends_in_s_has_another_syllable() -> None:
    assert (in_server(1, "address"), in_server(2, "address")) == ("1 address", "2 addresses")
