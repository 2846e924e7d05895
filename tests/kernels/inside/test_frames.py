"""Messages as frames: whatever pieces they arrive in, they come out as they went in."""

from __future__ import annotations

import random

import pytest
from rmi_agent.kernels.inside import IOPUB, SHELL, Frames, frame

MESSAGES = [
    (SHELL, [b"", b"<IDS|MSG>", b"signature", b"{}", b"{}", b"{}", b"{}"]),
    (IOPUB, []),
    (IOPUB, [b""]),
    (IOPUB, [b"x" * 300_000, b"\0\xff" * 10]),
    (SHELL, [b"%d" % number for number in range(1_000)]),
]


@pytest.mark.parametrize("most", [1, 2, 7, 4096, 10**9])
def test_messages_come_out_whole_in_whatever_pieces_they_arrive(most: int) -> None:
    data, chance = b"".join(frame(*message) for message in MESSAGES), random.Random(most)
    frames, found, begin = Frames(), [], 0
    while begin < len(data):
        size = chance.randint(1, most) if len(data) - begin < 5_000 or most > 100 else 5_000
        found += frames.feed(data[begin : begin + size])
        begin += size
    assert found == MESSAGES


def test_what_is_no_message_is_an_error_at_once() -> None:
    for nonsense in (b"\xff\0\1", b"xyz", frame(b"?", [b"1"])):
        with pytest.raises(ValueError, match="no message"):
            Frames().feed(nonsense)


def test_a_message_beyond_the_limit_is_an_error_before_it_is_read() -> None:
    frames = Frames(most=1_000)
    assert frames.feed(frame(SHELL, [b"x" * 999])) == [(SHELL, [b"x" * 999])]
    with pytest.raises(ValueError, match="1,001 bytes"):
        frames.feed(frame(SHELL, [b"x" * 1_001])[:7])
