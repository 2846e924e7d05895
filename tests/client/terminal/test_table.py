"""Tables and spans of time."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rmi_agent.client.terminal import Column, show_table, span, table

COLUMNS = (
    Column("ID"),
    Column("WHAT RAN", shortened=True),
    Column("AGE", least_width=60, right=True),
)
ROWS = [
    ["BIonMNHrtSekiAIC", "a long title with 漢字漢字 and more words than fit", "5 min"],
    ["9M_q6d", "x\n\x1b[2J= 1", "12 days"],
]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_a_table_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", str(width))
    show_table(COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert lines[1].startswith("BIonMNHrtSekiAIC  a long "[: width - 1])
    assert ("AGE" in lines[0]) == ("12 days" in lines[2]) == (width >= 60)
    assert lines[1].endswith("fit    5 min") == (width == 200 or width == 80)


def test_a_pipe_gets_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(COLUMNS, ROWS)
    assert (
        capsys.readouterr().out
        == """\
ID                WHAT RAN                                                AGE
BIonMNHrtSekiAIC  a long title with 漢字漢字 and more words than fit    5 min
9M_q6d            x = 1                                               12 days
"""
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (86_400, "1 day"),
        (2 * 86_400, "2 days"),
        (364 * 86_400, "364 days"),
        (366 * 86_400, "1 year"),
        (800 * 86_400, "2 years"),
    ],
)
def test_a_span_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_column_without_room_is_left_out_rather_than_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")
    columns = [*COLUMNS, Column("MEMORY", least_width=80)]
    show_table(columns, [["a" * 60, "a title", "5 min", "100 MB"]])
    assert (
        capsys.readouterr().out
        == f"""\
ID{" " * 60}WHAT RAN    AGE
{"a" * 60}  a title   5 min
"""
    )
