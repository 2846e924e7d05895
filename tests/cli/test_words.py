"""Which words of a command line belong to a program, and which were meant for another command."""

from __future__ import annotations

import typing

import pytest
from rmi_agent.cli.table import COMMANDS
from rmi_agent.cli.words import ENDING, FLAGS, misplaced, separated
from rmi_agent.client.commands.run import run


@pytest.mark.parametrize(
    ("words", "separated_at"),
    [
        ("run x.py --timeout 5", 1),
        ("run --timeout 5 x.py --server a", 3),
        ("run --timeout=5 - x", 2),
        ("run -m pytest -q --timeout 5", 3),
        ("run --cwd app --module pytest -m slow", 5),
        ("run --module=pytest --help", 2),
        ("run -m", 2),
        ("run", None),
        ("run --help", None),
        ("run -q x.py -q", 2),
        ("run -t5 -t 5 x.py", 4),
        ("run -- x.py --", None),
        ("cell --timeout 5 1+1", None),
        ("", None),
    ],
)
def test_what_follows_a_program_belongs_to_it(words: str, separated_at: int | None) -> None:
    expected = words.split()
    if separated_at is not None:
        expected.insert(separated_at, "--")
    assert separated(words.split()) == expected


def test_a_module_in_one_word_is_run_as_well() -> None:
    assert separated(["run", "-mpytest", "-q"]) == ["run", "-m", "pytest", "--", "-q"]


def test_all_options_of_run_without_a_value_are_known() -> None:
    flags = set[str]()
    for name, hint in typing.get_type_hints(run, include_extras=True).items():
        kind, *parameters = typing.get_args(hint) or (hint,)
        if kind is bool:
            names = [each for one in parameters for each in one.name or ()]
            flags |= set(names or [f"--{name.replace('_', '-')}"])
    assert flags | ENDING == FLAGS


SERVER = ["serve", "doctor", "--help"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rnu x.py", "rmi-agent run x.py"),
        ("sesions", "rmi-agent sessions"),
        ("ps", "rmi-agent sessions"),
        ("x.py --flag 'a b'", "rmi-agent run x.py --flag 'a b'"),
        ("qwertz", "rmi-agent --help"),
        ("run", None),
        ("--transport http", None),
        ("__complete run", None),
        ("", None),
    ],
)
def test_a_mistyped_command_names_the_right_one(words: str, said: str | None) -> None:
    import shlex

    why = misplaced(shlex.split(words), "rmi-agent", COMMANDS, COMMANDS)
    assert why is None if said is None else why is not None and why.endswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cell", "1 + 1"], "rmi-agent cell '1 + 1'"),
        (["docter"], "rmi-agent-mcp-server doctor"),
        (["relpy"], "rmi-agent replay"),
        (["doctor"], None),
    ],
)
def test_a_command_of_the_other_program_is_named_with_it(
    words: list[str], said: str | None
) -> None:
    why = misplaced(words, "rmi-agent-mcp-server", SERVER, COMMANDS)
    assert why is None if said is None else why is not None and why.endswith(said)
