"""New cells are those of nbformat."""

from __future__ import annotations

from nbformat.v4 import new_code_cell
from rmi_agent.kernels.protocol import new_cell


def test_a_new_cell_is_the_one_that_nbformat_makes() -> None:
    mine, theirs = new_cell("1\n2"), new_code_cell("1\n2")
    assert [*mine] == [*theirs]
    assert {**mine, "id": ""} == {**theirs, "id": ""}
    assert len(mine.id) == len(theirs.id)
    assert new_cell("").id != mine.id
