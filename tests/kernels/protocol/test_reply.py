"""What a kernel's reply says, which the code may have made up."""

from __future__ import annotations

from typing import Any

import pytest
from rmi_agent.kernels.protocol import PytestResults, reply_of


@pytest.mark.parametrize(
    ("payload", "tests"),
    [
        ({"counts": {"passed": 2}, "failed": ["a::b"]}, PytestResults({"passed": 2}, ("a::b",))),
        ({}, PytestResults({}, ())),
        ({"counts": None, "failed": None}, PytestResults({}, ())),
        ({"counts": [1], "failed": {"a": 1}}, PytestResults({}, ())),
        (
            {"counts": {"a": True, "b": -1, "c": 2**60, "d": 1.5, "e": 3}, "failed": [1, None]},
            PytestResults({"e": 3}, ()),
        ),
        (
            {"counts": {"\ud800": 1, "x" * 99: 1}, "failed": ["\ud800"]},
            PytestResults({"?": 1, "x" * 50: 1}, ("?",)),
        ),
        (
            {"counts": {str(n): n for n in range(99)}, "failed": ["x" * 900] * 9},
            PytestResults({str(n): n for n in range(20)}, ("x" * 900,) * 2),
        ),
    ],
)
def test_results_of_tests_are_kept_if_they_are_as_expected(
    payload: dict[str, Any], tests: PytestResults
) -> None:
    given = {"source": "rmi_agent.tests", **payload}
    assert reply_of({"content": {"status": "ok", "payload": [given]}}, None, []).tests == tests


def test_a_run_without_tests_has_no_results() -> None:
    assert reply_of({"content": {"status": "ok", "payload": []}}, None, []).tests is None
