"""What a result says about how its run was stopped."""

from __future__ import annotations

import pytest
from rmi_agent.kernels.protocol import Reply, State
from rmi_agent.kernels.session.record import describe_stop

IGNORED = ("interrupted", "interrupted again", "killed, since it ignored the interrupts")
STOPS: list[tuple[tuple[str, ...], State, str]] = [
    (("interrupted by interrupt_session", "interrupted"), "kept", "Interrupted; variables kept."),
    (("timed out after 5 s", "interrupted"), "kept", "Timed out after 5 s; variables kept."),
    (
        ("timed out after 5 s", *IGNORED),
        "lost",
        "Timed out after 5 s; killed, since it ignored the interrupts; variables lost.",
    ),
    (
        ("was cancelled by the client", "interrupted", "interrupted again"),
        "kept",
        "Cancelled by the client; variables kept.",
    ),
    (
        ("was stopped, since the session was restarted", "interrupted"),
        "kept",
        "Stopped, since the session was restarted.",
    ),
    (
        ("printed more than RMI_AGENT_OUTPUT_LIMIT (10)", "interrupted"),
        "kept",
        "Stopped, since it printed more than RMI_AGENT_OUTPUT_LIMIT (10); variables kept.",
    ),
    (
        ("used more than RMI_AGENT_MEMORY_LIMIT (10)", "killed"),
        "lost",
        "Stopped, since it used more than RMI_AGENT_MEMORY_LIMIT (10); variables lost.",
    ),
]


@pytest.mark.parametrize(("actions", "state", "said"), STOPS)
def test_a_stop_is_described_in_few_words(
    actions: tuple[str, ...], state: State, said: str
) -> None:
    assert describe_stop(Reply("interrupted", state=state, actions=actions)) == said
